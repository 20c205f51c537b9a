"""What one provider object remembers of pods beyond what the cluster says: since when something holds one up, how often an engine had restarted
when it was first seen, what logs said last. All of it can be lost: the next object sees for itself.

Not responsible for what is concluded from it (`observing`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lamplighter.core.clock import Clock
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.observing import crashed, loaded
from lamplighter.providers.kubernetes.reading import container, deleting, name, over, uid
from lamplighter.providers.kubernetes.reasons import Hindrance
from lamplighter.providers.kubernetes.stages import Words
from lamplighter.providers.kubernetes.template import CONTAINER, PRELOAD

READ_EVERY = 2.0
"""Seconds between two looks at the log of a pod that starts."""
_TAIL = 200
"""Lines at the end of a crashed engine's log in which the reason is looked for."""
_AT_A_TIME = 4


@dataclass(slots=True)
class _Pod:
    restarts: int
    words: Words = field(default_factory=Words)
    log: str | None = None
    log_of: int = -1
    """The run whose log `log` is, as the number of restarts at its end."""
    read_at: float = float("-inf")
    denied: bool = False
    since: dict[str, float] = field(default_factory=dict)


class Memory:
    """Of the pods of one pool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pods: dict[str, _Pod] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._others: dict[str, float] = {}
        self._asked: set[str] = set()

    def follow(self, pods: Mapping[str, Manifest]) -> None:
        """Meet what is new, forget what is gone."""
        there = {uid(pod): pod for pod in pods.values()}
        self._pods = {key: one for key, one in self._pods.items() if key in there}
        for key, pod in there.items():
            if key not in self._pods:
                engine = container(pod, CONTAINER)
                self._pods[key] = _Pod(engine.restarts if loaded(pod, engine) else 0)

    def restarts(self, pod: Manifest) -> int:
        """Of its engine, that do not count."""
        return self._pods[uid(pod)].restarts

    def words(self, pod: Manifest) -> Words:
        """What its logs said last."""
        return self._pods[uid(pod)].words

    def log(self, pod: Manifest) -> str | None:
        """The end of what its crashed engine wrote; None while it is being read."""
        known, engine = self._pods[uid(pod)], container(pod, CONTAINER)
        return known.log if known.log_of == engine.ends else None

    def held(self, pod: Manifest, hindrance: Hindrance) -> float:
        """Seconds for which this has held it up, 0 at the first time."""
        since, now = self._pods[uid(pod)].since, self._clock.monotonic()
        return now - since.setdefault(hindrance.failure.value, now)

    def held_other(self, key: str) -> float:
        """The same for what is no pod; see `settle`."""
        now = self._clock.monotonic()
        self._asked.add(key)
        return now - self._others.setdefault(key, now)

    def settle(self) -> None:
        """A look is over: what was not asked about in it is held up no longer."""
        self._others = {key: at for key, at in self._others.items() if key in self._asked}
        self._asked.clear()

    def read(self, cluster: Cluster, namespace: str, pods: Mapping[str, Manifest]) -> None:
        """Begin to read the logs that say something now: of what starts, every few seconds; of what crashed, once."""
        now = self._clock.monotonic()
        self._reading = {key: task for key, task in self._reading.items() if not task.done()}
        for pod in pods.values():
            key = uid(pod)
            known = self._pods[key]
            if len(self._reading) >= _AT_A_TIME or key in self._reading or known.denied:
                continue
            wanted, over = self._wanted(pod, known), crashed(container(pod, CONTAINER), known.restarts)
            if wanted is not None and (over or now - known.read_at >= READ_EVERY):
                known.read_at = now
                self._reading[key] = asyncio.create_task(
                    self._read(cluster, namespace, pod, known, *wanted), name="kubernetes log"
                )

    def _wanted(self, pod: Manifest, known: _Pod) -> tuple[str, bool] | None:
        """Which container's log, and whether that of its last run."""
        engine = container(pod, CONTAINER)
        if over(pod) or deleting(pod):
            return None
        if crashed(engine, known.restarts) and engine.ended is not None:
            return (CONTAINER, engine.since is not None) if self.log(pod) is None else None
        preload = container(pod, PRELOAD, init=True)
        if preload.there and preload.since is not None and not preload.over:
            return PRELOAD, False
        if engine.since is not None and not loaded(pod, engine):
            return CONTAINER, False
        return None

    async def _read(self, cluster: Cluster, namespace: str, pod: Manifest, known: _Pod, wanted: str, previous: bool) -> None:
        engine = container(pod, CONTAINER)
        after = wanted == CONTAINER and crashed(engine, known.restarts)
        try:
            text = await cluster.logs(name(pod), namespace, container=wanted, tail=_TAIL if after else 3, previous=previous)
        except KubernetesError as error:
            known.denied = error.status == 403
            if not after:
                return
            text = ""  # the container's own last message has to do
        if after:
            known.log, known.log_of = text, engine.ends
            return
        line = next((one.strip() for one in reversed(text.replace("\r", "\n").splitlines()) if one.strip()), "")
        known.words = replace(known.words, preload=line) if wanted == PRELOAD else replace(known.words, engine=line)

    async def close(self) -> None:
        """Stop reading."""
        for task in self._reading.values():
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

"""Asks engines how they are: whom, how often, and how many times in a row the answer was not a good one.

Not responsible for what follows from an answer: that is `reconcile`.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from lamplighter.config import KeeperConfig, ModelConfig
from lamplighter.core.clock import Clock, within
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.states import WAKING, ReplicaState
from lamplighter.engines.base import Engine, Health, Probe
from lamplighter.providers.base import Observation, Presence
from lamplighter.store.replicas import Replica

AGAIN_AFTER = 0.5
"""Seconds until a serving replica that did not answer is asked again."""
GRACE = 1.0
"""Seconds over its own limit after which a health check is abandoned."""


class Prober:
    """The health checks of one pool. `misses` counts, by replica id, those in a row that did not find it ready."""

    def __init__(self, engines: Mapping[str, Engine], config: KeeperConfig, clock: Clock) -> None:
        self.misses: dict[str, int] = {}
        self.last: dict[str, Probe] = {}
        self._engines = engines
        self._config = config
        self._clock = clock
        self._asked_at: dict[str, float] = {}

    async def round(
        self,
        replicas: Sequence[Replica],
        seen: Mapping[str, Observation],
        models: Mapping[str, ModelConfig],
        urgent: Collection[str] = (),
    ) -> dict[str, Probe]:
        """The health checks that are due, all at the same time; `urgent`: replicas that somebody suspects."""
        self._forget({replica.id for replica in replicas})
        due = [replica for replica in replicas if self._due(replica, seen.get(replica.id), urgent)]
        probes = await asyncio.gather(*(self._probe(replica, seen[replica.id], models) for replica in due))
        found: dict[str, Probe] = {}
        for replica, probe in zip(due, probes, strict=True):
            if probe is not None:
                found[replica.id] = self.last[replica.id] = probe
                self.misses[replica.id] = 0 if probe.health is Health.READY else self.misses.get(replica.id, 0) + 1
        return found

    def _due(self, replica: Replica, observation: Observation | None, urgent: Collection[str]) -> bool:
        if observation is None or observation.endpoint is None or observation.presence is not Presence.RUNNING:
            return False
        if replica.state in WAKING:
            return True
        if replica.state not in (ReplicaState.READY, ReplicaState.UNREACHABLE, ReplicaState.PARKED):
            return False
        pause = AGAIN_AFTER if self.misses.get(replica.id) else self._config.interval
        return replica.id in urgent or self._clock.monotonic() - self._asked_at.get(replica.id, float("-inf")) >= pause

    async def _probe(self, replica: Replica, observation: Observation, models: Mapping[str, ModelConfig]) -> Probe | None:
        """One health check, for the first of the replica's models that is configured; None when there is none."""
        name = next((name for name in replica.models if name in models), None)
        if name is None or observation.endpoint is None:
            return None
        engine = self._engines.get(models[name].engine)
        if engine is None:
            return Probe(Health.FAILED, f"there is no engine {models[name].engine!r}", WakeFailure.ENGINE_MISSING)
        self._asked_at[replica.id] = self._clock.monotonic()
        limit = float(self._config.probe_timeout)
        try:
            return await within(self._clock, engine.probe(observation.endpoint, name, models[name], timeout=limit), limit + GRACE)
        except TimeoutError:
            return Probe(Health.DOWN, f"no answer within {limit:g} s")

    def _forget(self, alive: Collection[str]) -> None:
        for known in (self.misses, self.last, self._asked_at):
            for replica in known.keys() - set(alive):
                del known[replica]

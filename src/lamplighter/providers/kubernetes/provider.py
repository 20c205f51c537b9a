"""The provider kind `kubernetes`: a model is a workload of a cluster, a replica one of its pods (or a group of them).

What exists is told from copies that watches keep (`mirror`), at once. What is wanted is written through the scale subresource, after everything
concerned was read anew (`scaling`). A new object adopts whatever an earlier one began: all of it stands in the cluster. Not responsible for when
to scale, nor for whether an engine is well: the keeper probes it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Accelerator, Engine, Judging
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.providers.kubernetes import applying, names, reasons
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.decide import Held
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.fleet import UNMADE, Fleet, active, replicas
from lamplighter.providers.kubernetes.kinds import EVENT, NODE, POD, SECRET, Manifest
from lamplighter.providers.kubernetes.memory import Memory
from lamplighter.providers.kubernetes.mirror import Mirror
from lamplighter.providers.kubernetes.observing import View, ended, group, handle, held, model_of, observation, serves
from lamplighter.providers.kubernetes.reading import (
    Event,
    annotations,
    condition,
    deleting,
    event,
    labels,
    name,
    subject,
    uid,
)
from lamplighter.providers.kubernetes.scaling import Scaling, Task
from lamplighter.providers.kubernetes.stages import WAKE

_log = structlog.get_logger(__name__)

STALE = 30.0
"""Seconds for which a watch may be broken before what it knew is worth nothing."""
FIRST = 10.0
"""Seconds for which the first look of an object's life waits for the cluster."""
APPEAR = 1.0
"""Seconds after its beginning until which a launch waits for its pods to be made, so that they are told from the first look on."""
RENEW_EVERY = 60.0
REMEMBERED = 600.0
"""Seconds for which the end of a pod that nobody doomed is told."""


class KubernetesProvider:
    """One pool. `known`: what is known of a GPU by the name that the configuration gives it. `access`: for tests, another way to the cluster."""

    stages: tuple[str, ...] = WAKE

    def __init__(
        self,
        pool: str,
        config: KubernetesPool,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        installation: str,
        clock: Clock,
        known: Callable[[str], Accelerator | None] = lambda _: None,
        access: Access | None = None,
    ) -> None:
        self._pool = pool
        self._config = config
        self._models = models
        self._engines = engines
        self._installation = installation
        self._clock = clock
        self._access = access or access_of(config)
        self._cluster: Cluster | None = None
        self._scaling = Scaling(pool, config, models=models, engines=engines, known=known, installation=installation, clock=clock)
        self._memory = Memory(clock)
        self._doomed: set[str] = set()
        """Handles; kept until they are gone."""
        self._shown: set[str] = set()
        """Handles of the pods that were told."""
        self._looked = False
        self._may_tidy = True
        self._ended: dict[str, tuple[float, Observation]] = {}
        """Pods that went although nobody doomed them, by handle, and when that was seen (monotonic)."""
        self._stillborn: dict[str, Observation] = {}
        """Launches that could not even be asked for, while others of the same call could."""
        self._key: str | None = None
        self._mirrors: dict[str, Mirror] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._renewed_at = float("-inf")
        self._told: set[str] = set()
        self._log = _log.bind(pool=pool)

    # --- the contract -------------------------------------------------------------------------------------------------------------------

    async def observe(self) -> Sequence[Observation]:
        """From what the watches know, at once; only the first look waits for it. Raises ProviderError when that is too old."""
        cluster = await self._ready()
        now = self._clock.time()
        pods = self._pods()
        self._memory.follow(pods)
        self._memory.read(cluster, self._namespace, pods)
        fleet = self._fleet()
        if not self._looked:
            self._shown, self._looked = {handle(pod) for pod in pods.values() if deleting(pod)}, True
        hidden = fleet.passing(self._shown, self._is_doomed)
        found = [self._observe(pod, now) for pod in pods.values() if serves(pod) and handle(pod) not in hidden]
        self._forget_the_gone(pods)
        self._shown |= {one.handle for one in found}
        unmade = fleet.unmade(self._model, self._memory.held_other, now)
        self._memory.settle()
        return sorted(
            (*found, *unmade, *(one for _, one in self._ended.values()), *self._stillborn.values()),
            key=lambda one: (one.started_at, one.handle),
        )

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Write what is missing and end the doomed, model by model. Raises ProviderError when nothing at all could be done."""
        until = self._clock.monotonic() + APPEAR
        async with self._lock:
            cluster = await self._ready()
            for one in doomed:
                self._ended.pop(one, None)
                self._stillborn.pop(one, None)
            pods = {name(pod): pod for pod in await self._list(cluster)}
            known = {handle(pod) for pod in pods.values()}
            self._doomed |= doomed & known
            self._memory.follow(pods)
            tasks = self._orders(pods, desired, doomed)
            done, problems = await self._carry_out(cluster, tasks, until)
            if problems and not done:
                raise next(iter(problems.values()))
            for task in tasks:
                if task.model in problems:
                    self._remember(task, problems[task.model])

    async def renew(self) -> None:
        """Say on every workload that runs that somebody looks after it: what nobody renews is put to sleep by `janitor`. Raises ProviderError.

        What is left of models that are no longer configured is removed, once it sleeps.
        """
        cluster = await self._ready()
        if self._clock.monotonic() - self._renewed_at < RENEW_EVERY:
            return
        self._renewed_at = self._clock.monotonic()
        at = datetime.fromtimestamp(self._clock.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for workload in self._mirrors["workloads"].objects.values():
            if replicas(workload) > 0 and self._ours(workload):
                body = {"metadata": {"annotations": {names.RENEWED: at}}}
                with contextlib.suppress(KubernetesError):  # the next one will do
                    await cluster.patch(self._scaling.kind, name(workload), body, self._namespace)
            elif self._config.manage and self._may_tidy and self._left_over(workload):
                await self._tidy(cluster, workload)

    async def close(self) -> None:
        """Stop watching; everything in the cluster stays as it is."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await self._memory.close()
        if self._cluster is not None:
            await self._cluster.close()
            self._cluster = None
            self._mirrors.clear()

    # --- looking ------------------------------------------------------------------------------------------------------------------------

    def _observe(self, pod: Manifest, now: float) -> Observation:
        model = self._model(pod)
        own = observation(pod, model, self._view(pod), now)
        if own.presence is not Presence.RUNNING or own.failure is not None or (mine := group(pod)) is None:
            return own
        # Machines that serve together fail together: whichever it is, it is the replica's reason.
        for other in self._pods().values():
            if group(other) == mine and not serves(other):
                seen = observation(other, model, self._view(other), now)
                if seen.presence is Presence.ENDED or seen.failure is not None:
                    detail = f"{name(other)}: {seen.detail}"
                    presence = seen.presence
                    return Observation(
                        own.handle, own.models, presence, own.stages, None, seen.failure, seen.loss, detail, own.started_at
                    )
        return own

    def _view(self, pod: Manifest) -> View:
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        nodes = self._mirrors["nodes"]
        known = nodes.objects.get(node) if nodes.complete and nodes.error is None else None
        config = self._models().get(self._model(pod))
        engine: object = self._engines.get(config.engine) if config is not None else None
        return View(
            namespace=self._namespace,
            events=self._events(uid(pod)),
            restarts=self._memory.restarts(pod),
            words=self._memory.words(pod),
            log=self._memory.log(pod),
            judge=engine.judge if isinstance(engine, Judging) else None,
            held=lambda hindrance: self._memory.held(pod, hindrance),
            gone=bool(node) and nodes.complete and nodes.error is None and known is None,
            leaving=reasons.leaving(known) if known is not None else None,
            doomed=self._is_doomed(pod),
            key=self._key,
            deadline=float(self._config.boot_deadline),
            note=self._other_writer(pod),
        )

    def _other_writer(self, pod: Manifest) -> str | None:
        """That somebody else writes the replicas of a pod's workload; said in the log, too, but once."""
        found = self._fleet().other_writer(pod)
        if found is None:
            return None
        who, note = found
        if note not in self._told:
            self._told.add(note)
            self._log.warning("somebody else writes replicas", who=who, detail=note)
        return note

    def _gone(self, pod: Manifest) -> None:
        """A pod is there no longer: expected when it was doomed, else told until it is."""
        one = handle(pod)
        if one in self._doomed or self._is_doomed(pod) or one not in self._shown:
            self._doomed.discard(one)
            return
        why = self._other_writer(pod) if not condition(pod, "DisruptionTarget") else None
        seen = ended(pod, self._model(pod), self._events(uid(pod)), self._clock.time(), why)
        self._ended[one] = (self._clock.monotonic(), seen)

    def _forget_the_gone(self, pods: Mapping[str, Manifest]) -> None:
        now = self._clock.monotonic()
        self._ended = {key: kept for key, kept in self._ended.items() if now - kept[0] < REMEMBERED}
        there = {handle(pod) for pod in pods.values()}
        self._doomed &= there
        self._shown &= there

    # --- acting -------------------------------------------------------------------------------------------------------------------------

    def _orders(self, pods: Mapping[str, Manifest], desired: Desired, doomed: frozenset[str]) -> list[Task]:
        """What is to be done, by model: where something must end, or something is wanted."""
        by_model: dict[str, list[Manifest]] = {}
        for pod in pods.values():
            if serves(pod):
                by_model.setdefault(self._model(pod), []).append(pod)
        forgone = {model: sum(one.startswith(f"{names.workload_name(self._pool, model)}.") for one in doomed if UNMADE in one)
                   for model in {*by_model, *desired.replicas, *self._models()}}  # fmt: skip
        now = self._clock.time()
        tasks = []
        for model in sorted({*by_model, *desired.replicas, *(model for model, count in forgone.items() if count)}):
            mine = by_model.get(model, [])
            gone = frozenset(uid(pod) for pod in mine if handle(pod) in doomed or self._is_doomed(pod))
            seen = {uid(pod): observation(pod, model, self._view(pod), now) for pod in mine}
            dead = frozenset(key for key, one in seen.items() if one.presence is Presence.ENDED or one.failure is not None)
            wanted = desired.replicas.get(model, 0)
            if wanted or gone or forgone.get(model):
                tasks.append(Task(model, wanted, mine, gone, dead, forgone.get(model, 0)))
        return tasks

    async def _carry_out(self, cluster: Cluster, tasks: Sequence[Task], until: float) -> tuple[int, dict[str, ProviderError]]:
        """How many were done, and what prevented the others. `until`: how long pods that are made may be waited for."""
        done, problems = 0, dict[str, ProviderError]()
        for task in tasks:
            by_uid = {uid(pod): pod for pod in task.pods}

            def as_held(pod: Manifest, task: Task = task) -> Held:
                seen = observation(pod, task.model, self._view(pod), self._clock.time())
                return held(pod, seen, doomed=uid(pod) in task.doomed, ordinals=self._scaling.ordinals)

            try:
                workload = await self._scaling.carry_out(cluster, self._namespace, task, as_held)
                if self._key is None and task.wanted:
                    await self._read_key(cluster)
            except ProviderError as error:
                problems[task.model] = error
                self._log.warning("a model could not be scaled", model=task.model, error=error.message)
                continue
            done += 1
            if workload is not None:
                self._mirrors["workloads"].put(workload)
                await self._await_pods(workload, by_uid, until)
        return done, problems

    async def _await_pods(self, workload: Manifest, before: Mapping[str, Manifest], until: float) -> None:
        """Wait a moment for the pods that were asked for, so that the next look tells them."""
        if replicas(workload) <= sum(active(pod) for pod in before.values()):
            return

        def met(_: Mapping[str, Manifest]) -> bool:
            return len([pod for pod in self._fleet().of(workload) if active(pod)]) >= replicas(workload)

        await self._mirrors["pods"].until(met, until - self._clock.monotonic())

    def _remember(self, task: Task, error: ProviderError) -> None:
        """A launch that was refused while another was not: told as ended."""
        if task.wanted <= len(task.pods) or any(task.model in one.models for one in self._stillborn.values()):
            return
        one = f"{names.workload_name(self._pool, task.model)}.refused"
        self._stillborn[one] = Observation(
            one, (task.model,), Presence.ENDED, failure=error.reason, detail=error.advice, started_at=self._clock.time()
        )

    # --- the cluster --------------------------------------------------------------------------------------------------------------------

    async def _ready(self) -> Cluster:
        """The cluster, watched. Raises ProviderError while nothing is known of it, or what is known is too old."""
        cluster = self._use()
        needed = [self._mirrors["pods"], self._mirrors["workloads"]]
        waiting = [mirror for mirror in needed if not mirror.complete]
        if waiting:
            begun = asyncio.gather(*(mirror.listed.wait() for mirror in waiting))
            try:
                async with asyncio.timeout(FIRST):
                    await begun
            except TimeoutError as error:
                raise ProviderError(
                    f"The cluster at {cluster.server} has not answered yet.",
                    reason=WakeFailure.UNREACHABLE,
                    next_step="Check that it runs and that this machine's network reaches it.",
                ) from error
        for mirror in needed:
            if mirror.age() > STALE and mirror.error is not None:
                raise mirror.error
        if self._key is None and self._mirrors["pods"].objects:
            await self._read_key(cluster)
        return cluster

    def _use(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster.connect(self._access, self._clock)
            ours = {names.POOL: self._pool}
            if self._config.manage:
                ours |= {names.MANAGED_BY: names.OURS, names.INSTALLATION: self._installation}
            prefix = names.prefix(self._pool)
            space, clock, cluster = self._namespace, self._clock, self._cluster
            self._mirrors = {
                "pods": Mirror(cluster, POD, space, clock, labels=ours, keep=self._ours, forget=self._gone),
                "workloads": Mirror(cluster, self._scaling.kind, space, clock, labels=ours, keep=self._ours),
                "events": Mirror(
                    cluster, EVENT, space, clock, keep=lambda one: subject(one)[1].startswith(prefix), required=False
                ),
                "nodes": Mirror(cluster, NODE, None, clock, required=False),
            }
        for key, mirror in self._mirrors.items():
            task = self._tasks.get(key)
            if task is None or task.done():
                if task is not None and not task.cancelled() and (error := task.exception()) is not None:
                    self._log.error("a watch broke down; it is begun anew", kind=mirror.kind.resource, exc_info=error)
                self._tasks[key] = asyncio.create_task(mirror.run(), name=f"kubernetes {key} {self._pool}")
        return self._cluster

    async def _read_key(self, cluster: Cluster) -> None:
        found = await cluster.get_or_none(SECRET, names.key_secret(self._pool), self._namespace)
        if found is not None:
            self._key = applying.key_of(found)

    async def _list(self, cluster: Cluster) -> Sequence[Manifest]:
        wanted = {names.POOL: self._pool}
        return [pod for pod in await cluster.list(POD, self._namespace, labels=wanted) if self._ours(pod)]

    # --- small questions ----------------------------------------------------------------------------------------------------------------

    @property
    def _namespace(self) -> str:
        assert self._cluster is not None  # noqa: S101 - asked only after `_use`
        return self._cluster.namespace

    def _ours(self, found: Manifest) -> bool:
        """Whether it carries our installation's id; what others made for `manage: false` may carry none."""
        other = labels(found).get(names.INSTALLATION)
        return other == self._installation or (other is None and not self._config.manage)

    def _pods(self) -> Mapping[str, Manifest]:
        return self._mirrors["pods"].objects

    async def _tidy(self, cluster: Cluster, workload: Manifest) -> None:
        try:
            await cluster.delete(self._scaling.kind, name(workload), self._namespace, uid=uid(workload))
        except KubernetesError as error:
            self._may_tidy = error.status != 403  # it sleeps and costs nothing: where it may not be removed it stays
        else:
            self._log.info("a workload of a model that is no more was removed", workload=name(workload))

    def _left_over(self, workload: Manifest) -> bool:
        """Whether it sleeps, and nothing of the configuration will wake it."""
        asleep = replicas(workload) == 0 and not self._fleet().of(workload)
        mine = {names.workload_name(self._pool, model) for model, config in self._models().items() if config.pool == self._pool}
        return asleep and name(workload) not in mine

    def _fleet(self) -> Fleet:
        workloads, pods, events = (tuple(self._mirrors[key].objects.values()) for key in ("workloads", "pods", "events"))
        return Fleet(workloads, pods, events, self._scaling.written)

    def _model(self, found: Manifest) -> str:
        slugs = {names.slug(model): model for model in self._models()}
        return model_of(found, slugs) or labels(found).get(names.MODEL, name(found))

    def _is_doomed(self, pod: Manifest) -> bool:
        return handle(pod) in self._doomed or names.DOOMED in annotations(pod)

    def _events(self, about: str) -> list[Event]:
        found = [event(one) for one in self._mirrors["events"].objects.values() if subject(one)[2] == about]
        return sorted(found, key=lambda one: one.at)


def access_of(config: KubernetesPool) -> Access:
    """How a pool's settings say that its cluster is reached."""
    kubeconfig = Path(config.kubeconfig) if config.kubeconfig is not None else None
    return Access(context=config.context, kubeconfig=kubeconfig, namespace=config.namespace)

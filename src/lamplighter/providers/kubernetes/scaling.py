"""Carries out what the keeper wants of one pool's workloads: makes them, writes their replicas, ends the doomed. One model at a time.

Everything is read anew before it is changed, and replicas are only written while nobody else has changed the workload since: two keepers at once
launch once. Not responsible for deciding (`decide`), nor for what a workload is (`workload`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError, SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Accelerator, Containerised, Engine
from lamplighter.providers.kubernetes import applying, names
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.decide import Held, Steps, decide
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, POD, STATEFUL_SET, Kind, Manifest
from lamplighter.providers.kubernetes.reading import annotations, created, deleting, moment, name, over, uid
from lamplighter.providers.kubernetes.workload import Workload, accelerator, build, kind_of

_log = structlog.get_logger(__name__)
_TRIES = 5
_CHEAP, _DEAR = "-1000", "1000"
STUCK_AFTER = 180.0
"""Seconds beyond its grace after which a pod on a node that does not answer is removed by force: nobody is there to say that it ended."""


@dataclass(frozen=True, slots=True)
class Task:
    """One model's part of an order. `pods`: of its workload, as they are now. `doomed`: uids. `forgone`: pods to be made that are given up."""

    model: str
    wanted: int
    pods: Sequence[Manifest] = ()
    doomed: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    forgone: int = 0


@dataclass(slots=True)
class Written:
    """What this object last wrote of a workload. `at`: Unix seconds of the last raise."""

    replicas: int
    at: float = 0.0


class Scaling:
    """Of one pool in one namespace. `known`: what is known of a GPU by its name in the configuration."""

    def __init__(
        self,
        pool: str,
        settings: KubernetesPool,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        known: Callable[[str], Accelerator | None],
        installation: str,
        clock: Clock,
    ) -> None:
        self.kind: Kind = kind_of(settings)
        self.written: dict[str, Written] = {}
        """By workload."""
        self._pool = pool
        self._settings = settings
        self._models = models
        self._engines = engines
        self._known = known
        self._installation = installation
        self._clock = clock
        self._costs: bool | None = None

    @property
    def ordinals(self) -> bool:
        """Whether pods have places, of which the highest ends first."""
        return self.kind is not DEPLOYMENT

    def workload(self, model: str, namespace: str) -> Workload:
        """The objects of a model. Raises ProviderError when it can never run in this pool."""
        config = self._models().get(model)
        if config is None:
            raise ProviderError(f"There is no model {model!r} in the configuration.", reason=WakeFailure.MODEL_NOT_FOUND)
        engine = self._engines.get(config.engine)
        return make(
            model, config, self._pool, self._settings, engine, self._known, namespace=namespace, installation=self._installation
        )

    async def carry_out(self, cluster: Cluster, namespace: str, task: Task, held: Callable[[Manifest], Held]) -> Manifest | None:
        """Do it; the workload as it is then. Raises ProviderError."""
        await self._clear_away(cluster, namespace, task)
        title = names.workload_name(self._pool, task.model)
        for _ in range(_TRIES):
            there = await cluster.get_or_none(self.kind, title, namespace)
            if there is not None and (stranger := applying.foreign(self.kind, there, self._installation)) is not None:
                raise stranger
            active = [pod for pod in task.pods if not over(pod) and not deleting(pod)]
            there = await self._prepare(cluster, namespace, task, there, active)
            if there is None:
                return None
            replicas = int((there.get("spec") or {}).get("replicas", 1))
            wanted = self._allowed(task, there, active)
            steps = decide(
                [held(pod) for pod in active],
                replicas,
                wanted,
                forgone=task.forgone,
                ordinals=self.ordinals,
                costs=await self._know_costs(cluster),
            )
            await self._end(cluster, namespace, steps)
            try:
                return await self._write(cluster, namespace, title, there, replicas, steps)
            except KubernetesError as error:
                if error.status != 409:
                    raise
        raise ProviderError(
            f"{self.kind.resource} {title} changes all the time: its replicas could not be written.",
            next_step="Something else writes it, an autoscaler perhaps: only one may.",
        )

    async def _write(
        self, cluster: Cluster, namespace: str, title: str, there: Manifest, replicas: int, steps: Steps
    ) -> Manifest:
        """The scale subresource, unless it says so already."""
        if steps.replicas != replicas:
            version = str(there["metadata"]["resourceVersion"])
            scale = await cluster.patch_scale(self.kind, title, namespace, steps.replicas, version=version)
            _log.info("scaled", workload=title, replicas=steps.replicas, before=replicas)
            meta = {**there["metadata"], "resourceVersion": scale["metadata"]["resourceVersion"]}
            there = {**there, "metadata": meta, "spec": {**there["spec"], "replicas": steps.replicas}}
        before = self.written.get(title)
        raised = steps.replicas > replicas or before is None
        self.written[title] = Written(steps.replicas, self._clock.time() if raised or before is None else before.at)
        return there

    async def _prepare(
        self, cluster: Cluster, namespace: str, task: Task, there: Manifest | None, active: Sequence[Manifest]
    ) -> Manifest | None:
        """The workload as the settings want it, if something is to be launched; None when there is none and nothing to do."""
        living = [pod for pod in active if uid(pod) not in task.dead | task.doomed]
        if task.wanted <= len(living):
            return there
        if not self._settings.manage:
            if there is None:
                raise ProviderError(
                    f"There is no {self.kind.resource} {names.workload_name(self._pool, task.model)} in namespace {namespace}, and "
                    "`manage: false` leaves making it to others.",
                    next_step="Apply what `lamplighter models render` prints.",
                )
            return there
        made = self.workload(task.model, namespace)
        await applying.ensure_key(cluster, self._pool, namespace, self._installation)
        current = there is not None and annotations(there).get(names.SPEC_HASH) == made.template_hash
        if current or (active and self.kind is not STATEFUL_SET):
            return there  # what runs is not replaced under its answers: see `_allowed`
        return await applying.apply(cluster, made, there)

    def _allowed(self, task: Task, there: Manifest, active: Sequence[Manifest]) -> int:
        """How many to aim at: no more than serve, while pods of other settings are still there.

        New ones would be made like them; and a Deployment whose manifest changes ends pods by itself. Once they are ending, the manifest is
        applied, and the next call launches.
        """
        if not self._settings.manage or self.kind is STATEFUL_SET or not active or task.wanted == 0:
            return task.wanted
        made = self.workload(task.model, str(there["metadata"].get("namespace") or ""))
        living = [pod for pod in active if uid(pod) not in task.doomed | task.dead]
        same = annotations(there).get(names.SPEC_HASH) == made.template_hash
        alike = annotations(there).get(names.SETTINGS_HASH) == made.settings and any(
            uid(pod) not in task.doomed for pod in active
        )
        return task.wanted if same or alike else min(task.wanted, len(living))

    async def _end(self, cluster: Cluster, namespace: str, steps: Steps) -> None:
        for pods, cost in ((steps.cheap, _CHEAP), (steps.protect, _DEAR)):
            for pod in pods:
                await self._mark(cluster, namespace, pod, {names.DELETION_COST: cost}, doomed=cost == _CHEAP)
        for pod in (*steps.delete, *steps.parked):
            await self._mark(cluster, namespace, pod, {}, doomed=True)
        for pod in steps.delete:
            await _delete(cluster, namespace, pod.name, pod.uid)

    async def _mark(self, cluster: Cluster, namespace: str, pod: Held, found: Mapping[str, str], *, doomed: bool) -> None:
        """Annotate a pod; the mark of doom stays, for whoever looks after us, and lets autoscalers have it."""
        marks = dict(found)
        if doomed:
            marks |= {names.DOOMED: "true", names.SAFE_TO_EVICT: "true"}
        try:
            await cluster.patch(POD, pod.name, {"metadata": {"uid": pod.uid, "annotations": marks}}, namespace)
        except KubernetesError as error:
            if error.status not in (404, 409, 422):  # gone, or another one of the same name
                raise

    async def _clear_away(self, cluster: Cluster, namespace: str, task: Task) -> None:
        """Doomed pods that are over are only remains; those that hang on a node that is lost would hang for ever."""
        now = self._clock.time()
        for pod in task.pods:
            if uid(pod) in task.doomed and over(pod) and not deleting(pod):
                await _delete(cluster, namespace, name(pod), uid(pod))
            elif uid(pod) in task.doomed and deleting(pod) and _hangs(pod, now):
                _log.warning("a pod hangs on a node that does not answer; it is removed by force", pod=name(pod))
                await _delete(cluster, namespace, name(pod), uid(pod), grace=0)

    async def _know_costs(self, cluster: Cluster) -> bool:
        """Whether ReplicaSets look at a pod's deletion cost: since 1.22."""
        if self._costs is None:
            major, _, rest = (await cluster.version()).lstrip("v").partition(".")
            minor = "".join(character for character in rest.partition(".")[0] if character.isdigit())
            self._costs = (int(major or 1), int(minor or 0)) >= (1, 22)
        return self._costs


def make(
    model: str,
    config: ModelConfig,
    pool: str,
    settings: KubernetesPool,
    engine: object,
    known: Callable[[str], Accelerator | None],
    *,
    namespace: str,
    installation: str | None,
) -> Workload:
    """The objects of one model. `known`: what is known of a GPU by its name. Raises ProviderError when it can never run in the pool."""
    if not isinstance(engine, Containerised):
        raise ProviderError(f"The engine {config.engine!r} does not run in a container.", reason=WakeFailure.ENGINE_MISSING)
    gpu = known(settings.accelerator) if settings.accelerator is not None else None
    try:
        container = engine.container(model, config, accelerator(settings, config, gpu))
    except SourceError as error:
        raise ProviderError(error.message, reason=error.reason, next_step=error.next_step) from error
    return build(model, config, pool, settings, container, namespace=namespace, installation=installation)


def _hangs(pod: Manifest, now: float) -> bool:
    """Its time is long over. (`deletionTimestamp` is when it should have ended: the asking, and its grace.)"""
    until = moment(pod["metadata"].get("deletionTimestamp")) or created(pod)
    return now - until > STUCK_AFTER


async def _delete(cluster: Cluster, namespace: str, pod: str, uid: str, *, grace: float | None = None) -> None:
    try:
        await cluster.delete(POD, pod, namespace, uid=uid, grace=grace)
    except KubernetesError as error:
        if error.status != 409:  # another one has its name
            raise

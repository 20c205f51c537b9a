"""Keeps the wakes of one pool in the store: begins them, writes their stages as they happen, ends them by what became of their replicas.

A wake's end is derived, never remembered: so a keeper that dies in the middle leaves nothing that its successor cannot conclude.
"""

from collections.abc import Mapping, Sequence

from lamplighter.capacity.eta import PULLED_AFTER, Eta, estimate, expect_warm, pull_seconds
from lamplighter.capacity.hours import lead
from lamplighter.config import KeeperConfig
from lamplighter.core.reasons import LossReason, Reason, WakeFailure
from lamplighter.core.states import WAKING, ReplicaState
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Observation
from lamplighter.store import wakes
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store
from lamplighter.store.wakes import Stage, Wake

AWAY_AFTER = 5.0
"""Seconds between a wake's last stage and our noticing after which nobody can have been looking."""
PROGRESS_EVERY = 0.5
"""Seconds between two writes of nothing but a stage's progress; a new stage is written at once."""

_LOSSES: Mapping[LossReason, WakeFailure] = {
    LossReason.CRASHED: WakeFailure.ENGINE_CRASHED,
    LossReason.VANISHED: WakeFailure.PROVIDER_ERROR,
    LossReason.SPOT_RECLAIMED: WakeFailure.NO_CAPACITY,
}


def failure_of(reason: Reason | None) -> WakeFailure | None:
    """What a replica's reason means for the wake that it was part of; None when the wake was called off and did not fail."""
    if isinstance(reason, WakeFailure):
        return reason
    return _LOSSES[reason] if isinstance(reason, LossReason) else None


def backoff(attempt: int, config: KeeperConfig) -> float:
    """Seconds until the next try after `attempt` failures in a row (1: the first)."""
    return float(min(config.backoff * 2.0 ** min(attempt - 1, 30), config.backoff_max))


def attempt_after(latest: Wake | None, now: float, config: KeeperConfig) -> int:
    """The number of the next try. The count of failures begins anew after a success, after a pause, and when they were forgiven."""
    if latest is None or latest.outcome != "failed" or latest.retry_at is None or now > latest.retry_at + config.backoff_max:
        return 1
    return latest.attempt + 1


def merged(names: Sequence[str], observation: Observation | None) -> tuple[Stage, ...]:
    """All stages of a wake in order, those to come included, with what the provider reports of them.

    A stage that was not needed (nothing to pull) is left out once a later one has begun: else it would look unfinished for ever.
    """
    reports = {stage.name: stage for stage in observation.stages} if observation else {}
    order = list(dict.fromkeys([*names, *reports]))
    reached = max((index for index, name in enumerate(names) if name in reports), default=-1)
    return tuple(
        Stage(name, reports[name].started_at, reports[name].ended_at, reports[name].progress, reports[name].detail)
        if name in reports
        else Stage(name)
        for index, name in enumerate(order)
        if name in reports or index > reached
    )


class Wakebook:
    """The wakes of one pool during one term."""

    def __init__(self, store: Store, pool: str, stages: Sequence[str], term: int, config: KeeperConfig, metrics: Metrics) -> None:
        self._store = store
        self._pool = pool
        self._stages = tuple(stages)
        self._term = term
        self._config = config
        self._metrics = metrics
        self._written: dict[str, tuple[float, tuple[Stage, ...]]] = {}

    async def begin(self, model: str, latest: Wake | None) -> Wake:
        """A wake of `model`, with its ETA. Raises StaleTerm."""
        past = await wakes.past(self._store, pool=self._pool, model=model)
        warm = expect_warm(past)
        eta = estimate(past, warm=warm)
        return await wakes.begin(
            self._store,
            pool=self._pool,
            model=model,
            stages=self._stages,
            attempt=attempt_after(latest, self._store.clock.time(), self._config),
            warm=warm,
            eta_p50=eta.p50 if eta else None,
            eta_p90=eta.p90 if eta else None,
            term=self._term,
        )

    async def follow(
        self, under_way: Sequence[Wake], replicas: Sequence[Replica], seen: Mapping[str, Observation], fallen: Sequence[Replica]
    ) -> set[str]:
        """Write the progress of the wakes under way, and end those that are decided; the models whose wakes go on.

        `replicas`: all that are not gone. `fallen`: those that have just failed or were lost before they were ever ready.
        """
        going = set[str]()
        for wake in under_way:
            members = [replica for replica in replicas if replica.wake_id == wake.id]
            waking = next((replica for replica in members if replica.state in WAKING), None)
            if any(member.ready_at is not None for member in members):
                witness = next(member for member in members if member.ready_at is not None)
                await self._ready(wake, seen.get(witness.id))
            elif waking is not None:
                going.add(wake.model)
                await self._progress(wake, seen.get(waking.id))
            else:
                await self._undone(wake, members)
        concerned = {wake.id for wake in under_way}
        for replica in fallen:  # more of the same batch, or adopted: their wake is over or never was
            reason = failure_of(replica.reason)
            if replica.wake_id not in concerned and reason is not None:
                for model in replica.models:
                    await self.record(model, reason, replica.detail)
        return going

    async def record(self, model: str, reason: WakeFailure, detail: str | None, *, attempt: int | None = None) -> None:
        """A failure that was no wake of its own, so that those who wait are told and the next try waits. Raises StaleTerm.

        `attempt`: when the failures in a row were counted elsewhere.
        """
        latest = (await wakes.latest(self._store, pool=self._pool)).get((self._pool, model))
        attempt = attempt or attempt_after(latest, self._store.clock.time(), self._config)
        wake = await wakes.begin(
            self._store, pool=self._pool, model=model, stages=(), attempt=attempt, warm=False, eta_p50=None, eta_p90=None, term=self._term
        )  # fmt: skip
        await self._fail(wake, reason, detail)

    async def unsteady(self, replica: Replica) -> None:
        """A replica was ready and fell soon after: its wake did not last, so it counts among the failures in a row. Raises StaleTerm."""
        newest = await wakes.latest(self._store, pool=self._pool)
        for model in replica.models:
            latest = newest.get((self._pool, model))
            # The wake that made it ready carries the number of the try; after the failure's pause the next one goes on counting.
            attempt = latest.attempt if latest is not None and latest.outcome == "ready" else None
            reason = failure_of(replica.reason) or WakeFailure.ENGINE_CRASHED
            await self.record(
                model, reason, f"It was ready, and fell soon after. {replica.detail or ''}".strip(), attempt=attempt
            )

    async def lead(self, model: str) -> float:
        """Seconds before a scheduled hour at which its wake must begin."""
        past = await wakes.past(self._store, pool=self._pool, model=model)
        return lead(estimate(past, warm=expect_warm(past)))

    async def usual(self, model: str) -> float:
        """Seconds that half of the wakes of `model` took at the most; 0 when it never woke."""
        past = await wakes.past(self._store, pool=self._pool, model=model)
        eta = estimate(past, warm=expect_warm(past))
        return eta.p50 if eta is not None else 0.0

    async def _ready(self, wake: Wake, observation: Observation | None) -> None:
        now = self._store.clock.time()
        stages = tuple(
            Stage(stage.name, stage.started_at, now, 1.0, stage.detail) if stage.started_at and stage.ended_at is None else stage
            for stage in (merged(self._stages, observation) if observation else wake.stages)
        )
        pulled = pull_seconds(stages, now)
        await wakes.progress(self._store, wake.id, stages, warm=pulled is None or pulled < PULLED_AFTER, term=self._term)
        ends = [stage.ended_at for stage in stages if stage.ended_at is not None]
        # A wake that went on while no keeper looked ended when its last stage did: its length is the ETA of others.
        at = max(ends) if ends and now - max(ends) > AWAY_AFTER else now
        if await wakes.end(self._store, wake.id, "ready", at=at, term=self._term):
            self._metrics.wakes.labels(self._pool, wake.model, "ready", "").inc()
            self._metrics.wake_seconds.labels(self._pool, wake.model).observe(at - wake.started_at)
        self._written.pop(wake.id, None)

    async def _undone(self, wake: Wake, members: Sequence[Replica]) -> None:
        for member in members:
            reason = failure_of(member.reason)
            if member.state in (ReplicaState.FAILED, ReplicaState.LOST) and reason is not None:
                await self._fail(wake, reason, member.detail)
                return
        if await wakes.end(self._store, wake.id, "cancelled", term=self._term):
            self._metrics.wakes.labels(self._pool, wake.model, "cancelled", "").inc()
        self._written.pop(wake.id, None)

    async def _fail(self, wake: Wake, reason: WakeFailure, detail: str | None) -> None:
        retry_at = self._store.clock.time() + backoff(wake.attempt, self._config)
        if await wakes.end(self._store, wake.id, "failed", reason=reason, detail=detail, retry_at=retry_at, term=self._term):
            self._metrics.wakes.labels(self._pool, wake.model, "failed", reason.value).inc()
        self._written.pop(wake.id, None)

    async def _progress(self, wake: Wake, observation: Observation | None) -> None:
        if observation is None:
            return
        now, stages = self._store.clock.time(), merged(self._stages, observation)
        at, last = self._written.get(wake.id, (float("-inf"), wake.stages))
        if stages == last or (_outline(stages) == _outline(last) and now - at < PROGRESS_EVERY):
            return
        warm, eta = wake.warm, None
        pulled = pull_seconds(stages, now)
        if wake.warm and pulled is not None and pulled >= PULLED_AFTER:
            warm, eta = False, await self._estimate(wake.model, warm=False)
        await wakes.progress(self._store, wake.id, stages, warm=warm, eta=(eta.p50, eta.p90) if eta else None, term=self._term)
        self._written[wake.id] = (now, stages)

    async def _estimate(self, model: str, *, warm: bool) -> Eta | None:
        return estimate(await wakes.past(self._store, pool=self._pool, model=model), warm=warm)


def _outline(stages: Sequence[Stage]) -> list[tuple[str, bool, bool]]:
    return [(stage.name, stage.started_at is not None, stage.ended_at is not None) for stage in stages]

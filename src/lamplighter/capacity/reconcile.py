"""What is true of a replica: pure functions from what the provider and the engine say to the next state, and to whose row is whose.

Not responsible for what should exist: that is `plan`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lamplighter.capacity.plan import Policy
from lamplighter.core.reasons import HealthReason, LossReason, Reason, StopReason, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Health, Probe
from lamplighter.providers.base import Observation, Presence
from lamplighter.store.replicas import Replica

S = ReplicaState


@dataclass(frozen=True, slots=True)
class Change:
    """The next state of a replica, with its reason and a detail for people."""

    state: ReplicaState
    reason: Reason | None = None
    detail: str | None = None


def transition(
    replica: Replica, observation: Observation | None, probe: Probe | None, policy: Policy, now: float, *, misses: int = 0
) -> Change | None:
    """The replica's next state, or None when it stays.

    `observation`: None means that the provider does not know it. `probe`: this round's health check, None when there was none.
    `misses`: health checks in a row that did not find it ready, this one included.
    """
    match replica.state:
        case S.LAUNCHING | S.STARTING:
            return _waking(replica, observation, probe, policy, now)
        case S.READY | S.UNREACHABLE | S.PARKED:
            return _serving(replica, observation, probe, policy, misses)
        case S.DRAINING if observation is None or observation.presence is Presence.ENDED:
            return _vanished(observation)
        case S.STOPPING | S.LOST if observation is None:
            return Change(S.GONE)
        case _:
            return None


def _waking(replica: Replica, observation: Observation | None, probe: Probe | None, policy: Policy, now: float) -> Change | None:
    if observation is None:
        if replica.handle is not None:
            return _vanished(None)
        if now - replica.created_at >= policy.boot_deadline:
            return Change(S.FAILED, WakeFailure.BOOT_DEADLINE, "the provider never showed it")
        return None
    if observation.failure is not None:
        return Change(S.FAILED, observation.failure, observation.detail)
    if observation.presence is Presence.ENDED:
        if observation.loss in (LossReason.SPOT_RECLAIMED, LossReason.VANISHED):
            return _vanished(observation)
        return Change(S.FAILED, WakeFailure.ENGINE_CRASHED, observation.detail)
    if observation.presence is Presence.STOPPING:
        return Change(S.STOPPING, StopReason.ASKED, "the provider is ending it")
    if replica.state is S.LAUNCHING:
        return Change(S.STARTING)
    if probe is not None and probe.health is Health.READY:
        return Change(S.READY)
    if not policy.elastic:
        return None  # a server of somebody else's: there is nothing to fail, it may answer any moment
    if probe is not None and probe.health is Health.FAILED:
        return Change(S.FAILED, probe.reason or WakeFailure.ENGINE_CRASHED, probe.detail)
    began = replica.created_at if replica.ready_at is None else replica.since
    if now - began >= policy.boot_deadline:
        stage = f"it was still in the stage {replica.stage}" if replica.stage else None
        return Change(S.FAILED, WakeFailure.BOOT_DEADLINE, stage)
    return None


def _serving(
    replica: Replica, observation: Observation | None, probe: Probe | None, policy: Policy, misses: int
) -> Change | None:
    if observation is None or observation.presence is Presence.ENDED:
        return _vanished(observation)
    if observation.presence is Presence.STOPPING:
        # Ended by the provider, or by a keeper before us: what it has may finish, nothing new goes there.
        return None if replica.state is S.PARKED else Change(S.DRAINING, StopReason.UNOWNED, "the provider is ending it")
    if replica.state in (S.READY, S.UNREACHABLE) and observation.notice is not None and observation.notice.at is not None:
        # It will be gone in minutes. What it has may finish; what comes goes to its successor.
        return Change(S.DRAINING, StopReason.RECLAIMED, observation.notice.detail)
    if replica.state is S.READY and policy.elastic:
        if observation.failure is not None:
            return Change(S.FAILED, observation.failure, observation.detail)
        if probe is not None and probe.health is Health.FAILED:
            return Change(S.FAILED, probe.reason or WakeFailure.ENGINE_CRASHED, probe.detail)
    if probe is None:
        return None
    if probe.health is Health.ASLEEP and replica.state is not S.PARKED:
        # At once: a request sent there would hang.
        return Change(S.PARKED, None, probe.detail)
    if replica.state is S.PARKED:
        return Change(S.STARTING, HealthReason.ANSWERED) if probe.health is Health.READY else None
    if replica.state is S.READY and misses >= policy.unreachable_after:
        return Change(S.UNREACHABLE, HealthReason.NO_ANSWER, probe.detail)
    if replica.state is S.UNREACHABLE and probe.health is Health.READY:
        return Change(S.READY, HealthReason.ANSWERED)
    return None


def _vanished(observation: Observation | None) -> Change:
    if observation is None:
        return Change(S.LOST, LossReason.VANISHED, "the provider no longer knows it")
    return Change(S.LOST, observation.loss or LossReason.CRASHED, observation.detail)


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose row is whose. `seen`: by replica id, its observation. `bound`: of those, the replicas that have just learned their handle.

    `strangers`: observations that no row claims: they carry our installation's id, so somebody of ours began them.
    """

    seen: Mapping[str, Observation] = field(default_factory=dict)
    bound: Sequence[str] = ()
    strangers: Sequence[Observation] = ()


def bind(replicas: Sequence[Replica], observations: Sequence[Observation]) -> Binding:
    """Match by handle; then give each unknown observation to the oldest row of its model that has no handle yet.

    A row is written before its launch is asked for. So after a crash between the two, and after every ordinary launch, the row without a
    handle and the replica without a row are the same thing; launching rows are matched before those that failed or stop meanwhile.
    """
    known = {replica.handle: replica for replica in replicas if replica.handle is not None}
    waiting = sorted((r for r in replicas if r.handle is None), key=lambda r: (r.state is not S.LAUNCHING, r.created_at, r.id))
    seen: dict[str, Observation] = {}
    bound: list[str] = []
    strangers: list[Observation] = []
    for observation in sorted(observations, key=lambda o: (o.started_at, o.handle)):
        replica = known.get(observation.handle)
        if replica is None:
            replica = next((r for r in waiting if _same(r.models, observation.models)), None)
            if replica is None:
                strangers.append(observation)
                continue
            waiting.remove(replica)
            bound.append(replica.id)
        seen[replica.id] = observation
    return Binding(seen, bound, strangers)


def _same(one: Collection[str], other: Collection[str]) -> bool:
    return set(one) == set(other)


def current_stage(observation: Observation) -> str | None:
    """The stage that a replica is in: the first that has begun and not ended, or the last that ended."""
    begun = [stage for stage in observation.stages if stage.started_at]
    return next((stage.name for stage in begun if stage.ended_at is None), begun[-1].name if begun else None)

"""What to do about one pool: a pure function of what exists, what is asked, the policy and the time. No I/O, no logging.

Not responsible for what is true of a replica (that is `reconcile`) nor for doing anything about it (that is `pool`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from lamplighter.core.reasons import HealthReason, Reason, StopReason
from lamplighter.core.states import ReplicaState
from lamplighter.store.demand import Demand

S = ReplicaState
COMING = frozenset({S.LAUNCHING, S.STARTING, S.PARKED})
STAYING = frozenset({S.LAUNCHING, S.STARTING, S.PARKED, S.READY, S.UNREACHABLE})
"""Serves, or will."""
_SERVING = frozenset({S.READY})
_RESTING = frozenset({S.READY, S.PARKED})
"""Has its capacity, whether it serves or sleeps."""
ORDER_FRESH = 60.0
"""Seconds for which an order to sleep is followed although an answer ended after it: that answer was running when the order came."""
BROKE_DRAIN = 120.0
"""Seconds that running answers get once the budget is spent: each of them costs what is not there."""
CONVERSATION = 120.0
"""Seconds after an answer during which somebody is taken to be about to ask again: what is reclaimed then is replaced at once."""
REVOCABLE = frozenset({StopReason.IDLE, StopReason.ASKED, StopReason.SCALE_DOWN, StopReason.SWAP})
"""Drains that returning demand may call off."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica that is not proven gone. Unix seconds.

    `owned`: its pool still has its model, with the settings that it was started with. `drained`: every live gateway has let go of it (only
    ever true while it drains). `load`: requests on it. `leaving`: the provider may take it back any moment. `reason`: why it is in its state.
    """

    id: str
    model: str
    state: ReplicaState
    since: float
    created_at: float
    ready_at: float | None = None
    reason: Reason | None = None
    owned: bool = True
    drained: bool = False
    load: int = 0
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool. `models`: those assigned to it, in the order of the configuration.

    `blocked_until`: models whose last wake failed, and when it may be tried again. `waking`: models with a wake under way: no other begins.
    `halted`: those of them in whose wake a replica failed: nothing joins it. `floors`: by model, the most replicas that were needed at once
    within the policy's `scale_down_after`; `ceilings`: the fewest within `scale_up_after`, see `pace`. No entry: no limit.
    `broke`: the pool's budget is used up, so that nothing of it may go on running.
    """

    models: tuple[str, ...]
    replicas: tuple[ReplicaView, ...] = ()
    blocked_until: Mapping[str, float] = field(default_factory=dict)
    waking: frozenset[str] = frozenset()
    halted: frozenset[str] = frozenset()
    floors: Mapping[str, int] = field(default_factory=dict)
    ceilings: Mapping[str, int] = field(default_factory=dict)
    broke: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A pool's settings as `plan` and `reconcile` need them; seconds.

    `elastic`: false for always-on capacity, which is never touched. `per_model`: the most replicas of one model, where more make no sense.
    """

    elastic: bool = True
    sleep_after: float = 600.0
    min_replicas: int = 0
    max_replicas: int = 1
    per_model: int = 1_000_000
    boot_deadline: float = 900.0
    swap_after: float = 60.0
    min_residency: float = 120.0
    target_per_replica: int = 8
    scale_up_after: float = 3.0
    scale_down_after: float = 300.0
    drain_deadline: float = 3600.0
    hung_after: float = 60.0
    unreachable_after: int = 3


class Kind(Enum):
    """What an action does."""

    LAUNCH = auto()
    DRAIN = auto()
    UNDRAIN = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """One decision. `replica` is empty for a launch; `reason` says why something ends."""

    kind: Kind
    model: str
    replica: str = ""
    reason: Reason | None = None


def needed(demand: Demand | None, policy: Policy, now: float) -> int:
    """How many replicas of a model its demand asks for, not regarding what the pool can hold. 0: nobody asks."""
    if demand is None or not (demand.requests or _wanted(demand, now)):
        return 0
    least = demand.replicas if _wanted(demand, now) else 0
    return max(1, least, math.ceil(demand.requests / policy.target_per_replica))


def plan(view: PoolView, demand: Mapping[str, Demand], policy: Policy, now: float) -> list[Action]:
    """The actions that are due now, each replica in at most one of them. Asking again with their outcome gives nothing new."""
    if not policy.elastic:
        return []
    return _Planner(view, demand, policy, now).run()


class _Planner:
    """The working state of one call of `plan`: what each replica is about to be."""

    def __init__(self, view: PoolView, demand: Mapping[str, Demand], policy: Policy, now: float) -> None:
        self.view = view
        self.demand = {model: demand.get(model) or Demand(model) for model in view.models}
        self.policy = policy
        self.now = now
        self.actions: list[Action] = []
        self.untouched = {replica.id: replica for replica in view.replicas}
        self.shares = self._shares()

    def run(self) -> list[Action]:
        self._call_off_drains()
        self._end_what_must_end()
        self._let_go_of_the_leaving()
        self._follow_orders()
        self._sleep_the_idle()
        self._scale_down()
        self._make_room()
        self._launch()
        return self.actions

    # --- what each model may have -------------------------------------------------------------------------------------------------------

    def _shares(self) -> dict[str, int]:
        """How many replicas each model should have, together at most `max_replicas`.

        When several models ask, each gets one, residents first and then the longest waiting, before any gets a second: none can hold a
        second place while another has none. A pool's minimum goes to models that are asked for, then to residents, then to the first of
        the configuration.
        """
        wants = {model: min(self.policy.per_model, self._wants(model)) for model in self.view.models}
        residents = {r.model for r in self.view.replicas if r.state in STAYING and r.owned}
        order = sorted(
            (model for model in self.view.models if wants[model]),
            key=lambda model: (model not in residents, self._blocked(model), self._patience(model)),
        )
        shares = dict.fromkeys(self.view.models, 0)
        free = self.policy.max_replicas
        for model in order[:free]:
            shares[model] = 1
        free -= sum(shares.values())
        for model in order:
            more = min(free, max(0, wants[model] - shares[model]))
            if shares[model]:
                shares[model] += more
                free -= more
        short = self.policy.min_replicas - sum(shares.values())
        for model in sorted(self.view.models, key=lambda model: model not in residents):
            if short > 0 and not shares[model]:
                shares[model] = 1
                short -= 1
        if short > 0 and self.view.models:
            shares[max(self.view.models, key=lambda model: shares[model])] += short
        return shares

    def _wants(self, model: str) -> int:
        """What its demand asks for; one more thing asks: a conversation whose replica is being taken away."""
        asked = needed(self.demand[model], self.policy, self.now)
        return asked or int(self._reclaimed(model) and self._in_conversation(model))

    def _reclaimed(self, model: str) -> bool:
        return any(
            r.model == model and (r.leaving or (r.state is S.DRAINING and r.reason is StopReason.RECLAIMED))
            for r in self.view.replicas
        )

    def _in_conversation(self, model: str) -> bool:
        ended = self.demand[model].last_ended_at
        return ended is not None and self.now - ended < CONVERSATION

    def _patience(self, model: str) -> tuple[bool, float]:
        """Sorts the longest waiting first; what is merely wanted comes after what waits."""
        oldest = self.demand[model].oldest_queued_at
        return (oldest is None, oldest or 0.0)

    # --- the passes, in order of precedence ---------------------------------------------------------------------------------------------

    def _end_what_must_end(self) -> None:
        """Failures, losses, what hangs, finished or overdue drains, and what no model owns."""
        for replica in list(self.untouched.values()):
            if replica.state in (S.FAILED, S.LOST):
                self._stop(replica, StopReason.FAILED)
            elif self._hangs(replica):
                self._stop(replica, HealthReason.HUNG)
            elif replica.state is S.DRAINING and replica.drained:
                self._stop(replica, replica.reason)
            elif replica.state is S.DRAINING and self.now - replica.since >= self._drain_limit(replica):
                self._stop(replica, StopReason.DEADLINE)
            elif self.view.broke and replica.state in STAYING:
                self._retire(replica, StopReason.BUDGET_SPENT)
            elif not replica.owned and replica.state in COMING:
                self._stop(replica, StopReason.UNOWNED)
            elif not replica.owned and replica.state in (S.READY, S.UNREACHABLE):
                self._drain(replica, StopReason.UNOWNED)

    def _drain_limit(self, replica: ReplicaView) -> float:
        limit = self.policy.drain_deadline
        return min(limit, BROKE_DRAIN) if replica.reason is StopReason.BUDGET_SPENT else limit

    def _let_go_of_the_leaving(self) -> None:
        """What the provider may take back serves until another is ready, or nobody asks; and counts for nothing meanwhile."""
        for replica in list(self.untouched.values()):
            if replica.leaving and replica.state is S.READY and replica.owned:
                replaced = any(r.model == replica.model and r.state is S.READY for r in self._in(_SERVING))
                if replaced or not (self._asks(replica.model) or self._in_conversation(replica.model)):
                    self._drain(replica, StopReason.RECLAIMED)

    def _hangs(self, replica: ReplicaView) -> bool:
        """It is out of reach; or its engine was put to sleep behind our back, and nobody wakes it although its model is asked for."""
        asked_in_vain = replica.state is S.PARKED and replica.owned and self._asks(replica.model)
        return (replica.state is S.UNREACHABLE or asked_in_vain) and self.now - replica.since >= self.policy.hung_after

    def _call_off_drains(self) -> None:
        for replica in list(self.untouched.values()):
            if replica.state is S.DRAINING and self._welcome_back(replica):
                self._act(Kind.UNDRAIN, replica)

    def _welcome_back(self, replica: ReplicaView) -> bool:
        """Whether a drain is called off. What still runs on the replica is not returning demand; what waits is."""
        if replica.reason not in REVOCABLE or not replica.owned:
            return False
        demand = self.demand[replica.model]
        if self._count(replica.model, STAYING) >= self.shares[replica.model]:
            return False
        if replica.reason is StopReason.SWAP:
            return demand.queued > 0 and not self._others_wait(replica.model)
        if replica.reason is StopReason.ASKED:
            return demand.queued > 0 or (demand.sleep_asked_at is None and _wanted(demand, self.now))
        return demand.queued > 0 or _wanted(demand, self.now) or replica.reason is StopReason.SCALE_DOWN

    def _follow_orders(self) -> None:
        """A person's order to sleep, newer than the last activity."""
        for replica in self._in(STAYING):
            demand = self.demand[replica.model]
            asked = demand.sleep_asked_at
            if asked is None or demand.queued or asked < (replica.created_at if replica.state in COMING else replica.since):
                continue
            if (demand.last_ended_at or 0.0) <= asked or self.now - asked <= ORDER_FRESH:
                if replica.state is S.READY:
                    self._drain(replica, StopReason.ASKED)
                elif replica.state in COMING:
                    self._stop(replica, StopReason.ASKED)

    def _sleep_the_idle(self) -> None:
        spare = self._count_all(_RESTING) - self.policy.min_replicas
        for replica in sorted(self._in(_RESTING), key=lambda replica: replica.ready_at or 0.0):
            demand = self.demand[replica.model]
            at = demand.sleeps_at(replica.ready_at, self.policy.sleep_after)
            if spare > 0 and at is not None and at <= self.now and not _wanted(demand, self.now):
                self._retire(replica, StopReason.IDLE)
                spare -= 1

    def _scale_down(self) -> None:
        """Surplus replicas, after fewer have been enough for a while; one of each model is left to the idle time.

        What is beyond the pool's maximum (it was lowered, or replicas were adopted) goes at once. What serves nobody yet goes first.
        """
        for model in self.view.models:
            floor = min(self.view.floors.get(model, 0), self.policy.max_replicas, self.policy.per_model)
            keep = max(1, self.shares[model], floor)
            surplus = self._count(model, STAYING) - keep
            if surplus > 0:
                for replica in self._spare(model)[:surplus]:
                    self._retire(replica, StopReason.SCALE_DOWN)
        excess = self._count_all(STAYING) - self.policy.max_replicas
        if excess > 0:
            some = sorted(self._in(COMING | _SERVING), key=lambda r: (self.shares[r.model] > 0, *_dispensable(r)))
            for replica in some[:excess]:
                self._retire(replica, StopReason.SCALE_DOWN)

    def _make_room(self) -> None:
        """In a full pool, residents that can be spared make room for models that wait, the longest waiting first.

        Places of replicas on their way out count as free: nobody else need go for those who will get them.
        """
        waiting = [model for model in self._by_patience() if self._lacks(model)]
        free = self.policy.max_replicas - self._count_all(STAYING)
        for model in waiting[max(0, free) :]:
            victim = self._victim(model)
            if victim is not None:
                self._drain(victim, StopReason.SWAP)

    def _victim(self, model: str) -> ReplicaView | None:
        """The resident that is longest idle among those that may make room for `model`."""
        queued = self.demand[model].queued > 0
        found: list[tuple[int, float, str, ReplicaView]] = []
        for replica in self._in(_SERVING):
            other = self.demand[replica.model]
            if replica.model == model or self.now - (replica.ready_at or self.now) < self.policy.min_residency:
                continue
            idle_since = max(other.last_ended_at or 0.0, replica.ready_at or 0.0)
            surplus = self._count(replica.model, _SERVING) > max(1, self.shares[replica.model])
            idle = not other.requests and self.now - idle_since >= self.policy.swap_after
            # Keeping warm what nobody uses must not keep out somebody who waits; two that are merely wanted must not take turns.
            if surplus or (idle and (queued or not _wanted(other, self.now))):
                found.append((replica.load, idle_since, replica.id, replica))
        return min(found)[-1] if found else None

    def _launch(self) -> None:
        """What is missing, the longest waiting first, never beyond the pool's maximum."""
        # One that is being taken back gives its place to its successor before it is gone: else people would wait for its end.
        leaving = sum(r.leaving or (r.state is S.DRAINING and r.reason is StopReason.RECLAIMED) for r in self.view.replicas)
        free = self.policy.max_replicas - len(self.view.replicas) + min(1, leaving)
        missing = {model: self._missing(model) for model in self._by_patience()}
        counts = [min(1, count) if not self._count(model, STAYING) else 0 for model, count in missing.items()]
        rest = [count - first for count, first in zip(missing.values(), counts, strict=True)]
        for model, count in [*zip(missing, counts, strict=True), *zip(missing, rest, strict=True)]:  # one for each, then more
            launched = max(0, min(free, count))
            self.actions.extend([Action(Kind.LAUNCH, model)] * launched)
            free -= launched

    # --- small questions ----------------------------------------------------------------------------------------------------------------

    def _by_patience(self) -> list[str]:
        return sorted(self.view.models, key=self._patience)

    def _asks(self, model: str) -> bool:
        return needed(self.demand[model], self.policy, self.now) > 0

    def _blocked(self, model: str) -> bool:
        return self.view.blocked_until.get(model, 0.0) > self.now

    def _lacks(self, model: str) -> bool:
        """Somebody asks for it, and there is neither a replica of it nor a hindrance to make one."""
        coming = self._count(model, STAYING)
        return self._asks(model) and not coming and not self._blocked(model) and model not in self.view.waking

    def _missing(self, model: str) -> int:
        """How many to launch now if there are places: the first at once, more when they have been needed for a while."""
        if self._blocked(model) or model in self.view.halted or self._held_asleep(model):
            return 0
        staying = self._count(model, STAYING)
        if not staying and (model in self.view.waking or self._runs_out(model)):
            return 0
        share = self.shares[model]
        if self._asks(model) and not share:
            share = 1  # it waits for a place; if one is free now, it is not denied
        return max(0, min(share, max(1, self.policy.min_replicas, self.view.ceilings.get(model, share))) - staying)

    def _runs_out(self, model: str) -> bool:
        """All that is left of its demand are answers that still run on replicas that drain: those need no other replica."""
        demand = self.demand[model]
        if self._reclaimed(model):
            return False  # its answers may be cut: somebody must be there to go on
        drains = any(r.model == model and r.state is S.DRAINING for r in self.view.replicas) or any(
            a.kind is Kind.DRAIN and a.model == model for a in self.actions
        )
        return drains and not demand.queued and not _wanted(demand, self.now)

    def _held_asleep(self, model: str) -> bool:
        """A person sent it to sleep and nobody asked since: a pool's minimum does not wake it again."""
        demand = self.demand[model]
        return (demand.sleep_asked_at or 0.0) > (demand.last_ended_at or 0.0) and not self._asks(model)

    def _others_wait(self, model: str) -> bool:
        return any(other != model and self._lacks(other) for other in self.view.models)

    def _in(self, states: Iterable[ReplicaState]) -> list[ReplicaView]:
        wanted = frozenset(states)
        return [r for r in self.untouched.values() if r.state in wanted and r.owned and not r.leaving]

    def _count(self, model: str, states: frozenset[ReplicaState]) -> int:
        """Replicas of `model` in `states` once the actions so far are done."""
        kept = sum(r.model == model and r.state in states and r.owned and not r.leaving for r in self.untouched.values())
        back = sum(action.kind is Kind.UNDRAIN and action.model == model for action in self.actions)
        return kept + back

    def _count_all(self, states: frozenset[ReplicaState]) -> int:
        return sum(self._count(model, states) for model in self.view.models)

    def _spare(self, model: str) -> list[ReplicaView]:
        """Replicas of `model` that could go, the most dispensable first."""
        return sorted((r for r in self._in(COMING | _SERVING) if r.model == model), key=_dispensable)

    # --- acting -------------------------------------------------------------------------------------------------------------------------

    def _drain(self, replica: ReplicaView, reason: Reason) -> None:
        self._act(Kind.DRAIN, replica, reason)

    def _retire(self, replica: ReplicaView, reason: Reason) -> None:
        """Let it go: drained when it serves, else at once."""
        self._act(Kind.DRAIN if replica.state is S.READY else Kind.STOP, replica, reason)

    def _stop(self, replica: ReplicaView, reason: Reason | None) -> None:
        self._act(Kind.STOP, replica, reason)

    def _act(self, kind: Kind, replica: ReplicaView, reason: Reason | None = None) -> None:
        del self.untouched[replica.id]
        self.actions.append(Action(kind, replica.model, replica.id, reason))


def _wanted(demand: Demand, now: float) -> bool:
    return demand.wanted_until is not None and demand.wanted_until > now


def _dispensable(replica: ReplicaView) -> tuple[bool, bool, int, float, str]:
    """Sorts what can go first first: what sleeps, what is not ready yet (the youngest), then the least loaded, of equals the youngest."""
    young = -(replica.ready_at or replica.created_at)
    return (replica.state is not S.PARKED, replica.state is S.READY, replica.load, young, replica.id)

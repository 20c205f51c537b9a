"""One model in this gateway: its ready replicas as targets, whoever waits for one, and the counts that demand is made of.

It decides which target is next and whose turn it is; `balance`, `breaker`, `fairness` and `retries` are the parts that know nothing of
lanes. Not responsible for waiting (`hold`), connections (`upstream`), telling the store (`demand`), nor for what the view says (`routing`).
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from lamplighter.config import ModelConfig
from lamplighter.config.routing import RoutingConfig
from lamplighter.core.clock import Clock
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Capability
from lamplighter.engines.continuing import Continues
from lamplighter.gateway.balance import Candidate, bounded, digest, grown, least_loaded, ranked
from lamplighter.gateway.breaker import Breaker, Outcome, Report, State
from lamplighter.gateway.fairness import FairQueue, Pace
from lamplighter.gateway.retries import RetryBudget
from lamplighter.gateway.switching import Split
from lamplighter.gateway.upstream import Upstream
from lamplighter.store.replicas import Replica
from lamplighter.store.wakes import Wake

_log = structlog.get_logger(__name__)

EXCLUDED = 1.0
"""Seconds for which a target that refused or lost a connection gets no requests, before its circuit opens."""
MOST_HOMES = 8192
"""Sessions, and beginnings of prompts, whose replica a lane remembers."""
_STAND_INS = 16
"""Replicas that are remembered for each, the home included; beyond that one looks again."""


@dataclass(slots=True)
class Asker:
    """All that routing and fairness look at of a request. `session`: what ties requests together, b'' for none.

    `prefix`: a digest of the prompt's beginning, so that requests that share it can meet a warm cache; b'' when it is not known.
    `avoid`: the target on which it just failed: another one is better, if there is one. `waiter`: its place in the queue while it waits.
    `restless`: it does not wait for a replica that is not there; another target answers it. `woke`, `queued`: seconds for which it waited so
    far, for a replica to be there and for a free place on one.
    """

    key_id: str = ""
    session: bytes = b""
    prefix: bytes = b""
    avoid: "Target | None" = None
    waiter: "Waiter | None" = None
    restless: bool = False
    woke: float = 0.0
    queued: float = 0.0


ANYBODY = Asker()


class Waiter:
    """A request in a lane's queue. `event` is set when it should look: a target was seized for it, it lost its place, or things changed."""

    __slots__ = ("asker", "event", "evicted", "target")

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.event = asyncio.Event()
        self.target: Target | None = None
        self.evicted = False


class Reporter(Protocol):
    """Who is told that a lane's counts changed."""

    def touch(self, lane: "Lane", *, urgent: bool = False) -> None: ...

    def emptied(self, target: "Target") -> None: ...


class Target:
    """One replica at its endpoint, with this gateway's requests on it."""

    __slots__ = (
        "blocked_until",
        "breaker",
        "draining_epoch",
        "fresh_at",
        "in_flight",
        "lanes",
        "ready_since",
        "replica_id",
        "seed",
        "upstream",
        "weight",
    )

    def __init__(
        self, replica_id: str, upstream: Upstream, breaker: Breaker, *, weight: float = 1.0, fresh_at: float = float("-inf")
    ) -> None:
        self.replica_id = replica_id
        self.upstream = upstream
        self.breaker = breaker
        self.weight = weight
        self.fresh_at = fresh_at
        """When it became ready (monotonic)."""
        self.ready_since = 0.0
        """The same as the store says it (Unix seconds)."""
        self.seed = digest(replica_id.encode())
        self.in_flight = 0
        self.blocked_until = 0.0
        """Until then (monotonic) it gets nothing; 0 when nothing is wrong with it, so that one look tells."""
        self.draining_epoch: int | None = None
        """The epoch of the drain under way, whose acknowledgement is due when nothing of ours is left here."""
        self.lanes: list[Lane] = []
        """Those that send here."""


class Lane:
    """One model in this gateway. `queued` and `in_flight` always return to zero: every change is paired in a `finally`."""

    def __init__(self, name: str, config: ModelConfig, routing: RoutingConfig, reporter: Reporter, clock: Clock) -> None:
        self.name = name
        self.header = b"lamplighter-model: %b\r\n" % name.encode()
        """The line that its answers have in their heads."""
        self.limited_as = base(name)
        """Whose limits count for it: another revision of a model has no limits of its own."""
        self.split: Split | None = None
        """Who answers for this name, when it is not simply this lane."""
        self.config = config
        self.known = True
        """Whether the model is still offered."""
        self.static = False
        self.closing = False
        """The gateway ends: nobody may wait any longer."""
        self.upstream_model = name
        self.capabilities: frozenset[Capability] = frozenset()
        self.continues: Continues | None = None
        """How its engine goes on with an answer that another one began; None: not at all."""
        self.fallbacks: tuple[str, ...] = ()
        """Models that answer, in this order, when this one cannot."""
        self.places = 1
        """Requests that one target may have of this lane; the others wait here, where they are fair to each other."""
        self.targets: list[Target] = []
        self.replicas: tuple[Replica, ...] = ()
        """All living replicas that hold or load this model."""
        self.wake: Wake | None = None
        self.in_flight = 0
        self.waiting_since: OrderedDict[Waiter, float] = OrderedDict()
        self.last_ended_at: float | None = None
        self.wanted_until: float | None = None
        self.loads: dict[Target, int] = {}
        self.retry_budget = RetryBudget(routing.retry_ratio, routing.retry_minimum, clock)
        self.pace = Pace()
        """How fast those who wait for a free place get one."""
        self.on_opened: Callable[[Lane, Target], None] | None = None
        self._queue: FairQueue[Waiter] = FairQueue()
        self._steady = True
        """Whether no target is still growing into its share."""
        self._even = True
        """Whether all targets weigh the same."""
        self._bound = 0.0
        """Of all requests in flight, what a target of weight 1 may have before affinity gives way."""
        self.affinity = routing.affinity
        """Whether prompts that begin alike go where their beginning is warm."""
        self._homes: dict[bytes, tuple[Target, ...]] = {}
        """Where prompts that begin so, and sessions, belong, and who stands in; as long as the targets stay the same."""
        self._sessions: OrderedDict[bytes, Target] = OrderedDict()
        """Where sessions belong, as long as their target is there."""
        self._routing = routing
        self._reporter = reporter
        self._clock = clock

    # -- targets

    @property
    def awake(self) -> bool:
        """Whether a target can be asked now (or as soon as those before have been answered)."""
        for target in self.targets:
            if not target.blocked_until:
                return True
        now = self._clock.monotonic()
        return any(target.blocked_until <= now for target in self.targets)

    def seize(self, asker: Asker) -> Target | None:
        """A target for one exchange, which counts from now on; None when none can be had at once. Pair with `release`."""
        if self.waiting_since:
            return None  # those who wait come first
        target = self._pick(asker)
        if target is not None:
            self._take(target)
        return target

    def _take(self, target: Target) -> None:
        if target.blocked_until:
            self._attempt(target)
        self.in_flight += 1
        target.in_flight += 1
        self.loads[target] = self.loads.get(target, 0) + 1
        self.retry_budget.started += 1
        self._reporter.touch(self)

    def _pick(self, asker: Asker) -> Target | None:
        """Who is next; None when nobody has room. What needs more than a few steps is `_search`'s."""
        targets = self.targets
        count = len(targets)
        if not count:
            return None
        places = self.places
        if count == 1:
            one = targets[0]
            if not one.blocked_until and self.loads.get(one, 0) < places:
                return one
        elif self._steady and asker.avoid is None:
            key = asker.session or (asker.prefix if self.affinity else b"")
            if not key and self._even:
                index = int(random.random() * count)
                one, other = targets[index], targets[index - 1 - int(random.random() * (count - 1))]
                if other.in_flight < one.in_flight:
                    one = other
                if not one.blocked_until and self.loads.get(one, 0) < places:
                    return one
            elif (homes := self._homes.get(key)) is not None:
                share = self._bound * (self.in_flight + 1)
                for one in homes:
                    if one.blocked_until:
                        break
                    load = self.loads.get(one, 0)
                    if load < places and load < share * one.weight:
                        return one
        return self._search(asker)

    def _search(self, asker: Asker) -> Target | None:
        """Look at every target: at its circuit, its room, its weight, and whether it is where the asker belongs."""
        now = self._clock.monotonic()
        loads, places = self.loads, self.places
        usable = [target for target in self.targets if target.blocked_until <= now and loads.get(target, 0) < places]
        if asker.avoid is not None and len(usable) > 1:
            usable = [target for target in usable if target is not asker.avoid]
        if not usable:
            return None
        session, prefix = asker.session, asker.prefix if self.affinity else b""
        span = float(self._routing.slow_start)
        candidates = [
            Candidate(
                target,
                target.seed,
                loads.get(target, 0) if session or prefix else target.in_flight,
                grown(target.weight, now - target.fresh_at, span),
            )
            for target in usable
        ]
        if not self._steady:
            self._weigh(now)
        if not session and not prefix:
            return least_loaded(candidates)
        ranking = ranked(candidates, digest(session or prefix))
        whole = len(ranking) == len(self.targets)  # otherwise its home may just be away for a while
        if session:
            home = self._sessions.get(session)
            if home in self.targets:
                ranking.sort(key=lambda candidate: candidate.item is not home)
            if whole:
                self._remember(session, ranking[0].item)
        if whole:
            if len(self._homes) >= MOST_HOMES:
                self._homes.clear()
            self._homes[session or prefix] = tuple(candidate.item for candidate in ranking[:_STAND_INS])
        return bounded(ranking, self._routing.load_factor)

    def _remember(self, session: bytes, target: Target) -> None:
        self._sessions[session] = target
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_HOMES:
            self._sessions.popitem(last=False)

    def _weigh(self, now: float) -> None:
        """Whether a target is still growing into its weight, and whether all weights are the same."""
        targets = self.targets
        span = float(self._routing.slow_start)
        self._steady = len(targets) <= 1 or all(now - target.fresh_at >= span for target in targets)
        self._even = len({target.weight for target in targets}) <= 1
        self._bound = self._routing.load_factor / (sum(target.weight for target in targets) or 1.0)

    def release(self, target: Target, outcome: Outcome) -> None:
        """The exchange on `target` is over; whoever's turn it is gets its place."""
        breaker = target.breaker
        if outcome is Outcome.OK and breaker.state is State.CLOSED:
            breaker.good += 1
            breaker.streak = 0
        else:
            self._judge(target, outcome)
        self.in_flight -= 1
        target.in_flight -= 1
        left = self.loads[target] - 1
        if left:
            self.loads[target] = left
        else:
            del self.loads[target]
        self.last_ended_at = self._clock.time()
        self._reporter.touch(self)
        if self.waiting_since:
            self.pump()
        if target.draining_epoch is not None and not target.in_flight:
            self._reporter.emptied(target)

    # -- circuits

    def answered(self, target: Target) -> None:
        """The head of a proper answer came: a target on trial has passed. Worth calling when its circuit is not closed."""
        if target.breaker.answered(self._clock.monotonic()):
            target.blocked_until = 0.0
            _log.info("an endpoint answers again", model=self.name, replica=target.replica_id)
            for lane in target.lanes:
                lane.pump()

    def _attempt(self, target: Target) -> None:
        """A request goes to a target that was blocked until a moment ago."""
        if target.breaker.state is State.CLOSED:
            target.blocked_until = 0.0
        else:
            target.breaker.attempt(self._clock.monotonic())
            target.blocked_until = target.breaker.retry_at

    def _judge(self, target: Target, outcome: Outcome) -> None:
        """What an exchange that was not simply well says of the target."""
        breaker, now = target.breaker, self._clock.monotonic()
        if outcome is Outcome.OK:
            self.answered(target)
            return
        if outcome is Outcome.CANCELLED:
            breaker.abandoned(now)
            if breaker.state is State.HALF_OPEN:
                target.blocked_until = breaker.retry_at
                for lane in target.lanes:
                    lane.pump()
            return
        if breaker.failed(outcome, now):
            report = breaker.report(now, self._clock.time())
            _log.warning(
                "an endpoint's circuit opened", model=self.name, replica=target.replica_id, reason=report.reason, seconds=round(breaker.lasting, 1)
            )  # fmt: skip
            if self.on_opened is not None:
                self.on_opened(self, target)
            for lane in target.lanes:
                lane.notify()
        if breaker.state is not State.CLOSED:
            target.blocked_until = breaker.retry_at
        elif outcome in {Outcome.CONNECT, Outcome.LOST} and not (self.static and len(self.targets) == 1):
            # Another one, or the keeper's next, is better. One that is alone and always on is all that there is, until its circuit opens.
            target.blocked_until = now + EXCLUDED

    def tripped(self) -> Target | None:
        """When open circuits alone keep every target from being asked: the one that is tried again first."""
        if not self.targets or self.awake:
            return None
        if any(target.breaker.state is State.CLOSED for target in self.targets):
            return None
        return min(self.targets, key=lambda target: target.breaker.retry_at)

    def report(self, target: Target) -> Report:
        """The state of a target's circuit."""
        return target.breaker.report(self._clock.monotonic(), self._clock.time())

    def now(self) -> float:
        """Monotonic seconds of the clock that this lane lives by."""
        return self._clock.monotonic()

    def readmission(self) -> float | None:
        """Seconds until the first blocked target may be tried again; None when none is blocked."""
        now = self._clock.monotonic()
        left = [target.blocked_until - now for target in self.targets if target.blocked_until > now]
        return min(left) if left else None

    # -- those who wait

    @property
    def queued(self) -> int:
        """Requests that wait: for a replica to be there, or for a free place on one."""
        return len(self.waiting_since)

    def enter(self, asker: Asker) -> Waiter:
        """A request begins to wait. Pair with `leave`."""
        if not self.waiting_since:
            self.pace.begin(self._clock.monotonic())
        waiter = asker.waiter = Waiter(asker)
        self._queue.push(asker.key_id, waiter)
        self.waiting_since[waiter] = self._clock.time()
        self._reporter.touch(self, urgent=self.queued == 1)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """It waits no longer. A target that was seized for it and that it did not take goes to the next."""
        waiter.asker.waiter = None
        if self.waiting_since.pop(waiter, None) is not None:
            self._queue.remove(waiter.asker.key_id, waiter)
            self._reporter.touch(self)
        if waiter.target is not None:
            target, waiter.target = waiter.target, None
            self.release(target, Outcome.CANCELLED)

    def make_room(self, key_id: str) -> bool:
        """Send away the one that came last of the key with most waiters, if `key_id` has clearly fewer; whether that was done."""
        if not self.waiting_since:
            return False
        crowd, count = self._queue.crowd()
        if self._queue.waiting(key_id) + 1 >= count:
            return False
        waiter = self._queue.evict(crowd)
        del self.waiting_since[waiter]
        waiter.evicted = True
        waiter.event.set()
        return True

    def pump(self) -> None:
        """Give every free place to whoever's turn it is."""
        while (waiter := self._queue.first()) is not None:
            target = self._pick(waiter.asker)
            if target is None:
                return
            self._queue.pop()
            del self.waiting_since[waiter]
            self._take(target)
            self.pace.served(self._clock.monotonic())
            waiter.target = target
            waiter.event.set()

    def position(self, waiter: Waiter) -> int | None:
        """How many turns until this one's, 1 for the next; None when it does not wait."""
        return self._queue.position(waiter.asker.key_id, waiter) if waiter in self.waiting_since else None

    @property
    def oldest_queued_at(self) -> float | None:
        """When the request that waits longest began to (Unix seconds)."""
        return next(iter(self.waiting_since.values()), None)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.waiting_since and not self.in_flight

    def want(self, until: float) -> None:
        """Somebody was served by another model and would rather have had this one: wake it, until then (Unix seconds) at the latest."""
        fresh = self.wanted_until is None
        self.wanted_until = max(until, self.wanted_until or 0.0)
        if fresh:
            self._reporter.touch(self, urgent=True)

    # -- the view

    def update(self, *, targets: list[Target], replicas: tuple[Replica, ...], wake: Wake | None) -> None:
        """What the view says now; serves those who wait, and lets the others look again when it matters to them."""
        if self.wanted_until is not None and targets:
            self.wanted_until = None  # it is awake: from here its idle time counts
            self._reporter.touch(self)
        moved = targets != self.targets
        same = not moved and replicas == self.replicas and wake == self.wake
        self.targets, self.replicas, self.wake = targets, replicas, wake
        if moved:
            self._homes.clear()
            self._weigh(self._clock.monotonic())
        if not same:
            self.pump()
            self.notify()

    def notify(self) -> None:
        """Let everybody who waits look again."""
        for waiter in self.waiting_since:
            waiter.event.set()

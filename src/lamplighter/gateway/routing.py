"""Where requests for a model can go: its lane, with the ready replicas as targets, and the counts that demand is made of.

Follows the view; decides which target is next. Waiting is `hold`'s, connections are `upstream`'s, telling the store is `demand`'s.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.states import SERVING, ReplicaState
from lamplighter.engines.base import Capability, Engine
from lamplighter.gateway.upstream import Upstream, Upstreams
from lamplighter.gateway.view import Snapshot
from lamplighter.store.replicas import Replica
from lamplighter.store.wakes import Wake

_log = structlog.get_logger(__name__)

EXCLUDED = 1.0
"""Seconds for which a target that refused a connection gets no requests, unless the view changes it sooner."""


class Outcome(StrEnum):
    """How an exchange with a target ended, as far as it tells of the target's health."""

    OK = "ok"
    """It answered properly, an error of the client's making included."""
    CANCELLED = "cancelled"
    """We ended it: says nothing about the target."""
    CONNECT = "connect"
    LOST = "lost"
    """It ended the connection before the answer was whole."""
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    STATUS = "status"
    """It answered 500 or above."""


@dataclass(slots=True)
class Asker:
    """All that routing and fairness look at of a request. `session`: what ties requests together, b'' for none.

    `prefix`: a digest of the prompt's beginning, so that requests that share it can meet a warm cache; b'' when it is not known.
    """

    key_id: str = ""
    session: bytes = b""
    prefix: bytes = b""


ANYBODY = Asker()


class Reporter(Protocol):
    """Who is told that a lane's counts changed."""

    def touch(self, lane: "Lane", *, urgent: bool = False) -> None: ...

    def emptied(self, target: "Target") -> None: ...


class Target:
    """One replica at its endpoint, with this gateway's requests on it."""

    __slots__ = ("draining_epoch", "excluded_until", "in_flight", "replica_id", "upstream")

    def __init__(self, replica_id: str, upstream: Upstream) -> None:
        self.replica_id = replica_id
        self.upstream = upstream
        self.in_flight = 0
        self.excluded_until = 0.0
        self.draining_epoch: int | None = None
        """The epoch of the drain under way, whose acknowledgement is due when nothing of ours is left here."""


class Lane:
    """One model in this gateway. `queued` and `in_flight` always return to zero: every change is paired in a `finally`."""

    def __init__(self, name: str, config: ModelConfig, reporter: Reporter, clock: Clock) -> None:
        self.name = name
        self.config = config
        self.known = True
        """Whether the model is still offered."""
        self.static = False
        self.closing = False
        """The gateway ends: nobody may wait any longer."""
        self.upstream_model = name
        self.capabilities: frozenset[Capability] = frozenset()
        self.targets: list[Target] = []
        self.replicas: tuple[Replica, ...] = ()
        """All living replicas that hold or load this model."""
        self.wake: Wake | None = None
        self.queued = 0
        self.in_flight = 0
        self.waiting_since: dict[object, float] = {}
        self.last_ended_at: float | None = None
        self.wanted_until: float | None = None
        self.loads: dict[Target, int] = {}
        self.changed = asyncio.Event()
        self._excluded = 0
        self._reporter = reporter
        self._clock = clock

    @property
    def awake(self) -> bool:
        """Whether a target can be asked now (or as soon as those before have been answered)."""
        return self._pick(ANYBODY) is not None

    def seize(self, asker: Asker) -> Target | None:
        """A target for one exchange, which counts from now on; None when none can be had at once. Pair with `release`."""
        target = self._pick(asker)
        if target is not None:
            self.in_flight += 1
            target.in_flight += 1
            self.loads[target] = self.loads.get(target, 0) + 1
            self._reporter.touch(self)
        return target

    def _pick(self, asker: Asker) -> Target | None:
        """The less busy of two taken by chance; None when there is none."""
        targets = self.targets
        if self._excluded:
            targets = self._admitted()
        count = len(targets)
        if count > 1:
            one, other = targets if count == 2 else random.sample(targets, 2)
            if one.in_flight == other.in_flight:
                return one if random.random() < 0.5 else other
            return one if one.in_flight < other.in_flight else other
        return targets[0] if count else None

    def _admitted(self) -> list[Target]:
        now = self._clock.monotonic()
        admitted = [target for target in self.targets if target.excluded_until <= now]
        self._excluded = len(self.targets) - len(admitted)
        return admitted

    def exclude(self, target: Target) -> None:
        """Send nothing to `target` for a while."""
        target.excluded_until = self._clock.monotonic() + EXCLUDED
        self._excluded += 1

    def readmission(self) -> float | None:
        """Seconds until the first excluded target may be tried again; None when none is excluded."""
        now = self._clock.monotonic()
        left = [target.excluded_until - now for target in self.targets if target.excluded_until > now]
        return min(left) if left else None

    def release(self, target: Target, outcome: Outcome) -> None:
        """The exchange on `target` is over."""
        if outcome in {Outcome.CONNECT, Outcome.LOST}:
            self.exclude(target)
        self.in_flight -= 1
        target.in_flight -= 1
        left = self.loads[target] - 1
        if left:
            self.loads[target] = left
        else:
            del self.loads[target]
        self.last_ended_at = self._clock.time()
        self._reporter.touch(self)
        if target.draining_epoch is not None and not target.in_flight:
            self._reporter.emptied(target)

    def enter(self, token: object) -> None:
        """A request begins to wait. Pair with `leave`."""
        self.queued += 1
        self.waiting_since[token] = self._clock.time()
        self._reporter.touch(self, urgent=self.queued == 1)

    def leave(self, token: object) -> None:
        """It waits no longer."""
        self.queued -= 1
        del self.waiting_since[token]
        self._reporter.touch(self)

    def want(self, until: float) -> None:
        """Somebody was served by another model and would rather have had this one: wake it, until then (Unix seconds) at the latest."""
        fresh = self.wanted_until is None
        self.wanted_until = max(until, self.wanted_until or 0.0)
        if fresh:
            self._reporter.touch(self, urgent=True)

    @property
    def oldest_queued_at(self) -> float | None:
        """When the request that waits longest began to (Unix seconds)."""
        return next(iter(self.waiting_since.values()), None)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.queued and not self.in_flight

    def update(self, *, targets: list[Target], replicas: tuple[Replica, ...], wake: Wake | None) -> None:
        """What the view says now; wakes everybody who waits when it matters to them."""
        if self.wanted_until is not None and targets:
            self.wanted_until = None  # it is awake: from here its idle time counts
            self._reporter.touch(self)
        same = targets == self.targets and replicas == self.replicas and wake == self.wake
        self.targets, self.replicas, self.wake = targets, replicas, wake
        if not same:
            self.notify()

    def notify(self) -> None:
        """Let everybody who waits look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Lanes:
    """The lanes of all models, kept true to the view."""

    def __init__(self, config: Config, engines: Mapping[str, Engine], upstreams: Upstreams, clock: Clock) -> None:
        self.reporter: Reporter | None = None
        self._config = config
        self._engines = engines
        self._upstreams = upstreams
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._targets: dict[str, Target] = {}
        self.on_draining: Callable[[Target], None] | None = None

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def find(self, model: str) -> Lane | None:
        """The lane of a model that is offered."""
        lane = self._lanes.get(model)
        return lane if lane is not None and lane.known else None

    def names(self) -> list[str]:
        """The models that are offered."""
        return [name for name, lane in self._lanes.items() if lane.known]

    def targets(self) -> list[Target]:
        """Every target that may have requests on it."""
        return list(self._targets.values())

    def apply(self, snapshot: Snapshot) -> None:
        """Follow the view."""
        ready: dict[str, list[Target]] = {}
        holding: dict[str, list[Replica]] = {}
        draining: list[Target] = []
        living: dict[str, Target] = {}
        for replica in snapshot.replicas:
            for model in replica.models:
                holding.setdefault(model, []).append(replica)
            target = self._target(replica)
            if target is None:
                continue
            living[replica.id] = target
            target.draining_epoch = replica.epoch if replica.state is ReplicaState.DRAINING else None
            if replica.state is ReplicaState.READY:
                for model in replica.models:
                    ready.setdefault(model, []).append(target)
            elif replica.state is ReplicaState.DRAINING and not target.in_flight:
                draining.append(target)
        for replica_id, target in self._targets.items():
            if replica_id not in living and target.in_flight:
                living[replica_id] = target  # gone from the store, but a request still hangs on it
        self._targets = living
        self._upstreams.keep({target.upstream.endpoint for target in living.values()})
        self._follow_models(snapshot.models)
        for name, lane in self._lanes.items():
            lane.update(
                targets=ready.get(name, []) if lane.known else [],
                replicas=tuple(holding.get(name, ())),
                wake=snapshot.wake_of(name),
            )
        for target in draining:  # only now, when no lane sends there any more
            if self.reporter is not None:
                self.reporter.emptied(target)

    def _target(self, replica: Replica) -> Target | None:
        if replica.endpoint is None or replica.state not in SERVING:
            return None
        known = self._targets.get(replica.id)
        if known is not None and known.upstream.endpoint == replica.endpoint:
            return known
        try:
            return Target(replica.id, self._upstreams.of(replica.endpoint))
        except ValueError as error:
            _log.error("a replica's endpoint cannot be used", replica=replica.id, error=str(error))
            return None

    def _follow_models(self, models: Mapping[str, ModelConfig]) -> None:
        if self.reporter is None:
            raise RuntimeError("Lanes.reporter must be set before the first snapshot")
        for name, config in models.items():
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(name, config, self.reporter, self._clock)
            engine = self._engines.get(config.engine)
            lane.known, lane.config = True, config
            lane.static = self._config.pools[config.pool].kind == "static"
            lane.upstream_model = engine.upstream_model(name, config) if engine else name
            lane.capabilities = engine.capabilities(config) if engine else frozenset()
        for name in [name for name in self._lanes if name not in models]:
            lane = self._lanes[name]
            lane.known = False
            if lane.idle:
                del self._lanes[name]
            else:
                lane.notify()

"""Where requests for a model can go: the lanes of all models, kept true to the view.

Not responsible for what happens within a lane (`lane`): which target is next, whose turn it is.
"""

from collections.abc import Callable, Iterator, Mapping

import structlog

from lamplighter.config import Config, ModelConfig, StaticPool
from lamplighter.core.clock import Clock
from lamplighter.core.states import SERVING, ReplicaState
from lamplighter.engines.base import Engine
from lamplighter.engines.continuing import way_of
from lamplighter.gateway.breaker import LEVEL, Breaker, Outcome, Report
from lamplighter.gateway.lane import ANYBODY, Asker, Lane, Reporter, Target
from lamplighter.gateway.switching import Outcomes, splits
from lamplighter.gateway.upstream import Upstream, Upstreams
from lamplighter.gateway.view import Snapshot
from lamplighter.store.replicas import Replica

__all__ = ["ANYBODY", "Asker", "Lane", "Lanes", "Outcome", "Reporter", "Target"]

_log = structlog.get_logger(__name__)

_LATEST = ":latest"
_NO_MORE = frozenset({ReplicaState.LOST, ReplicaState.GONE})
"""States in which nothing can come from a replica any more."""

_PER_SLOT = 4
"""Requests that the embedded engine gets for each answer that it writes at a time: enough that it never waits for the next one."""


class Lanes:
    """The lanes of all models, kept true to the view."""

    def __init__(self, config: Config, engines: Mapping[str, Engine], upstreams: Upstreams, clock: Clock) -> None:
        self.reporter: Reporter | None = None
        self.outcomes: Outcomes | None = None
        """Who counts how requests end whose name is being changed."""
        self._config = config
        self._engines = engines
        self._upstreams = upstreams
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._targets: dict[str, Target] = {}
        self._aliases: dict[str, str] = {}
        self.on_opened: Callable[[Lane, Target], None] | None = None
        """Called when an endpoint's circuit opens, with the lane whose request failed last."""

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def find(self, model: str) -> Lane | None:
        """The lane of a model that is offered, by its name or one of its aliases."""
        lane = self._lanes.get(model)
        if lane is None and model in self._aliases:
            lane = self._lanes.get(self._aliases[model])
        if lane is None and model.endswith(_LATEST):  # how Ollama's programs call a model without a tag
            return self.find(model.removesuffix(_LATEST))
        return lane if lane is not None and lane.known else None

    def names(self) -> list[str]:
        """The models that are offered."""
        return [name for name, lane in self._lanes.items() if lane.known]

    def aliases(self) -> dict[str, str]:
        """Further names, each with the model that it means."""
        return dict(self._aliases)

    def reports(self) -> dict[str, Report]:
        """The state of every endpoint's circuit, by replica."""
        now, wall = self._clock.monotonic(), self._clock.time()
        return {target.replica_id: target.breaker.report(now, wall) for target in self._targets.values()}

    def circuits(self) -> dict[tuple[str, ...], float]:
        """The level of every circuit, by model and replica, for the metric."""
        return {(lane.name, target.replica_id): LEVEL[target.breaker.state] for lane in self for target in lane.targets}

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
            target.lanes = []
            if replica.state is ReplicaState.READY and replica.since != target.ready_since:
                self._became_ready(target, replica)
            target.draining_epoch = replica.epoch if replica.state is ReplicaState.DRAINING else None
            if replica.state is ReplicaState.READY:
                for model in replica.models:
                    ready.setdefault(model, []).append(target)
            elif replica.state is ReplicaState.DRAINING and not target.in_flight:
                draining.append(target)
        serving = {id(target.upstream) for target in living.values()}
        states = {replica.id: replica.state for replica in snapshot.replicas}
        lost: list[Upstream] = []
        for replica_id, target in self._targets.items():
            if replica_id not in living and target.in_flight:
                living[replica_id] = target  # gone from the store, but a request still hangs on it
                if states.get(replica_id, ReplicaState.GONE) in _NO_MORE and id(target.upstream) not in serving:
                    lost.append(target.upstream)
        self._targets = living
        self._upstreams.keep({target.upstream.endpoint for target in living.values()})
        self._follow_models(snapshot.models)
        self._follow_changes(snapshot)
        for name, lane in self._lanes.items():
            for target in ready.get(name, ()):
                target.lanes.append(lane)
        for name, lane in self._lanes.items():
            if lane.known and (engine := self._engines.get(lane.config.engine)) is not None:
                lane.capabilities = snapshot.capabilities(name, engine)
            lane.update(
                targets=ready.get(name, []) if lane.known else [],
                replicas=tuple(holding.get(name, ())),
                wake=snapshot.wake_of(name),
            )
        for (
            upstream
        ) in lost:  # a machine that was switched off closes nothing: its streams would hang until they were silent for too long
            upstream.lose("the replica is gone")
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
            upstream = self._upstreams.of(replica.endpoint)
        except ValueError as error:
            _log.error("a replica's endpoint cannot be used", replica=replica.id, error=str(error))
            return None
        pool = self._config.pools.get(replica.pool)
        weight = pool.weights.get(replica.endpoint.url, 1.0) if isinstance(pool, StaticPool) else 1.0
        return Target(replica.id, upstream, Breaker(self._config.breaker, self._clock.monotonic()), weight=weight)

    def _became_ready(self, target: Target, replica: Replica) -> None:
        """It is fresh, or well again: the keeper's health check found it so."""
        now = self._clock.monotonic()
        target.ready_since = replica.since
        target.fresh_at = now - max(0.0, self._clock.time() - replica.since)
        target.breaker.healthy(now)
        target.blocked_until = min(target.blocked_until, now)

    def _follow_models(self, models: Mapping[str, ModelConfig]) -> None:
        if self.reporter is None:
            raise RuntimeError("Lanes.reporter must be set before the first snapshot")
        for name, config in models.items():
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(name, config, self._config.routing, self.reporter, self._clock)
                lane.on_opened = self._opened
            engine = self._engines.get(config.engine)
            lane.known, lane.config = True, config
            lane.static = not self._config.pools[config.pool].elastic
            lane.upstream_model = engine.upstream_model(name, config) if engine else name
            lane.capabilities = engine.capabilities(config) if engine else frozenset()
            lane.continues = way_of(engine)
            lane.fallbacks = tuple(config.fallback)
            lane.places = config.max_parallel or self._most(config)
        self._aliases = {alias: name for name, config in models.items() for alias in config.aliases}
        for name in [name for name in self._lanes if name not in models]:
            lane = self._lanes[name]
            lane.known = False
            if lane.idle:
                del self._lanes[name]
            else:
                lane.notify()

    def _follow_changes(self, snapshot: Snapshot) -> None:
        """Who answers for the names that were changed, or are being changed."""
        known = {name: lane.split for name, lane in self._lanes.items() if lane.split is not None}
        routes = snapshot.changes.routes()
        if not (known or routes):
            return
        found = splits(routes, self._lanes, known, self.outcomes)
        for name in known.keys() | found.keys():
            if name in self._lanes:
                self._lanes[name].split = found.get(name)

    def _most(self, config: ModelConfig) -> int:
        """Requests that one replica of a model gets at a time when the model does not say it."""
        return _PER_SLOT * config.slots if config.engine == "llamacpp" else self._config.gateway.max_upstream_connections

    def _opened(self, lane: Lane, target: Target) -> None:
        if self.on_opened is not None:
            self.on_opened(lane, target)

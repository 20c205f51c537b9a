"""Says what every model and pool is doing, from the view's picture of the store. Pure but for one memory: the last good wake of each model.

The contract of the shapes is `docs/reference/control-api.md`. Nothing here makes demand.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lamplighter import __version__
from lamplighter.config import CommandPool, Config, ModelConfig, PoolConfig, StaticPool
from lamplighter.config.schedule import span
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.states import PoolState, ReplicaState, pool_state
from lamplighter.engines.base import Engine
from lamplighter.gateway.breaker import Report
from lamplighter.gateway.chat.shapes import wake_json
from lamplighter.gateway.control.changes import switch_json
from lamplighter.gateway.money import budget_json, quote_json, running_json, spent_json
from lamplighter.gateway.view import Snapshot
from lamplighter.store.demand import Demand
from lamplighter.store.replicas import Replica
from lamplighter.store.wakes import Wake

_STAYING = frozenset({ReplicaState.LAUNCHING, ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNREACHABLE})
"""Replicas that count towards a pool's `min_replicas`."""


class Statuses:
    """Builds Status and ModelStatus. `note`: one sentence on a model that is weak, or None. `circuits`: of this gateway, by replica.

    `now`: Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        engines: Mapping[str, Engine],
        *,
        note: Callable[[ModelConfig], str | None] = lambda _: None,
        circuits: Callable[[], Mapping[str, Report]] = dict,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._engines = engines
        self._note = note
        self._circuits = circuits
        self._now = now
        self._last_wakes: dict[tuple[str, str], dict[str, float]] = {}

    def whole(self, snapshot: Snapshot, *, now: float, started_at: float, installation: str) -> dict[str, Any]:
        """Status."""
        return {
            "version": __version__,
            "now": now,
            "started_at": started_at,
            "installation": installation,
            "models": self.models(snapshot),
            "pools": [self._pool(snapshot, name, pool) for name, pool in self._config.pools.items()],
        }

    def models(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """Every ModelStatus, in the order of the configuration."""
        return [status for name in snapshot.models if (status := self.model(snapshot, name)) is not None]

    def model(self, snapshot: Snapshot, name: str) -> dict[str, Any] | None:
        """One ModelStatus; None when there is no such model."""
        config = snapshot.models.get(name)
        pool = self._config.pools.get(config.pool) if config else None
        if config is None or pool is None:
            return None
        replicas = [one for one in snapshot.replicas if one.pool == config.pool and name in one.models]
        demand = snapshot.demand.get(name, Demand(name))
        wake = snapshot.wakes.get((config.pool, name))
        state = pool_state((one.state for one in replicas), failed=wake is not None and wake.outcome == "failed")
        engine = self._engines.get(config.engine)
        warm = _warm_until(self._config.hours(config), demand, self._now())
        return {
            "name": name,
            "engine": config.engine,
            "pool": config.pool,
            "pool_kind": pool.kind,
            "source": config.source or name,
            "state": state.value,
            "always_on": not pool.elastic,
            "in_flight": demand.in_flight,
            "queued": demand.queued,
            "sleeping_at": _sleeping_at(pool, snapshot, replicas, demand, state, warm),
            "warm_until": warm,
            "while_waking": config.while_waking,
            "capabilities": sorted(one.value for one in snapshot.capabilities(name, engine)) if engine else [],
            "context": _context(config, replicas),
            "note": self._note(config),
            "wake": wake_json(wake) if wake is not None and wake.outcome is None and state is PoolState.WAKING else None,
            "failure": _failure(wake) if state is PoolState.FAILED and wake is not None else None,
            "last_wake": self._last_wake(config.pool, name, wake),
            "quote": quote_json(snapshot.costs.get(config.pool)),
            "switch": switch_json(snapshot, name),
        }

    def _pool(self, snapshot: Snapshot, name: str, pool: PoolConfig) -> dict[str, Any]:
        replicas = [one for one in snapshot.replicas if one.pool == name]
        newest = max(
            (wake for (where, _), wake in snapshot.wakes.items() if where == name), key=lambda one: one.started_at, default=None
        )
        failed = newest is not None and newest.outcome == "failed"
        return {
            "name": name,
            "kind": pool.kind,
            "state": pool_state((one.state for one in replicas), failed=failed).value,
            "max_replicas": most_replicas(pool),
            "budget": budget_json(pool, snapshot.costs.get(name)),
            "spent": spent_json(snapshot.costs.get(name)),
            "replicas": [self._replica(snapshot, one) for one in replicas],
        }

    def _replica(self, snapshot: Snapshot, replica: Replica) -> dict[str, Any]:
        return {
            "id": replica.id,
            "model": replica.models[0] if replica.models else None,
            "models": list(replica.models),
            "state": replica.state.value,
            "stage": replica.stage,
            "reason": replica.reason.value if replica.reason else None,
            "detail": replica.detail,
            "since": replica.since,
            "in_flight": sum(demand.loads.get(replica.id, 0) for demand in snapshot.demand.values()),
            "breaker": _breaker(self._circuits().get(replica.id)),
            "cost": running_json(snapshot.entries.get(replica.id)),
        }

    def _last_wake(self, pool: str, model: str, wake: Wake | None) -> dict[str, float] | None:
        # The view holds the newest wake alone: while another one is under way, the last good one is remembered here.
        if wake is not None and wake.outcome == "ready" and wake.ended_at is not None:
            self._last_wakes[pool, model] = {"seconds": round(wake.ended_at - wake.started_at, 3), "at": wake.ended_at}
        return self._last_wakes.get((pool, model))


def _breaker(report: Report | None) -> dict[str, Any] | None:
    """The answering gateway's circuit to a replica; None when it has none, because nothing is sent there."""
    if report is None:
        return None
    return {
        "state": report.state.value,
        "since": report.since,
        "failures": report.failures,
        "retry_at": report.retry_at,
        "reason": report.reason,
    }


def most_replicas(pool: PoolConfig) -> int:
    """Replicas that a pool holds at the most."""
    if isinstance(pool, CommandPool):
        return pool.max_loaded
    if not isinstance(pool, StaticPool):
        return pool.max_replicas
    return pool.max_loaded if pool.elastic else len(pool.weights)


def _sleeping_at(
    pool: PoolConfig, snapshot: Snapshot, replicas: Sequence[Replica], demand: Demand, state: PoolState, warm: float | None
) -> float | None:
    if pool.sleep_after is None or state is not PoolState.AWAKE:
        return None
    least = 0 if isinstance(pool, StaticPool | CommandPool) else pool.min_replicas
    if sum(one.state in _STAYING and one.pool == replicas[0].pool for one in snapshot.replicas) <= least:
        return None
    ready = [one.ready_at for one in replicas if one.state is ReplicaState.READY and one.ready_at is not None]
    at = demand.sleeps_at(max(ready, default=None), pool.sleep_after)
    return at if at is None else max(at, warm or 0.0)


def _warm_until(schedule: Collection[str], demand: Demand, now: float) -> float | None:
    """When the hours end that keep it awake now, unless a person sent it to sleep meanwhile; None outside of hours."""
    hours = span(schedule, now) if schedule else None
    ordered = demand.sleep_asked_at is not None and hours is not None and demand.sleep_asked_at >= hours.start
    return None if hours is None or ordered else hours.end


def _context(config: ModelConfig, replicas: Sequence[Replica]) -> int | None:
    known = next((one.context for one in replicas if one.context is not None), None)
    if known is not None:
        return known
    return config.context if config.engine == "llamacpp" else None


def _failure(wake: Wake) -> dict[str, Any]:
    verdict = VERDICTS[wake.reason or WakeFailure.PROVIDER_ERROR]
    return {
        "reason": (wake.reason or WakeFailure.PROVIDER_ERROR).value,
        "message": f"{verdict.message} {wake.detail}" if wake.detail else verdict.message,
        "next_step": verdict.next_step or None,
        "retry_at": wake.retry_at if verdict.retry else None,
    }

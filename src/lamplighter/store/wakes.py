"""Wakes: the one under way for a model, with its stages as they happen, and the past ones, from which an ETA is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from lamplighter.core.ids import new_id
from lamplighter.core.reasons import WakeFailure
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store
from lamplighter.store.tables import wakes


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a wake; future ones have no times yet. Unix seconds; `progress` 0..1 when known."""

    name: str
    started_at: float | None = None
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "progress": self.progress,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Wake:
    """One row. `outcome`: None while under way, then `ready`, `failed` or `cancelled`. ETAs are seconds for the whole wake."""

    id: str
    pool: str
    model: str
    started_at: float
    ended_at: float | None
    outcome: str | None
    reason: WakeFailure | None
    detail: str | None
    attempt: int
    retry_at: float | None
    stages: tuple[Stage, ...]
    warm: bool
    eta_p50: float | None
    eta_p90: float | None


def _wake(row: Row[Any]) -> Wake:
    return Wake(
        id=row.id,
        pool=row.pool,
        model=row.model,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        reason=WakeFailure(row.reason) if row.reason else None,
        detail=row.detail,
        attempt=row.attempt,
        retry_at=row.retry_at,
        stages=tuple(Stage(**stage) for stage in row.stages),
        warm=row.warm,
        eta_p50=row.eta_p50,
        eta_p90=row.eta_p90,
    )


async def begin(
    store: Store,
    *,
    pool: str,
    model: str,
    stages: Sequence[str],
    attempt: int,
    warm: bool,
    eta_p50: float | None,
    eta_p90: float | None,
) -> Wake:
    """A wake begins; all its stages are still to come."""
    async with store.write() as connection:
        row = (
            await connection.execute(
                insert(wakes)
                .values(
                    id=new_id("wak"), pool=pool, model=model, started_at=store.clock.time(), attempt=attempt, warm=warm,
                    stages=[Stage(name).as_json() for name in stages], eta_p50=eta_p50, eta_p90=eta_p90,
                )
                .returning(wakes)
            )
        ).one()  # fmt: skip
    store.bus.publish(Topic.REPLICAS, pool)
    return _wake(row)


async def progress(store: Store, wake_id: str, stages: Sequence[Stage], *, warm: bool | None = None) -> None:
    """Replace the stages of a wake that is under way. `warm` corrects whether the weights were already there."""
    values: dict[str, Any] = {"stages": [stage.as_json() for stage in stages]}
    if warm is not None:
        values["warm"] = warm
    async with store.write() as connection:
        where = (wakes.c.id == wake_id) & (wakes.c.outcome.is_(None))
        pool = await connection.scalar(update(wakes).where(where).values(**values).returning(wakes.c.pool))
    if pool is not None:
        store.bus.publish(Topic.REPLICAS, pool)


async def end(
    store: Store,
    wake_id: str,
    outcome: str,
    *,
    reason: WakeFailure | None = None,
    detail: str | None = None,
    retry_at: float | None = None,
) -> None:
    """A wake ends, once: a second end changes nothing."""
    async with store.write() as connection:
        pool = await connection.scalar(
            update(wakes)
            .where((wakes.c.id == wake_id) & (wakes.c.outcome.is_(None)))
            .values(
                ended_at=store.clock.time(),
                outcome=outcome,
                reason=reason.value if reason else None,
                detail=detail,
                retry_at=retry_at,
            )
            .returning(wakes.c.pool)
        )
    if pool is not None:
        store.bus.publish(Topic.REPLICAS, pool)


async def under_way(store: Store) -> list[Wake]:
    """Every wake that has not ended."""
    async with store.read() as connection:
        return [
            _wake(row)
            for row in await connection.execute(select(wakes).where(wakes.c.outcome.is_(None)).order_by(wakes.c.started_at))
        ]


async def latest(store: Store) -> dict[tuple[str, str], Wake]:
    """The newest wake of each (pool, model)."""
    newest: dict[tuple[str, str], Wake] = {}
    async with store.read() as connection:
        ranked = select(wakes.c.pool, wakes.c.model).distinct()
        for pool, model in list(await connection.execute(ranked)):
            query = (
                select(wakes)
                .where((wakes.c.pool == pool) & (wakes.c.model == model))
                .order_by(wakes.c.started_at.desc(), wakes.c.id.desc())
                .limit(1)
            )
            row = (await connection.execute(query)).one()
            newest[(pool, model)] = _wake(row)
    return newest


async def past(store: Store, *, pool: str, model: str, limit: int = 20) -> list[Wake]:
    """The newest successful wakes of a model in a pool, newest first."""
    query = (
        select(wakes)
        .where((wakes.c.pool == pool) & (wakes.c.model == model) & (wakes.c.outcome == "ready"))
        .order_by(wakes.c.started_at.desc())
        .limit(limit)
    )
    async with store.read() as connection:
        return [_wake(row) for row in await connection.execute(query)]


async def sweep(store: Store, *, keep: float = 90 * 86_400.0) -> None:
    """Forget wakes that ended more than `keep` seconds ago."""
    async with store.write() as connection:
        await connection.execute(delete(wakes).where(wakes.c.ended_at < store.clock.time() - keep))

"""Wakes: the one under way for a model, with its stages as they happen, and the past ones, from which an ETA is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.core.ids import new_id
from lamplighter.core.reasons import WakeFailure
from lamplighter.store import leases
from lamplighter.store.bus import Topic
from lamplighter.store.ledger import Entry
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
    entry: Entry | None = None
    """What its replica costs, when a reader has looked that up; never stored with the wake."""

    @property
    def seconds(self) -> float | None:
        """How long it took; None while under way."""
        return None if self.ended_at is None else self.ended_at - self.started_at


async def _check(connection: AsyncConnection, term: int | None) -> None:
    if term is not None:
        await leases.check(connection, leases.KEEPER, term)


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
    term: int | None = None,
) -> Wake:
    """A wake begins; all its stages are still to come. With `term`, raises StaleTerm when another keeper leads (so do the others here)."""
    async with store.write() as connection:
        await _check(connection, term)
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


async def progress(
    store: Store,
    wake_id: str,
    stages: Sequence[Stage],
    *,
    warm: bool | None = None,
    eta: tuple[float, float] | None = None,
    term: int | None = None,
) -> None:
    """Replace the stages of a wake that is under way. `warm` corrects whether the weights were already there, `eta` (p50, p90) with it."""
    values: dict[str, Any] = {"stages": [stage.as_json() for stage in stages]}
    if warm is not None:
        values["warm"] = warm
    if eta is not None:
        values["eta_p50"], values["eta_p90"] = eta
    async with store.write() as connection:
        await _check(connection, term)
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
    at: float | None = None,
    term: int | None = None,
) -> bool:
    """A wake ends, now or `at` an earlier time; once: a second end changes nothing and answers False."""
    async with store.write() as connection:
        await _check(connection, term)
        pool = await connection.scalar(
            update(wakes)
            .where((wakes.c.id == wake_id) & (wakes.c.outcome.is_(None)))
            .values(
                ended_at=store.clock.time() if at is None else at,
                outcome=outcome,
                reason=reason.value if reason else None,
                detail=detail,
                retry_at=retry_at,
            )
            .returning(wakes.c.pool)
        )
    if pool is None:
        return False
    store.bus.publish(Topic.REPLICAS, pool)
    return True


async def forgive(store: Store, models: Sequence[str]) -> None:
    """What failed for these models may be tried again at once: their settings changed, or a person asks."""
    async with store.write() as connection:
        where = wakes.c.model.in_(models) & (wakes.c.outcome == "failed") & wakes.c.retry_at.is_not(None)
        await connection.execute(update(wakes).where(where).values(retry_at=None))


async def under_way(store: Store, *, pool: str | None = None) -> list[Wake]:
    """Every wake that has not ended, of one pool or of all, oldest first."""
    query = select(wakes).where(wakes.c.outcome.is_(None)).order_by(wakes.c.started_at, wakes.c.id)
    if pool is not None:
        query = query.where(wakes.c.pool == pool)
    async with store.read() as connection:
        return [_wake(row) for row in await connection.execute(query)]


async def latest(store: Store, *, pool: str | None = None) -> dict[tuple[str, str], Wake]:
    """The newest wake of each (pool, model), of one pool or of all."""
    newest = select(func.max(wakes.c.started_at).label("at"), wakes.c.pool, wakes.c.model).group_by(wakes.c.pool, wakes.c.model)
    if pool is not None:
        newest = newest.where(wakes.c.pool == pool)
    last = newest.subquery()
    query = (
        select(wakes)
        .join(last, (wakes.c.pool == last.c.pool) & (wakes.c.model == last.c.model) & (wakes.c.started_at == last.c.at))
        .order_by(wakes.c.id)  # of two begun at the same instant the later id wins
    )
    async with store.read() as connection:
        return {(row.pool, row.model): _wake(row) for row in await connection.execute(query)}


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

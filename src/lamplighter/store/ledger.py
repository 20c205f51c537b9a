"""What capacity cost and costs: one entry for each replica with a price, and what the keeper knows of each pool's money.

Entries are never changed but to end them. Not responsible for what requests are charged (`store.spend`, `store.usage`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from lamplighter.core.ids import new_id
from lamplighter.store import leases
from lamplighter.store.bus import Topic
from lamplighter.store.leases import KEEPER
from lamplighter.store.sql import upsert
from lamplighter.store.store import Store
from lamplighter.store.tables import ledger, pool_costs

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One replica at one price. `hourly`: billionths of `currency`. Unix seconds; `ended_at` None: it still costs."""

    id: str
    pool: str
    model: str
    replica_id: str
    handle: str
    basis: str
    hourly: int
    currency: str
    started_at: float
    ended_at: float | None

    def cost(self, since: float, until: float) -> int:
        """Billionths that it cost between two times, rounded up."""
        end = until if self.ended_at is None else min(self.ended_at, until)
        seconds = max(0.0, end - max(self.started_at, since))
        return -int(-seconds * self.hourly // _HOUR)


@dataclass(frozen=True, slots=True)
class PoolCost:
    """A pool's money. `hourly`, `least`: of the next wake, see `providers.base.Quote`; None: not known. `spent`: in the period since `since`."""

    pool: str
    currency: str
    spent: int
    since: float
    hourly: int | None = None
    least: int | None = None
    basis: str | None = None
    source: str | None = None
    quoted_at: float | None = None


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        pool=row.pool,
        model=row.model,
        replica_id=row.replica_id,
        handle=row.handle,
        basis=row.basis,
        hourly=row.hourly,
        currency=row.currency,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


async def begin(
    store: Store, *, pool: str, model: str, replica_id: str, handle: str, basis: str, hourly: int, currency: str, started_at: float, term: int
) -> Entry:  # fmt: skip
    """A replica begins to cost. Raises StaleTerm."""
    values = {
        "id": new_id("led"), "pool": pool, "model": model, "replica_id": replica_id, "handle": handle, "basis": basis,
        "hourly": hourly, "currency": currency, "started_at": started_at,
    }  # fmt: skip
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        row = (await connection.execute(insert(ledger).values(**values).returning(ledger))).one()
    store.bus.publish(Topic.REPLICAS, pool)
    return _entry(row)


async def end(store: Store, entry_id: str, *, at: float, term: int) -> None:
    """It costs no more. A second end changes nothing. Raises StaleTerm."""
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        await connection.execute(
            update(ledger).where((ledger.c.id == entry_id) & ledger.c.ended_at.is_(None)).values(ended_at=at)
        )


async def entries(store: Store, *, pool: str | None = None, since: float | None = None) -> list[Entry]:
    """What costs now, and with `since` also what cost after that time; oldest first."""
    running = ledger.c.ended_at.is_(None)
    query = select(ledger).where(running if since is None else or_(running, ledger.c.ended_at > since))
    if pool is not None:
        query = query.where(ledger.c.pool == pool)
    async with store.read() as connection:
        return [_entry(row) for row in await connection.execute(query.order_by(ledger.c.started_at, ledger.c.id))]


def total(found: Sequence[Entry], since: float, until: float) -> int:
    """Billionths that the entries cost together between two times."""
    return sum(entry.cost(since, until) for entry in found)


async def write_costs(store: Store, costs: PoolCost, *, term: int) -> None:
    """What is known of a pool's money, in place of what was. Raises StaleTerm."""
    values = asdict(costs)
    del values["pool"]
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        await upsert(connection, pool_costs, {"pool": costs.pool}, values)
    store.bus.publish(Topic.REPLICAS, costs.pool)


async def costs(store: Store) -> dict[str, PoolCost]:
    """What is known of each pool's money."""
    async with store.read() as connection:
        return {
            row.pool: PoolCost(
                pool=row.pool,
                currency=row.currency,
                spent=row.spent,
                since=row.since,
                hourly=row.hourly,
                least=row.least,
                basis=row.basis,
                source=row.source,
                quoted_at=row.quoted_at,
            )
            for row in await connection.execute(select(pool_costs))
        }

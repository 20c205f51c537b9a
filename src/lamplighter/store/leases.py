"""Leadership by numbered terms: whoever holds the lease `keeper` leads; every write of a keeper names its term."""

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.core.errors import StaleTerm
from lamplighter.store.sql import insert_once
from lamplighter.store.store import Store
from lamplighter.store.tables import leases

KEEPER = "keeper"
"""Name of the keeper's leadership."""
ENGINES = "engines"
"""Name of the lease of the host on which engine processes run: only a keeper there can see them, and keep them alive."""


async def acquire(store: Store, name: str, holder: str, *, ttl: float, force: bool = False) -> int | None:
    """Take the lease for `ttl` seconds; the new term's number, or None while somebody else holds it.

    `force`: take it over although it has not run out. Only for a process that has proof that the holder is dead: the owner of the data
    folder's lock.
    """
    now = store.clock.time()
    async with store.write() as connection:
        row = (await connection.execute(select(leases).where(leases.c.name == name).with_for_update())).one_or_none()
        if row is None:
            first = {"name": name, "holder": holder, "term": 1, "expires_at": now + ttl}
            return 1 if await insert_once(connection, leases, first) else None
        if row.expires_at > now and row.holder != holder and not force:
            return None
        term = int(row.term) + 1
        await connection.execute(
            update(leases).where(leases.c.name == name).values(holder=holder, term=term, expires_at=now + ttl)
        )
        return term


async def hold(store: Store, name: str, holder: str, *, ttl: float) -> bool:
    """Take the lease for `ttl` seconds, or go on holding it; False while somebody else does. Its term counts the changes of its holder."""
    now = store.clock.time()
    async with store.write() as connection:
        row = (await connection.execute(select(leases).where(leases.c.name == name).with_for_update())).one_or_none()
        if row is None:
            return await insert_once(connection, leases, {"name": name, "holder": holder, "term": 1, "expires_at": now + ttl})
        if row.holder != holder and row.expires_at > now:
            return False
        term = row.term if row.holder == holder else row.term + 1
        values = {"holder": holder, "term": term, "expires_at": now + ttl}
        await connection.execute(update(leases).where(leases.c.name == name).values(**values))
        return True


async def renew(store: Store, name: str, *, term: int, ttl: float) -> bool:
    """Keep the lease for another `ttl` seconds; False when another term has begun: the caller leads no longer."""
    async with store.write() as connection:
        result = await connection.execute(
            update(leases).where((leases.c.name == name) & (leases.c.term == term)).values(expires_at=store.clock.time() + ttl)
        )
    return result.rowcount == 1


async def release(store: Store, name: str, *, term: int) -> None:
    """Give the lease up, so that another may take it at once."""
    async with store.write() as connection:
        await connection.execute(update(leases).where((leases.c.name == name) & (leases.c.term == term)).values(expires_at=0.0))


async def check(connection: AsyncConnection, name: str, term: int) -> None:
    """Inside a transaction: raise StaleTerm unless `term` is the lease's newest, so that a late result of an old leader changes nothing.

    It stays the newest until the transaction ends: who wants to lead waits for that.
    """
    leading = await connection.scalar(select(leases.c.term).where(leases.c.name == name).with_for_update(read=True))
    if leading != term:
        raise StaleTerm(f"term {term} of {name} is over; term {leading} leads")

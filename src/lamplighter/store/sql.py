"""The few statements that SQLite and PostgreSQL spell differently, and the locks that only a database with several writers needs.

SQLite has one writer at a time (`Store.write` begins with IMMEDIATE), so there every read inside a transaction still holds when it writes.
PostgreSQL does not promise that: what is read to decide a write must be locked, by `Select.with_for_update` (SQLite's compiler leaves it
out) or, where there is no row yet, by `exclusive`.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Insert, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection


def shared(connection: AsyncConnection) -> bool:
    """Whether others may be writing at this moment: PostgreSQL."""
    return connection.dialect.name == "postgresql"


def insert_into(table: Table, dialect: str) -> Any:
    """An INSERT that can say ON CONFLICT, for the `dialect` of that name. The other one, which takes megabytes, is not loaded."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


async def exclusive(connection: AsyncConnection, name: str) -> None:
    """From here to the end of the transaction nobody else is behind this line with the same `name`. Costs nothing on SQLite.

    Take it first in a transaction, before any row is locked, and only one of them: then there is no circle to wait in.
    """
    if shared(connection):
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def upsert(
    connection: AsyncConnection,
    table: Table,
    keys: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    new: Mapping[str, Any] | None = None,
) -> None:
    """Set `values` in the row that `keys` name (the primary key, or a unique one); a row that is not there is made, with `new` besides."""
    row = {**keys, **(new or {}), **values}
    made = insert_into(table, connection.dialect.name).values(row)
    statement: Insert = made.on_conflict_do_update(index_elements=list(keys), set_=dict(values))
    await connection.execute(statement)


async def insert_once(connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its key is there already; whether it was inserted."""
    statement: Insert = insert_into(table, connection.dialect.name).values(dict(row)).on_conflict_do_nothing()
    return bool((await connection.execute(statement)).rowcount)

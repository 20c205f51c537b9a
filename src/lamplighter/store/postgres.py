"""PostgreSQL behind the same queries: how to connect, what is bounded, and what its errors mean to a person.

Not responsible for the bus (`postgres_bus`), nor for any query: those are written for both databases, with `sql`'s help.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from lamplighter.core.errors import ConfigError, StoreBusy, StoreError, StoreFull, StoreUnavailable
from lamplighter.store import migrate

NAME = "lamplighter"
_MIGRATING_SECONDS = 120.0
_MIGRATION_LOCK = 0x6C616D70
"""Number of the advisory lock under which one process migrates and the others wait."""
_SLACK = 2.0
"""Seconds by which our own limit for a statement is above the server's, which can say why."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the database, with the bounds on what may be waited for. Times in seconds.

    `pooled`: a pooler stands between, that gives each transaction another connection: nothing may be kept on one.
    """

    url: str = field(repr=False)
    listen_url: str | None = field(default=None, repr=False)
    pool_size: int = 5
    connect_timeout: float = 5.0
    statement_timeout: float = 10.0

    @property
    def pooled(self) -> bool:
        return self.listen_url is not None

    @property
    def place(self) -> str:
        """Host and database, for people; never a password."""
        return place(self.url)


def place(url: str) -> str:
    """Where a URL leads, without its user and password. Raises ConfigError when it is not one of PostgreSQL."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(
            "the store's URL does not begin with postgresql://",
            where="store.url",
            next_step="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        )
    host = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", ["the local socket"])[0]
    return f"{host}{parts.path}"


def connect_arguments(access: Access, url: str, *, limit: float | None) -> dict[str, Any]:
    """What asyncpg is told; it reads the URL itself, as libpq would. `limit`: seconds for one statement, here and on the server."""
    settings = {"application_name": NAME}
    if limit is not None and not access.pooled:  # a pooler refuses settings that it does not know
        settings |= {
            "statement_timeout": str(int(limit * 1000)),
            "idle_in_transaction_session_timeout": str(int(limit * 2000)),
            "timezone": "UTC",
        }
    return {
        "dsn": url,
        "timeout": access.connect_timeout,
        "command_timeout": None if limit is None else limit + _SLACK,
        "server_settings": settings,
        **({"statement_cache_size": 0} if access.pooled else {}),
    }


def engine_of(access: Access) -> AsyncEngine:
    """The pool of connections of one process. Connects at first use."""
    arguments = connect_arguments(access, access.url, limit=access.statement_timeout)
    if access.pooled:
        arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: f"__{uuid4()}__"}
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=access.pool_size,
        max_overflow=access.pool_size,
        pool_timeout=access.connect_timeout,
        pool_pre_ping=True,  # after a restart of PostgreSQL the first to ask must not be the one to find out
        pool_use_lifo=True,
    )
    event.listen(engine.sync_engine, "before_cursor_execute", _without_nul, retval=True)
    return engine


async def prepare(access: Access) -> None:
    """Bring the database to the newest schema; of several processes that start together one does it, the others wait. Raises StoreError."""
    place(access.url)
    arguments = connect_arguments(access, access.listen_url or access.url, limit=_MIGRATING_SECONDS)
    engine = create_async_engine("postgresql+asyncpg://", connect_args=arguments, poolclass=NullPool)
    try:
        with translated(access.place):
            async with engine.begin() as connection:
                await _check(connection, access.place)
                if not await connection.run_sync(migrate.due):
                    return
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                await connection.run_sync(migrate.upgrade)  # looks again: another may have done it meanwhile
    finally:
        await engine.dispose()


async def _check(connection: AsyncConnection, where: str) -> None:
    encoding = await connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"the database {where} is not UTF-8 but {encoding}",
            next_step="Create one with `createdb --encoding=UTF8 --template=template0 lamplighter`.",
        )
    if await connection.scalar(text("SELECT pg_is_in_recovery()")):
        raise StoreUnavailable(
            f"the database {where} is a read-only standby",
            next_step="Name the primary in store.url, or every host with `target_session_attrs=read-write`.",
        )


def _without_nul(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> tuple[str, Any]:
    """PostgreSQL has no character NUL in a text. A client, or a model, may well write one: it becomes the replacement character."""
    if executemany:
        if any(_has_nul(row) for row in parameters):
            parameters = [_cleaned(row) for row in parameters]
    elif _has_nul(parameters):
        parameters = _cleaned(parameters)
    return statement, parameters


def _has_nul(row: Any) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in row)


def _cleaned(row: Any) -> tuple[Any, ...]:
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row)


_FAILURES = (DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class translated(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function, as contextlib's own are
    """Turns what the driver, the pool and the network raise into our errors. `where`: the database, for people.

    `note` is told each time whether the database answered.
    """

    def __init__(self, where: str, note: Callable[..., None] | None = None) -> None:
        self._where = where
        self._note = note

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        ours = meaning(error, self._where) if isinstance(error, _FAILURES) else None
        if self._note is not None and (error is None or ours is not None):
            self._note(answered=not isinstance(ours, StoreUnavailable))
        if ours is not None:
            raise ours from error


def meaning(error: BaseException, where: str) -> StoreError:
    """Our error for one of the driver's."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    state = str(getattr(origin, "sqlstate", None) or "")
    # SQLAlchemy's copy of the driver's error begins with its class; the driver's own is behind it.
    said = str(getattr(origin, "__cause__", None) or origin).strip().splitlines()
    words = said[0] if said else type(origin).__name__
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(
            f"no connection to PostgreSQL ({where}) became free in time",
            next_step="It answers slowly, or store.pool_size is too small.",
        )
    if state.startswith("28"):
        return StoreUnavailable(
            f"PostgreSQL ({where}) lets us not in: {words}", next_step="Check the user and password in store.url."
        )
    if state == "3D000":
        return StoreUnavailable(f"PostgreSQL ({where}): {words}", next_step="Create it: `createdb --encoding=UTF8 lamplighter`.")
    if state == "42501":
        return StoreUnavailable(
            f"PostgreSQL ({where}): {words}", next_step="Make the user of store.url the owner of the database or of its schema."
        )
    if state == "53100":
        return StoreFull("the store's disk is full", next_step="Free some space; nothing that was confirmed is lost.")
    if state == "25006":
        return StoreUnavailable(
            f"PostgreSQL ({where}) takes no writes: {words}",
            next_step="It is a standby, or its disk is protected: name the primary.",
        )
    if state in ("40001", "40P01", "55P03", "57014"):
        return StoreBusy(f"the store was busy: {words}", next_step="Ask again.")
    if state[:2] in ("08", "53", "57") or (not state and not _refusal(origin)):
        return StoreUnavailable(
            f"PostgreSQL ({where}) cannot be reached: {words}", next_step="Check that it runs and can be reached from here."
        )
    return StoreError(f"the store refused: {words}")


def _refusal(origin: BaseException | None) -> bool:
    """Whether an error without a state is about what we asked, and not about the connection."""
    cause = getattr(origin, "__cause__", None) or origin
    return isinstance(cause, asyncpg.DataError | ValueError | TypeError)

"""Opens the database, brings it to the newest schema, and hands out transactions. Queries are elsewhere.

SQLite in WAL mode serves one process. Writers take turns on one lock: SQLite has a single writer anyway, and waiting here instead of in
its busy handler keeps the order fair. PostgreSQL serves many processes; there writers meet in the database (`store.sql` says how queries
are kept right). No transaction may span I/O of another kind.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError, StoreFull, StoreUnavailable
from lamplighter.core.ids import new_id
from lamplighter.store import migrate
from lamplighter.store.bus import Bus, LocalBus
from lamplighter.store.sql import insert_once
from lamplighter.store.tables import meta

if TYPE_CHECKING:
    from lamplighter.store.postgres import Access

_BUSY_MS = 5000


class Store:
    """An open store. Make one with `Store.open` (SQLite) or `Store.connect` (PostgreSQL); end it with `close`."""

    def __init__(self, engine: AsyncEngine, bus: Bus, clock: Clock) -> None:
        self.engine = engine
        self.bus = bus
        self.clock = clock
        self.installation = ""
        self.shared = engine.dialect.name == "postgresql"
        """Whether other processes may be using it: then nobody is alone, and no lock of a folder proves anything."""
        self._writer = asyncio.Lock()
        self._ending = AsyncExitStack()
        self._where = ""
        self._away: float | None = None
        self._outage = (float("-inf"), float("-inf"))

    @classmethod
    async def open(cls, path: Path | None, clock: Clock) -> "Store":
        """Open (and create or migrate) the SQLite file at `path`; None: a scratch file that ends with the store, for tests.

        Not SQLite's own memory: that is one connection, on which the end of any read rolls back the write beside it.

        Raises StoreUnavailable, StoreFull, or StoreTooNew when a newer version wrote it.
        """
        scratch = None
        if path is None:
            scratch = tempfile.TemporaryDirectory(prefix="lamplighter-store-")
            path = Path(scratch.name) / "store.db"
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # The file holds chats and engine keys: nobody else may read it. SQLite gives its -wal and -shm files the same mode.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise StoreUnavailable(
                    f"the store {path} cannot be opened: {error.strerror}", next_step="Check --data and its owner."
                ) from error
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        event.listen(engine.sync_engine, "connect", _prepare)
        store = cls(engine, LocalBus(clock), clock)
        if scratch is not None:
            store._ending.callback(scratch.cleanup)
        store._ending.push_async_callback(engine.dispose)
        async with store._closed_on_failure(), store.write() as connection:
            await connection.run_sync(migrate.upgrade)
            store.installation = await _installation(connection)
        return store

    @classmethod
    async def connect(cls, access: "Access", clock: Clock) -> "Store":
        """Connect to PostgreSQL, create or migrate the schema, and listen for the changes of others.

        Raises ConfigError for a URL of something else, StoreUnavailable, or StoreTooNew when a newer version wrote it.
        """
        from lamplighter.store import postgres  # late: who runs on SQLite shall not pay for it
        from lamplighter.store.postgres_bus import PostgresBus

        await postgres.prepare(access)
        engine = postgres.engine_of(access)
        bus = PostgresBus(access, clock)
        store = cls(engine, bus, clock)
        store._where = access.place
        store._ending.push_async_callback(engine.dispose)
        store._ending.push_async_callback(bus.stop)
        async with store._closed_on_failure():
            with store._translated():
                await bus.start()
            async with store.write() as connection:
                store.installation = await _installation(connection)
        return store

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading. Raises StoreError."""
        with self.clock.busy(), self._translated():
            async with self.engine.connect() as connection:
                if self.shared:  # no transaction: each statement sees what is committed, and nothing need be ended
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back on any exception. Raises StoreError."""
        if self.shared:
            with self.clock.busy(), self._translated():
                async with self.engine.begin() as connection:
                    yield connection
            return
        async with self._writer:
            with self.clock.busy(), self._translated():
                async with self.engine.connect() as connection:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                    try:
                        yield connection
                    except BaseException:
                        await connection.rollback()
                        raise
                    await connection.commit()

    def heard_since(self, ttl: float) -> float:
        """Who was heard of after this time (Unix seconds) counts as alive, if a sign of life is good for `ttl` seconds.

        After an outage of the database all have been silent through no fault of theirs: they get their time anew.
        """
        if self._away is not None:  # who asks now is about to learn that it is back, or nothing
            return self._away - ttl
        now, (began, ended) = self.clock.time(), self._outage
        return began - ttl if now - ended < ttl else now - ttl

    def note(self, *, answered: bool) -> None:
        """The database answered, or could not be reached: for `heard_since`."""
        if answered:
            if self._away is not None:
                self._outage, self._away = (self._away, self.clock.time()), None
        elif self._away is None:
            self._away = self.clock.time()

    async def skew(self) -> float:
        """Seconds by which the database's clock is ahead of ours; 0 for SQLite. Leases and heartbeats compare times of several machines."""
        if not self.shared:
            return 0.0
        async with self.read() as connection:
            before = self.clock.time()
            theirs = float(await connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)
            return theirs - (before + self.clock.time()) / 2

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        await self._ending.aclose()

    @asynccontextmanager
    async def _closed_on_failure(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self.close()
            raise

    def _translated(self) -> AbstractContextManager[None]:
        if not self.shared:
            return _translated()
        from lamplighter.store.postgres import translated

        return translated(self._where, self.note)


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we write BEGIN ourselves; the driver's own habit breaks DDL and IMMEDIATE
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _installation(connection: AsyncConnection) -> str:
    query = select(meta.c.value).where(meta.c.name == "installation")
    found = await connection.scalar(query)
    if found is None:
        # Several processes may be the first ones: the first of them names it.
        await insert_once(connection, meta, {"name": "installation", "value": new_id("ins")})
        found = await connection.scalar(query)
    return str(found)


class _translated:  # noqa: N801 - used like a function, as contextlib's own are
    """Turns the driver's errors into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, DBAPIError):
            return
        text = str(error.orig).lower()
        if "full" in text or "no space" in text:
            raise StoreFull(
                "the store's disk is full", next_step="Free some space; nothing that was confirmed is lost."
            ) from error
        if any(word in text for word in ("unable to open", "readonly", "locked", "disk i/o", "malformed", "not a database")):
            raise StoreUnavailable(f"the store cannot be used: {error.orig}", next_step="Run `lamplighter doctor`.") from error
        raise StoreError(f"the store refused: {error.orig}") from error

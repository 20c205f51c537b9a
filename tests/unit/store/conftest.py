"""One set of tests, both databases: `opened` makes stores on SQLite or on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.ids import new_id
from lamplighter.store.postgres import Access
from lamplighter.store.store import Store
from tests.services import Postgres

Open = Callable[[Clock], Awaitable[Store]]


@pytest.fixture(scope="session")
def template(shared_postgres: Postgres) -> str:
    """A database with the newest schema, to be copied: faster than migrating one for each test."""
    name = new_id("template")

    async def migrate() -> None:
        store = await Store.connect(Access(shared_postgres.create(name)), SystemClock())
        async with store.write() as connection:
            await connection.exec_driver_sql("DELETE FROM meta")  # each copy is an installation of its own
        await store.close()

    with ThreadPoolExecutor(1) as thread:  # whoever asks first may be inside a running loop
        thread.submit(asyncio.run, migrate()).result()
    return name


@pytest.fixture
def database(shared_postgres: Postgres, template: str) -> Iterator[str]:
    """The URL of a migrated database of this test's own."""
    name = new_id("test")
    yield shared_postgres.create(name, template=template)
    shared_postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens stores of one database: as several processes would with PostgreSQL, a scratch file each with SQLite. All are closed at the end."""
    stores: list[Store] = []
    url = request.getfixturevalue("database") if request.param == "postgres" else None

    async def make(clock: Clock) -> Store:
        store = await (Store.open(None, clock) if url is None else Store.connect(Access(url), clock))
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()

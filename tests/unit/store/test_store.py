"""The store opens, refuses what it must, and hands out transactions that are whole."""

import asyncio
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from lamplighter.core.errors import StoreError, StoreFull, StoreTooNew, StoreUnavailable
from lamplighter.store.bus import LocalBus, Subscription, Topic
from lamplighter.store.store import Store
from lamplighter.store.tables import meta, metadata
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open


async def test_a_store_keeps_what_it_was_given(tmp_path: Path) -> None:
    """If this fails, a restart forgets who it is, and orphans everything it started."""
    path = tmp_path / "data" / "store.db"
    first = await Store.open(path, VirtualClock())
    await first.close()
    second = await Store.open(path, VirtualClock())
    assert second.installation == first.installation != ""
    await second.close()
    await second.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # chats and engine keys
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_the_migrations_make_the_tables(opened: Open) -> None:
    """If this fails, a new column exists in the code and not in anybody's database."""
    store = await opened(VirtualClock())

    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store.read() as connection:
        assert await connection.run_sync(differences) == []
    await store.close()


async def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    """If this fails, an old version destroys what a newer one wrote."""
    path = tmp_path / "store.db"
    await (await Store.open(path, VirtualClock())).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    with pytest.raises(StoreTooNew, match="newer version"):
        await Store.open(path, VirtualClock())


async def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """If this fails, a wrong --data ends in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await Store.open(tmp_path / "file" / "store.db", VirtualClock())
    with pytest.raises(StoreUnavailable):
        await Store.open(tmp_path, VirtualClock())
    (tmp_path / "junk.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await Store.open(tmp_path / "junk.db", VirtualClock())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database or disk is full", StoreFull),
        ("disk I/O error", StoreUnavailable),
        ("attempt to write a readonly database", StoreUnavailable),
        ("no such table: x", StoreError),
    ],
)
async def test_the_driver_s_errors_become_ours(text: str, kind: type[StoreError]) -> None:
    """If this fails, a full disk is an internal error."""
    store = await Store.open(None, VirtualClock())
    with pytest.raises(StoreError) as caught:
        async with store.write():
            raise OperationalError("SELECT 1", {}, sqlite3.OperationalError(text))
    assert type(caught.value) is kind
    async with store.write() as connection:  # and the store still works
        await connection.execute(meta.insert().values(name="after", value=""))
    await store.close()


async def test_a_transaction_is_whole_or_nothing(opened: Open) -> None:
    """If this fails, half of a change survives an exception or a cancelled request."""
    store = await opened(VirtualClock())

    async def names() -> set[str]:
        async with store.read() as connection:
            return set(await connection.scalars(select(meta.c.name))) - {"installation"}

    async def broken() -> None:
        async with store.write() as connection:
            await connection.execute(meta.insert().values(name="a", value=""))
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    inside = asyncio.Event()

    async def slow() -> None:
        async with store.write() as connection:
            await connection.execute(meta.insert().values(name="b", value=""))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(slow())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names() == set()
    async with store.write() as connection:
        await connection.execute(meta.insert().values(name="c", value=""))
    assert await names() == {"c"}
    await store.close()


async def test_writers_take_turns(opened: Open) -> None:
    """If this fails, two parts of the program that write at once make one of them fail."""
    store = await opened(VirtualClock())

    async def one(number: int) -> None:
        async with store.write() as connection:
            await connection.execute(meta.insert().values(name=f"n{number}", value=""))

    await asyncio.gather(*(one(number) for number in range(50)))
    async with store.read() as connection:
        assert len(list(await connection.scalars(select(meta.c.name)))) == 51
    await store.close()


async def test_the_bus_tells_each_thing_once() -> None:
    """If this fails, a burst of requests makes the keeper look a thousand times, or not at all."""
    clock = VirtualClock()
    bus = LocalBus(clock)
    bus.publish(Topic.DEMAND, "nobody listens")
    with bus.subscribe(Topic.DEMAND, Topic.ACKS) as mailbox:
        for _ in range(100):
            bus.publish(Topic.DEMAND, "m")
        bus.publish(Topic.KEYS)
        bus.publish(Topic.ACKS, "r1")
        assert await mailbox.wait() == [(Topic.DEMAND, "m"), (Topic.ACKS, "r1")]
        waiting = asyncio.create_task(mailbox.wait(5))
        await clock.advance(4)
        assert not waiting.done()
        bus.publish(Topic.DEMAND, "n")
        await clock.settle()
        assert await waiting == [(Topic.DEMAND, "n")]
        silent = asyncio.create_task(mailbox.wait(5))
        await clock.advance(5)
        assert await silent == []
    bus.publish(Topic.DEMAND, "late")
    assert await mailbox.wait(0) == []


async def test_a_slow_reader_is_told_to_look_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a reader that fell behind misses something, or eats the memory."""
    monkeypatch.setattr(Subscription, "_BOUND", 3)
    bus = LocalBus(VirtualClock())
    with bus.subscribe(Topic.DEMAND) as mailbox:
        for number in range(10):
            bus.publish(Topic.DEMAND, f"m{number}")
        messages = await mailbox.wait(0)
    assert (Topic.DEMAND, "") in messages
    assert len(messages) == 4

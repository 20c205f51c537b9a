"""The bus between processes, on a real PostgreSQL: fast, bounded, and honest about what it may have missed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from lamplighter.core.clock import SystemClock
from lamplighter.store.bus import Topic
from lamplighter.store.postgres import Access
from lamplighter.store.postgres_bus import MAX_PAYLOAD, MAX_WAITING, PostgresBus
from tests.services import Postgres

Pair = tuple[PostgresBus, PostgresBus]


@pytest.fixture
async def buses(postgres_url: str) -> AsyncIterator[Pair]:
    """Two processes' ends."""
    pair = (PostgresBus(Access(postgres_url), SystemClock()), PostgresBus(Access(postgres_url), SystemClock()))
    for bus in pair:
        await bus.start()
    yield pair
    for bus in pair:
        await bus.stop()


async def test_others_hear_soon_and_we_hear_once(buses: Pair) -> None:
    """If this fails, a change in one gateway shows in the others seconds later, or twice in its own."""
    ours, theirs = buses
    with ours.subscribe(Topic.DEMAND) as here, theirs.subscribe(Topic.DEMAND, Topic.KEYS) as there:
        ours.publish(Topic.DEMAND, "m")
        ours.publish(Topic.REPLICAS, "nobody listens to this")
        assert await here.wait(0) == [(Topic.DEMAND, "m")]
        assert await there.wait(5) == [(Topic.DEMAND, "m")]
        theirs.publish(Topic.KEYS)
        assert await there.wait(5) == [(Topic.KEYS, "")]
        assert await here.wait(0.2) == []


async def test_many_hints_travel_in_few_notifications(buses: Pair) -> None:
    """If this fails, a busy gateway keeps PostgreSQL busy with hints, or a long one is refused and breaks the connection."""
    ours, theirs = buses
    names = {f"model-{number}-{'x' * 90}" for number in range(500)}
    with theirs.subscribe(Topic.DEMAND) as there:
        for _ in range(3):
            for name in names:
                ours.publish(Topic.DEMAND, name)
        heard: set[str] = set()
        while heard < names and (messages := await there.wait(5)):
            heard |= {payload for _, payload in messages}
    assert heard == names


async def test_a_notification_is_never_too_long() -> None:
    """If this fails, PostgreSQL refuses a hint, and with it everything behind it."""
    bus = PostgresBus(Access("postgresql://nobody@nowhere/x"), SystemClock())
    for number in range(300):
        bus.publish(Topic.GENERATIONS, f"{number}" + "ž" * 60)
    bus.publish(Topic.CHATS, "y" * 10_000)
    while bus._waiting:
        _, text = bus._packed()
        assert len(text.encode()) <= MAX_PAYLOAD
        assert json.loads(text)[1]


async def test_publishing_never_waits_nor_grows(postgres_url: str) -> None:
    """If this fails, an outage of PostgreSQL stops a gateway that only wants to tell something, or fills its memory."""
    bus = PostgresBus(Access(postgres_url), SystemClock())
    with bus.subscribe(Topic.GENERATIONS) as here:
        for number in range(3 * MAX_WAITING):
            bus.publish(Topic.GENERATIONS, f"gen_{number}")
        assert len(bus._waiting) <= MAX_WAITING + len(Topic)
        assert (Topic.GENERATIONS, "") in bus._waiting
        assert len(await here.wait(0)) > MAX_WAITING


async def test_after_an_outage_everybody_looks_at_everything(postgres_server: Postgres) -> None:
    """If this fails, what changed while PostgreSQL restarted stays unknown to a gateway until something else changes."""
    access = Access(postgres_server.create("bus"))
    ours, theirs = PostgresBus(access, SystemClock()), PostgresBus(access, SystemClock())
    await ours.start()
    await theirs.start()
    with theirs.subscribe(*Topic) as there:
        await asyncio.to_thread(postgres_server.stop)
        ours.publish(Topic.KEYS, "published while nobody could hear it")
        await asyncio.to_thread(postgres_server.start)
        heard: set[tuple[Topic, str]] = set()
        end = time.monotonic() + 30
        while not ({(topic, "") for topic in Topic} <= heard and ours.connected) and time.monotonic() < end:
            heard |= set(await there.wait(1))
        assert {(topic, "") for topic in Topic} <= heard
        ours.publish(Topic.DEMAND, "m")
        end = time.monotonic() + 10
        while (Topic.DEMAND, "m") not in heard and time.monotonic() < end:
            heard |= set(await there.wait(1))
        assert (Topic.DEMAND, "m") in heard
    await ours.stop()
    await theirs.stop()


async def test_what_was_said_last_is_still_sent(buses: Pair) -> None:
    """If this fails, a gateway that ends in order does not tell that it let go of a draining replica."""
    ours, theirs = buses
    with theirs.subscribe(Topic.ACKS) as there:
        ours.publish(Topic.ACKS, "rep_1")
        await ours.stop()
        assert await there.wait(5) == [(Topic.ACKS, "rep_1")]


async def test_a_strange_notification_hurts_nobody(buses: Pair, shared_postgres: Postgres, postgres_url: str) -> None:
    """If this fails, anything else that uses the channel, a newer version included, makes a gateway deaf."""
    ours, theirs = buses
    connection = ours
    with theirs.subscribe(Topic.DEMAND) as there:
        for text in ("not json", "[]", '["x", [["no-such-topic", ""]]]', "7"):
            connection._heard(None, 0, "", text)
            theirs._heard(None, 0, "", text)
        theirs._heard(None, 0, "", '["x", [["no-such-topic", ""], ["demand", "m"]]]')
        assert await there.wait(1) == [(Topic.DEMAND, "m")]

"""The two clocks keep the same promises."""

import asyncio

import pytest

from lamplighter.core.clock import SystemClock, within
from lamplighter.store.store import Store
from lamplighter.store.tables import meta
from lamplighter.testing.clock import VirtualClock


async def test_sleepers_wake_in_order_of_their_time() -> None:
    """If this fails, tests on the virtual clock see effects before their causes."""
    clock, order = VirtualClock(), list[tuple[str, float]]()

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            order.append((name, clock.monotonic()))

    tasks = [
        asyncio.create_task(sleeper("a", 3)),
        asyncio.create_task(sleeper("b", 1, 1, 5)),
        asyncio.create_task(sleeper("c", 0)),
    ]
    await clock.advance(2.5)
    assert order == [("c", 0.0), ("b", 1.0), ("b", 2.0)]
    assert clock.monotonic() == 2.5
    await clock.advance(10)
    assert order[3:] == [("a", 3.0), ("b", 7.0)]
    assert clock.waiting == 0
    await asyncio.gather(*tasks)


async def test_time_waits_for_the_store() -> None:
    """If this fails, every test of the keeper is a race against the database's thread."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    seen: list[float] = []

    async def writer() -> None:
        await clock.sleep(1)
        for number in range(20):
            async with store.write() as connection:
                await connection.execute(meta.insert().values(name=f"n{number}", value=""))
        seen.append(clock.monotonic())

    async with asyncio.TaskGroup() as group:
        group.create_task(writer())
        await clock.advance(100)
    assert seen == [1.0]
    await store.close()


async def test_wait_tells_an_event_from_a_timeout() -> None:
    """If this fails, loops that wait for news either miss it or never look by themselves."""
    clock, event = VirtualClock(), asyncio.Event()
    first = asyncio.create_task(clock.wait(event, 5))
    await clock.advance(4.9)
    assert not first.done()
    await clock.advance(0.1)
    assert await first is False
    second = asyncio.create_task(clock.wait(event, 5))
    forever = asyncio.create_task(clock.wait(event, None))
    never = asyncio.create_task(clock.wait(event, float("inf")))
    await clock.advance(1)
    event.set()
    await clock.settle()
    assert await second is True
    assert await forever is True
    assert await never is True
    assert await clock.wait(event, 0) is True
    assert clock.waiting == 0


async def test_within_limits_and_cancels() -> None:
    """If this fails, one hanging provider call stops its pool for ever, or lives on after its keeper is gone."""
    clock, cancelled = VirtualClock(), list[str]()

    async def hang(name: str) -> None:
        try:
            await clock.sleep(1e9)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    limited = asyncio.create_task(within(clock, hang("slow"), 3))
    outer = asyncio.create_task(within(clock, hang("outer"), 1e6))
    await clock.advance(3)
    with pytest.raises(TimeoutError):
        await limited
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert cancelled == ["slow", "outer"]

    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise KeyError("x")

    assert await within(clock, answer(), 1) == 42
    with pytest.raises(KeyError):
        await within(clock, fail(), 1)


async def test_a_loop_that_never_rests_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a test with a busy loop hangs instead of naming its mistake."""
    monkeypatch.setattr("lamplighter.testing.clock._MAX_TURNS", 500)

    clock = VirtualClock()

    async def spin() -> None:
        while True:
            await clock.sleep(0)

    task = asyncio.create_task(spin())
    with pytest.raises(TimeoutError, match="does not come to rest"):
        await clock.advance(1)
    task.cancel()


async def test_the_real_clock_keeps_the_contract() -> None:
    """If this fails, what passed on the virtual clock hangs in production."""
    clock, event = SystemClock(), asyncio.Event()
    before = clock.monotonic()
    await clock.sleep(-1)
    assert await clock.wait(event, 0) is False
    event.set()
    assert await clock.wait(event, None) is True
    assert clock.monotonic() >= before
    assert clock.time() > 1_700_000_000
    with clock.busy():
        pass

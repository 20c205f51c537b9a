"""The picture of the store, and demand written back to it."""

import asyncio

import pytest

from lamplighter.core.errors import StoreUnavailable
from lamplighter.gateway import view as module
from lamplighter.gateway.view import STALE_AFTER, View
from lamplighter.store import demand, leases, replicas, wakes
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.harness import config_of


async def test_changes_are_seen_at_once_and_only_changes_count() -> None:
    """A ready model would be noticed seconds late; or everybody would be woken for nothing."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    view = View(store, config_of(), clock)
    await view.start()
    seen: list[int] = []
    view.listen(lambda snapshot: seen.append(snapshot.version))
    version = view.snapshot.version
    assert (await view.refresh()).version == version
    waiting = asyncio.create_task(view.changed(version))
    term = await leases.acquire(store, leases.KEEPER, "test", ttl=1e9)
    assert term is not None
    await replicas.launch(store, pool="cloud", models=["big"], term=term)
    await clock.advance(0.1)
    snapshot = await waiting
    assert snapshot.replicas[0].models == ("big",)
    assert seen == [snapshot.version]
    await wakes.begin(store, pool="cloud", model="big", stages=["boot"], attempt=1, warm=False, eta_p50=None, eta_p90=None)
    await clock.advance(0.1)
    assert view.snapshot.wake_of("big") is not None
    assert view.snapshot.wake_of("none") is None
    await demand.report(store, "gtw", [demand.GatewayDemand("big", queued=2)])
    await clock.advance(module.REFRESH + 0.1)
    assert view.snapshot.demand["big"].queued == 2
    await view.stop()
    await store.close()


async def test_waiting_for_a_change_has_a_limit() -> None:
    """The page's status would hang when nothing happens."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    view = View(store, config_of(), clock)
    await view.refresh()
    waiting = asyncio.create_task(view.changed(view.snapshot.version, timeout=3))
    await clock.advance(4)
    assert (await waiting) is view.snapshot
    await store.close()


async def test_the_last_picture_stays_when_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for a moment would cost all answers; one that is away for long would not be noticed."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    view = View(store, config_of(), clock)
    assert view.age == float("inf")
    await view.start()
    assert view.fresh

    async def fail(*_: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(replicas, "living", fail)
    fresh = []
    for seconds in (STALE_AFTER - 3, 5):
        await clock.advance(seconds)
        fresh.append(view.fresh)
    assert view.snapshot.models
    monkeypatch.undo()
    await clock.advance(3)
    assert [*fresh, view.fresh] == [True, False, True]
    await view.stop()
    await store.close()

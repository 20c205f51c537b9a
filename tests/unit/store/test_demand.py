"""Demand adds up over gateways, expires with them, and knows what people ordered."""

import pytest

from lamplighter.store import demand, leases, wakes
from lamplighter.store.bus import Topic
from lamplighter.store.demand import Demand, GatewayDemand
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(opened: Open, clock: VirtualClock) -> Store:
    return await opened(clock)


async def test_demand_is_the_sum_of_live_gateways(store: Store, clock: VirtualClock) -> None:
    """If this fails, two gateways wake too little, or a dead one keeps a GPU awake."""
    now = clock.time()
    row = GatewayDemand("m", queued=2, in_flight=1, oldest_queued_at=now - 5, last_ended_at=now - 9, loads={"r1": 1})
    await demand.report(store, "g1", [row])
    await clock.advance(20)
    row = GatewayDemand("m", queued=1, in_flight=3, oldest_queued_at=now - 7, wanted_until=now + 99, loads={"r1": 2, "r2": 1})
    await demand.report(store, "g2", [row])
    assert (await demand.totals(store))["m"] == Demand(
        "m",
        queued=3,
        in_flight=4,
        oldest_queued_at=now - 7,
        last_ended_at=now - 9,
        wanted_until=now + 99,
        loads={"r1": 3, "r2": 1},
    )
    await clock.advance(11)  # g1 has been silent for 31 s
    left = (await demand.totals(store))["m"]
    assert (left.queued, left.in_flight, left.oldest_queued_at, left.loads) == (1, 3, now - 7, {"r1": 2, "r2": 1})
    assert left.last_ended_at == now - 9  # idleness still counts from its last answer
    await demand.heartbeat(store, "g1")
    assert (await demand.totals(store))["m"].queued == 3


async def test_a_gateway_that_leaves_takes_its_demand_along(store: Store, clock: VirtualClock) -> None:
    """If this fails, a restart of a gateway keeps models awake for half a minute, or forgets when they were last used."""
    await demand.report(
        store, "g1", [GatewayDemand("m", queued=1, in_flight=1, last_ended_at=5.0, wanted_until=clock.time() + 9)]
    )
    await demand.leave(store, "g1")
    assert (await demand.totals(store))["m"] == Demand("m", last_ended_at=5.0)


async def test_the_dead_ask_for_nothing(store: Store, clock: VirtualClock) -> None:
    """If this fails, a restart after `kill -9` wakes the model again although everybody who asked is gone."""
    await demand.report(
        store, "killed", [GatewayDemand("m", queued=3, in_flight=2, oldest_queued_at=clock.time(), wanted_until=1e12)]
    )
    await clock.advance(5)
    await demand.bury(store)
    assert (await demand.totals(store))["m"] == Demand("m", last_ended_at=clock.time()), "its idle time counts from the restart"


async def test_news_are_told_when_asked_to(store: Store) -> None:
    """If this fails, a first request waits for the keeper's next look, or every token wakes the keeper."""
    with store.bus.subscribe(Topic.DEMAND) as mailbox:
        await demand.report(store, "g1", [GatewayDemand("m", in_flight=1)])
        assert await mailbox.wait(0) == []
        await demand.report(store, "g1", [GatewayDemand("m", queued=1)], wake=["m"])
        assert await mailbox.wait(0) == [(Topic.DEMAND, "m")]


async def test_orders_of_people(store: Store, clock: VirtualClock) -> None:
    """If this fails, `wake` and `sleep` do not mean what they say."""
    now = clock.time()
    await demand.order_wake(store, "m", until=now + 60)
    await demand.order_wake(store, "m", until=now + 10)
    assert (await demand.totals(store))["m"].wanted_until == now + 60
    await demand.report(store, "g1", [GatewayDemand("m", wanted_until=now + 300)])
    assert (await demand.totals(store))["m"].wanted_until == now + 300
    await demand.order_sleep(store, "m")
    asleep = (await demand.totals(store))["m"]
    assert (asleep.wanted_until, asleep.sleep_asked_at) == (None, now)
    await demand.order_wake(store, "m", until=now + 20)
    awake = (await demand.totals(store))["m"]
    assert (awake.wanted_until, awake.sleep_asked_at) == (now + 20, None)
    await demand.order_sleep(store, "never-seen")
    assert (await demand.totals(store))["never-seen"].sleep_asked_at == now


async def test_an_order_to_wake_forgives_a_failure(store: Store) -> None:
    """If this fails, whoever repaired the cause still waits for the pause to end."""
    await leases.acquire(store, leases.KEEPER, "k", ttl=15)
    for model in ("m", "n"):
        wake = await wakes.begin(store, pool="p", model=model, stages=[], attempt=3, warm=False, eta_p50=None, eta_p90=None)
        await wakes.end(store, wake.id, "failed", retry_at=9e9)
    await demand.order_wake(store, "m", until=0.0)
    latest = await wakes.latest(store)
    assert (latest["p", "m"].retry_at, latest["p", "n"].retry_at) == (None, 9e9)


def test_when_a_model_sleeps() -> None:
    """If this fails, the page counts down to a moment at which nothing happens."""
    assert Demand("m").sleeps_at(100.0, 60.0) == 160.0
    assert Demand("m", last_ended_at=130.0).sleeps_at(100.0, 60.0) == 190.0
    assert Demand("m", last_ended_at=50.0).sleeps_at(100.0, 60.0) == 160.0
    assert Demand("m", wanted_until=500.0).sleeps_at(100.0, 60.0) == 500.0
    assert Demand("m", in_flight=1).sleeps_at(100.0, 60.0) is None
    assert Demand("m", queued=1).sleeps_at(100.0, 60.0) is None
    assert Demand("m").sleeps_at(100.0, float("inf")) is None


async def test_the_dead_are_forgotten_after_a_day(store: Store, clock: VirtualClock) -> None:
    """If this fails, every restart leaves a row for ever."""
    await demand.report(store, "g1", [GatewayDemand("m", last_ended_at=1.0)])
    await clock.advance(86_401)
    await demand.report(store, "g2", [GatewayDemand("n")])
    await demand.sweep(store)
    assert set(await demand.totals(store)) == {"n"}

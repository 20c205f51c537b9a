"""Stories: demand wakes a model once, and it sleeps when nobody asks any more."""

import pytest

from lamplighter.core.reasons import StopReason
from lamplighter.store import demand, replicas
from lamplighter.store.bus import Topic
from tests.unit.capacity.world import tree, world


async def test_a_request_wakes_and_idleness_sleeps() -> None:
    """If this fails, the product does not do its main job."""
    async with world() as w:
        await w.clock.advance(10)
        assert w.cloud.launches == 0
        await w.ask("m", queued=1)
        await w.beat(0.3)
        assert await w.states() == ["starting"]
        await w.beat(1)
        [replica] = await w.replicas()
        assert replica.state == "ready"
        assert replica.endpoint is not None
        assert replica.context == 2048
        await w.ask("m", in_flight=1)
        await w.beat(3)
        await w.done("m")
        await w.beat(59.8)
        assert await w.states() == ["ready"]
        await w.beat(0.3)  # to the moment, as the page counted down
        assert await w.states() == ["draining"]
        await w.ack()
        await w.beat(0.2)
        assert await w.states() == []
        assert w.cloud.machines == {}
        assert w.cloud.launches == 1


async def test_a_wake_adds_next_to_nothing_to_the_engine_s_own_time() -> None:
    """If this fails, every first answer is late by our own loops."""
    async with world(durations={"pull": 0.0, "load": 1.0}) as w:
        await w.clock.advance(7.3)  # in the middle of the keeper's calm
        await w.ask("m", queued=1)
        await w.beat(1.1, every=0.01)
        assert await w.states() == ["ready"]
        wake = await w.wake("m")
        assert wake.outcome == "ready"
        assert wake.seconds == pytest.approx(1.0, abs=0.1)
        assert [(stage.name, stage.ended_at is not None) for stage in wake.stages] == [("pull", True), ("load", True)]


async def test_a_hundred_and_five_askers_wake_it_once() -> None:
    """If this fails, a rush at zero starts many engines."""
    async with world() as w:
        for number in range(105):
            await w.ask("m", queued=number + 1, gateway=f"g{number % 3}")
            w.store.bus.publish(Topic.DEMAND, "m")
        await w.beat(5)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 1
        assert w.cloud.most == 1


async def test_a_generation_longer_than_the_idle_time_is_not_cut() -> None:
    """If this fails, long answers die in the middle."""
    async with world() as w:
        await w.ask("m", queued=1)
        await w.beat(2)
        await w.ask("m", in_flight=1, loads={(await w.replicas())[0].id: 1})
        await w.beat(200)  # three times sleep_after
        assert await w.states() == ["ready"]
        await w.done("m")
        await w.beat(55)
        assert await w.states() == ["ready"]
        await w.beat(10)
        assert await w.states() == ["draining"]


async def test_a_dead_gateway_s_demand_is_gone_in_thirty_seconds() -> None:
    """If this fails, a crashed gateway keeps a GPU awake for ever."""
    async with world() as w:
        await w.ask("m", queued=1)
        await w.beat(2)
        await w.ask("m", in_flight=1)
        await w.clock.advance(29)
        assert await w.states() == ["ready"]
        w.gateways.clear()
        await w.clock.advance(70)  # demand expires, then the idle time since the wake has long passed
        assert await w.states() == []
        assert w.cloud.machines == {}


async def test_demand_that_returns_calls_an_idle_drain_off() -> None:
    """If this fails, a request that comes a moment too late pays for a whole new wake."""
    async with world() as w:
        await w.serve("m", 1)
        await w.beat(62)
        assert await w.states() == ["draining"]  # the gateway has not acknowledged yet
        await w.ask("m", queued=1)
        await w.beat(0.2)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 1


async def test_a_drain_waits_for_every_live_gateway() -> None:
    """If this fails, an answer of another gateway is cut by a drain it did not know of."""
    async with world() as w:
        await w.ask("m", gateway="g2", in_flight=0)
        await w.serve("m", 1)
        await w.beat(62)
        [row] = await w.replicas()
        await replicas.acknowledge_drain(w.store, row.id, "g1", row.epoch)
        await w.beat(20)
        assert await w.states() == ["draining"]
        del w.gateways["g2"]  # it dies: 30 s later nobody waits for it
        await w.beat(40)
        assert await w.states() == []


async def test_a_person_s_order_to_sleep_is_followed_and_forgotten() -> None:
    """If this fails, `lamplighter sleep` does nothing, or the model can never wake again."""
    async with world() as w:
        await w.serve("m", 1)
        await w.ask("m", in_flight=1)
        await demand.order_sleep(w.store, "m")
        await w.beat(0.2)
        [row] = await w.replicas()
        assert (row.state, row.reason) == ("draining", StopReason.ASKED)
        await w.beat(5)
        await w.done("m")  # the running answer ended after the order: still it is followed
        await w.ack()
        await w.beat(1)
        assert await w.states() == []
        await w.ask("m", queued=1)
        await w.beat(3)
        assert await w.states() == ["ready"]
        await w.done("m")
        await w.beat(5)
        assert await w.states() == ["ready"]


async def test_an_order_to_sleep_during_a_wake_nobody_waits_for_ends_it() -> None:
    """If this fails, a wake ordered by mistake cannot be called off."""
    async with world(durations={"load": 30.0}) as w:
        await demand.order_wake(w.store, "m", until=w.clock.time() + 600)
        await w.beat(5)
        assert await w.states() == ["starting"]
        await demand.order_sleep(w.store, "m")
        await w.beat(1)
        assert await w.states() == []
        assert (await w.wake("m")).outcome == "cancelled"
        await w.beat(60)
        assert w.cloud.launches == 1


async def test_a_person_s_order_wakes_and_keeps_warm() -> None:
    """If this fails, `lamplighter wake --keep 30m` does not keep its word."""
    async with world() as w:
        await demand.order_wake(w.store, "m", until=w.clock.time() + 300)
        await w.beat(290)
        assert await w.states() == ["ready"]
        await w.beat(20)
        assert await w.states() == []
        assert w.cloud.launches == 1


async def test_replicas_follow_the_load_up_after_a_moment_and_down_later() -> None:
    """If this fails, a busy pool stays small, or an idle one stays large."""
    config = tree({"cloud": {"max_replicas": 3, "target_per_replica": 2, "scale_down_after": "60s"}}, {"m": "cloud"})
    async with world(config) as w:
        await w.ask("m", queued=1)
        await w.beat(2)
        assert await w.states() == ["ready"]
        await w.ask("m", queued=4, in_flight=2)
        await w.beat(2)
        assert await w.states() == ["ready"], "a burst of a moment needs no other machine"
        await w.beat(5)
        assert await w.states() == ["ready"] * 3
        await w.ask("m", in_flight=2)
        await w.beat(50)
        assert await w.states() == ["ready"] * 3
        for _ in range(6):
            await w.beat(5)
            await w.ack()
        assert await w.states() == ["ready"]
        assert w.cloud.most == 3


async def test_a_minimum_runs_although_nobody_asks() -> None:
    """If this fails, `min_replicas` is not kept after a start, a crash, or an idle time."""
    config = tree({"cloud": {"min_replicas": 1, "sleep_after": "10s"}}, {"m": "cloud", "n": "cloud"})
    async with world(config) as w:
        await w.clock.advance(100)
        assert await w.states() == ["ready"]
        w.cloud.crash("m")
        await w.clock.advance(10)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 2


async def test_watching_costs_nothing() -> None:
    """If this fails, an idle installation wakes something by itself."""
    async with world() as w:
        for _ in range(4):
            await w.ask("m")
            await w.beat(30)
        assert w.cloud.launches == 0

"""Stories: demand wakes a model once, and it sleeps when nobody asks any more."""

from tests.unit.capacity.world import world


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
        await w.beat(59)
        assert await w.states() == ["ready"]
        await w.beat(3)
        assert await w.states() == ["draining"]
        await w.ack()
        await w.beat(1)
        assert await w.states() == []
        assert w.cloud.machines == {}
        assert w.cloud.launches == 1

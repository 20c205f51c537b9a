"""What a provider takes back, on the virtual clock: drained at once or when a successor is ready, replaced while it still answers."""

from lamplighter.core.states import ReplicaState
from lamplighter.providers.base import Notice
from tests.unit.capacity.doubles import Machine
from tests.unit.capacity.world import World, tree, world

S = ReplicaState
INTERRUPTION, REBALANCE = Notice(1e12, "AWS takes it back at 12:02"), Notice(None, "AWS may take it back")


def only(here: World) -> Machine:
    [machine] = here.cloud.machines.values()
    return machine


async def test_an_interruption_drains_at_once_and_a_successor_starts() -> None:
    """New answers would begin on a machine that has two minutes to live, and the next would wait for a whole boot after its end."""
    async with world() as here:
        await here.serve("m", 5)
        await here.ask("m", in_flight=1)
        only(here).notice = INTERRUPTION
        await here.beat(3)
        assert sorted(await here.states()) == ["draining", "ready"]
        [old] = [one for one in await here.replicas() if one.state is S.DRAINING]
        assert (old.reason, old.detail) == ("reclaimed", INTERRUPTION.detail)
        assert here.cloud.launches == 2


async def test_a_conversation_is_replaced_and_an_idle_model_is_not() -> None:
    """Whoever reads an answer would wait for a boot at the next question; a model that nobody uses would be bought once more."""
    for pause, launches in ((20, 2), (50, 1)):
        async with world(tree({"cloud": {"sleep_after": "1h"}}, {"m": "cloud"})) as here:
            await here.serve("m", 5)
            await here.beat(pause * (1 if launches == 2 else 3))
            only(here).notice = INTERRUPTION
            await here.beat(10)
            assert here.cloud.launches == launches, pause


async def test_a_mere_warning_lets_it_serve_until_the_successor_is_ready() -> None:
    """On a rebalance recommendation people would wait for a boot although the old machine still runs."""
    async with world(durations={"boot": 30.0, "load": 5.0}) as here:
        await here.serve("m", 5)
        await here.ask("m", in_flight=1)
        only(here).notice = REBALANCE
        await here.beat(20)
        assert sorted(await here.states()) == ["ready", "starting"]
        await here.beat(20)
        assert sorted(await here.states()) == ["draining", "ready"]
        await here.ack()
        await here.beat(5)
        assert await here.states() == ["ready"]
        assert here.cloud.launches == 2


async def test_a_warned_machine_that_nobody_uses_goes() -> None:
    """It would be replaced again and again, or kept until it is taken."""
    async with world(tree({"cloud": {"sleep_after": "1h"}}, {"m": "cloud"})) as here:
        await here.serve("m", 5)
        await here.beat(150)
        only(here).notice = REBALANCE
        await here.beat(5)
        await here.ack()
        await here.beat(5)
        assert (await here.states(), here.cloud.launches) == ([], 1)


async def test_a_full_pool_has_room_for_one_successor_and_no_more() -> None:
    """Two machines taken back at once would become four."""
    async with world(
        tree({"cloud": {"sleep_after": "1h", "max_replicas": 2, "target_per_replica": 1, "scale_up_after": "0s"}}, {"m": "cloud"})
    ) as here:
        await here.ask("m", queued=2)
        await here.beat(10)
        await here.ask("m", in_flight=2)
        assert await here.states() == ["ready", "ready"]
        for machine in list(here.cloud.machines.values()):
            machine.notice = INTERRUPTION
        await here.beat(20)
        assert here.cloud.most == 3

"""Each of the three dead-men is enough by itself: the other two are taken away."""

import asyncio
import time

import pytest

from lamplighter.providers.base import Presence
from tests.journeys.dead_man.keeping import Keeper, until
from tests.journeys.dead_man.world import PROMISED, SLACK, SPOT, World, ends_in_time


def last_log(world: World) -> str:
    """What the newest machine's agent saved before it ended the node; readable after its death."""
    world.aws.cut_off(False)
    (machine,) = world.aws.instances()
    key = f"nodes/{machine.sender}/logs/agent.log"
    found = world.aws.client("s3").get_object(Bucket=world.manifest["bucket"], Key=key)
    return str(found["Body"].read().decode())


class TestTheAgent:
    """AWS's scheduled action does not run, the keeper is dead."""

    async def test_a_node_that_nobody_ever_leased(self, world: World) -> None:
        """A keeper that died right after the wake would leave it for ever."""
        world.suspend_schedule()
        async with Keeper(world.aws, world.data) as keeper:
            world.aws.cut_off_after("autoscaling:SetDesiredCapacity")
            await until(lambda: world.aws.is_cut_off, "it is asked for")
            died = time.monotonic()
            await keeper.die()
            await ends_in_time(world, died)
        assert "the node ends: boot_deadline" in last_log(world)

    async def test_a_node_whose_lease_is_not_renewed(self, world: World) -> None:
        """A laptop that is closed would leave it for ever."""
        world.suspend_schedule()
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: keeper.ready, "ready")
            died = time.monotonic()
            await keeper.die()
            await ends_in_time(world, died)
        assert "the node ends: lease" in last_log(world)

    async def test_an_agent_that_crashes_again_and_again(self, world: World) -> None:
        """Each restart would give the node a new life."""
        world.suspend_schedule()
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: keeper.ready, "ready")
            machine = world.machine()
            assert machine is not None
            died = time.monotonic()
            await keeper.die()

            async def crash() -> None:
                while world.aws.instance(machine.id).state == "running":
                    machine.kill_agent()
                    world.machines.start_agent(machine)
                    await asyncio.sleep(1.5)

            crashing = asyncio.create_task(crash())
            await ends_in_time(world, died)
            crashing.cancel()


class TestTheScheduledAction:
    """No agent runs, the keeper is dead."""

    async def test_a_machine_that_never_boots(self, world: World) -> None:
        """A broken image, or a network without a way out: nothing on the machine could end it."""
        world.machines.agent = False
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: any(one.state == "running" for one in world.aws.instances()), "it runs")
            died = time.monotonic()
            await keeper.die()
            await ends_in_time(world, died)
        assert "scheduled action" in "".join(activity["Cause"] for activity in world.aws.activities(SPOT))

    async def test_an_agent_that_was_killed_while_it_served(self, world: World) -> None:
        """A node whose memory ran out serves on without its agent."""
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: keeper.ready, "ready")
            machine = world.machine()
            assert machine is not None
            machine.kill_agent()
            died = time.monotonic()
            await keeper.die()
            await ends_in_time(world, died)
        assert "scheduled action" in "".join(activity["Cause"] for activity in world.aws.activities(SPOT))

    async def test_a_capacity_that_nobody_could_fulfil(self, world: World) -> None:
        """Capacity that comes back a day later would start a machine for nobody."""
        world.aws.capacity.none()
        async with Keeper(world.aws, world.data, pool={"spot_patience": "60s"}) as keeper:
            await until(lambda: any(activity["StatusCode"] == "Failed" for activity in world.aws.activities(SPOT)), "refused")
            died = time.monotonic()
            await keeper.die()
            await ends_in_time(world, died)
        world.aws.capacity.plenty()
        await asyncio.sleep(2)
        assert world.aws.instances() == []


class TestTheKeeper:
    """No agent runs, AWS's scheduled action does not."""

    @pytest.mark.parametrize("booted", [False, True])
    async def test_it_ends_by_name_what_it_no_longer_wants(self, world: World, booted: bool) -> None:
        """A node that does not answer could not be ended by asking it."""
        world.suspend_schedule()
        world.machines.agent = booted
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: any(one.state == "running" for one in world.aws.instances()), "it runs")
            if booted:
                await until(lambda: keeper.ready, "ready")
            machine = world.machine()
            assert machine is not None
            machine.kill_agent()
            handle = await until(lambda: keeper.handle, "its handle")
            keeper.want, keeper.doomed = 0, frozenset({handle})
            asked = time.monotonic()
            await until(lambda: not world.aws.instances(live=True), "it ends", PROMISED + SLACK)
            assert time.monotonic() - asked < PROMISED + SLACK
            await until(lambda: not any(one.presence is Presence.RUNNING for one in keeper.seen), "it is proven")
            if booted:
                await until(lambda: keeper.papers.revoked, "its certificate is revoked")
        assert world.desired() == 0


class TestGoneAndBack:
    async def test_a_restart_within_the_lease_costs_nothing(self, world: World) -> None:
        """Every update of Lamplighter would cost a wake, and everybody who waits minutes."""
        async with Keeper(world.aws, world.data) as keeper:
            first = await until(lambda: keeper.ready, "ready")
            machine = world.machine()
            assert machine is not None
            engines = machine.engines()
            await keeper.restart()
        await asyncio.sleep(0.7)
        async with Keeper(world.aws, world.data) as successor:
            again = await until(lambda: successor.ready, "it serves again")
            assert again.handle == first.handle
            assert again.endpoint == first.endpoint
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > PROMISED, "it lives on", 30)
            assert machine.engines() == engines
            assert [one.id for one in world.aws.instances()] == [machine.id]
            died = time.monotonic()
            await successor.die()
            await ends_in_time(world, died)

    async def test_a_cut_link_shorter_than_the_lease_costs_nothing(self, world: World) -> None:
        """A router that restarts would end the machine."""
        async with Keeper(world.aws, world.data) as keeper:
            await until(lambda: keeper.ready, "ready")
            machine = world.machine()
            assert machine is not None
            world.aws.cut_off()
            await asyncio.sleep(1.5)
            world.aws.cut_off(False)
            await asyncio.sleep(PROMISED)
            assert [(one.id, one.state) for one in world.aws.instances()] == [(machine.id, "running")]

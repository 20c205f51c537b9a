"""The keeper dies for good at every point between the order for a machine and its proven end: nothing bills longer than promised.

Real provider, real agent as a process, the emulated AWS with its scheduled actions; deadlines of seconds. What is promised:
`max(boot_deadline, lease) + drain` after the keeper's last act.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.journeys.dead_man.keeping import Keeper, until
from tests.journeys.dead_man.world import ON_DEMAND, PROMISED, World, ends_in_time

CALLS = {
    "the order is written": "autoscaling:CreateOrUpdateTags",
    "AWS's dead-man is pushed forward": "autoscaling:PutScheduledUpdateGroupAction",
    "desired capacity is 1": "autoscaling:SetDesiredCapacity",
    "the instance has its order": "ec2:CreateTags",
    "the order's tag is removed": "autoscaling:DeleteTags",
    "the node is assigned": "s3:PutObject",
    "the node's hello is acknowledged": "sqs:DeleteMessage",
}
"""Calls of the keeper: right behind the first of its kind nothing more comes from it."""


@dataclass(frozen=True)
class Moment:
    """A moment of the node's life, and what must be so for it."""

    name: str
    look: Callable[[World, Keeper], Any]
    before: Callable[[World], None] = lambda _: None


def slow_boot(world: World) -> None:
    world.aws.pace.pending = 1.5


def stays(world: World) -> None:
    world.aws.pace.shutdown = 1.0


MOMENTS = [
    Moment("the instance is pending", lambda world, _: any(one.state == "pending" for one in world.aws.instances()), slow_boot),
    Moment("the instance runs", lambda world, _: any(one.state == "running" for one in world.aws.instances())),
    Moment("the agent runs", lambda world, _: (machine := world.machine()) and machine.counts()),
    Moment("the agent has its assignment", lambda world, _: (machine := world.machine()) and machine.assignment()),
    Moment("the keeper met the agent", lambda world, _: world.said('"pull"')),
    Moment("the engine starts", lambda world, _: (machine := world.machine()) and machine.engines()),
    Moment("the replica is ready", lambda _, keeper: keeper.ready),
]


@pytest.mark.parametrize("point", CALLS)
async def test_after_a_call(world: World, point: str) -> None:
    """A keeper that dies between two calls would leave a machine that nobody pays attention to, and somebody pays for."""
    async with Keeper(world.aws, world.data) as keeper:
        world.aws.cut_off_after(CALLS[point])
        await until(lambda: world.aws.is_cut_off, f"{point}; it did {world.aws.calls}")
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
async def test_at_a_moment(world: World, moment: Moment) -> None:
    """A node that was never leased, or whose lease runs, would live on without a keeper."""
    moment.before(world)
    async with Keeper(world.aws, world.data) as keeper:
        await until(lambda: moment.look(world, keeper), moment.name)
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)


async def test_after_it_was_renewed_for_a_while(world: World) -> None:
    """Renewals would count for longer than the last of them says."""
    async with Keeper(world.aws, world.data) as keeper:
        await until(lambda: keeper.ready, "ready")
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > PROMISED + 2, "it lives longer than any deadline", 30)
        assert len(world.aws.instances(live=True)) == 1
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)


async def test_while_it_ends(world: World) -> None:
    """The last call was the end itself: it must not be lost because nobody looks after it."""
    stays(world)
    async with Keeper(world.aws, world.data) as keeper:
        ready = await until(lambda: keeper.ready, "ready")
        keeper.want, keeper.doomed = 0, frozenset({ready.handle})
        await until(lambda: any(one.state == "shutting-down" for one in world.aws.instances()), "it shuts down")
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)


async def test_with_a_replacement_on_its_way(world: World) -> None:
    """With a spot notice there are two machines for a while: both would be left."""
    async with Keeper(world.aws, world.data) as keeper:
        first = await until(lambda: keeper.ready, "ready")
        world.aws.reclaim(world.aws.instances(live=True)[0].id, 120)
        await until(lambda: any(one.notice for one in keeper.seen), "the notice is seen")
        keeper.want, keeper.doomed = 2, frozenset()
        await until(lambda: len(world.aws.instances(live=True)) == 2, f"another one beside {first.handle}")
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)


async def test_on_the_way_to_on_demand(world: World) -> None:
    """The order moves to the other group: whoever dies there has a machine in a group that the first dead-man does not hold."""
    world.aws.capacity.none("spot")
    async with Keeper(world.aws, world.data, pool={"on_no_capacity": "on-demand"}) as keeper:
        await until(lambda: any(one.group == ON_DEMAND for one in world.aws.instances(live=True)), "an on-demand machine")
        died = time.monotonic()
        await keeper.die()
        await ends_in_time(world, died)

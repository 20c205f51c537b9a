"""The emulated AWS of these tests with its machines, the deadlines, and what "it ended in time" means."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamplighter.testing.aws import Emulator
from lamplighter.testing.aws.guard import ACCOUNT
from tests.journeys.dead_man.machines import AgentMachine, AgentMachines

BOOT_DEADLINE, LEASE, DRAIN = 5.0, 2.0, 1.0
PROMISED = max(BOOT_DEADLINE, LEASE) + DRAIN
SLACK = 6.0
"""Ours and a busy machine's: the agent starts in a second, looks once a second, AWS's schedule has whole seconds."""
SPOT, ON_DEMAND = "lamplighter-spot-spot", "lamplighter-spot-on-demand"


@dataclass
class World:
    aws: Emulator
    manifest: dict[str, Any]
    machines: AgentMachines
    data: Path

    def machine(self) -> AgentMachine | None:
        found = list(self.machines.machines.values())
        return found[-1] if found else None

    def desired(self) -> int:
        # Read behind the API: to lift the cut for a question would also let through what a dead keeper's library still tries again.
        from moto.autoscaling.models import autoscaling_backends

        groups = autoscaling_backends[ACCOUNT][self.aws.region].autoscaling_groups
        return sum(int(group.desired_capacity or 0) for group in groups.values())

    def said(self, text: str) -> bool:
        """Whether the newest machine's agent has `text` among its stages."""
        machine = self.machine()
        return machine is not None and text in machine.stages()

    def suspend_schedule(self) -> None:
        """AWS's own dead-man acts no more: the other two must be enough."""
        for group in (SPOT, ON_DEMAND):
            self.aws.client("autoscaling").suspend_processes(AutoScalingGroupName=group, ScalingProcesses=["ScheduledActions"])


async def ends_in_time(world: World, died: float) -> None:
    """Everything ends within what was promised, and nothing comes afterwards."""
    limit = died + PROMISED + SLACK
    while world.aws.instances(live=True) or world.desired():
        assert time.monotonic() < limit, [
            (one.id, one.state, machine.log()[-1500:]) for one in world.aws.instances(live=True) if (machine := world.machine())
        ]
        await asyncio.sleep(0.1)
    ever = {one.id for one in world.aws.instances()}
    world.aws.advance(900)
    assert world.desired() == 0
    assert {one.id for one in world.aws.instances()} <= ever
    assert world.aws.instances(live=True) == []
    assert [text for text in world.aws.denied if "not authorized" in text] == []

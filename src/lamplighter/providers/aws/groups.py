"""What is done to Auto Scaling groups and instances: orders as tags, desired capacity, the dead-man inside AWS, and ending an instance by name.

Each is safe to repeat. Not responsible for deciding any of it (`decide`).
"""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import structlog

from lamplighter.core.clock import Clock
from lamplighter.providers.aws.client import Aws, AwsError
from lamplighter.providers.aws.decide import Action, Assign, Drop, End, Put, SetDesired
from lamplighter.providers.aws.picture import TAG_MODEL, TAG_NOTE, TAG_ORDER, TAG_ORDERED, TAG_REPLICA, Order
from lamplighter.providers.aws.reading import Writes

_log = structlog.get_logger(__name__)

DEAD_MAN = "dead-man"
"""Name of the scheduled action that sets a group to zero; AWS runs it again and again from its start time on."""
RECURRENCE = "*/5 * * * *"
PUSH_EVERY = 60.0
"""Seconds between two pushes of one group's dead-man, while nothing is raised."""
_ABSENT = ("not found", "No managed instance", "not managed", "not part of", "Invalid Instance")


class Groups:
    """One pool's groups. Every method raises AwsError."""

    def __init__(self, aws: Aws, clock: Clock, writes: Writes, pool: str) -> None:
        self._aws = aws
        self._clock = clock
        self._writes = writes
        self._recurrences: dict[str, str] = {}
        self._pushed: dict[str, tuple[float, float]] = {}
        """By group: until when its dead-man waits (Unix seconds), and when that was written (monotonic)."""
        self._log = _log.bind(pool=pool)

    async def do(self, action: Action, dead_man: float) -> None:
        """Do one action. `dead_man`: Unix seconds until which AWS's own dead-man must wait once a capacity was raised."""
        match action:
            case Put(order, group):
                await self.put(order, group)
            case Drop(order_id, group):
                await self._untag_group(group, TAG_ORDER + order_id)
            case Assign(machine, order, group):
                tags = {TAG_REPLICA: order.id, TAG_MODEL: order.model, TAG_ORDERED: f"{order.at:.3f}"}
                await self.tag(machine, {**tags, TAG_NOTE: order.note} if order.note else tags)
                await self._untag_group(group, TAG_ORDER + order.id)
                self._log.info("an instance came", handle=order.id, instance=machine, group=group)
            case SetDesired(group, count, raises):
                if raises:
                    await self.push_dead_man([group], dead_man, at_once=True)
                await self._aws.call(
                    "autoscaling", "set_desired_capacity", AutoScalingGroupName=group, DesiredCapacity=count, HonorCooldown=False
                )
                self._log.info("desired capacity", group=group, count=count)
            case End(machine, group, why):
                self._log.warning("an instance is ended", instance=machine, group=group, why=why)
                await self.end(machine)

    async def put(self, order: Order, group: str) -> None:
        """Write an order into a group's tags. They are not passed on to instances: an instance is given its order by name."""
        tag = {"ResourceId": group, "ResourceType": "auto-scaling-group", "Key": TAG_ORDER + order.id, "Value": order.text()}
        await self._aws.call("autoscaling", "create_or_update_tags", Tags=[{**tag, "PropagateAtLaunch": False}])
        self._writes.note(group, {TAG_ORDER + order.id: order.text()})

    async def tag(self, machine: str, tags: Mapping[str, str]) -> None:
        """Write tags of an instance."""
        raw = [{"Key": key, "Value": value} for key, value in tags.items()]
        await self._aws.call("ec2", "create_tags", Resources=[machine], Tags=raw)
        self._writes.note(machine, dict(tags))

    async def forget(self, machine: str) -> None:
        """Remove from an instance that is gone what makes it somebody's replica, so that it is not told again after a restart."""
        with contextlib.suppress(AwsError):  # AWS itself forgets it within an hour
            await self._aws.call("ec2", "delete_tags", Resources=[machine], Tags=[{"Key": TAG_REPLICA}])
        self._writes.note(machine, {TAG_REPLICA: None})

    async def end(self, machine: str, group: str | None = "") -> None:
        """Terminate an instance and lower the desired capacity with it; what is gone, or ending, is fine. `group` None: it is in none."""
        try:
            if group is None:
                await self._aws.call("ec2", "terminate_instances", InstanceIds=[machine])
            else:
                await self._aws.call(
                    "autoscaling",
                    "terminate_instance_in_auto_scaling_group",
                    InstanceId=machine,
                    ShouldDecrementDesiredCapacity=True,
                )
        except AwsError as error:
            if error.aws_code == "ScalingActivityInProgress" or error.aws_code.startswith("InvalidInstanceID"):
                return
            if error.aws_code != "ValidationError" or not any(word in error.message for word in _ABSENT):
                raise

    async def push_dead_man(self, groups: Iterable[str], until: float, *, at_once: bool = False) -> None:
        """Let AWS's own dead-man wait until `until` (Unix seconds). `at_once`: whenever it would come before that.

        Else once a minute, or sooner where half of the time is over: with a short lease a minute would be too late.
        """
        for group in groups:
            known, written = self._pushed.get(group, (0.0, float("-inf")))
            now = self._clock.time()
            fresh = self._clock.monotonic() - written < PUSH_EVERY and known - now > (until - now) / 2
            if fresh and (not at_once or known >= until - 1.0):
                continue
            start = datetime.fromtimestamp(int(until) + 1, UTC)
            await self._aws.call(
                "autoscaling",
                "put_scheduled_update_group_action",
                AutoScalingGroupName=group,
                ScheduledActionName=DEAD_MAN,
                StartTime=start,
                Recurrence=await self._recurrence(group),
                MinSize=0,
                DesiredCapacity=0,
            )
            self._pushed[group] = (until, self._clock.monotonic())

    async def _recurrence(self, group: str) -> str:
        """How often the dead-man runs once it does: as Terraform set it."""
        if group not in self._recurrences:
            answer = await self._aws.call(
                "autoscaling", "describe_scheduled_actions", AutoScalingGroupName=group, ScheduledActionNames=[DEAD_MAN]
            )
            actions = answer.get("ScheduledUpdateGroupActions") or [{}]
            self._recurrences[group] = actions[0].get("Recurrence") or RECURRENCE
        return self._recurrences[group]

    async def _untag_group(self, group: str, key: str) -> None:
        tag = {"ResourceId": group, "ResourceType": "auto-scaling-group", "Key": key}
        await self._aws.call("autoscaling", "delete_tags", Tags=[tag])
        self._writes.note(group, {key: None})

"""Takes the picture: asks AWS for a pool's groups, instances and failed launches. What was written a moment ago counts before what is read.

Not responsible for how often (`provider`) nor for what follows (`decide`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from lamplighter.core.clock import Clock, cancellable
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.client import APPLY, Aws
from lamplighter.providers.aws.manifest import Manifest, PoolManifest
from lamplighter.providers.aws.picture import (
    TAG_INSTALLATION,
    TAG_ORDER,
    TAG_POOL,
    TAG_STACK,
    Activity,
    Group,
    Order,
    Picture,
    machine_of,
)

REMEMBER = 30.0
"""Seconds for which what we wrote counts, whatever AWS answers: its answers may be some seconds old."""
_COUNTED = frozenset({"Pending", "Pending:Wait", "Pending:Proceed", "InService", "Standby", "EnteringStandby"})
_ACTIVITIES = 20


class Writes:
    """The tags that we wrote or removed lately: by resource and key, the value (None: removed)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[str | None, float]] = {}

    def note(self, resource: str, tags: Mapping[str, str | None]) -> None:
        """Remember a write that succeeded."""
        now = self._clock.monotonic()
        self._known = {key: known for key, known in self._known.items() if now - known[1] < REMEMBER}
        self._known.update({(resource, key): (value, now) for key, value in tags.items()})

    def correct(self, resource: str, tags: dict[str, str]) -> dict[str, str]:
        """What AWS says of a resource's tags, corrected."""
        now = self._clock.monotonic()
        for (owner, key), (value, at) in self._known.items():
            if owner == resource and now - at < REMEMBER:
                if value is None:
                    tags.pop(key, None)
                else:
                    tags[key] = value
        return tags


async def take(aws: Aws, clock: Clock, manifest: Manifest, pool: str, part: PoolManifest, writes: Writes) -> Picture:
    """The picture of one pool as it is now. Raises ProviderError, also when a group is missing or is another installation's."""
    now = clock.time()
    filters = [
        {"Name": f"tag:{TAG_INSTALLATION}", "Values": [manifest.installation]},
        {"Name": f"tag:{TAG_STACK}", "Values": [manifest.stack]},
        {"Name": f"tag:{TAG_POOL}", "Values": [pool]},
    ]
    groups, reservations = await cancellable(
        asyncio.gather(
            _groups(aws, manifest, part, writes), aws.pages("ec2", "describe_instances", "Reservations", Filters=filters)
        )
    )
    machines = []
    for raw in (instance for reservation in reservations for instance in reservation["Instances"]):
        tags = writes.correct(raw["InstanceId"], tags_of(raw.get("Tags")))
        machines.append(machine_of(raw, tags))
    waiting = [group for group in groups if any(order.failure is None for order in group.orders)]
    failures = await cancellable(asyncio.gather(*(_failures(aws, group) for group in waiting)))
    return Picture(now, tuple(groups), tuple(machines), tuple(one for some in failures for one in some))


async def _groups(aws: Aws, manifest: Manifest, part: PoolManifest, writes: Writes) -> list[Group]:
    names = dict(part.groups)
    answer = await aws.call("autoscaling", "describe_auto_scaling_groups", AutoScalingGroupNames=list(names.values()))
    found = {raw["AutoScalingGroupName"]: raw for raw in answer["AutoScalingGroups"]}
    groups = []
    for market, name in names.items():
        raw = found.get(name)
        if raw is None:
            raise ProviderError(f"There is no Auto Scaling group {name!r} in {aws.region}.", next_step=APPLY)
        tags = writes.correct(name, tags_of(raw.get("Tags")))
        if tags.get(TAG_INSTALLATION) != manifest.installation:
            raise ProviderError(
                f"The Auto Scaling group {name!r} is not this installation's, and is not touched.", next_step=APPLY
            )
        groups.append(_group(raw, market, tags, part.maximum))
    return groups


def _group(raw: Mapping[str, Any], market: str, tags: Mapping[str, str], maximum: int) -> Group:
    orders = (Order.read(key.removeprefix(TAG_ORDER), value) for key, value in tags.items() if key.startswith(TAG_ORDER))
    return Group(
        name=raw["AutoScalingGroupName"],
        market=market,
        desired=int(raw["DesiredCapacity"]),
        maximum=min(int(raw["MaxSize"]), maximum),
        orders=tuple(sorted((order for order in orders if order is not None), key=lambda one: (one.at, one.id))),
        members={one["InstanceId"]: one["LifecycleState"] in _COUNTED for one in raw.get("Instances") or ()},
    )


async def _failures(aws: Aws, group: Group) -> list[Activity]:
    answer = await aws.call("autoscaling", "describe_scaling_activities", AutoScalingGroupName=group.name, MaxRecords=_ACTIVITIES)
    return [
        Activity(group.name, one["StartTime"].timestamp(), str(one.get("StatusMessage") or one.get("Cause") or ""))
        for one in answer["Activities"]
        if one["StatusCode"] in ("Failed", "Cancelled")
    ]


def tags_of(raw: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    """AWS's list of tags as a dictionary."""
    return {tag["Key"]: tag.get("Value", "") for tag in raw or ()}

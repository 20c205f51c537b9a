"""Everything in one region that carries an installation's tag and exists, costs or could cost: what `cloud status` and the proof after `destroy` read.

Reads only. Not responsible for whether an item is owned (`operations.cloud.orphans`), nor for the pool's own observation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws import asking
from lamplighter.providers.aws.asking import ask, code_of
from lamplighter.providers.aws.picture import TAG_INSTALLATION, TAG_POOL, TAG_PURPOSE, TAG_REPLICA, TAG_STACK
from lamplighter.providers.aws.standing import HOURS, Prices

INSTALLATION, STACK, POOL, REPLICA, PURPOSE = TAG_INSTALLATION, TAG_STACK, TAG_POOL, TAG_REPLICA, TAG_PURPOSE
BAKES = "bake"
"""The purpose of a machine on which an image is baked."""
UNTIL = "lamplighter:until"
"""On such a machine: Unix seconds until which it may live."""
BAKED = "lamplighter:baked"
"""On an image and its snapshots that `bake` made: Unix seconds when."""

_DEAD = {"terminated", "shutting-down"}
Rates = Callable[[str, str, str], Decimal | None]
"""(instance type, `spot` or `on-demand`, zone) -> USD an hour; None: not known."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the account.

    `kind`: instance, volume, snapshot, image, address, nat, endpoint, bucket, group, other. `since`: Unix seconds. `hourly`: USD; None: by use, or
    unknown. `state`: AWS's word. `detail`: for people.
    """

    kind: str
    id: str
    region: str
    state: str = ""
    detail: str = ""
    since: float | None = None
    hourly: Decimal | None = None
    market: str | None = None
    zone: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def stack(self) -> str | None:
        """The stack that it belongs to."""
        return self.tags.get(STACK)

    @property
    def pool(self) -> str | None:
        """The pool that it belongs to, if it does to one."""
        return self.tags.get(POOL)

    @property
    def replica(self) -> str | None:
        """The replica that it carries, once it is one."""
        return self.tags.get(REPLICA)

    @property
    def runs(self) -> bool:
        """Whether it is a machine that bills by the second."""
        return self.kind == "instance" and self.state not in _DEAD

    def cost(self, now: float) -> Decimal | None:
        """USD since it exists; None when its price or its age is not known."""
        if self.hourly is None or self.since is None:
            return None
        return self.hourly * Decimal(max(0.0, now - self.since)) / 3600


@dataclass(frozen=True, slots=True)
class Group:
    """One Auto Scaling group. `dead_man`: Unix seconds when AWS itself sets it to zero next; None: it has no such action."""

    name: str
    region: str
    minimum: int
    desired: int
    maximum: int
    instances: tuple[str, ...]
    dead_man: float | None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one region holds. `unread`: what AWS did not let us see, in words: an empty list proves nothing then."""

    region: str
    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    unread: tuple[str, ...] = ()

    @property
    def running(self) -> tuple[Item, ...]:
        """The machines that bill now."""
        return tuple(item for item in self.items if item.runs)


def is_builder(item: Item) -> bool:
    """Whether it is a machine on which an image is baked."""
    return item.tags.get(PURPOSE) == BAKES


def take(region: str, installation: str, *, rates: Rates | None = None) -> Inventory:
    """Everything of `installation` in `region`. What one call is refused is named in `unread`; raises ProviderError when AWS cannot be asked at all."""
    prices, unread = Prices(region), []
    found: list[Item] = []
    instances = list(_instances(region, installation, rates))  # the most important one: its error is ours
    found += instances
    for what, look in _LOOKS.items():
        try:
            found += look(region, installation, prices)
        except ProviderError as error:
            unread.append(f"{what}: {error.message}")
    try:
        groups = tuple(_groups(region, installation))
    except ProviderError as error:
        groups = ()
        unread.append(f"Auto Scaling groups: {error.message}")
    return Inventory(region, tuple(found), groups, tuple(unread))


def running(region: str, installation: str) -> tuple[Item, ...]:
    """The machines of ours that are not gone yet, `shutting-down` ones included. Raises ProviderError."""
    return tuple(item for item in _instances(region, installation, None) if item.state != "terminated")


def find_replica(region: str, installation: str, handle: str) -> str | None:
    """The machine that carries, or until an hour ago carried, a replica; by the provider's handle. Raises ProviderError."""
    filters = [*_ours(installation), {"Name": f"tag:{REPLICA}", "Values": [handle]}]
    for reservation in _pages("ec2", region, "describe_instances", "Reservations", Filters=filters):
        for one in reservation["Instances"]:
            return str(one["InstanceId"])
    return None


def regions_in_use(region: str) -> tuple[str, ...]:
    """Every region that the account can use, asked in `region`. Raises ProviderError."""
    answer = ask("ec2", region, "describe_regions")
    return tuple(sorted(one["RegionName"] for one in answer["Regions"]))


def _pages(service: str, region: str, operation: str, key: str, **arguments: Any) -> Iterator[Mapping[str, Any]]:
    for page in asking.pages(service, region, operation, **arguments):
        yield from page.get(key) or ()


def _ours(installation: str) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{INSTALLATION}", "Values": [installation]}]


def _tags(raw: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in raw or ()}


def _unix(moment: datetime | str | None) -> float | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp() if moment is not None else None


def _instances(region: str, installation: str, rates: Rates | None) -> Iterator[Item]:
    for reservation in _pages("ec2", region, "describe_instances", "Reservations", Filters=_ours(installation)):
        for one in reservation["Instances"]:
            state = one["State"]["Name"]
            if state == "terminated":
                continue
            market = "spot" if one.get("InstanceLifecycle") == "spot" else "on-demand"
            zone = one.get("Placement", {}).get("AvailabilityZone", "")
            hourly = rates(one["InstanceType"], market, zone) if rates is not None else None
            if one.get("PublicIpAddress") and hourly is not None:
                hourly += Prices(region).hourly("address")
            yield Item(
                "instance", one["InstanceId"], region, state, f"{market} {one['InstanceType']} in {zone}", _unix(one.get("LaunchTime")), hourly,
                market, zone, _tags(one.get("Tags")),
            )  # fmt: skip


def _volumes(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    for one in _pages("ec2", region, "describe_volumes", "Volumes", Filters=_ours(installation)):
        attached = ", ".join(link["InstanceId"] for link in one.get("Attachments") or ())
        yield Item(
            "volume", one["VolumeId"], region, one["State"],
            f"{one['Size']} GB {one.get('VolumeType', 'gp3')} in {one['AvailabilityZone']}{f', on {attached}' if attached else ''}",
            _unix(one.get("CreateTime")), prices.hourly("gp3", one["Size"]), zone=one["AvailabilityZone"], tags=_tags(one.get("Tags")),
        )  # fmt: skip


def _snapshots(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    for one in _pages("ec2", region, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=_ours(installation)):
        yield Item(
            "snapshot", one["SnapshotId"], region, one["State"], f"of {one['VolumeSize']} GB, billed for what it holds, at most so much",
            _unix(one.get("StartTime")), prices.hourly("snapshot", one["VolumeSize"]), tags=_tags(one.get("Tags")),
        )  # fmt: skip


def _images(region: str, installation: str, _: Prices) -> Iterator[Item]:
    for one in _pages("ec2", region, "describe_images", "Images", Owners=["self"], Filters=_ours(installation)):
        yield Item(
            "image", one["ImageId"], region, one["State"], f"{one.get('Name', '')}; its snapshots are billed",
            _unix(one.get("CreationDate")), Decimal(0), tags=_tags(one.get("Tags")),
        )  # fmt: skip


def _addresses(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    found = ask("ec2", region, "describe_addresses", Filters=_ours(installation))["Addresses"]
    for one in found:
        used = one.get("InstanceId") or one.get("NetworkInterfaceId")
        yield Item(
            "address", one.get("AllocationId", one.get("PublicIp", "?")), region, "used" if used else "unused",
            f"{one.get('PublicIp', '?')}{f', of {used}' if used else ''}", None, prices.hourly("address"), tags=_tags(one.get("Tags")),
        )  # fmt: skip


def _gateways(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    for one in _pages("ec2", region, "describe_nat_gateways", "NatGateways", Filters=_ours(installation)):
        if one["State"] not in ("deleted", "failed"):
            yield Item(
                "nat", one["NatGatewayId"], region, one["State"], "NAT gateway, and by what passes it", _unix(one.get("CreateTime")),
                prices.hourly("nat"), tags=_tags(one.get("Tags")),
            )  # fmt: skip


def _endpoints(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    for one in _pages("ec2", region, "describe_vpc_endpoints", "VpcEndpoints", Filters=_ours(installation)):
        if str(one.get("State", "")).lower() not in ("deleted", "deleting"):
            free = one.get("VpcEndpointType", "Gateway") == "Gateway"
            zones = max(1, len(one.get("SubnetIds") or ()))
            yield Item(
                "endpoint", one["VpcEndpointId"], region, str(one.get("State", "")).lower(), one.get("ServiceName", ""),
                _unix(one.get("CreationTimestamp")), Decimal(0) if free else prices.hourly("endpoint", zones), tags=_tags(one.get("Tags")),
            )  # fmt: skip


def _secrets(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    for one in _pages("secretsmanager", region, "list_secrets", "SecretList"):
        tags = _tags(one.get("Tags"))
        if tags.get(INSTALLATION) == installation and not one.get("DeletedDate"):
            yield Item(
                "secret", one["Name"], region, "", "", _unix(one.get("CreatedDate")), prices.monthly("secret") / HOURS, tags=tags
            )


def _buckets(region: str, installation: str, prices: Prices) -> Iterator[Item]:
    """Only those whose tags we may read; a foreign bucket of the account refuses, and is none of ours."""
    for one in ask("s3", region, "list_buckets").get("Buckets") or ():
        try:
            tags = _tags(ask("s3", region, "get_bucket_tagging", Bucket=one["Name"]).get("TagSet"))
            if tags.get(INSTALLATION) != installation:
                continue
            place = ask("s3", region, "get_bucket_location", Bucket=one["Name"]).get("LocationConstraint") or "us-east-1"
        except ProviderError as error:
            if code_of(error) in (
                "NoSuchTagSet",
                "NoSuchBucket",
                "AccessDenied",
                "PermanentRedirect",
                "AuthorizationHeaderMalformed",
            ):
                continue
            raise
        if place == region:
            yield Item(
                "bucket",
                one["Name"],
                region,
                "",
                f"by what is in it: {prices.unit('s3')}",
                _unix(one.get("CreationDate")),
                tags=tags,
            )


def _others(region: str, installation: str, _: Prices) -> Iterator[Item]:
    """What AWS's own index of tags still names, of kinds that cost nothing while nobody uses them."""
    filters = [{"Key": INSTALLATION, "Values": [installation]}]
    for one in _pages("resourcegroupstaggingapi", region, "get_resources", "ResourceTagMappingList", TagFilters=filters):
        kind = _kind(one["ResourceARN"])
        if kind not in _LISTED:
            yield Item("other", one["ResourceARN"], region, "", kind, None, Decimal(0), tags=_tags(one.get("Tags")))


def _kind(arn: str) -> str:
    """`ec2:vpc` of `arn:aws:ec2:eu-central-1:123:vpc/vpc-1`, `sqs` of `arn:aws:sqs:...:name`."""
    parts = arn.split(":", 5)
    service, rest = (parts[2], parts[5]) if len(parts) == 6 else (arn, "")
    head = rest.replace(":", "/").partition("/")[0] if "/" in rest or ":" in rest else ""
    return f"{service}:{head}" if head else service


_LISTED = {
    "ec2:instance", "ec2:volume", "ec2:snapshot", "ec2:image", "ec2:elastic-ip", "ec2:natgateway", "ec2:vpc-endpoint", "s3",
    "secretsmanager:secret", "autoscaling:autoScalingGroup", "ec2:network-interface", "ec2:spot-instances-request",
}  # fmt: skip
"""Kinds that have a look of their own above, or that go by themselves with a machine."""

_LOOKS: Mapping[str, Callable[[str, str, Prices], Iterator[Item]]] = {
    "volumes": _volumes, "snapshots": _snapshots, "images": _images, "addresses": _addresses, "NAT gateways": _gateways,
    "VPC endpoints": _endpoints, "secrets": _secrets, "buckets": _buckets, "other things by their tags": _others,
}  # fmt: skip


def _groups(region: str, installation: str) -> Iterator[Group]:
    found = []
    for one in _pages("autoscaling", region, "describe_auto_scaling_groups", "AutoScalingGroups"):
        tags = _tags(one.get("Tags"))
        if tags.get(INSTALLATION) == installation:
            found.append((one, tags))
    for one, tags in found:
        name = one["AutoScalingGroupName"]
        actions = _pages(
            "autoscaling", region, "describe_scheduled_actions", "ScheduledUpdateGroupActions", AutoScalingGroupName=name
        )
        times = [_unix(action.get("StartTime")) for action in actions if action["ScheduledActionName"] == "dead-man"]
        yield Group(
            name, region, one["MinSize"], one["DesiredCapacity"], one["MaxSize"],
            tuple(instance["InstanceId"] for instance in one.get("Instances") or ()),
            next((moment for moment in times if moment is not None), None), tags,
        )  # fmt: skip


__all__ = [
    "BAKED", "BAKES", "INSTALLATION", "POOL", "PURPOSE", "REPLICA", "STACK", "UNTIL", "Group", "Inventory", "Item", "Rates", "find_replica", "is_builder",
    "regions_in_use", "running", "take",
]  # fmt: skip

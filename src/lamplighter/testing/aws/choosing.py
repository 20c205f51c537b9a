"""Which machine an Auto Scaling group takes next: market by its distribution, type and zone by its allocation strategy and by what there is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lamplighter.testing.aws.capacity import BAD_IMAGE, ON_DEMAND, SPOT, sentence
from lamplighter.testing.aws.machines import LIVE, image
from lamplighter.testing.aws.prices import ON_DEMAND_PRICES, spot_price
from lamplighter.testing.aws.world import current


@dataclass(frozen=True, slots=True)
class Choice:
    """One machine to launch."""

    market: str
    instance_type: str
    zone: str
    subnet: str | None

    @property
    def price(self) -> float:
        """USD an hour."""
        return spot_price(self.instance_type, self.zone) if self.market == SPOT else ON_DEMAND_PRICES.get(self.instance_type, 1.0)


class Refused(Exception):
    """None can be had. `sentence`: in AWS's words."""

    def __init__(self, sentence: str, zone: str, subnet: str | None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.zone = zone
        self.subnet = subnet


def choose(group: Any, members: list[Any]) -> Choice:
    """The next machine of a group that has `members`. Raises Refused."""
    world = current()
    policy = group.mixed_instances_policy or {}
    data = group.ec2_launch_template.get_version(group.launch_template_version).data
    market = _market(group, members, data, policy)
    distribution = policy.get("InstancesDistribution") or {}
    choices = list(_choices(group, data, policy, market))
    strategy = distribution.get("SpotAllocationStrategy" if market == SPOT else "OnDemandAllocationStrategy", "lowest-price")
    if not strategy.endswith("prioritized"):
        choices.sort(key=lambda one: one.price)
    first = choices[0]
    backend = group.ec2_backend
    wanted = image(backend, data.get("ImageId", ""))
    if not backend.describe_images(filters={"image-id": wanted}):
        text = sentence(BAD_IMAGE, market, first.instance_type, first.zone, []).replace(
            "The image id", f"The image id '[{wanted}]'"
        )
        raise Refused(text, first.zone, first.subnet)
    limit = distribution.get("SpotMaxPrice")
    refusal = ""
    for choice in choices:
        if market == SPOT and limit and choice.price > float(limit):
            refusal = refusal or (
                f"Could not launch Spot Instances. SpotMaxPriceTooLow - Your Spot request price of {limit} is lower than the minimum required "
                f"Spot request fulfillment price of {choice.price}. Launching EC2 instance failed."
            )
            continue
        code = world.capacity.refusal(market, choice.instance_type, choice.zone, _running(choice))
        if code is None:
            return choice
        others = [one.zone for one in choices if one.zone != choice.zone]
        refusal = refusal or sentence(code, market, choice.instance_type, choice.zone, others)
    raise Refused(refusal, first.zone, first.subnet)


def _running(choice: Choice) -> int:
    """Machines like it that live."""
    return sum(
        record.instance.state in LIVE
        for record in current().records.values()
        if (record.market, record.instance.instance_type, record.instance.placement.zone)
        == (choice.market, choice.instance_type, choice.zone)
    )


def _market(group: Any, members: list[Any], data: dict[str, Any], policy: dict[str, Any]) -> str:
    if not policy:
        return SPOT if (data.get("InstanceMarketOptions") or {}).get("MarketType") == SPOT else ON_DEMAND
    distribution = policy.get("InstancesDistribution") or {}
    base = int(distribution.get("OnDemandBaseCapacity") or 0)
    percent = int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100))
    wanted = min(group.desired_capacity, base) + round(max(0, group.desired_capacity - base) * percent / 100)
    there = sum(current().records[state.instance.id].market == ON_DEMAND for state in members)
    return ON_DEMAND if there < wanted else SPOT


def _choices(group: Any, data: dict[str, Any], policy: dict[str, Any], market: str) -> Iterator[Choice]:
    overrides = (policy.get("LaunchTemplate") or {}).get("Overrides") or []
    types = [one["InstanceType"] for one in overrides if one.get("InstanceType")] or [data["InstanceType"]]
    subnets = group.vpc_zone_identifier.split(",") if group.vpc_zone_identifier else []
    places: list[tuple[str, str | None]]
    if subnets:
        found = group.ec2_backend.describe_subnets(subnet_ids=subnets)
        places = [(subnet.availability_zone, subnet.id) for subnet in found]
    else:
        places = [(zone, None) for zone in group.availability_zones]
    for instance_type in types:
        for zone, subnet in places:
            yield Choice(market, instance_type, zone, subnet)

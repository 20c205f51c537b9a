"""Which machines the pretended AWS has to give: by market, type and zone; and in whose words it refuses."""

from dataclasses import dataclass

ANY = "*"
SPOT = "spot"
ON_DEMAND = "on-demand"
PLENTY = 1_000_000

NO_CAPACITY = "InsufficientInstanceCapacity"
QUOTA = "VcpuLimitExceeded"
BAD_IMAGE = "InvalidAMIID.NotFound"
UNFULFILLABLE = "UnfulfillableCapacity"
SPOT_COUNT = "MaxSpotInstanceCountExceeded"


@dataclass(frozen=True, slots=True)
class Rule:
    """`free` more machines of what matches; then `refusal`."""

    market: str
    instance_type: str
    zone: str
    free: int
    refusal: str

    def matches(self, market: str, instance_type: str, zone: str) -> bool:
        """Whether the rule is about it."""
        return self.market in (ANY, market) and self.instance_type in (ANY, instance_type) and self.zone in (ANY, zone)


class Capacity:
    """What can be had. Everything, until told otherwise; the newest rule that matches decides."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def clear(self) -> None:
        """Everything can be had again."""
        self._rules = []

    def none(
        self, market: str = ANY, instance_type: str = ANY, zone: str = ANY, *, refusal: str = NO_CAPACITY, free: int = 0
    ) -> None:
        """Nothing (or only `free` at the same time) of it can be had; `refusal`: one of this module's error codes."""
        self._rules.append(Rule(market, instance_type, zone, free, refusal))

    def plenty(self, market: str = ANY, instance_type: str = ANY, zone: str = ANY) -> None:
        """Of it there is enough again."""
        self._rules.append(Rule(market, instance_type, zone, PLENTY, NO_CAPACITY))

    def refusal(self, market: str, instance_type: str, zone: str, running: int) -> str | None:
        """Why one more cannot be had while `running` of them live; None: it can."""
        for rule in reversed(self._rules):
            if rule.matches(market, instance_type, zone):
                return rule.refusal if running >= rule.free else None
        return None


def sentence(refusal: str, market: str, instance_type: str, zone: str, others: list[str]) -> str:
    """The status message of a failed launch, as Auto Scaling words it."""
    lead = "Could not launch Spot Instances" if market == SPOT else "Could not launch On-Demand Instances"
    elsewhere = f"by not specifying an Availability Zone in your request or choosing {', '.join(others)}"
    texts = {
        NO_CAPACITY: f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). "
        f"Our system will be working on provisioning additional capacity. You can currently get {instance_type} capacity {elsewhere}.",
        QUOTA: "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the specified "
        "instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
        BAD_IMAGE: "The image id does not exist.",
        UNFULFILLABLE: "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again.",
        SPOT_COUNT: "Max spot instance count exceeded.",
    }
    if market == SPOT and refusal == NO_CAPACITY:
        texts[NO_CAPACITY] = "There is no Spot capacity available that matches your request."
    return f"{lead}. {refusal} - {texts.get(refusal, refusal)} Launching EC2 instance failed."

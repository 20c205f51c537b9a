"""Why a group could not launch: AWS's words of a failed scaling activity, in ours. Pure.

The words are those of Auto Scaling's own documentation ("Troubleshoot Amazon EC2 Auto Scaling: EC2 instance launch failures") and of what
people report of it.
"""

import re
from dataclasses import dataclass

from lamplighter.core.reasons import VERDICTS, WakeFailure


@dataclass(frozen=True, slots=True)
class Refusal:
    """`sentence`: for people, without a full stop, to be followed by more."""

    reason: WakeFailure
    sentence: str

    @property
    def elsewhere(self) -> bool:
        """Whether the other market may have what this one refused."""
        return VERDICTS[self.reason].fall_back


_KNOWN: tuple[tuple[str, WakeFailure, str], ...] = (
    (r"MaxSpotInstanceCountExceeded|Max spot instance count", WakeFailure.QUOTA, "the account's quota of spot machines is used up"),
    (r"VcpuLimitExceeded|vCPU (capacity|limit)|InstanceLimitExceeded", WakeFailure.QUOTA, "the account's quota of {market} machines is used up"),
    (
        r"InsufficientInstanceCapacity|InsufficientCapacity|UnfulfillableCapacity|do not have sufficient|no Spot capacity|capacity-not-available",
        WakeFailure.NO_CAPACITY,
        "no {market} capacity",
    ),
    (r"SpotMaxPriceTooLow|price-too-low|[Mm]ax(imum)? [Ss]pot price", WakeFailure.NO_CAPACITY, "the spot price is above the pool's max_price"),
    (r"InvalidAMIID|image id|AMI .* (is|does not)|OptInRequired", WakeFailure.BAD_IMAGE, "the machine image cannot be used"),
    (r"not supported in your requested Availability Zone|Unsupported", WakeFailure.NO_CAPACITY, "this type is not offered in the pool's zones"),
    (r"InvalidKMSKey|Client\.InternalError|Client error on launch", WakeFailure.PROVIDER_ERROR, "the disk's encryption key cannot be used"),
    (r"not eligible for Free Tier|PendingVerification|Blocked|accountId", WakeFailure.QUOTA, "the account may not start this type"),
)  # fmt: skip
_ZONES = re.compile(r"\b[a-z]{2}(?:-[a-z]+)+-\d[a-z]\b")


def refusal(message: str, market: str) -> Refusal:
    """From the status message of a failed activity. What we do not know is told in AWS's own words."""
    for pattern, reason, sentence in _KNOWN:
        if re.search(pattern, message):
            zones = sorted(set(_ZONES.findall(message.partition("You can currently")[0])))
            place = f" in {', '.join(zones)}" if zones and reason is WakeFailure.NO_CAPACITY else ""
            return Refusal(reason, sentence.format(market=market) + place)
    text = " ".join(message.split()).rstrip(".")
    return Refusal(WakeFailure.PROVIDER_ERROR, f"AWS said: {text[:120]}" if text else "AWS gave no reason")

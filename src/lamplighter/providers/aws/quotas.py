"""Whether the account may start one more machine: quotas of EC2 count vCPUs, by family and market, and new accounts have none for GPUs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from lamplighter.core.clock import Clock
from lamplighter.providers.aws.client import Aws, AwsError
from lamplighter.providers.aws.machines import family, vcpus
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT
from lamplighter.providers.aws.picture import Machine

_log = structlog.get_logger(__name__)

FRESH = 3600.0
CODES = {
    (SPOT, "g"): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    (SPOT, "vt"): ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    (ON_DEMAND, "g"): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    (ON_DEMAND, "vt"): ("L-DB2E81BA", "Running On-Demand G and VT instances"),
    (SPOT, "p"): ("L-7212CCBC", "All P Spot Instance Requests"),
    (ON_DEMAND, "p"): ("L-417A185B", "Running On-Demand P instances"),
}
"""AWS's own codes and names, by market and family."""


@dataclass(slots=True)
class Quotas:
    """The quotas of one region. What cannot be asked is taken as allowed: AWS itself refuses what is not."""

    aws: Aws
    clock: Clock
    _known: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """By code: when it was asked (monotonic), and vCPUs."""

    async def refused(self, market: str, types: Iterable[str], running: Iterable[Machine]) -> str | None:
        """Why not even the smallest of `types` may be started, as a sentence that says what to ask for; None: it may."""
        why = None
        machines = [machine for machine in running if machine.living and machine.market == market]
        for kind in types:
            found, needs = CODES.get((market, family(kind))), vcpus(kind)
            if found is None or needs is None:
                return None
            code, name = found
            limit = await self._limit(code)
            used = sum(vcpus(one.kind) or 0 for one in machines if CODES.get((market, family(one.kind)), ("",))[0] == code)
            if limit is None or used + needs <= limit:
                return None
            have = f", of which {used} are in use here" if used else ""
            why = (
                f"The account's quota {name!r} ({code}) in {self.aws.region} is {limit:.0f} vCPUs{have}; a {kind} needs {needs}. "
                f"Ask AWS for {max(8, used + needs)} (Service Quotas, Amazon EC2)."
            )
        return why

    async def _limit(self, code: str) -> float | None:
        asked, limit = self._known.get(code, (float("-inf"), None))
        if self.clock.monotonic() - asked < FRESH:
            return limit
        try:
            answer = await self.aws.call("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code)
            limit = float(answer["Quota"]["Value"])
        except AwsError as error:
            _log.debug("a quota could not be asked", code=code, error=error.message)
            limit = None
        self._known[code] = (self.clock.monotonic(), limit)
        return limit

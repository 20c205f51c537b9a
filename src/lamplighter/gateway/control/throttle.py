"""Slows down guessing at the sign-in: each address may fail a few times, then once every few seconds. Nobody is ever locked out."""

import ipaddress
import math
from collections import OrderedDict

from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError

FAILURES = 10
"""Failures that an address may have in a row without waiting."""
SECONDS = 6.0
"""Then one more in this time."""
_ADDRESSES = 4096


class Throttle:
    """Counts failures by client address (IPv6: by network of 64 bits), for a bounded number of addresses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Raises RequestError 429 while the address must wait."""
        spent = self._now(_network(address))
        if spent > FAILURES - 1:
            wait = max(1, math.ceil((spent - (FAILURES - 1)) * SECONDS))
            raise RequestError(
                "Too many failed attempts to sign in.",
                status=429,
                type="rate_limit_error",
                code="too_many_attempts",
                next_step=f"Wait {wait} seconds.",
                retry_after=wait,
            )

    def failed(self, address: str | None) -> None:
        """An attempt failed."""
        network = _network(address)
        self._spent[network] = (self._now(network) + 1, self._clock.monotonic())
        self._spent.move_to_end(network)
        while len(self._spent) > _ADDRESSES:
            self._spent.popitem(last=False)

    def _now(self, network: str) -> float:
        spent, at = self._spent.get(network, (0.0, 0.0))
        return max(0.0, spent - (self._clock.monotonic() - at) / SECONDS) if spent else 0.0


def _network(address: str | None) -> str:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)

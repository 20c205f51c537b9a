"""The limits of one subject as numbers, and the decision: may a request go on beside what is counted? Pure.

`shared.ADMIT` is the same decision as a Lua script; a test holds both against each other.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import structlog

from lamplighter.config.admission import Limits
from lamplighter.core.units import Money
from lamplighter.costs import nanos_of
from lamplighter.gateway.admission.counters import Counts, Demand

_log = structlog.get_logger(__name__)
_HAIR = 1e-9
"""What rounding may cost a bucket."""


class Refused(NamedTuple):
    """Why a request may not go on. `limit`: the setting's name; `most`: its value; `wait`: seconds until it may help to ask again, None
    when only the window's end helps. `reserved`: what is left is held by requests under way.
    """

    limit: str
    most: int
    wait: float | None
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits as whole numbers; 0: there is none. Money in billionths, None: there is none (a budget of nothing is a budget)."""

    requests: int = 0
    tokens: int = 0
    parallel: int = 0
    day_tokens: int = 0
    month_tokens: int = 0
    day_money: int | None = None
    month_money: int | None = None
    windows: bool = field(init=False, compare=False, repr=False)
    """Whether days or months are limited: then a request's upper bound must be known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", bool(self.day_tokens or self.month_tokens) or self.priced)

    @property
    def empty(self) -> bool:
        """Whether nothing is limited."""
        return self == NOTHING

    @property
    def priced(self) -> bool:
        """Whether money is limited."""
        return self.day_money is not None or self.month_money is not None

    @property
    def limits_of_windows(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Tokens a day and a month, money a day and a month; None where there is no limit. In the order of `counters.Used`."""
        return self.day_tokens or None, self.month_tokens or None, self.day_money, self.month_money

    def need(self, demand: Demand) -> int:
        """Tokens that a request takes from the minute's bucket: one that is larger than the bucket takes all of it."""
        estimate, most = demand.estimate, self.tokens
        return most if 0 < most < estimate else estimate

    def share(self, gateways: int) -> "Rules":
        """One gateway's part, rounded up, of what can be divided; days and months are counted from the store and stay whole."""
        return Rules(
            requests=-(-self.requests // gateways),
            tokens=-(-self.tokens // gateways),
            parallel=-(-self.parallel // gateways),
            day_tokens=self.day_tokens,
            month_tokens=self.month_tokens,
            day_money=self.day_money,
            month_money=self.month_money,
        )

    def judge(self, counts: Counts, demand: Demand) -> Refused | None:
        """Whether a request may not go on, and why.

        Days and months: a request must fit its upper bound into what is neither used nor reserved. One that does not fit may still go
        alone: while something is left and nothing else is reserved. So a budget is passed by one request at the most, and is usable to
        its end.
        """
        if (most := self.requests) and (over := counts.requests + 1 - most) > _HAIR:
            return Refused("requests_per_minute", most, over * 60 / most)
        if most := self.tokens:
            need = demand.estimate
            if (over := counts.tokens + (need if need < most else most) - most) > _HAIR:
                return Refused("tokens_per_minute", most, over * 60 / most)
        if self.parallel and counts.parallel >= self.parallel:
            return Refused("parallel", self.parallel, 1.0)
        if self.windows:
            return self._judge_windows(counts, demand)
        return None

    def _judge_windows(self, counts: Counts, demand: Demand) -> Refused | None:
        """The same for days and months. Nearly always all of it fits, which one comparison tells."""
        reserved, cost = counts.reserved_tokens, demand.tokens
        if cost > 0:  # what costs nothing needs no budget
            held = reserved + cost if reserved > 0 else cost
            limit: int | None = self.day_tokens
            if limit and (used := counts.day_tokens) + held > limit and (no := _window(used, reserved, limit)) is not None:
                return Refused("tokens_per_day", limit, *no)
            limit = self.month_tokens
            if limit and (used := counts.month_tokens) + held > limit and (no := _window(used, reserved, limit)) is not None:
                return Refused("tokens_per_month", limit, *no)
        reserved, cost = counts.reserved_money, demand.money
        if cost > 0:
            held = reserved + cost if reserved > 0 else cost
            limit = self.day_money
            if (
                limit is not None
                and (used := counts.day_money) + held > limit
                and (no := _window(used, reserved, limit)) is not None
            ):
                return Refused("budget_per_day", limit, *no)
            limit = self.month_money
            if (
                limit is not None
                and (used := counts.month_money) + held > limit
                and (no := _window(used, reserved, limit)) is not None
            ):
                return Refused("budget_per_month", limit, *no)
        return None


@lru_cache(maxsize=4096)
def share(rules: Rules, gateways: int) -> Rules:
    """`Rules.share`, worked out once."""
    return rules.share(gateways)


NOTHING = Rules()
_BUSY = 5.0
"""Seconds after which requests that hold the rest of a budget may be over."""


def _window(used: int, reserved: int, limit: int) -> tuple[float | None, bool] | None:
    """For a request that does not fit beside what is used and reserved."""
    if used >= limit:
        return None, False
    return (_BUSY, True) if reserved > 0 else None


def compiled(limits: Limits | None, currency: str | None) -> Rules:
    """`limits` as numbers. A budget in another currency than the installation's prices admits nothing that costs something."""
    if limits is None:
        return NOTHING
    return Rules(
        requests=_count(limits.requests_per_minute),
        tokens=_count(limits.tokens_per_minute),
        parallel=_count(limits.parallel),
        day_tokens=_count(limits.tokens_per_day),
        month_tokens=_count(limits.tokens_per_month),
        day_money=_money(limits.budget_per_day, currency),
        month_money=_money(limits.budget_per_month, currency),
    )


def _count(value: int | str | None) -> int:
    return value if isinstance(value, int) else 0


def _money(value: Money | str | None, currency: str | None) -> int | None:
    if not isinstance(value, Money):
        return None
    if currency is not None and value.currency != currency:
        _log.error("budget_in_another_currency", budget=str(value), currency=currency)
        return 0
    return nanos_of(value)


def whole_seconds(seconds: float) -> int:
    """Rounded up, at least 1."""
    return max(1, math.ceil(seconds))

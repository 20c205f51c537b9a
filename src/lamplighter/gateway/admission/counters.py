"""What one process counts: accounts of keys, models and pairs of both, and which day it is. Pure bookkeeping; who may go on is `rules`'s.

What is used up is counted for every subject, limited or not, so that a limit that is set later finds the truth. Buckets, parallel requests
and reservations are counted where something limits them.
"""

import datetime as dt
from typing import NamedTuple, Protocol

from lamplighter.core.clock import Clock


class Calendar:
    """The current day and month in UTC. Asked at every request, it looks again only after midnight."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.day = ""
        self.month = ""
        self.day_ends = float("-inf")
        self.month_ends = float("-inf")
        self._begins = float("inf")

    def look(self) -> float:
        """Bring it up to date. Returns Unix seconds."""
        now = self._clock.time()
        if not self._begins <= now < self.day_ends:
            midnight = dt.datetime.fromtimestamp(now, dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            self.day, self.month = midnight.strftime("%Y-%m-%d"), midnight.strftime("%Y-%m")
            self._begins = midnight.timestamp()
            self.day_ends = (midnight + dt.timedelta(days=1)).timestamp()
            self.month_ends = (midnight.replace(day=1) + dt.timedelta(days=32)).replace(day=1).timestamp()
        return now

    @property
    def month_begins(self) -> str:
        """The month's first day, as the store writes days."""
        return f"{self.month}-01"


class Demand(NamedTuple):
    """What one request may use. `estimate`: tokens that it will probably use; `tokens`, `money`: what it can use at the most.

    `prompt`: tokens of the estimate that are the prompt. Money in billionths of the currency.
    """

    prompt: int
    estimate: int
    tokens: int
    money: int


class Used(NamedTuple):
    """What was used up in the current day and month."""

    day_tokens: int = 0
    month_tokens: int = 0
    day_money: int = 0
    month_money: int = 0


class Counts(Protocol):
    """What a decision looks at. `requests`, `tokens`: how full the minute's buckets are; `reserved_*`: held by requests under way."""

    @property
    def requests(self) -> float: ...
    @property
    def tokens(self) -> float: ...
    @property
    def parallel(self) -> int: ...
    @property
    def reserved_tokens(self) -> int: ...
    @property
    def reserved_money(self) -> int: ...
    @property
    def day_tokens(self) -> int: ...
    @property
    def month_tokens(self) -> int: ...
    @property
    def day_money(self) -> int: ...
    @property
    def month_money(self) -> int: ...


class Reading(NamedTuple):
    """Counts that were read elsewhere, at one moment."""

    requests: float = 0.0
    tokens: float = 0.0
    parallel: int = 0
    reserved_tokens: int = 0
    reserved_money: int = 0
    day_tokens: int = 0
    month_tokens: int = 0
    day_money: int = 0
    month_money: int = 0


class Account:
    """One subject's counts. Buckets hold what was asked and drain evenly within a minute; reservations are held until they are settled.

    Itself `Counts`, true after `drain` and `turn`: a decision reads it without a copy. `day`: the one that it counts.
    """

    __slots__ = (
        "_at", "_month", "day", "day_money", "day_tokens", "month_money", "month_tokens", "name", "parallel", "requests", "reserved_money",
        "reserved_tokens", "tokens",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.parallel = 0
        self.reserved_tokens = 0
        self.reserved_money = 0
        self.day_tokens = self.month_tokens = self.day_money = self.month_money = 0
        self.requests = 0.0
        self.tokens = 0.0
        self._at = 0.0
        self.day = self._month = ""

    def used(self, calendar: Calendar) -> Used:
        """What was used up in the current day and month."""
        self.turn(calendar)
        return Used(self.day_tokens, self.month_tokens, self.day_money, self.month_money)

    def drain(self, now: float, rpm: int, tpm: int) -> None:
        """Let time pass for the buckets, up to `now` (monotonic seconds). `rpm`, `tpm`: a minute's worth; 0: that bucket does not matter."""
        passed = (now - self._at) / 60.0
        self._at = now
        if self.requests:
            rest = self.requests - passed * rpm if rpm else 0.0
            self.requests = rest if rest > 0.0 else 0.0
        if self.tokens:
            rest = self.tokens - passed * tpm if tpm else 0.0
            self.tokens = rest if rest > 0.0 else 0.0

    def turn(self, calendar: Calendar) -> None:
        """Begin a new day, or a new month, when it is one. What is reserved stays reserved."""
        if self.day != calendar.day:
            self.day_tokens = self.day_money = 0
            self.day = calendar.day
            if self._month != calendar.month:
                self.month_tokens = self.month_money = 0
                self._month = calendar.month

    def take(self, demand: Demand, need: int) -> None:
        """A request begins. `need`: tokens for the minute's bucket."""
        self.requests += 1.0
        self.tokens += need
        self.parallel += 1
        self.reserved_tokens += demand.tokens
        self.reserved_money += demand.money

    def settle(self, demand: Demand, need: int, tokens: int) -> None:
        """It is over: what it reserved is free, what it used in truth stays in the bucket."""
        rest = self.tokens + tokens - need
        self.tokens = rest if rest > 0.0 else 0.0
        self.parallel -= 1
        self.reserved_tokens -= demand.tokens
        self.reserved_money -= demand.money

    def spend(self, calendar: Calendar, tokens: int, money: int) -> None:
        """Tokens and money are gone."""
        if self.day != calendar.day:
            self.turn(calendar)
        self.day_tokens += tokens
        self.month_tokens += tokens
        self.day_money += money
        self.month_money += money

    def know(self, calendar: Calendar, used: Used) -> None:
        """What was used is known better elsewhere: from the store, or from Redis."""
        self.turn(calendar)
        self.day_tokens, self.month_tokens, self.day_money, self.month_money = used

"""The circuit breaker of one endpoint: from what became of its requests it decides whether it gets more.

Closed: it does. Open: nobody asks it until `retry_at`. Half-open: one request at a time tries it; the first that it answers closes the
circuit, a failure opens it for longer. Not responsible for who else could be asked (`balance`), nor for what clients are told (`hold`).
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lamplighter.config.routing import BreakerConfig


class Outcome(StrEnum):
    """How an exchange with a target ended, as far as it tells of the target's health."""

    OK = "ok"
    """It answered properly, an error of the client's making included."""
    CANCELLED = "cancelled"
    """We ended it: says nothing about the target."""
    CONNECT = "connect"
    LOST = "lost"
    """It ended the connection before the answer was whole."""
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    STATUS = "status"
    """It answered 502, 503 or 504."""
    ERROR = "error"
    """It answered 500, or another status above: perhaps the request's own fault, so it counts for the ratio alone."""


WORDS = {
    Outcome.CONNECT: "no connection",
    Outcome.LOST: "it closed the connection within an answer",
    Outcome.TIMEOUT: "it was silent for too long",
    Outcome.PROTOCOL: "its answers are not proper HTTP",
    Outcome.STATUS: "it answers 502, 503 or 504",
    Outcome.ERROR: "it answers with status 500",
}
"""What failed, for people."""


class State(StrEnum):
    """Of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


LEVEL = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
"""The states as numbers, for the metric."""
_JITTER = 0.2
"""Several gateways must not try an endpoint in step."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a breaker shows. `since`: when it closed last, or first opened; `retry_at`: when a request may try again; `tried_at`: when the
    last one began to (all Unix seconds).

    `failures`: in a row; `reason`: what the last one was, for people.
    """

    state: State
    since: float
    failures: int
    retry_at: float | None
    tried_at: float | None
    reason: str | None


class Breaker:
    """One endpoint's. `now` is always the monotonic clock, in seconds."""

    __slots__ = (
        "_chance",
        "_config",
        "_opened",
        "bad",
        "good",
        "last",
        "lasting",
        "retry_at",
        "since",
        "state",
        "streak",
        "tried_at",
        "window_at",
    )

    def __init__(self, config: BreakerConfig, now: float, chance: Callable[[], float] = random.random) -> None:
        self._config = config
        self._chance = chance
        self._opened = 0
        """How often in a row it opened, without a while of health between."""
        self.state = State.CLOSED
        self.since = now
        """When it was closed last; while it is not closed: when it first opened."""
        self.retry_at = 0.0
        """When the next request may try, while it is not closed."""
        self.tried_at: float | None = None
        self.lasting = 0.0
        """Seconds for which it opened last."""
        self.streak = 0
        self.good = 0
        """Proper answers since the window began; whoever releases a target counts them, with `streak` set to zero."""
        self.bad = 0
        self.window_at = -math.inf
        self.last: Outcome | None = None

    def failed(self, outcome: Outcome, now: float) -> bool:
        """A request failed so; whether the circuit opened by it."""
        self.last = outcome
        if outcome is not Outcome.ERROR:
            self.streak += 1
        if self.state is State.OPEN:
            return False  # one that was under way already
        if self.state is State.HALF_OPEN:
            return self._open(now)
        if now - self.window_at > self._config.window:
            self.window_at, self.good, self.bad = now, 0, 0
        self.bad += 1
        seen = self.good + self.bad
        rotten = seen >= self._config.least_requests and self.bad >= self._config.ratio * seen
        return self._open(now) if rotten or self.streak >= self._config.failures else False

    def answered(self, now: float) -> bool:
        """It answered a request that was sent while the circuit was half-open; whether that closed it."""
        if self.state is not State.HALF_OPEN:
            return False
        self.state, self.since = State.CLOSED, now
        self.streak = self.bad = self.good = 0
        self.tried_at = None
        self.window_at = -math.inf
        return True

    def attempt(self, now: float) -> None:
        """A request is about to try it: the next may do so when this one has had as long as the circuit was open."""
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN
        self.tried_at = now
        self.retry_at = now + max(self.lasting, float(self._config.open))

    def abandoned(self, now: float) -> None:
        """The request that tried it was cancelled: another one may."""
        if self.state is State.HALF_OPEN:
            self.retry_at = now

    def healthy(self, now: float) -> None:
        """A health check found it well: the next request may try it at once."""
        if self.state is State.OPEN:
            self.retry_at = now

    def report(self, now: float, wall: float) -> Report:
        """For people and metrics. `wall`: Unix seconds at `now`."""
        if self.state is State.CLOSED:
            return Report(self.state, wall + self.since - now, self.streak, None, None, None)
        tried_at = None if self.tried_at is None else wall + self.tried_at - now
        reason = None if self.last is None else WORDS[self.last]
        return Report(self.state, wall + self.since - now, self.streak, wall + self.retry_at - now, tried_at, reason)

    def _open(self, now: float) -> bool:
        if self.state is State.CLOSED:
            if now - self.since > self._config.window:  # it was well for a while: this is a new trouble
                self._opened = 0
            self.since = now
        self._opened += 1
        lasting = min(float(self._config.open_max), float(self._config.open) * 2.0 ** min(self._opened - 1, 30))
        self.lasting = lasting * (1 - _JITTER * self._chance())
        self.state = State.OPEN
        self.retry_at = now + self.lasting
        return True

"""How often and when a request may be tried again: a budget, so that retries never multiply an overload, and a pause with full jitter.
And which errors another model may stand in for.

Not responsible for which failures may be tried again on the same model, nor where: that is `dispatch` and `lane`.
"""

import random
from collections.abc import Callable

from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import WakeFailure

BASE = 0.1
"""Seconds: the most that the first pause lasts; doubles with each further one."""
LONGEST = 2.0
"""Seconds: the most that any pause lasts."""
WINDOW = 10.0
"""Seconds of requests from which a budget is made."""
_CROWDED = frozenset({"queue_full", "model_busy"})
_OURS = frozenset({"gateway_stopping", "model_waking", "model_asleep"})
"""Errors of 500 and above that no other model is the answer to."""
_WAKE_FAILURES = frozenset(reason.value for reason in WakeFailure)


def backoff(attempt: int, *, chance: Callable[[], float] = random.random) -> float:
    """Seconds to pause before the `attempt`-th retry (from 1): anything between nothing and a bound that doubles.

    Full jitter: those who failed together do not come back together.
    """
    return chance() * min(LONGEST, BASE * 2.0 ** (attempt - 1))


class RetryBudget:
    """What one model may spend on retries: a share of its requests of the last ten seconds, and a few per second in any case.

    Requests are counted by whoever sends them (`started`): the budget looks at the count only when a retry is wanted.
    """

    __slots__ = ("_clock", "_looked_at", "_minimum", "_ratio", "_seen", "_tokens", "refused", "started")

    def __init__(self, ratio: float, minimum: float, clock: Clock) -> None:
        """`ratio`: retries per request; `minimum`: retries per second."""
        self._ratio = ratio
        self._minimum = minimum
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._seen = 0
        self._tokens = minimum * WINDOW
        self.started = 0
        """Requests sent so far."""
        self.refused = 0
        """Retries that were wanted and not made."""

    def spend(self) -> bool:
        """Whether one more retry may be made; it counts as made then."""
        now = self._clock.monotonic()
        passed = now - self._looked_at
        fresh = min(1.0, WINDOW / passed) if passed > 0 else 1.0  # the part of what happened that is not older than the window
        earned = (self._ratio * (self.started - self._seen) + self._minimum * passed) * fresh
        self._tokens = self._tokens * max(0.0, 1.0 - passed / WINDOW) + earned
        self._looked_at, self._seen = now, self.started
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        return True


def falls_back(error: RequestError, *, full: bool) -> bool:
    """Whether another model may answer instead: this one could not be woken, is not asked for now, or failed before its first byte.

    Not while it still wakes (`while_waking` is for that), not when the gateway stops, and never for what the client did wrong.
    `full`: also when it has no room left.
    """
    if error.code in _CROWDED:
        return full
    if error.code in _OURS:
        return False
    return error.status >= 500 or (error.code in _WAKE_FAILURES and error.status != 404)  # 404: there is no such model at all

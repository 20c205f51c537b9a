"""Retries: how long to pause, how many to spend, and when another model stands in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.gateway.retries import LONGEST, WINDOW, RetryBudget, backoff, falls_back
from lamplighter.testing.clock import VirtualClock


@given(st.integers(1, 1000), st.floats(0, 1))
def test_pauses_are_anything_up_to_a_bound_that_doubles(attempt: int, chance: float) -> None:
    """Requests that failed together would come back together, or only after minutes."""
    assert 0 <= backoff(attempt, chance=lambda: chance) <= LONGEST


def test_the_bound_doubles() -> None:
    """A struggling engine would be asked again and again at the same pace."""
    assert [backoff(attempt, chance=lambda: 1.0) for attempt in (1, 2, 3, 4, 5, 6, 7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_a_quiet_model_may_retry() -> None:
    """The only request of the hour would fail because there were too few others."""
    budget = RetryBudget(0.2, 3, VirtualClock())
    budget.started = 1
    assert budget.spend()
    assert budget.spend()


async def test_retries_never_exceed_their_share_for_long() -> None:
    """An engine that is overloaded would get three times the load from retries."""
    clock = VirtualClock()
    budget = RetryBudget(0.2, 3, clock)
    spent = 0
    seconds, rate = 120, 100
    for _ in range(seconds):
        budget.started += rate
        await clock.advance(1)
        spent += sum(budget.spend() for _ in range(rate))
    # What the window at the beginning held, and then a fifth and three a second.
    assert spent <= seconds * (0.2 * rate + 3) + 3 * WINDOW + 1
    assert spent >= 0.9 * seconds * (0.2 * rate + 3)


async def test_what_was_saved_up_is_lost_after_the_window() -> None:
    """After a calm night a failing engine would get thousands of retries at once."""
    clock = VirtualClock()
    budget = RetryBudget(0.2, 3, clock)
    for _ in range(3600):
        budget.started += 100
        await clock.advance(1)
    spent = 0
    while budget.spend():
        spent += 1
    assert 0.2 * 100 + 3 <= spent <= (0.2 * 100 + 3) * WINDOW + 1


async def test_none_is_none() -> None:
    """Somebody who turned retries off would still get some."""
    budget = RetryBudget(0, 0, VirtualClock())
    budget.started = 1000
    assert not budget.spend()


@pytest.mark.parametrize(
    ("status", "code", "full", "expected"),
    [
        (503, "circuit_open", False, True),
        (502, "upstream_lost", False, True),
        (504, "upstream_timeout", False, True),
        (503, "unreachable", False, True),
        (429, "queue_full", False, False),
        (429, "queue_full", True, True),
        (503, "model_busy", False, False),
        (503, "model_busy", True, True),
        (503, "gateway_stopping", True, False),
        (503, "model_waking", True, False),
        (503, "model_asleep", True, False),
        (400, "invalid_value", True, False),
        (404, "model_not_found", True, False),
        (429, "rate_limit_exceeded", True, False),
        (429, "insufficient_quota", True, False),
    ],
)
def test_which_errors_another_model_stands_in_for(status: int, code: str, full: bool, expected: bool) -> None:
    """A client's own mistake would be answered by another model, or a dead engine by nobody."""
    assert falls_back(RequestError("x", status=status, code=code), full=full) is expected


@pytest.mark.parametrize("reason", list(WakeFailure))
def test_a_wake_that_failed_for_good_falls_back(reason: WakeFailure) -> None:
    """The chain would be of no use exactly when it is wanted."""
    assert falls_back(RequestError("x", status=VERDICTS[reason].status, code=reason.value), full=False)

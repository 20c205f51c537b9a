"""The circuit of one endpoint, by the clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.config.routing import BreakerConfig
from lamplighter.gateway.breaker import Breaker, Outcome, State

FAILURES = [Outcome.CONNECT, Outcome.LOST, Outcome.TIMEOUT, Outcome.PROTOCOL, Outcome.STATUS]


def breaker(chance: float = 0.0, **settings: object) -> Breaker:
    return Breaker(BreakerConfig.model_validate(settings), 0.0, lambda: chance)


def opened(one: Breaker, now: float = 0.0) -> Breaker:
    for _ in range(5):
        one.failed(Outcome.CONNECT, now)
    assert one.state is State.OPEN
    return one


def well(one: Breaker) -> None:
    """A proper answer, as `Lane.release` counts it."""
    one.good += 1
    one.streak = 0


@pytest.mark.parametrize("outcome", FAILURES)
def test_failures_in_a_row_open_it(outcome: Outcome) -> None:
    """Every client would find out anew that an engine is dead, each after its own timeout."""
    one = breaker(failures=3)
    assert [one.failed(outcome, 1.0) for _ in range(3)] == [False, False, True]
    assert one.state is State.OPEN
    assert one.retry_at == 3.0


def test_an_answer_between_starts_the_count_again() -> None:
    """An engine that drops one connection a day would be shut out after five days."""
    one = breaker(failures=3, ratio=1)
    for _ in range(10):
        one.failed(Outcome.LOST, 1.0)
        one.failed(Outcome.LOST, 1.0)
        well(one)
    assert one.state is State.CLOSED


def test_a_large_share_of_failures_opens_it_without_a_row() -> None:
    """An engine that fails every other request would go on to do so."""
    one = breaker(least_requests=10)
    states = []
    for index in range(12):
        if index % 2:
            well(one)
        else:
            one.failed(Outcome.STATUS, float(index))
        states.append(one.state)
    assert states.index(State.OPEN) == 10  # the first failure with ten or more requests seen


def test_failures_long_apart_have_no_share_together() -> None:
    """Failures of last week would count against an engine that is well."""
    one = breaker(least_requests=4, failures=100, window="10s")
    for index in range(50):
        one.failed(Outcome.STATUS, index * 11.0)
    assert one.state is State.CLOSED


def test_a_500_counts_for_the_share_alone() -> None:
    """One client with a request that an engine chokes on could shut everybody out with a handful of tries."""
    one = breaker(failures=3, least_requests=20)
    for _ in range(19):
        assert not one.failed(Outcome.ERROR, 1.0)
    assert one.failed(Outcome.ERROR, 1.0)  # but an engine that answers nothing else is broken


def test_one_trial_closes_it() -> None:
    """An engine that is back would not be used, or be flooded at once."""
    one = opened(breaker())
    one.attempt(2.0)
    assert one.state is State.HALF_OPEN
    assert one.retry_at == 4.0  # nobody else until the trial has had its time
    assert one.answered(2.5)
    assert (one.state, one.streak) == (State.CLOSED, 0)
    assert not one.answered(2.6)


def test_each_failed_trial_doubles_the_pause_up_to_a_bound() -> None:
    """A dead endpoint would be tried every two seconds for ever; or one that is back would be noticed after hours."""
    one, now, pauses = opened(breaker()), 0.0, []
    for _ in range(8):
        pauses.append(one.retry_at - now)
        now = one.retry_at
        one.attempt(now)
        assert one.failed(Outcome.TIMEOUT, now)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_is_short_again_after_a_while_of_health() -> None:
    """The first hiccup of a new day would shut an engine out for a minute."""
    one = opened(breaker())
    for _ in range(3):
        one.attempt(one.retry_at)
        one.failed(Outcome.CONNECT, one.retry_at)
    one.attempt(50.0)
    one.answered(50.0)
    opened(one, 51.0)
    assert one.lasting > 2.0  # it was well for a second: the same trouble
    one.attempt(100.0)
    one.answered(100.0)
    opened(one, 200.0)
    assert one.lasting == 2.0


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens_and_only_a_little(chance: float) -> None:
    """Many gateways would try an endpoint in the same moment; or one would try it without pause."""
    assert 1.6 <= opened(breaker(chance)).lasting <= 2.0


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    """Old requests that fail one by one would prolong the pause each; an old one that ends well would let everybody in."""
    one = opened(breaker())
    retry_at = one.retry_at
    assert not one.failed(Outcome.LOST, 1.0)
    assert not one.answered(1.0)
    assert (one.state, one.retry_at) == (State.OPEN, retry_at)


def test_a_cancelled_trial_lets_another_one_try() -> None:
    """A client that leaves during its trial would keep the circuit open for everybody."""
    one = opened(breaker())
    one.attempt(2.0)
    one.abandoned(2.1)
    assert one.retry_at == 2.1


def test_a_good_health_check_ends_the_pause() -> None:
    """An engine that the keeper found well would stay shut out for the rest of the minute."""
    one = opened(breaker())
    one.healthy(0.5)
    assert one.retry_at == 0.5
    closed = breaker()
    closed.healthy(1.0)
    assert closed.state is State.CLOSED


def test_what_it_shows() -> None:
    """Status would lie about since when, why and until when an endpoint is not asked."""
    one = breaker()
    shown = one.report(10.0, 1010.0)
    assert (shown.state, shown.retry_at, shown.reason) == (State.CLOSED, None, None)
    opened(one, 20.0)
    shown = one.report(21.0, 1021.0)
    assert (shown.state, shown.since, shown.failures, shown.retry_at) == (State.OPEN, 1020.0, 5, 1022.0)
    assert shown.reason == "no connection"
    one.attempt(22.0)
    shown = one.report(23.0, 1023.0)
    assert (shown.state, shown.since, shown.tried_at) == (State.HALF_OPEN, 1020.0, 1022.0)


@given(st.lists(st.tuples(st.sampled_from([*Outcome, "attempt", "healthy"]), st.floats(0, 30)), max_size=100))
def test_no_history_leaves_it_shut_for_good(history: list[tuple[str, float]]) -> None:
    """Some order of events would shut an endpoint out for ever."""
    one, now = breaker(), 0.0
    for step, passed in history:
        now += passed
        if step == "attempt":
            if one.state is not State.CLOSED and now >= one.retry_at:
                one.attempt(now)
        elif step == "healthy":
            one.healthy(now)
        elif step == Outcome.CANCELLED:
            one.abandoned(now)
        elif step == Outcome.OK:
            if one.state is State.CLOSED:
                well(one)
            else:
                one.answered(now)
        else:
            one.failed(Outcome(step), now)
        if one.state is not State.CLOSED:
            assert one.retry_at <= now + 60
            assert math.isfinite(one.retry_at)
    if one.state is not State.CLOSED:
        now = max(now, one.retry_at)
        one.attempt(now)
        assert one.answered(now)
    assert one.state is State.CLOSED

"""Estimates of wakes, and pauses after failures: the arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.capacity.eta import Eta, estimate, expect_warm, pull_seconds, quantile
from lamplighter.capacity.wakebook import attempt_after, backoff, failure_of, merged
from lamplighter.config import defaults
from lamplighter.core.reasons import LossReason, StopReason, WakeFailure
from lamplighter.providers.base import Observation, Presence, StageReport
from lamplighter.store.wakes import Stage, Wake

KEEPER = defaults().keeper


def a_wake(seconds: float = 10.0, *, warm: bool = True, pull: float = 0.0, **more: object) -> Wake:
    wake = Wake(
        id="w", pool="p", model="m", started_at=100.0, ended_at=100.0 + seconds, outcome="ready", reason=None, detail=None, attempt=1,
        retry_at=None, stages=(Stage("pull", 100.0, 100.0 + pull),), warm=warm, eta_p50=None, eta_p90=None,
    )  # fmt: skip
    return replace(wake, **more)  # type: ignore[arg-type] # the fields' names are checked by dataclasses


def test_warm_and_cold_are_not_mixed() -> None:
    """If this fails, a two-second wake is announced as ten minutes, or the other way round."""
    past = [a_wake(2.0), a_wake(3.0), a_wake(600.0, warm=False, pull=590.0)]
    assert estimate(past, warm=True) == Eta(2.5, 2.9)
    assert estimate(past, warm=False) == Eta(600.0, 600.0)
    assert estimate(past[:2], warm=False) is None
    assert estimate(past[2:], warm=True) == Eta(10.0, 10.0)
    assert estimate([], warm=True) is None


def test_what_is_expected_next() -> None:
    """If this fails, the second wake is announced with the first one's download."""
    assert not expect_warm([])
    assert expect_warm([a_wake(warm=False)])
    assert not expect_warm([a_wake(warm=False), a_wake(warm=False)])
    assert expect_warm([a_wake(), a_wake(warm=False)])


def test_a_pull_is_measured_while_it_runs() -> None:
    """If this fails, a download in progress looks like a warm wake."""
    assert pull_seconds([Stage("load", 1.0)], 9.0) is None
    assert pull_seconds([Stage("pull")], 9.0) is None
    assert pull_seconds([Stage("pull", 1.0)], 9.0) == 8.0
    assert pull_seconds([Stage("pull", 1.0, 4.0)], 9.0) == 3.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_its_values(values: list[float], share: float) -> None:
    """If this fails, an ETA is longer than the longest wake ever seen."""
    assert min(values) - 1e-6 <= quantile(values, share) <= max(values) + 1e-6
    assert quantile(values, 0.0) == min(values)
    assert quantile(values, 1.0) == max(values)


def test_pauses_double_up_to_their_limit() -> None:
    """If this fails, a broken model is tried all the time, or next week."""
    assert [backoff(attempt, KEEPER) for attempt in (1, 2, 3, 6, 7, 10**6)] == [2.0, 4.0, 8.0, 64.0, 120.0, 120.0]


@pytest.mark.parametrize(
    ("latest", "attempt"),
    [
        (None, 1),
        (a_wake(), 1),
        (a_wake(outcome="failed", attempt=3, retry_at=1000.0), 4),
        (a_wake(outcome="failed", attempt=3, retry_at=None), 1),  # forgiven
        (a_wake(outcome="failed", attempt=3, retry_at=1000.0 - 121), 1),  # long ago
        (a_wake(outcome="cancelled", attempt=3), 1),
    ],
)
def test_failures_in_a_row_are_counted(latest: Wake | None, attempt: int) -> None:
    """If this fails, yesterday's failures make today's first one final."""
    assert attempt_after(latest, 1000.0, KEEPER) == attempt


def test_what_a_replica_s_end_means_for_its_wake() -> None:
    """If this fails, those who wait are told the wrong cause, or a wake that was called off counts as broken."""
    assert failure_of(WakeFailure.QUOTA) is WakeFailure.QUOTA
    assert failure_of(StopReason.ASKED) is None
    assert failure_of(None) is None
    assert {failure_of(reason) for reason in LossReason} == {
        WakeFailure.ENGINE_CRASHED, WakeFailure.PROVIDER_ERROR, WakeFailure.NO_CAPACITY,
    }  # fmt: skip


def test_stages_to_come_are_shown_too() -> None:
    """If this fails, the wake card cannot show what is still ahead."""
    seen = Observation(
        "h", ("m",), Presence.RUNNING, stages=(StageReport("boot", 1.0, 2.0, 1.0, "up"), StageReport("extra", 2.0))
    )
    assert merged(("boot", "load"), seen) == (Stage("boot", 1.0, 2.0, 1.0, "up"), Stage("load"), Stage("extra", 2.0))
    assert merged(("boot",), None) == (Stage("boot"),)


def test_a_stage_that_was_not_needed_is_left_out() -> None:
    """If this fails, "fetching the model" stays open above stages that are long done, although there was nothing to fetch."""
    seen = Observation("h", ("m",), Presence.RUNNING, stages=(StageReport("start", 1.0),))
    assert merged(("pull", "start", "load"), seen) == (Stage("start", 1.0), Stage("load"))
    assert merged(("pull", "start", "load"), None) == (Stage("pull"), Stage("start"), Stage("load"))

"""What becomes of a rollout: the state table, the comparisons, and properties that hold whatever was seen."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.capacity.rollout import (
    FLOOR,
    PATIENCE,
    Checked,
    Decision,
    Observed,
    Verdict,
    decide,
    failures,
    slowness,
    wilson_lower,
)
from lamplighter.core.rollouts import TRANSITIONS, WHOLE, Because, Order, Phase, Strategy, base, legal, target_name
from lamplighter.store.outcomes import Seen, bounds, bucket
from lamplighter.store.rollouts import Rollout, Settings

P = Phase
NOW = 1_000_000.0
GOOD = Seen(200, 0, Counter({bucket(0.2): 200}))


def rollout(phase: Phase = P.SERVING, **changes: Any) -> Rollout:
    """One that began ten minutes ago and came into its phase a minute ago, with steps of half a minute."""
    made = Rollout(
        id="rol_1", name="m", stable="m", candidate="m@r", revision="r", settings=Settings(every=30.0, settle=30.0), basis={}, phase=phase,
        step=0 if phase in (P.SERVING, P.PAUSED) else -1, since=NOW - 60, resumes=None, reason=None, detail=None, asked=None,
        created_at=NOW - 600, ended_at=None,
    )  # fmt: skip
    return replace(made, **changes)


def seen(**changes: Any) -> Observed:
    """A healthy candidate with enough traffic, freshly checked."""
    usual: dict[str, Any] = {
        "ready": 1, "checked": Checked(NOW - 1, True), "stable": GOOD, "candidate": GOOD, "elsewhere": 200, "patience": 900.0,
    }  # fmt: skip
    return Observed(**{**usual, **changes})


def times(*seconds: float, each: int = 30) -> Counter[int]:
    found: Counter[int] = Counter()
    for one in seconds:
        found[bucket(one)] += each
    return found


# -- the table


def test_what_ended_stays_so() -> None:
    """If this fails, a model that was rolled back comes back by itself. Only a person takes a promotion back."""
    for phase in P:
        assert not legal(phase, phase) or phase is P.SERVING
        assert phase in TRANSITIONS
    assert TRANSITIONS[P.ROLLED_BACK] == frozenset()
    assert TRANSITIONS[P.PROMOTED] == {P.ROLLED_BACK}
    assert all(P.ROLLED_BACK in TRANSITIONS[phase] for phase in P if phase is not P.ROLLED_BACK)


def test_a_target_names_its_model() -> None:
    """If this fails, a revision gets limits of its own, or hides a model of that name."""
    assert target_name("org/m:1", "v2/x") == "org/m:1@v2/x"
    assert base("org/m:1@v2/x") == "org/m:1"
    assert base("m") == "m"


# -- the way of one that is well


def test_the_way_of_a_canary() -> None:
    """If this fails, a step is left out, or somebody is sent to a candidate that nobody has checked."""
    waking = rollout(P.WAKING, since=NOW - 5)
    assert decide(waking, seen(ready=0), NOW) == Decision()
    assert decide(waking, seen(), NOW).phase is P.CHECKING
    checking = rollout(P.CHECKING, since=NOW - 5)
    assert decide(checking, seen(checked=None), NOW) == Decision(check=True)
    assert decide(checking, seen(checked=Checked(NOW - 6, True)), NOW) == Decision(check=True)  # an older one counts for nothing
    assert decide(checking, seen(), NOW) == Decision(P.SERVING, step=0, reason=Because.CHECKED)
    assert decide(checking, seen(ready=0), NOW).phase is P.WAKING
    step = decide(rollout(step=0), seen(), NOW)
    assert (step.phase, step.step, step.reason) == (P.SERVING, 1, Because.STEP_PASSED)
    assert decide(rollout(step=0, since=NOW - 29), seen(), NOW) == Decision()
    last = decide(rollout(step=3), seen(), NOW)
    assert (last.phase, last.reason) == (P.PROMOTED, Because.STEP_PASSED)


def test_blue_green_has_one_step() -> None:
    """If this fails, blue-green sends a part of the people, or promotes before the settle time is over."""
    both = Settings(strategy=Strategy.BLUE_GREEN, settle=100.0, every=1.0)
    one = rollout(settings=both)
    assert one.weight == WHOLE
    assert one.last_step
    assert decide(one, seen(), NOW) == Decision()
    assert decide(replace(one, since=NOW - 100), seen(checked=Checked(NOW, True)), NOW).phase is P.PROMOTED


def test_each_step_ends_with_a_fresh_check() -> None:
    """If this fails, a candidate that began to answer nonsense is promoted because it does so quickly."""
    assert decide(rollout(), seen(checked=Checked(NOW - 45, True)), NOW) == Decision(check=True)
    wrong = decide(rollout(), seen(checked=Checked(NOW - 1, False, "it says no")), NOW)
    assert (wrong.phase, wrong.reason, wrong.detail) == (P.ROLLED_BACK, Because.CHECK_FAILED, "it says no")


def test_without_traffic_the_check_decides() -> None:
    """If this fails, a change never ends where nobody asks, or at night."""
    nobody = seen(candidate=Seen(), stable=Seen(), elsewhere=0)
    quiet = decide(rollout(), nobody, NOW)
    assert (quiet.phase, quiet.step, quiet.reason) == (P.SERVING, 1, Because.QUIET)
    assert decide(rollout(step=3), nobody, NOW).phase is P.PROMOTED
    # Somebody asks, and too few of them came to the candidate yet: wait for more, but not for ever.
    few = seen(candidate=Seen(3, 0))
    assert decide(rollout(), few, NOW) == Decision()
    assert decide(rollout(since=NOW - 30 * PATIENCE), few, NOW).reason is Because.QUIET


# -- the ways of one that is not


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"candidate": Seen(100, 20)}, Because.ERRORS),
        ({"candidate": Seen(3, 3)}, Because.ERRORS),
        ({"candidate": Seen(200, 0, times(1.0, each=200))}, Because.SLOW),
        ({"ready": 0, "hopeless": "out of memory"}, Because.WAKE_FAILED),
        ({"ready": 0, "unready_for": 901.0}, Because.NOT_AWAKE),
        ({"gone": "there is no such model"}, Because.GONE),
        ({"changed": "it was changed"}, Because.FILE_CHANGED),
    ],
)
@pytest.mark.parametrize("phase", [P.SERVING, P.PAUSED])
def test_what_is_bad_is_rolled_back_at_once(phase: Phase, changes: dict[str, Any], reason: Because) -> None:
    """If this fails, people go on being sent to a broken model until a step is over, or because somebody paused."""
    found = decide(rollout(phase, since=NOW - 1), seen(**changes), NOW)
    assert (found.phase, found.reason) == (P.ROLLED_BACK, reason)


def test_a_candidate_that_never_wakes_is_given_up() -> None:
    """If this fails, a change hangs for ever in a full pool, without a word why."""
    full = seen(ready=0, room="the pool 'gpu' is full (x)")
    assert decide(rollout(P.WAKING), full, NOW) == Decision()
    found = decide(rollout(P.WAKING, since=NOW - 901, created_at=NOW - 901), full, NOW)
    assert (found.phase, found.reason) == (P.ROLLED_BACK, Because.NOT_AWAKE)
    assert "is full" in (found.detail or "")


def test_fewer_replicas_than_wanted_do_when_there_is_no_room() -> None:
    """If this fails, a change waits for replicas that its pool can never hold."""
    assert decide(rollout(P.WAKING), seen(ready=1, wanted=3), NOW) == Decision()
    assert decide(rollout(P.WAKING), seen(ready=1, wanted=3, room="the pool holds 2"), NOW).phase is P.CHECKING


def test_a_lost_candidate_is_waited_for_and_nobody_is_promoted_meanwhile() -> None:
    """If this fails, a spot machine that is taken back ends a change, or one that is not there is promoted."""
    assert decide(rollout(), seen(ready=0, unready_for=10.0), NOW) == Decision()


def test_both_unhealthy_promotes_nobody() -> None:
    """If this fails, an outage of everything blames the candidate, or promotes it."""
    both = seen(candidate=Seen(100, 40), stable=Seen(100, 40))
    assert decide(rollout(), both, NOW) == Decision()
    late = decide(rollout(since=NOW - 30 * PATIENCE), both, NOW)
    assert (late.phase, late.reason) == (P.ROLLED_BACK, Because.UNDECIDED)


def test_the_whole_has_a_deadline() -> None:
    """If this fails, a change that somebody paused and forgot keeps two machines burning."""
    for phase in (P.WAKING, P.CHECKING, P.SERVING, P.PAUSED):
        found = decide(rollout(phase, created_at=NOW - 86_400), seen(), NOW)
        assert (found.phase, found.reason) == (P.ROLLED_BACK, Because.DEADLINE)


# -- people


def test_people_have_the_first_word() -> None:
    """If this fails, the rollback button does nothing in some phase."""
    for phase in (P.WAKING, P.CHECKING, P.SERVING, P.PAUSED, P.PROMOTED):
        found = decide(rollout(phase, asked=Order.ROLLBACK), seen(ready=0, gone="everything"), NOW)
        assert (found.phase, found.reason) == (P.ROLLED_BACK, Because.ASKED)
        assert rollout(phase, asked=Order.ROLLBACK).weight == 0
    assert decide(rollout(P.PROMOTED), seen(ready=0), NOW) == Decision()
    assert decide(rollout(asked=Order.PROMOTE, since=NOW), seen(), NOW).phase is P.PROMOTED
    assert decide(rollout(asked=Order.PROMOTE, since=NOW), seen(ready=0), NOW) == Decision()  # nobody would answer
    assert decide(rollout(P.WAKING, asked=Order.PROMOTE), seen(), NOW).phase is P.CHECKING
    assert decide(rollout(asked=Order.PAUSE), seen(), NOW).phase is P.PAUSED
    assert decide(rollout(P.PAUSED), seen(), NOW + 10_000) == Decision()
    assert decide(rollout(P.PAUSED, asked=Order.RESUME), seen(), NOW).phase is P.SERVING
    assert decide(rollout(P.PAUSED, step=-1, asked=Order.RESUME), seen(), NOW).phase is P.WAKING
    assert decide(rollout(P.PAUSED, step=-1), seen(ready=0, unready_for=1e6), NOW) == Decision()


# -- comparing


def test_failures_are_judged_by_what_is_clear() -> None:
    """If this fails, one unlucky request ends a change, or a model that fails each tenth time is promoted."""
    judge: dict[str, Any] = {"allowed": 0.02, "samples": 20}
    assert failures(Seen(20, 1), GOOD, **judge) is Verdict.UNCLEAR
    assert failures(Seen(100, 1), GOOD, **judge) is Verdict.GOOD
    assert failures(Seen(2, 2), GOOD, **judge) is Verdict.UNCLEAR
    assert failures(Seen(3, 3), Seen(), **judge) is Verdict.BAD
    assert failures(Seen(100, 10), Seen(100, 10), **judge) is Verdict.BOTH
    assert failures(Seen(100, 3), Seen(100, 2), **judge) is Verdict.GOOD
    assert failures(Seen(1000, 100), Seen(1000, 10), **judge) is Verdict.BAD


def test_first_tokens_are_judged_by_median_and_tail() -> None:
    """If this fails, a slow candidate passes because it is quick half of the time, or milliseconds roll one back."""
    judge: dict[str, Any] = {"ratio": 1.5, "samples": 20}
    usual = Seen(200, 0, times(0.2, each=200))
    assert slowness(Seen(200, 0, times(0.25, each=200)), usual, **judge) is Verdict.GOOD
    assert slowness(Seen(200, 0, times(0.5, each=200)), usual, **judge) is Verdict.BAD
    tail = times(0.2, each=150)
    tail[bucket(5.0)] = 50
    assert slowness(Seen(200, 0, tail), usual, **judge) is Verdict.BAD
    quick = Seen(200, 0, times(0.002, each=200))
    assert slowness(Seen(200, 0, times(0.002 + FLOOR / 2, each=200)), quick, **judge) is Verdict.GOOD
    assert slowness(Seen(200, 0, times(9.0, each=19)), usual, **judge) is Verdict.GOOD  # too few to say anything


def test_buckets_hold_what_is_put_into_them() -> None:
    """If this fails, times are compared that nobody measured."""
    for one in (0.0, 0.0005, 0.001, 0.02, 0.5, 3.0, 600.0):
        least, most = bounds(bucket(one))
        assert least <= one * (1 + 1e-9) + 1e-12
        assert one <= most * (1 + 1e-9)
    assert bucket(1e12) == bucket(1e13)


COUNTS = st.integers(0, 400).flatmap(lambda requests: st.tuples(st.just(requests), st.integers(0, requests)))


@given(COUNTS)
def test_a_bound_is_never_more_than_what_was_seen(count: tuple[int, int]) -> None:
    """If this fails, a candidate is blamed for failures that did not happen."""
    requests, failed = count
    assert 0.0 <= wilson_lower(failed, requests) <= (failed / requests if requests else 0.0) + 1e-9


@given(COUNTS, COUNTS, st.floats(0, 0.3))
def test_more_failures_never_look_better(candidate: tuple[int, int], stable: tuple[int, int], allowed: float) -> None:
    """If this fails, a candidate is kept because it failed once more."""
    requests, failed = candidate
    if failed < requests and failures(Seen(*candidate), Seen(*stable), allowed=allowed, samples=20) is Verdict.BAD:
        assert failures(Seen(requests, failed + 1), Seen(*stable), allowed=allowed, samples=20) is Verdict.BAD


@given(st.integers(20, 400).flatmap(lambda requests: st.tuples(st.just(requests), st.integers(0, requests))), st.floats(0, 0.3))
def test_one_that_is_like_the_stable_target_is_never_bad(count: tuple[int, int], allowed: float) -> None:
    """If this fails, changes are rolled back for what was so before."""
    same = Seen(*count)
    assert failures(same, same, allowed=allowed, samples=20) is not Verdict.BAD


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=100), st.floats(1, 5))
def test_the_same_times_are_never_slow(found: list[float], ratio: float) -> None:
    """If this fails, changes are rolled back for being as quick as before."""
    same = Seen(len(found), 0, Counter(bucket(one) for one in found))
    assert slowness(same, same, ratio=ratio, samples=1) is Verdict.GOOD


SEENS = st.builds(
    lambda count, buckets: Seen(count[0], count[1], Counter(buckets)), COUNTS, st.lists(st.integers(0, 120), max_size=60)
)
OBSERVED = st.builds(
    Observed,
    ready=st.integers(0, 3),
    wanted=st.integers(1, 3),
    room=st.none() | st.just("full"),
    unready_for=st.floats(0, 2000),
    hopeless=st.none() | st.just("no"),
    checked=st.none() | st.builds(Checked, at=st.floats(NOW - 100, NOW), passed=st.booleans()),
    stable=SEENS,
    candidate=SEENS,
    elsewhere=st.integers(0, 100),
    gone=st.none() | st.just("gone"),
    changed=st.none() | st.just("changed"),
)
ROLLOUTS = st.builds(
    lambda phase, step, age, asked, strategy, old: rollout(
        phase, since=NOW - age, asked=asked, created_at=NOW - old - age, ended_at=NOW if phase.ended else None,
        step=-1 if phase in (P.WAKING, P.CHECKING) else step, settings=Settings(strategy=strategy, every=30.0, settle=30.0),
    ),
    st.sampled_from(P), st.integers(-1, 3), st.floats(0, 2000), st.none() | st.sampled_from(Order), st.sampled_from(Strategy),
    st.floats(0, 90_000),
)  # fmt: skip


@settings(max_examples=600)
@given(ROLLOUTS, OBSERVED)
def test_every_decision_is_legal_and_careful(one: Rollout, found: Observed) -> None:
    """If this fails, a keeper crashes on a move that the table forbids, promotes what is not awake, or sends people to what nobody checked."""
    one = replace(one, step=min(one.step, len(one.settings.weights) - 1))
    if one.phase is P.SERVING and one.step < 0:
        one = replace(one, step=0)
    decision = decide(one, found, NOW)
    if decision.phase is None:
        assert decision.step is None
        assert not decision.check or found.ready
        return
    assert legal(one.phase, decision.phase)
    assert decision.reason is not None
    if decision.phase is P.PROMOTED:
        assert found.ready
        assert found.gone is None
        assert found.changed is None
        if decision.reason is not Because.ASKED:
            assert one.last_step
            assert found.checked is not None
            assert found.checked.passed
            assert failures(found.candidate, found.stable, allowed=0.02, samples=20) is Verdict.GOOD
    if decision.phase is P.SERVING and decision.reason is not Because.ASKED:
        assert decision.step == one.step + 1
        assert found.checked is not None
        assert found.checked.passed
        assert found.ready
    if one.phase.ended:
        assert decision.reason is Because.ASKED


@given(ROLLOUTS, OBSERVED)
def test_a_rollout_always_ends(one: Rollout, found: Observed) -> None:
    """If this fails, there is a state in which a change stays for ever, whatever is seen."""
    one = replace(one, step=min(one.step, len(one.settings.weights) - 1))
    late = NOW + 200_000.0
    if not one.phase.ended:
        decision = decide(one, found, late)
        assert decision.phase is not None
        assert decision.phase.ended

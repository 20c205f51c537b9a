"""What the provider and the engine say of a replica, and what follows: one row each."""

from dataclasses import replace

import pytest

from lamplighter.capacity.plan import Policy
from lamplighter.capacity.reconcile import Change, bind, current_stage, transition
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import HealthReason, LossReason, StopReason, WakeFailure
from lamplighter.core.states import ReplicaState, legal
from lamplighter.engines.base import Health, Probe
from lamplighter.providers.base import Observation, Presence, StageReport
from lamplighter.store.replicas import Replica

S = ReplicaState
NOW = 1000.0
POLICY = Policy(boot_deadline=100.0, unreachable_after=3)
STATIC = Policy(elastic=False, unreachable_after=3)
SEEN = Observation("h1", ("m",), Presence.RUNNING, endpoint=Endpoint("http://h1"), started_at=NOW)
UP, LOADING, DOWN = Probe(Health.READY), Probe(Health.LOADING), Probe(Health.DOWN, "refused")
ASLEEP = Probe(Health.ASLEEP, "its weights are unloaded")
NEVER = Probe(Health.FAILED, "no", WakeFailure.OUT_OF_MEMORY)


def a_replica(state: ReplicaState, **more: object) -> Replica:
    row = Replica(
        id="r1", pool="p", handle="h1", models=("m",), state=state, since=NOW, reason=None, detail=None, stage=None, endpoint=None,
        context=None, epoch=1, created_at=NOW, ready_at=None, wake_id=None,
    )  # fmt: skip
    return replace(row, **more)  # type: ignore[arg-type] # the fields' names are checked by dataclasses


ENDED = replace(SEEN, presence=Presence.ENDED, detail="exit 1")
ENDING = replace(SEEN, presence=Presence.STOPPING)
BROKEN = replace(SEEN, presence=Presence.ENDED, failure=WakeFailure.MODEL_CORRUPT, detail="no GGUF")
TAKEN = replace(SEEN, presence=Presence.ENDED, loss=LossReason.SPOT_RECLAIMED)


@pytest.mark.parametrize(
    ("state", "observation", "probe", "misses", "expected"),
    [
        (S.LAUNCHING, SEEN, None, 0, (S.STARTING, None)),
        (S.STARTING, SEEN, ASLEEP, 1, None),
        (S.READY, SEEN, ASLEEP, 1, (S.PARKED, None)),
        (S.UNREACHABLE, SEEN, ASLEEP, 9, (S.PARKED, None)),
        (S.PARKED, SEEN, ASLEEP, 9, None),
        (S.PARKED, SEEN, DOWN, 1, None),
        (S.PARKED, SEEN, UP, 0, (S.STARTING, HealthReason.ANSWERED)),
        (S.LAUNCHING, SEEN, UP, 0, (S.STARTING, None)),
        (S.LAUNCHING, None, None, 0, (S.LOST, LossReason.VANISHED)),
        (S.LAUNCHING, BROKEN, None, 0, (S.FAILED, WakeFailure.MODEL_CORRUPT)),
        (S.LAUNCHING, ENDED, None, 0, (S.FAILED, WakeFailure.ENGINE_CRASHED)),
        (S.LAUNCHING, TAKEN, None, 0, (S.LOST, LossReason.SPOT_RECLAIMED)),
        (S.LAUNCHING, ENDING, None, 0, (S.STOPPING, StopReason.ASKED)),
        (S.STARTING, SEEN, None, 0, None),
        (S.STARTING, SEEN, LOADING, 9, None),
        (S.STARTING, SEEN, DOWN, 9, None),
        (S.STARTING, SEEN, UP, 0, (S.READY, None)),
        (S.STARTING, SEEN, NEVER, 1, (S.FAILED, WakeFailure.OUT_OF_MEMORY)),
        (S.STARTING, BROKEN, None, 0, (S.FAILED, WakeFailure.MODEL_CORRUPT)),
        (S.STARTING, None, None, 0, (S.LOST, LossReason.VANISHED)),
        (S.READY, SEEN, UP, 0, None),
        (S.READY, SEEN, None, 3, None),
        (S.READY, SEEN, DOWN, 2, None),
        (S.READY, SEEN, DOWN, 3, (S.UNREACHABLE, HealthReason.NO_ANSWER)),
        (S.READY, SEEN, LOADING, 3, (S.UNREACHABLE, HealthReason.NO_ANSWER)),
        (S.READY, SEEN, NEVER, 1, (S.FAILED, WakeFailure.OUT_OF_MEMORY)),
        (S.READY, ENDED, None, 0, (S.LOST, LossReason.CRASHED)),
        (S.READY, TAKEN, None, 0, (S.LOST, LossReason.SPOT_RECLAIMED)),
        (S.READY, None, None, 0, (S.LOST, LossReason.VANISHED)),
        (S.READY, ENDING, None, 0, (S.DRAINING, StopReason.UNOWNED)),
        (S.UNREACHABLE, SEEN, UP, 0, (S.READY, HealthReason.ANSWERED)),
        (S.UNREACHABLE, SEEN, DOWN, 99, None),
        (S.UNREACHABLE, ENDED, None, 0, (S.LOST, LossReason.CRASHED)),
        (S.UNREACHABLE, ENDING, None, 0, (S.DRAINING, StopReason.UNOWNED)),
        (S.PARKED, None, None, 0, (S.LOST, LossReason.VANISHED)),
        (S.PARKED, ENDING, None, 0, None),
        (S.DRAINING, SEEN, DOWN, 9, None),
        (S.DRAINING, ENDED, None, 0, (S.LOST, LossReason.CRASHED)),
        (S.DRAINING, None, None, 0, (S.LOST, LossReason.VANISHED)),
        (S.STOPPING, SEEN, None, 0, None),
        (S.STOPPING, None, None, 0, (S.GONE, None)),
        (S.LOST, ENDED, None, 0, None),
        (S.LOST, None, None, 0, (S.GONE, None)),
        (S.FAILED, None, None, 0, None),
        (S.GONE, None, None, 0, None),
    ],
)
def test_what_follows(
    state: ReplicaState,
    observation: Observation | None,
    probe: Probe | None,
    misses: int,
    expected: tuple[ReplicaState, object] | None,
) -> None:
    """If this fails, a replica is shown in a state that it is not in, or stays in one for ever."""
    change = transition(a_replica(state), observation, probe, POLICY, NOW, misses=misses)
    assert (change and (change.state, change.reason)) == expected
    if change is not None:
        assert legal(state, change.state)


def test_a_launch_that_is_not_shown_yet_waits_for_its_deadline() -> None:
    """If this fails, a slow provider's launches are thrown away, or a lost one blocks the pool."""
    row = a_replica(S.LAUNCHING, handle=None)
    assert transition(row, None, None, POLICY, NOW + 99) is None
    assert transition(row, None, None, POLICY, NOW + 100) == Change(
        S.FAILED, WakeFailure.BOOT_DEADLINE, "the provider never showed it"
    )


def test_a_late_wake_names_its_stage() -> None:
    """If this fails, a person does not learn what took so long."""
    change = transition(a_replica(S.STARTING, stage="pull"), SEEN, LOADING, POLICY, NOW + 100)
    assert change == Change(S.FAILED, WakeFailure.BOOT_DEADLINE, "it was still in the stage pull")


@pytest.mark.parametrize("probe", [DOWN, LOADING, NEVER])
def test_an_always_on_server_never_fails(probe: Probe) -> None:
    """If this fails, somebody else's server is given up because it was down once."""
    assert transition(a_replica(S.STARTING), SEEN, probe, STATIC, NOW + 1e6, misses=99) is None
    assert transition(a_replica(S.READY), SEEN, probe, STATIC, NOW, misses=2) is None
    change = transition(a_replica(S.READY), SEEN, probe, STATIC, NOW, misses=3)
    assert change is not None
    assert change.state is S.UNREACHABLE


def test_rows_and_replicas_find_each_other() -> None:
    """If this fails, a launch is done twice, or a stranger takes another model's place."""
    known = a_replica(S.READY, id="known", handle="h1")
    young = a_replica(S.LAUNCHING, id="young", handle=None, created_at=NOW + 1)
    older = a_replica(S.LAUNCHING, id="older", handle=None)
    failed = a_replica(S.FAILED, id="failed", handle=None, created_at=NOW - 9)
    other = a_replica(S.LAUNCHING, id="other", handle=None, models=("n",), created_at=NOW - 5)
    new = [replace(SEEN, handle=f"h{number}", started_at=NOW + number) for number in (2, 3, 4, 5)]
    binding = bind([known, young, older, failed, other], [SEEN, *reversed(new)])
    assert {row: seen.handle for row, seen in binding.seen.items()} == {
        "known": "h1",
        "older": "h2",
        "young": "h3",
        "failed": "h4",
    }
    assert list(binding.bound) == ["older", "young", "failed"]
    assert [stranger.handle for stranger in binding.strangers] == ["h5"]


def test_the_stage_is_the_one_that_runs() -> None:
    """If this fails, the page shows a stage that is over."""
    done, runs = StageReport("pull", 1.0, 2.0), StageReport("load", 2.0)
    assert current_stage(SEEN) is None
    assert current_stage(replace(SEEN, stages=(done,))) == "pull"
    assert current_stage(replace(SEEN, stages=(done, runs))) == "load"

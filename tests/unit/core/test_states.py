"""The lifecycle table is whole, and what a pool is follows from its replicas."""

import pytest

from lamplighter.core.states import HOLDING, SERVING, TRANSITIONS, WAKING, PoolState, ReplicaState, legal, pool_state

S = ReplicaState


def test_every_state_is_in_the_table_and_leads_to_gone() -> None:
    """If this fails, a replica can get stuck in a state for ever."""
    assert set(TRANSITIONS) == set(ReplicaState)
    for state in ReplicaState:
        reached, frontier = {state}, [state]
        while frontier:
            for target in TRANSITIONS[frontier.pop()] - reached:
                reached.add(target)
                frontier.append(target)
        assert S.GONE in reached


def test_every_state_but_the_first_can_be_reached() -> None:
    """If this fails, the table has a state that nothing ever enters."""
    assert set().union(*TRANSITIONS.values()) == set(ReplicaState) - {S.LAUNCHING}
    assert not any(state in targets for state, targets in TRANSITIONS.items())


def test_only_proof_of_absence_frees_a_place() -> None:
    """If this fails, a machine that still costs money is forgotten."""
    assert set(ReplicaState) - HOLDING == {S.GONE}
    assert [state for state, targets in TRANSITIONS.items() if S.GONE in targets] == [S.STOPPING, S.LOST]
    assert legal(S.DRAINING, S.READY)
    assert not legal(S.READY, S.GONE)
    assert not legal(S.GONE, S.READY)
    assert not WAKING & SERVING


@pytest.mark.parametrize(
    ("states", "failed", "expected"),
    [
        ([], False, PoolState.ASLEEP),
        ([], True, PoolState.FAILED),
        ([S.GONE], False, PoolState.ASLEEP),
        ([S.FAILED], True, PoolState.FAILED),
        ([S.LAUNCHING], True, PoolState.WAKING),
        ([S.STARTING, S.STOPPING], False, PoolState.WAKING),
        ([S.READY, S.STARTING, S.DRAINING], False, PoolState.AWAKE),
        ([S.UNREACHABLE], False, PoolState.AWAKE),
        ([S.DRAINING], False, PoolState.DRAINING),
        ([S.STOPPING], True, PoolState.DRAINING),
        ([S.LOST], False, PoolState.ASLEEP),
        ([S.PARKED], False, PoolState.ASLEEP),
    ],
)
def test_what_a_pool_is(states: list[ReplicaState], failed: bool, expected: PoolState) -> None:
    """If this fails, the page says asleep while something runs."""
    assert pool_state(states, failed=failed) is expected

"""The lifecycle of a replica as data: states, the legal transitions, and what a pool is, derived from its replicas.

The docs' diagram, the metrics and the page derive from these tables. Writing a state is `store.replicas.advance`'s job alone.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class ReplicaState(StrEnum):
    """One running engine in a pool, from the asking to the proof that it is gone."""

    LAUNCHING = "launching"
    """Asked of the provider."""
    STARTING = "starting"
    """Exists; working through its stages."""
    READY = "ready"
    """Its engine answered a real health check; it has an endpoint."""
    PARKED = "parked"
    """The machine stays, the weights are unloaded (an engine's own sleep)."""
    DRAINING = "draining"
    """Takes no new work; finishes what it has."""
    UNREACHABLE = "unreachable"
    """We cannot see it, the provider says that it lives (a link cut)."""
    FAILED = "failed"
    """A failure with its reason (a wake, a hung engine)."""
    STOPPING = "stopping"
    """Termination asked."""
    LOST = "lost"
    """Vanished without our asking (spot, crash)."""
    GONE = "gone"
    """Proven absent at the provider."""


S = ReplicaState

TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    S.LAUNCHING: frozenset({S.STARTING, S.FAILED, S.LOST, S.STOPPING}),
    S.STARTING: frozenset({S.READY, S.FAILED, S.LOST, S.STOPPING}),
    S.READY: frozenset({S.DRAINING, S.PARKED, S.UNREACHABLE, S.FAILED, S.LOST}),
    S.PARKED: frozenset({S.STARTING, S.UNREACHABLE, S.LOST, S.STOPPING}),
    S.DRAINING: frozenset({S.READY, S.STOPPING, S.UNREACHABLE, S.LOST}),
    S.UNREACHABLE: frozenset({S.READY, S.PARKED, S.DRAINING, S.LOST, S.STOPPING}),
    S.FAILED: frozenset({S.STOPPING}),
    S.STOPPING: frozenset({S.GONE}),
    S.LOST: frozenset({S.GONE, S.STOPPING}),
    S.GONE: frozenset(),
}

WAKING = frozenset({S.LAUNCHING, S.STARTING})
"""On the way to ready."""
SERVING = frozenset({S.READY, S.DRAINING, S.UNREACHABLE})
"""May have requests on it."""
HOLDING = frozenset({S.LAUNCHING, S.STARTING, S.READY, S.PARKED, S.DRAINING, S.UNREACHABLE, S.FAILED, S.STOPPING, S.LOST})
"""May still occupy capacity (and cost money): everything that is not proven gone."""


class PoolState(StrEnum):
    """What a person calls a pool's (or a model's) condition; derived, never stored."""

    ASLEEP = "asleep"
    WAKING = "waking"
    AWAKE = "awake"
    DRAINING = "draining"
    FAILED = "failed"
    """Its last wake failed and it is asleep; the reason tells whether it is tried again."""


def legal(current: ReplicaState, target: ReplicaState) -> bool:
    """Whether `target` may follow `current`."""
    return target in TRANSITIONS[current]


def pool_state(states: Iterable[ReplicaState], *, failed: bool = False) -> PoolState:
    """Derive the condition shown to people: awake wins over waking, waking over draining, all over asleep.

    `failed`: the last wake failed and nothing was tried since; it shows only when nothing runs.
    """
    present = set(states)
    if present & {S.READY, S.UNREACHABLE}:
        return PoolState.AWAKE
    if present & WAKING:
        return PoolState.WAKING
    if present & {S.DRAINING, S.STOPPING}:
        return PoolState.DRAINING
    return PoolState.FAILED if failed else PoolState.ASLEEP

"""The only writer of a replica's state: legality, history and terms."""

import pytest

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import IllegalTransition, StaleTerm
from lamplighter.core.reasons import StopReason
from lamplighter.core.states import TRANSITIONS, ReplicaState, legal
from lamplighter.store import demand, leases, replicas
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open

S = ReplicaState


@pytest.fixture
async def store(opened: Open) -> Store:
    store = await opened(VirtualClock())
    await leases.acquire(store, leases.KEEPER, "test", ttl=15)
    return store


PATHS: dict[ReplicaState, tuple[ReplicaState, ...]] = {S.LAUNCHING: ()}
while len(PATHS) < len(ReplicaState):
    for _state, _path in list(PATHS.items()):
        for _target in TRANSITIONS[_state]:
            PATHS.setdefault(_target, (*_path, _target))


@pytest.mark.parametrize("state", ReplicaState)
async def test_only_legal_steps_are_written(store: Store, state: ReplicaState) -> None:
    """If this fails, a replica jumps into a state that its history cannot explain."""
    for target in ReplicaState:
        row = await replicas.launch(store, pool="p", models=["m"], term=1)
        for step in PATHS[state]:
            row = await replicas.advance(store, row.id, step, term=1)
        if legal(state, target):
            after = await replicas.advance(store, row.id, target, term=1)
            assert (after.state, after.epoch) == (target, row.epoch + 1)
        else:
            with pytest.raises(IllegalTransition):
                await replicas.advance(store, row.id, target, term=1)
            history = await replicas.history(store, row.id)
            assert [event.to_state for event in history] == [S.LAUNCHING.value, *(step.value for step in PATHS[state])]


async def test_state_and_event_are_one(store: Store) -> None:
    """If this fails, the history and the present contradict each other."""
    row = await replicas.launch(store, pool="p", models=["m"], term=1)
    with store.bus.subscribe(Topic.REPLICAS) as mailbox:
        row = await replicas.advance(store, row.id, S.STOPPING, term=1, reason=StopReason.ASKED, detail="why")
        assert await mailbox.wait(0) == [(Topic.REPLICAS, "p")]
    last = (await replicas.history(store, row.id))[-1]
    assert (last.from_state, last.to_state, last.reason, last.detail, last.term) == ("launching", "stopping", "asked", "why", 1)
    assert (row.reason, row.detail) == (StopReason.ASKED, "why")


async def test_an_old_term_writes_nothing(store: Store) -> None:
    """If this fails, a keeper that was replaced undoes its successor's decisions."""
    row = await replicas.launch(store, pool="p", models=["m"], term=1)
    assert await leases.acquire(store, leases.KEEPER, "other", ttl=15, force=True) == 2
    with pytest.raises(StaleTerm):
        await replicas.launch(store, pool="p", models=["m"], term=1)
    with pytest.raises(StaleTerm):
        await replicas.advance(store, row.id, S.STARTING, term=1)
    with pytest.raises(StaleTerm):
        await replicas.describe(store, row.id, term=1, handle="h")
    assert await replicas.living(store) == [row]


async def test_what_was_learned_stays_until_it_is_gone(store: Store) -> None:
    """If this fails, an endpoint is lost at a state change, or an engine's key outlives it."""
    row = await replicas.launch(store, pool="p", models=["m"], term=1)
    endpoint = Endpoint("http://127.0.0.1:1", "secret")
    await replicas.describe(store, row.id, term=1, handle="h", stage="load", endpoint=endpoint, context=2048)
    await replicas.describe(store, row.id, term=1)
    for state in (S.STARTING, S.READY):
        row = await replicas.advance(store, row.id, state, term=1)
    assert (row.handle, row.endpoint, row.context, row.stage) == ("h", endpoint, 2048, None)
    assert row.ready_at == store.clock.time()
    assert "secret" not in repr(row)
    for state in (S.DRAINING, S.STOPPING, S.GONE):
        row = await replicas.advance(store, row.id, state, term=1)
    assert row.endpoint == Endpoint("http://127.0.0.1:1", None)
    assert await replicas.living(store) == []


async def test_living_is_by_pool_and_in_order(store: Store) -> None:
    """If this fails, one pool's keeper acts on another's replicas."""
    first = await replicas.launch(store, pool="p", models=["m"], term=1)
    await replicas.launch(store, pool="q", models=["m"], term=1)
    third = await replicas.launch(store, pool="p", models=["n"], term=1)
    assert [row.id for row in await replicas.living(store, pool="p")] == [first.id, third.id]
    assert len(await replicas.living(store)) == 3


async def test_a_drain_is_over_when_every_live_gateway_says_so(store: Store) -> None:
    """If this fails, an answer is cut, or a drain waits for the dead."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    row = await replicas.launch(store, pool="p", models=["m"], term=1)
    for state in (S.STARTING, S.READY, S.DRAINING):
        row = await replicas.advance(store, row.id, state, term=1)
    assert await replicas.drained(store, row, gateway_ttl=30)  # nobody could have sent it anything
    await demand.heartbeat(store, "g1")
    await demand.heartbeat(store, "g2")
    await replicas.acknowledge_drain(store, row.id, "g1", row.epoch)
    await replicas.acknowledge_drain(store, row.id, "g2", row.epoch - 1)  # of an earlier drain
    assert not await replicas.drained(store, row, gateway_ttl=30)
    await replicas.acknowledge_drain(store, row.id, "g2", row.epoch)
    assert await replicas.drained(store, row, gateway_ttl=30)
    await demand.heartbeat(store, "g3")
    assert not await replicas.drained(store, row, gateway_ttl=30)
    await clock.advance(31)
    assert await replicas.drained(store, row, gateway_ttl=30)


async def test_old_rows_are_forgotten_and_their_history_is_not(store: Store) -> None:
    """If this fails, the table grows for ever, or the history has holes."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    assert not await replicas.remembers(store)
    row = await replicas.launch(store, pool="p", models=["m"], term=1)
    for state in (S.STOPPING, S.GONE):
        await replicas.advance(store, row.id, state, term=1)
    alive = await replicas.launch(store, pool="p", models=["m"], term=1)
    await clock.advance(31 * 86_400)
    await replicas.sweep(store)
    with pytest.raises(IllegalTransition, match="there is no replica"):
        await replicas.advance(store, row.id, S.GONE, term=1)
    assert len(await replicas.history(store, row.id)) == 3
    assert await replicas.living(store) == [alive]
    assert await replicas.remembers(store)

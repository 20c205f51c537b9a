"""Interrupted answers at the next start: who counts as dead, and what is kept."""

import pytest

from lamplighter.store import chats, demand, generations, principals
from lamplighter.store.generations import Again, Ask, Begun, Event
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open


@pytest.fixture
async def store(opened: Open) -> Store:
    """A store of its own, on either database."""
    return await opened(VirtualClock())


async def begun(store: Store, gateway: str, request: str = "r", what: Ask | Again | None = None) -> Begun:
    key, _ = await principals.create_key(store, name="ada", admin=False)
    return await generations.begin(
        store, principal_id=key.principal_id, gateway_id=gateway, client_request_id=request,
        what=what or Ask(None, None, "Q", "Q"), model="m", params={},
    )  # fmt: skip


async def test_orphans_keep_what_was_written(store: Store) -> None:
    """If this fails, a crash loses text that people saw, or a page waits for ever."""
    one = await begun(store, "gtw_dead")
    await generations.append(
        store, {one.generation.id: [Event(1, "delta", {"text": "Half"}), Event(2, "delta", {"text": " way"})]}
    )
    ours = await begun(store, "gtw_new", "r2")
    assert await generations.interrupt_orphans(store, "gtw_new", alone=True) == [one.generation.id]
    generation, message, log = await generations.get(store, one.generation.principal_id, one.generation.id)
    assert (generation.status, message.status, message.content) == ("interrupted", "interrupted", "Half way")
    assert [event.kind for event in log] == ["done"]
    assert log[0].seq == 2 + generations.UNSEEN
    assert (await generations.get(store, ours.generation.principal_id, ours.generation.id))[0].status == "running"
    assert await generations.interrupt_orphans(store, "gtw_new", alone=True) == []


async def test_with_several_gateways_only_dead_ones_leave_orphans(store: Store) -> None:
    """If this fails, one gateway's start ends the answers of all others."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    one = await begun(store, "gtw_alive")
    await demand.heartbeat(store, "gtw_alive")
    assert await generations.interrupt_orphans(store, "gtw_new", alone=False) == []
    await clock.advance(demand.GATEWAY_TTL + 1)
    assert await generations.interrupt_orphans(store, "gtw_new", alone=False) == [one.generation.id]


async def test_a_continued_answer_that_dies_at_once_keeps_its_beginning(store: Store) -> None:
    """If this fails, continuing an answer twice loses its first part."""
    one = await begun(store, "gtw_a")
    await generations.finish(store, one.generation.id, status="cancelled", content="Kept", model=None, seq=3)
    again = await begun(store, "gtw_a", "r2", Again(one.chat.id, one.message.id, keep=True))
    assert again.message.content == "Kept"
    await generations.interrupt_orphans(store, "gtw_b", alone=True)
    assert (await chats.message(store, one.chat.id, again.message.id)).content == "Kept"


async def test_an_end_counts_once(store: Store) -> None:
    """If this fails, a late writer overwrites an answer, or leaves rows behind for ever."""
    one = await begun(store, "gtw_a")
    first = await generations.finish(store, one.generation.id, status="done", content="Whole", model="other", seq=5)
    assert first is not None
    assert (first.content, first.model) == ("Whole", "other")
    second = await generations.finish(store, one.generation.id, status="cancelled", content="", model=None, seq=9)
    assert second == first
    late = await generations.append(store, {one.generation.id: [Event(4, "delta", {"text": "x"})]})
    assert late == {one.generation.id}
    _, _, log = await generations.get(store, one.generation.principal_id, one.generation.id)
    assert [(event.seq, event.kind) for event in log] == [(5, "done")]
    await chats.remove(store, one.generation.principal_id, one.chat.id)
    assert await generations.finish(store, one.generation.id, status="done", content="", model=None, seq=9) is None

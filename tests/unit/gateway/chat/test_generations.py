"""The life of an answer under a clock that the test moves: who may end it, what the store holds meanwhile, what a broken store costs."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.core.errors import RequestError, StoreFull
from lamplighter.gateway.chat import generations as module
from lamplighter.gateway.chat.generations import UNWATCHED_SECONDS, Generations
from lamplighter.gateway.relay import Event, Waking
from lamplighter.store import chats
from lamplighter.store import generations as rows
from lamplighter.store.chats import ChatNotFound
from lamplighter.store.generations import Again, Ask, Begun
from lamplighter.store.ledger import Entry
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.chat.stage import Stage, stage, until, wake


async def begin(one: Stage, request: str = "r", content: str = "Q", **ask: Any) -> Begun:
    what = Ask(ask.get("chat_id"), ask.get("parent_id"), content, content)
    return await one.control._generations.begin(one.identity, request, what, model="quick", params={})


async def status_of(one: Stage, begun: Begun) -> str:
    return (await rows.get(one.store, one.identity.principal_id, begun.generation.id))[0].status


async def test_an_answer_nobody_reads_is_ended_but_never_a_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a closed tab burns a GPU for hours, or a wake that takes long is lost because the person went for coffee."""
    assert UNWATCHED_SECONDS == 300
    unwatched = 50.0  # five minutes of virtual time are long: everything else turns meanwhile
    monkeypatch.setattr(module, "UNWATCHED_SECONDS", unwatched)
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        call.waking()
        await clock.advance(3 * unwatched)
        assert await status_of(one, begun) == "running"
        call.started(900.0)
        call.text("Here")
        await clock.advance(unwatched - 30)
        assert await status_of(one, begun) == "running"
        log = await one.control._generations.attach(one.identity, begun.generation.id)

        def reader() -> None:
            pass

        log.watch(reader)
        await clock.advance(2 * unwatched)
        assert await status_of(one, begun) == "running"
        log.unwatch(reader)
        await clock.advance(unwatched + 15)
        assert await status_of(one, begun) == "cancelled"
        assert call.closed.is_set()
        message = await chats.message(one.store, begun.chat.id, begun.message.id)
        assert message.content == "Here"


async def test_events_are_written_in_batches_and_compacted() -> None:
    """If this fails, a crash loses more than a tenth of a second, or the log grows for ever."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        call.started()
        call.text("a")
        await clock.advance(0.05)
        call.text("b", "c")
        await clock.advance(0.2)
        _, _, events = await rows.get(one.store, one.identity.principal_id, begun.generation.id)
        assert rows.text_of(events) == "abc"
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        call.end()
        await clock.advance(1)
        generation, message, events = await rows.get(one.store, one.identity.principal_id, begun.generation.id)
        assert generation.status == message.status == "done"
        assert [event.kind for event in events] == ["done"]
        assert message.content == "abc"


async def test_what_a_wake_has_cost_is_told_and_kept() -> None:
    """If this fails, "woke in 94 s" hides its price, or forgets it when the page is opened again."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        entry = Entry("led_1", "cloud", "quick", "rep_1", "i-1", "spot g4dn.xlarge", 210_400_000, "USD", clock.time(), None)
        call.say(Waking(replace(wake(), entry=entry)))
        await clock.advance(90)
        call.started(94.0)
        call.text("Here")
        await clock.advance(0.1)
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        shown, woke = [event.data for event in log.between(0) if event.kind == "wake"]
        assert shown["cost"]["hourly"] == "0.2104"
        assert woke == {"woke_in": 94.0, "cost": {"amount": "0.005260", "currency": "USD"}}
        call.end()
        await clock.advance(1)
        message = await chats.message(one.store, begun.chat.id, begun.message.id)
        assert message.usage is not None
        assert message.usage["wake_cost"] == {"amount": "0.005260", "currency": "USD"}


async def test_tokens_that_come_together_travel_together() -> None:
    """If this fails, a fast model drowns every page in frames; if they wait too long, the answer stutters."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        call.started()
        call.text(*[f"{number} " for number in range(100)])
        await clock.advance(0.05)
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        deltas = [event for event in log.between(0) if event.kind == "delta"]
        assert deltas[0].data["text"] == "0 "
        assert len(deltas) == 2
        call.end()
        await clock.advance(1)


async def test_stopping_keeps_the_text_and_says_interrupted() -> None:
    """If this fails, an update of Lamplighter throws answers away."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        call.started()
        call.text("Half")
        await clock.advance(0.01)
        one.control._generations.refuse()
        with pytest.raises(RequestError, match="shutting down"):
            await begin(one, "r2")
        again = await begin(one, "r")
        assert again.generation.id == begun.generation.id
        await one.control.stop()
        assert call.closed.is_set()
        message = await chats.message(one.store, begun.chat.id, begun.message.id)
        assert (message.status, message.content) == ("interrupted", "Half")


async def test_a_store_without_room_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk cuts running answers, or they are lost when there is room again."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        call = await one.relay.next()

        async def full(*_args: Any, **_more: Any) -> Any:
            raise StoreFull("full")

        with monkeypatch.context() as broken:
            broken.setattr(rows, "append", full)
            broken.setattr(rows, "finish", full)
            call.started()
            call.text("All of it")
            call.end()
            await clock.advance(5)
            assert log.done
            assert log.between(log.seq - 1)[0].data["message"]["content"] == "All of it"
        assert await status_of(one, begun) == "running"
        await clock.advance(20)
        assert await status_of(one, begun) == "done"
        assert one.control.generating == 0


async def test_deleting_a_chat_stops_what_is_written_in_it() -> None:
    """If this fails, a deleted chat goes on costing, or comes back."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        call = await one.relay.next()
        call.started()
        call.text("abc")
        await clock.advance(0.01)
        await one.control._generations.remove_chat(one.identity, begun.chat.id)
        await clock.advance(1)
        assert call.closed.is_set()
        assert log.done
        with pytest.raises(ChatNotFound):
            await chats.get(one.store, one.identity.principal_id, begun.chat.id)
        with pytest.raises(ChatNotFound):
            await one.control._generations.attach(one.identity, begun.generation.id)
        assert one.control.generating == 0


async def test_others_can_neither_read_nor_stop() -> None:
    """If this fails, one person's key opens another's conversation."""
    async with stage(clock=VirtualClock()) as one:
        begun = await begin(one)
        manager = one.control._generations
        for attempt in (
            manager.attach(one.other, begun.generation.id),
            manager.cancel(one.other, begun.generation.id),
            manager.remove_chat(one.other, begun.chat.id),
            manager.begin(one.other, "x", Ask(begun.chat.id, None, "Q", "Q"), model="quick", params={}),
            manager.begin(one.other, "y", Again(begun.chat.id, begun.message.id), model="quick", params={}),
            manager.begin(one.other, "z", Again(begun.chat.id, begun.message.id, keep=True), model=None, params={}),
        ):
            with pytest.raises(ChatNotFound):
                await attempt


async def test_one_principal_cannot_take_everything() -> None:
    """If this fails, one script with a page's key can start a thousand answers."""
    async with stage(clock=VirtualClock()) as one:
        for number in range(module.MAX_RUNNING):
            await begin(one, f"r{number}")
        with pytest.raises(RequestError, match="already") as refused:
            await begin(one, "one too many")
        assert refused.value.status == 429
        await one.control._generations.begin(one.other, "r", Ask(None, None, "Q", "Q"), model="quick", params={})


async def test_the_tree_allows_only_conversations() -> None:
    """If this fails, a chat can get into a state that no page can show."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        first = await begin(one)
        assert first.user_message is not None
        chat = first.chat.id
        for parent, code in ((first.user_message.id, "bad_parent"), (first.message.id, "answer_unfinished")):
            with pytest.raises(RequestError) as refused:
                await begin(one, "next", chat_id=chat, parent_id=parent)
            assert refused.value.code == code
        with pytest.raises(RequestError) as unfinished:
            await one.control._generations.begin(
                one.identity, "c", Again(chat, first.message.id, keep=True), model=None, params={}
            )
        assert unfinished.value.code == "not_continuable"
        with pytest.raises(RequestError) as question:
            await one.control._generations.begin(one.identity, "q", Again(chat, first.user_message.id), model="quick", params={})
        assert question.value.code == "not_an_answer"


async def test_thoughts_are_told_apart_from_the_answer() -> None:
    """If this fails, a reasoning model's thoughts become part of the chat, or the page looks dead while it thinks."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        call = await one.relay.next()
        call.started()
        call.say(*[Event(b'{"choices":[{"delta":{"reasoning_content":"Hm."}}]}')] * 50)
        call.text("Yes", ".")
        call.end()
        await clock.advance(1)
        assert [event.kind for event in log.between(0)] == ["thinking", "thinking", "delta", "usage", "done"]
        assert "".join(event.data["text"] for event in log.between(0)[:2]) == "Hm." * 50
        assert log.text == "Yes."


@pytest.mark.parametrize(
    "data", [b"not json", b'{"error": {"message": "it broke"}}', b'{"choices": 7}', b'{"choices":[{"delta":{"content":7}}]}']
)
async def test_nonsense_of_an_engine_ends_as_an_error(data: bytes) -> None:
    """If this fails, a broken engine breaks the gateway, or its nonsense looks like an answer."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        call = await one.relay.next()
        call.started()
        call.text("ok so far")
        call.say(Event(data))
        await clock.advance(1)
        message = await chats.message(one.store, begun.chat.id, begun.message.id)
        assert (message.status, message.content) == ("error", "ok so far")
        assert call.closed.is_set()


async def test_a_defect_of_ours_is_told_and_logged() -> None:
    """If this fails, a bug leaves an answer streaming for ever."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        (await one.relay.next()).say(ZeroDivisionError("secret detail"))
        await clock.advance(1)
        message = await chats.message(one.store, begun.chat.id, begun.message.id)
        assert message.status == "error"
        assert message.error is not None
        assert message.error["code"] == "internal_error"
        assert "secret" not in str(message.error)


async def test_a_prompt_refused_as_too_long_is_tried_shorter() -> None:
    """If this fails, a long chat stops working although older turns could be left out."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        one.relay.answer = ["word " * 300]
        begun = await begin(one, content="question " * 50)
        await clock.advance(1)
        one.relay.answer = None
        again = await begin(one, "r2", "And now?", chat_id=begun.chat.id, parent_id=begun.message.id)
        await one.relay.next()
        (await one.relay.next()).say(RequestError("too long", code="context_length_exceeded"))
        await clock.advance(0.1)
        shorter = await one.relay.next()
        assert again.user_message is not None
        assert len(shorter.body["messages"]) < len(one.relay.calls[1].body["messages"])
        assert shorter.body["messages"][-1]["content"].endswith("And now?")
        shorter.started()
        shorter.text("Fine.")
        shorter.end()
        await clock.advance(1)
        assert (await chats.message(one.store, again.chat.id, again.message.id)).content == "Fine."


async def test_an_answer_of_another_gateway_can_be_read_here() -> None:
    """If this fails, two gateways behind one address show half the answers."""
    async with stage() as one:
        begun = await begin(one)
        call = await one.relay.next()
        elsewhere = Generations(one.store, one.clock, one.services.view, one.relay, {}, "gtw_other")
        log = await elsewhere.attach(one.identity, begun.generation.id)
        call.started()
        call.text("Hello")
        await until(lambda: log.text == "Hello")
        call.end()
        await until(lambda: log.done)
        assert log.between(log.seq - 1)[0].data["message"]["content"] == "Hello"
        own = await one.control._generations.attach(one.identity, begun.generation.id)
        assert log.seq == own.seq  # a reader that moves from one gateway to the other misses nothing and reads nothing twice
        await elsewhere.stop()


async def test_an_answer_is_stopped_through_any_gateway() -> None:
    """If this fails, Stop does nothing for a person whose page talks to another gateway than the one that writes; the GPU goes on."""
    async with stage() as one:
        begun = await begin(one)
        call = await one.relay.next()
        elsewhere = Generations(one.store, one.clock, one.services.view, one.relay, {}, "gtw_other")
        log = await elsewhere.attach(one.identity, begun.generation.id)
        call.started()
        call.text("Half an ans")
        await until(lambda: log.text == "Half an ans")
        await elsewhere.cancel(one.identity, begun.generation.id)
        await until(call.closed.is_set)
        await until(lambda: log.done)
        message = log.between(log.seq - 1)[0].data["message"]
        assert (message["status"], message["content"]) == ("cancelled", "Half an ans")
        await elsewhere.cancel(one.identity, begun.generation.id)  # again: nothing happens
        await elsewhere.stop()


async def test_many_answers_leave_nothing_behind() -> None:
    """If this fails, a gateway that runs for weeks fills up."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        one.relay.answer = ["Hi"]
        for round_ in range(5):
            await asyncio.gather(*(begin(one, f"r{round_}-{number}") for number in range(20)))
            await clock.advance(2)
        manager = one.control._generations
        assert (manager.running, manager._tasks, manager._mirrors, manager._unsaved) == (0, set(), {}, {})
        assert all(call.closed.is_set() for call in one.relay.calls)


async def test_a_question_that_can_never_fit_says_what_to_do() -> None:
    """If this fails, a person who pasted a book reads an engine's own words and no way on."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        begun = await begin(one)
        (await one.relay.next()).say(RequestError("8027 tokens", code="context_length_exceeded"))
        await clock.advance(1)
        error = (await chats.message(one.store, begun.chat.id, begun.message.id)).error
        assert error is not None
        assert "Shorten" in error["next_step"]


async def test_a_drain_waits_for_answers_but_not_for_ever() -> None:
    """If this fails, an update cuts every answer, or never comes to its end."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        await begin(one)
        call = await one.relay.next()
        call.started()
        given_up = asyncio.create_task(one.control.drain(5))
        await clock.advance(4)
        assert not given_up.done()
        with pytest.raises(RequestError):
            await begin(one, "late")
        await clock.advance(2)
        assert given_up.done()
        draining = asyncio.create_task(one.control.drain(500))
        await clock.advance(4)
        call.end()
        await clock.advance(1)
        assert draining.done()
        assert one.control.generating == 0

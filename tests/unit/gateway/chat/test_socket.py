"""The resume protocol over a real WebSocket: exactly one generation, nothing lost, nothing stopped by leaving."""

import asyncio
import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from lamplighter.core.errors import RequestError
from lamplighter.gateway.relay import UpstreamLost
from lamplighter.store import principals
from tests.unit.gateway.chat.stage import served, stage, talk, until


async def test_a_question_is_answered_live() -> None:
    """If this fails, nobody can chat."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        status = await page.hear("status")
        assert [model["name"] for model in status["models"]] == ["quick", "slow", "small", "always"]
        assert status["now"] == pytest.approx(one.clock.time(), abs=5)
        started = await page.start("# What is *light*?\nPlease.", system="Be brief.", params={"temperature": 0.5})
        assert started["chat"]["title"] == "What is *light*?"
        assert started["chat"]["system"] == "Be brief."
        assert started["user_message"]["content"] == "# What is *light*?\nPlease."
        assert started["message"]["status"] == "streaming"
        assert started["message"]["parent_id"] == started["user_message"]["id"]
        assert started["message"]["generation_id"] == started["generation_id"]
        call = await one.relay.next()
        assert call.body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "# What is *light*?\nPlease."},
        ]
        assert call.body["temperature"] == 0.5
        call.started(1.5)
        call.text("Wave", "s and ", "quanta.")
        call.end(prompt_tokens=9, completion_tokens=4)
        done = await page.until_done(started["generation_id"])
        assert done["data"]["status"] == "done"
        message = done["data"]["message"]
        assert message["content"] == page.text(started["generation_id"]) == "Waves and quanta."
        assert message["generation_id"] is None
        usage = message["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["wake_seconds"]) == (9, 4, 1.5)
        assert 0 <= usage["ttft"] <= usage["seconds"]
        kinds = [event["kind"] for event in page.events(started["generation_id"])]
        assert kinds[0] == "wake"
        assert kinds[-2:] == ["usage", "done"]
        assert [event["seq"] for event in page.events(started["generation_id"])] == list(range(1, len(kinds) + 1))
        async with one.client() as client:
            branch = (await client.get(f"/api/chats/{started['chat']['id']}")).json()
        assert [(m["role"], m["content"], m["status"]) for m in branch["messages"]] == [
            ("user", "# What is *light*?\nPlease.", "done"),
            ("assistant", "Waves and quanta.", "done"),
        ]


async def test_a_repeated_request_is_the_same_generation() -> None:
    """If this fails, a page that reconnects at the wrong moment pays two GPUs for one question."""
    async with stage() as one, served(one) as address:
        async with talk(one, address) as first, talk(one, address) as second:
            await asyncio.gather(
                *(
                    page.say(type="start", client_request_id="same", content="Hi", model="quick", chat_id=None)
                    for page in (first, second, first, second)
                )
            )
            starts = [await page.hear("started") for page in (first, second, first, second)]
            assert len({start["generation_id"] for start in starts}) == 1
            assert all(start["user_message"]["content"] == "Hi" for start in starts)
            call = await one.relay.next()
            call.started()
            call.text("Hello")
            call.end()
            for page in (first, second):
                await page.until_done(starts[0]["generation_id"])
                assert page.text(starts[0]["generation_id"]) == "Hello"
        async with talk(one, address) as later:
            again = await later.start("Hi", "same")
            assert again["message"]["status"] == "done"
            await later.until_done(starts[0]["generation_id"])
            assert later.text(starts[0]["generation_id"]) == "Hello"
        assert len(one.relay.calls) == 1
        async with talk(one, address, key=one.other_key) as other:
            assert (await other.start("Hi", "same"))["generation_id"] != starts[0]["generation_id"]


async def test_a_dropped_connection_loses_nothing_at_any_point() -> None:
    """If this fails, closing the laptop's lid tears a hole into the answer."""
    async with stage() as one, served(one) as address:
        async with talk(one, address) as page:
            started = await page.start()
            generation = started["generation_id"]
        call = await one.relay.next()
        call.waking(stage="load")
        call.started(1.0)
        words = [f"word{number} " for number in range(12)]
        for word in words[:6]:
            call.text(word)
            await asyncio.sleep(0.05)
        for after in range(9):
            async with talk(one, address) as page:
                await page.say(type="tail", generation_id=generation, after=after)
                frame = await page.hear("event", generation_id=generation)
                assert frame["seq"] == after + 1
                if after > 6:
                    break
            if after == 7:
                break
        for word in words[6:]:
            call.text(word)
        call.end()
        async with talk(one, address) as page:
            await page.say(type="tail", generation_id=generation, after=0)
            done = await page.until_done(generation)
            assert done["data"]["message"]["content"] == "".join(words)
            assert page.text(generation) == "".join(words)
        for after in (0, 3, done["seq"] - 1):
            async with talk(one, address) as page:
                await page.say(type="tail", generation_id=generation, after=after)
                await page.until_done(generation)
                late = [frame for frame in page.frames if frame["type"] in ("snapshot", "event")]
                assert late[-1]["seq"] == done["seq"]
                if after < done["seq"] - 1:
                    assert late[0] == {
                        "type": "snapshot",
                        "generation_id": generation,
                        "seq": done["seq"] - 1,
                        "text": "".join(words),
                    }
                else:
                    assert len(late) == 1


async def test_two_tabs_see_the_same() -> None:
    """If this fails, a second tab shows an old chat list or half an answer."""
    async with (
        stage() as one,
        served(one) as address,
        talk(one, address) as first,
        talk(one, address) as second,
        talk(one, address, key=one.other_key) as other,
    ):
        started = await first.start("Shared?")
        news = await second.hear("chat")
        assert news["chat"]["id"] == started["chat"]["id"]
        await second.say(type="tail", generation_id=started["generation_id"], after=0)
        call = await one.relay.next()
        call.started()
        call.text("Yes", ", both.")
        call.end()
        await first.until_done(started["generation_id"])
        await second.until_done(started["generation_id"])
        assert first.text(started["generation_id"]) == second.text(started["generation_id"]) == "Yes, both."
        async with one.client() as client:
            await client.delete(f"/api/chats/{started['chat']['id']}")
        assert (await second.hear("chat_deleted"))["chat_id"] == started["chat"]["id"]
        await other.say(type="ping")
        await other.hear("pong")
        assert {frame["type"] for frame in other.frames} <= {"status", "pong"}


async def test_cancel_frees_the_engine_and_keeps_the_text() -> None:
    """If this fails, Stop only hides the answer and the GPU goes on."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        started = await page.start()
        call = await one.relay.next()
        call.started()
        call.text("Once upon")
        await page.hear("event", kind="delta")
        await page.say(type="cancel", generation_id=started["generation_id"])
        done = await page.until_done(started["generation_id"])
        async with asyncio.timeout(1):
            await call.closed.wait()
        assert done["data"]["status"] == "cancelled"
        assert done["data"]["message"]["content"] == "Once upon"
        await page.say(type="cancel", generation_id=started["generation_id"])
        await page.say(type="ping")
        await page.hear("pong")
        assert not [frame for frame in page.frames if frame["type"] == "error"]


async def test_cancel_while_waking() -> None:
    """If this fails, a person must wait for a wake that they do not want any more."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        started = await page.start()
        call = await one.relay.next()
        call.waking(stage="pull", progress=0.1)
        shown = await page.hear("event", kind="wake")
        assert [part["name"] for part in shown["data"]["stages"]] == ["pull", "start", "load"]
        assert shown["data"]["eta"] == {"p50": 1.0, "p90": 2.0}
        await page.say(type="cancel", generation_id=started["generation_id"])
        done = await page.until_done(started["generation_id"])
        assert done["data"]["status"] == "cancelled"
        assert done["data"]["message"]["content"] == ""
        async with asyncio.timeout(1):
            await call.closed.wait()


async def test_a_refused_wake_is_explained() -> None:
    """If this fails, a person sees an empty answer and does not know why."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        started = await page.start()
        (await one.relay.next()).say(
            RequestError("It does not fit.", status=503, code="out_of_memory", next_step="Use a smaller one.")
        )
        done = await page.until_done(started["generation_id"])
        error = {"code": "out_of_memory", "message": "It does not fit.", "next_step": "Use a smaller one."}
        assert done["data"]["status"] == "error"
        assert done["data"]["message"]["error"] == error
        assert next(e for e in page.events(started["generation_id"]) if e["kind"] == "error")["data"] == error


async def test_a_broken_stream_keeps_its_text() -> None:
    """If this fails, an engine's crash takes what was already written with it."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        started = await page.start()
        call = await one.relay.next()
        call.started()
        call.text("Half an ans")
        call.say(UpstreamLost("The engine ended."))
        message = (await page.until_done(started["generation_id"]))["data"]["message"]
        assert (message["status"], message["content"], message["error"]["code"]) == ("error", "Half an ans", "upstream_lost")


async def test_a_restart_interrupts_and_continue_goes_on(tmp_path: Path) -> None:
    """If this fails, a restart loses the answer, or the page waits for it for ever."""
    path = tmp_path / "store.db"
    async with stage(path=path) as one, served(one) as address, talk(one, address) as page:
        started = await page.start()
        generation, chat = started["generation_id"], started["chat"]["id"]
        call = await one.relay.next()
        call.started()
        call.text("The first half")
        await page.hear("event", kind="delta")
        await asyncio.sleep(0.3)  # the batch is written
        # A crash: the process is gone without a word. Its store is opened by the next one while the old one never finishes.
        async with stage(path=path) as two, served(two) as address_two:
            async with talk(two, address_two, key=two.other_key) as stranger:
                await stranger.say(type="tail", generation_id=generation, after=0)
                refused = await stranger.hear("error", generation_id=generation)
                assert refused["error"]["code"] == "generation_not_found"
            async with talk(two, address_two) as later:
                await later.say(type="tail", generation_id=generation, after=1)
                done = await later.until_done(generation)
                assert done["data"]["status"] == "interrupted"
                assert done["seq"] > 1_000  # above everything that a page may have seen unwritten
                assert later.text(generation) == done["data"]["message"]["content"] == "The first half"
                await later.say(type="continue", client_request_id="c1", chat_id=chat, message_id=done["data"]["message"]["id"])
                again = await later.hear("started")
                assert again["user_message"] is None
                assert again["message"]["siblings"] == [done["data"]["message"]["id"], again["message"]["id"]]
                second = await two.relay.next()
                assert second.body["messages"][-2] == {"role": "assistant", "content": "The first half"}
                second.started()
                second.text(" and the second.")
                second.end()
                whole = await later.until_done(again["generation_id"])
                assert whole["data"]["message"]["content"] == "The first half and the second."
                assert later.text(again["generation_id"]) == "The first half and the second."


async def test_branches_by_editing_and_writing_again() -> None:
    """If this fails, editing a question overwrites the conversation instead of branching it."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        one.relay.answer = ["First."]
        first = await page.start("One?")
        chat = first["chat"]["id"]
        await page.until_done(first["generation_id"])
        one.relay.answer = ["Second."]
        await page.say(
            type="regenerate", client_request_id="r2", chat_id=chat, message_id=first["message"]["id"], model="slow", params={}
        )
        again = await page.hear("started", client_request_id="r2")
        assert again["user_message"] is None
        assert again["message"]["siblings"] == [first["message"]["id"], again["message"]["id"]]
        assert again["chat"]["model"] == "slow"
        await page.until_done(again["generation_id"])
        follow = await page.start("And then?", "r3", chat_id=chat, parent_id=again["message"]["id"])
        await page.until_done(follow["generation_id"])
        assert [turn["content"] for turn in one.relay.calls[-1].body["messages"]] == ["One?", "Second.", "And then?"]
        edited = await page.start("Uno?", "r4", chat_id=chat, parent_id=None)
        await page.until_done(edited["generation_id"])
        assert edited["user_message"]["siblings"] == [first["user_message"]["id"], edited["user_message"]["id"]]
        assert [turn["content"] for turn in one.relay.calls[-1].body["messages"]] == ["Uno?"]
        async with one.client() as client:
            shown = (await client.get(f"/api/chats/{chat}")).json()["messages"]
            assert [message["content"] for message in shown] == ["Uno?", "Second."]
            await client.patch(f"/api/chats/{chat}", json={"active": first["user_message"]["id"]})
            shown = (await client.get(f"/api/chats/{chat}")).json()["messages"]
            assert [message["content"] for message in shown] == ["One?", "Second.", "And then?", "Second."]
            await client.patch(f"/api/chats/{chat}", json={"active": first["message"]["id"]})
            shown = (await client.get(f"/api/chats/{chat}")).json()["messages"]
            assert [message["content"] for message in shown] == ["One?", "First."]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("no json", "bad_frame"),
        ('{"type": "dance"}', "bad_frame"),
        ("[" * 10_000, "bad_frame"),
        ('{"type": "start", "client_request_id": "x", "content": "  ", "model": "quick"}', "empty_message"),
        ('{"type": "start", "client_request_id": "x", "content": "a", "model": "none"}', "model_not_found"),
        ('{"type": "start", "client_request_id": "x", "content": "a", "model": "quick", "chat_id": "cht_no"}', "chat_not_found"),
        ('{"type": "start", "client_request_id": "x", "content": "a", "model": "quick", "params": {"top_p": 7}}', "bad_frame"),
        (
            '{"type": "regenerate", "client_request_id": "x", "chat_id": "c", "message_id": "m", "model": "quick"}',
            "chat_not_found",
        ),
        ('{"type": "tail", "generation_id": "gen_no"}', "generation_not_found"),
        ('{"type": "cancel", "generation_id": "gen_no"}', "generation_not_found"),
    ],
)
async def test_bad_frames_are_refused_and_the_socket_lives(frame: str, code: str) -> None:
    """If this fails, one bad frame ends every answer on the page, or goes unanswered."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        await page.connection.send(frame)
        error = await page.hear("error")
        assert error["error"]["code"] == code
        assert error["client_request_id"] == ("x" if '"x"' in frame else None)
        await page.say(type="ping")
        await page.hear("pong")
        async with one.client() as client:
            assert (await client.get("/api/chats")).json()["chats"] == []


async def test_a_frame_too_large_closes_the_socket() -> None:
    """If this fails, one client can fill the memory."""
    async with stage() as one, served(one) as address, talk(one, address) as page:
        await page.connection.send(json.dumps({"type": "ping", "padding": "x" * 300_000}))
        await page.connection.wait_closed()
        assert page.connection.close_code == 1009


async def test_a_slow_reader_is_caught_up_with_a_snapshot() -> None:
    """If this fails, a phone on a bad line makes the server keep every token for it, or never catches up."""
    async with stage() as one, served(one) as address:
        async with talk(one, address) as page:
            started = await page.start()
        generation = started["generation_id"]
        call = await one.relay.next()
        call.started()
        live = one.control._generations._live[generation]
        call.text("x")
        await until(lambda: live.log.text)
        for number in range(2_000):
            live.log.append("delta", {"text": f"{number} "})
        async with talk(one, address) as page:
            await page.say(type="tail", generation_id=generation, after=0)
            snapshot = await page.hear("snapshot")
            assert snapshot["text"].endswith("1998 1999 ")
            call.text("end")
            call.end()
            await page.until_done(generation)
            assert page.text(generation).endswith("1999 end")
            assert len(page.events(generation)) < 10


async def test_foreign_origins_and_strangers_are_refused() -> None:
    """If this fails, any web page a person visits can read and write their chats."""
    async with stage() as one, served(one) as address:
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://{address.partition(':')[0]}:1"}, 403),
            ({"authorization": "Bearer lk-wrong"}, 401),
            ({"authorization": ""}, 401),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(
                    f"ws://{address}/api/ws", additional_headers={"authorization": f"Bearer {one.key}", **headers}
                ):
                    pass
            assert refused.value.response.status_code == status
            assert b'"error"' in (refused.value.response.body or b"")
        async with talk(one, address, Origin=f"http://{address}") as page:
            await page.hear("status")


async def test_sockets_of_one_person_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, one broken script opens connections until nobody else gets one."""
    monkeypatch.setattr("lamplighter.gateway.control.socket.MAX_SOCKETS", 1)
    async with stage() as one, served(one) as address, talk(one, address) as page:
        await page.hear("status")
        with pytest.raises(InvalidStatus) as refused:
            async with talk(one, address):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"] == "30"
        async with talk(one, address, key=one.other_key) as other:
            await other.hear("status")


async def test_a_revoked_key_ends_its_sessions_and_sockets() -> None:
    """If this fails, a stolen session lives on after its key was revoked."""
    async with stage() as one, served(one) as address:
        key, secret = await principals.create_key(one.store, name="guest", admin=False)
        await one.services.keyring.refresh()
        async with one.client(key=None) as guest:
            signed_in = await guest.post("/api/session", json={"key": secret})
            cookie = signed_in.cookies["lamplighter_session"]
        headers = {"cookie": f"lamplighter_session={cookie}"}
        async with connect(f"ws://{address}/api/ws", additional_headers=headers) as connection:
            await connection.recv()
            async with one.client() as admin:
                assert (await admin.delete(f"/api/keys/{key.id}")).status_code == 204
            async with asyncio.timeout(5):
                await connection.wait_closed()
            assert connection.close_code == 1008
        async with one.client(key=None) as guest:
            assert (await guest.get("/api/session", headers=headers)).status_code == 401


async def test_the_states_are_told_when_they_change_only() -> None:
    """If this fails, an open page burns bandwidth all day, or shows yesterday's state."""
    from lamplighter.store import demand

    async with stage() as one, served(one) as address, talk(one, address) as page:
        await page.hear("status")
        await demand.report(one.store, "gtw_x", [demand.GatewayDemand("quick", queued=2)], wake=["quick"])
        changed = await page.hear("status")
        assert next(model for model in changed["models"] if model["name"] == "quick")["queued"] == 2
        with pytest.raises(TimeoutError):
            await page.hear("status", timeout=0.6)

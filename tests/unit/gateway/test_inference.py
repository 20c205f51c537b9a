"""Requests through a running gateway to a pretended engine, over real sockets."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from lamplighter.core.states import ReplicaState
from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import KEY, Rig, config_of, events, question, raw_post, running, said

WORDS = "The lamp is lit while somebody reads, and dark again after."


def broken(engine: FakeEngine, wrong: Wrong, **more: Any) -> None:
    engine.behaviour = replace(engine.behaviour, wrong=wrong, **more)


async def test_an_answer_comes_whole_with_its_headers() -> None:
    """The main job: nobody would get an answer."""
    async with FakeEngine(model="big", tokens=13) as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.chat()
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == WORDS
        assert answer.headers["lamplighter-model"] == "big"
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["content-type"] == "application/json"
        assert "lamplighter-wake-ms" not in answer.headers
        assert "server" not in answer.headers
        await rig.until_idle()


async def test_a_stream_comes_in_events_and_hides_the_usage_nobody_asked_for() -> None:
    """A client would see an event that it does not expect, or miss the end."""
    async with FakeEngine(model="big", tokens=13) as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.chat(stream=True)
        items = events(answer.text)
        assert said(items) == WORDS
        assert items[-1] == "[DONE]"
        assert not any("usage" in item for item in items[:-1] if item.get("usage"))
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert engine.bodies[0]["stream_options"] == {"include_usage": True}
        asked = events((await rig.chat(stream=True, stream_options={"include_usage": True})).text)
        assert asked[-2]["usage"]["completion_tokens"] == 13


async def test_the_openai_library_works_unmodified() -> None:
    """Programs would need changes beyond their base_url."""
    async with FakeEngine(model="big", tokens=13) as engine, running() as rig:
        await rig.ready(engine.url)
        async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=KEY, max_retries=0) as client:
            messages: Any = question()["messages"]
            whole = await client.chat.completions.create(model="big", messages=messages)
            assert whole.choices[0].message.content == WORDS
            text, usage = "", None
            stream = await client.chat.completions.create(
                model="big", messages=messages, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                usage = chunk.usage or usage
            assert text == WORDS
            assert usage is not None
            assert usage.completion_tokens == 13
            assert (await client.completions.create(model="big", prompt="x")).choices[0].text
            assert (await client.embeddings.create(model="big", input=["a", "b"])).data[1].embedding
            assert [model.id async for model in await client.models.list()] == ["big"]
            assert (await client.models.retrieve("big")).id == "big"
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="none", messages=messages)
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="big", messages=[])
            assert caught.value.param == "messages"
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="lk-wrong").models.list()
            broken(engine, Wrong.CUT)
            with pytest.raises(openai.APIError, match="broke off"):
                async for _ in await client.chat.completions.create(model="big", messages=messages, stream=True):
                    pass


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models/big", 405, "method_not_allowed"),
        ("PATCH", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/", 404, "unknown_url"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
    ],
)
async def test_wrong_routes_say_what_there_is(method: str, path: str, status: int, code: str) -> None:
    """A client library would fail to parse the answer, or a person would not know what to use instead."""
    async with running() as rig:
        answer = await rig.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/big", "/v1/unknown"])
async def test_every_route_needs_a_key(path: str) -> None:
    """Anybody on the network could use the GPU, or learn what there is."""
    async with running() as rig, httpx.AsyncClient(base_url=rig.url) as anybody:
        for headers in ({}, {"authorization": "Bearer lk-wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": ""}):
            method = "POST" if path.endswith("completions") else "GET"
            answer = await anybody.request(method, path, headers=headers, json=question())
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_the_clients_request_id_is_kept_when_it_is_harmless() -> None:
    """A request could not be followed through logs; or a header could be injected."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        assert (await rig.chat(headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
        for bad in ("with space", "x" * 129, "semi;colon"):
            assert (await rig.chat(headers={"x-request-id": bad})).headers["x-request-id"].startswith("req_")


async def test_the_engine_gets_its_own_name_and_key_and_nothing_of_the_client() -> None:
    """The client's key would leak to another server."""
    models = {"big": {"engine": "fake", "pool": "cloud", "source": "real-name"}}
    async with FakeEngine(model="real-name", key="sk-engine") as engine, running(config_of(models=models)) as rig:
        await rig.ready(engine.url, key="sk-engine")
        assert (await rig.chat()).status_code == 200
        assert engine.bodies[0]["model"] == "real-name"


async def test_two_replicas_share_the_work() -> None:
    """One GPU would be idle while the other is overloaded."""
    async with FakeEngine(tokens_per_second=200) as one, FakeEngine(tokens_per_second=200) as two, running() as rig:
        await rig.ready(one.url)
        await rig.ready(two.url)
        await asyncio.gather(*(rig.chat() for _ in range(20)))
        assert abs(one.counters.requests - two.counters.requests) <= 6


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Wrong.CUT, "broke off"),
        (Wrong.HALF_EVENT, "within an event"),
        (Wrong.HUGE_EVENT, None),
        (Wrong.SPLIT_UTF8, None),
        (Wrong.CRLF_EVENTS, None),
        (Wrong.USAGE_MISSING, None),
        (Wrong.NO_DONE, None),
    ],
)
async def test_broken_streams_never_end_cleanly_and_odd_ones_come_whole(wrong: Wrong, text: str | None) -> None:
    """A person would take half an answer for a whole one, or lose an answer to a harmless oddity."""
    async with FakeEngine(tokens=13) as engine, running() as rig:
        await rig.ready(engine.url)
        broken(engine, wrong)
        answer = await rig.chat(stream=True)
        items = events(answer.text)
        if text is None:
            assert items[-1] == "[DONE]"
            assert items.count("[DONE]") == 1
        else:
            assert "[DONE]" not in items
            assert items[-1]["error"]["code"] == "upstream_lost"
            assert items[-1]["error"]["type"] == "upstream_error"
            assert text in items[-1]["error"]["message"]
        await rig.until_idle()


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [(Wrong.GARBAGE, 502, "upstream_protocol"), (Wrong.RESET, 502, "upstream_lost"), (Wrong.STATUS_500, 502, None)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_engines_that_fail_before_the_first_byte_give_true_errors(
    wrong: Wrong, status: int, code: str | None, stream: bool
) -> None:
    """A client would see a broken connection instead of an error that it can handle."""
    async with FakeEngine() as engine, running(config_of(gateway={"retries": 0})) as rig:
        await rig.ready(engine.url)
        broken(engine, wrong)
        answer = await rig.chat(stream=stream)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "upstream_error"
        assert code is None or answer.json()["error"]["code"] == code
        await rig.until_idle()


async def test_one_failure_is_tried_again_elsewhere() -> None:
    """One crashed replica would cost answers although another could give them."""
    async with FakeEngine() as good, FakeEngine() as bad, running() as rig:
        await rig.ready(good.url)
        await rig.ready(bad.url)
        bad.crash()
        answers = await asyncio.gather(*(rig.chat(stream=index % 2 == 0) for index in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        await rig.until_idle()


async def test_503_of_an_engine_is_tried_again() -> None:
    """An engine that is busy for a moment would cost an answer."""
    async with FakeEngine(status_503_times=2) as engine, running() as rig:
        await rig.ready(engine.url)
        assert (await rig.chat()).status_code == 200
        assert engine.counters.requests == 3


async def test_503_for_good_is_passed_on_with_retry_after() -> None:
    """A client would not know that asking again makes sense."""
    async with FakeEngine(status_503_times=99) as engine, running(config_of(gateway={"retries": 1})) as rig:
        await rig.ready(engine.url)
        answer = await rig.chat()
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_the_keeper_is_told_of_a_suspect() -> None:
    """A dead engine would be noticed only at the next round."""
    async with FakeEngine() as engine, running(config_of(gateway={"retries": 0, "hold": "50ms"})) as rig:
        replica = await rig.ready(engine.url)
        from lamplighter.store.bus import Topic

        with rig.store.bus.subscribe(Topic.SUSPECT) as suspects:
            engine.crash()
            await rig.chat()
            assert (Topic.SUSPECT, replica.id) in await suspects.wait(1)


async def test_a_kept_connection_that_the_engine_closed_costs_nobody_an_answer() -> None:
    """The first request after a quiet minute would fail."""
    async with running(config_of(gateway={"retries": 0})) as rig:
        served = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(length)
            served += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")  # the next request comes, and we close without a word
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        await rig.ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await rig.chat()).status_code == 200
        assert (await rig.chat()).status_code == 200
        assert served == 2
        server.close()


async def test_context_overflow_is_openais_error() -> None:
    """Programs that shorten their prompt on this error would not recognise it."""
    async with FakeEngine(context=10) as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.chat(messages=[{"role": "user", "content": "word " * 50}])
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_a_refused_engine_key_is_not_the_clients_fault() -> None:
    """A person would search for a mistake in the key that is right."""
    async with FakeEngine(key="sk-right") as engine, running() as rig:
        await rig.ready(engine.url, key="sk-wrong")
        answer = await rig.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_auth")


async def test_a_client_that_leaves_stops_the_engine() -> None:
    """Ctrl-C would leave the GPU working."""
    async with FakeEngine(tokens=100_000, tokens_per_second=200) as engine, running() as rig:
        await rig.ready(engine.url)
        for stream in (True, False):
            before = engine.counters.cancelled
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(raw_post(json.dumps(question(stream=stream, max_tokens=100_000)).encode()))
            for _ in range(200):
                await asyncio.sleep(0.01)
                if engine.counters.running:
                    break
            if stream:
                await reader.readuntil(b"data:")
            writer.transport.abort()
            for _ in range(200):
                await asyncio.sleep(0.01)
                if engine.counters.cancelled > before:
                    break
            assert engine.counters.cancelled == before + 1
            await rig.until_idle()


async def test_a_slow_client_makes_the_engine_wait() -> None:
    """A client that reads slowly would fill the gateway's memory with the whole answer."""
    async with FakeEngine(tokens=2_000_000) as engine, running() as rig:
        await rig.ready(engine.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
        writer.write(raw_post(json.dumps(question(stream=True, max_tokens=2_000_000)).encode()))
        await reader.readuntil(b"data:")
        before = -1
        for _ in range(40):  # the sockets' own buffers take some megabytes
            if engine.counters.tokens == before:
                break
            before = engine.counters.tokens
            await asyncio.sleep(0.3)
        assert engine.counters.tokens == before, "the engine goes on although nobody reads"
        for _ in range(200):
            await reader.read(65536)
        await asyncio.sleep(0.2)
        assert engine.counters.tokens > before, "the engine was never let go on"
        writer.transport.abort()
        await rig.until_idle()


async def test_a_client_that_reads_nothing_is_given_up() -> None:
    """A stopped client would hold an engine's slot for ever."""
    async with FakeEngine(tokens=2_000_000) as engine, running(config_of(gateway={"idle_stream_timeout": "400ms"})) as rig:
        await rig.ready(engine.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
        writer.write(raw_post(json.dumps(question(stream=True, max_tokens=2_000_000)).encode()))
        await reader.readuntil(b"data:")
        await rig.until_idle(5)
        writer.transport.abort()


async def test_a_silent_engine_gets_heartbeats_and_then_an_error() -> None:
    """Proxies would cut a stream during a long prompt; or a hung engine would hold its client for ever."""
    config = config_of(gateway={"heartbeat": "200ms", "first_byte_timeout": "1200ms", "first_token_timeout": "1200ms"})
    async with FakeEngine() as engine, running(config) as rig:
        await rig.ready(engine.url)
        broken(engine, Wrong.HANG)
        answer = await rig.chat(stream=True)
        assert answer.status_code == 200
        assert answer.text.count(": lamplighter waiting for the engine") >= 3
        assert events(answer.text)[-1]["error"]["code"] == "upstream_timeout"
        assert (await rig.chat()).status_code == 504
        await rig.until_idle()


async def test_an_engine_that_falls_silent_mid_stream_ends_in_an_error() -> None:
    """A person would wait for ever for the rest of the answer."""
    config = config_of(gateway={"heartbeat": "150ms", "idle_stream_timeout": "800ms"})
    async with FakeEngine() as engine, running(config) as rig:
        await rig.ready(engine.url)
        broken(engine, Wrong.STALL)
        answer = await rig.chat(stream=True)
        assert ": lamplighter waiting" in answer.text
        assert events(answer.text)[-1]["error"]["code"] == "upstream_lost"
        await rig.until_idle()


async def test_capabilities_are_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings asked of a chat model would give the engine's riddle."""
    from lamplighter.engines.base import Capability
    from tests.unit.gateway import harness

    monkeypatch.setattr(harness.PretendedEngine, "capabilities", lambda *_: frozenset({Capability.CHAT}))
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post("/v1/embeddings", json={"model": "big", "input": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_operation")
        assert "chat" in answer.json()["error"]["message"]


async def test_draining_replicas_get_no_new_work_and_are_left() -> None:
    """A replica would be stopped under running answers, or its drain would never end."""
    from lamplighter.store import demand, replicas

    async with FakeEngine(tokens=60, tokens_per_second=60) as engine, running(config_of(gateway={"hold": "300ms"})) as rig:
        replica = await rig.ready(engine.url)
        running_answer = asyncio.create_task(rig.chat())
        await asyncio.sleep(0.3)
        replica = await rig.advance(replica, ReplicaState.DRAINING)
        assert (await rig.chat()).status_code == 503
        assert not await replicas.drained(rig.store, replica, gateway_ttl=demand.GATEWAY_TTL)
        assert (await running_answer).status_code == 200
        for _ in range(100):
            await asyncio.sleep(0.01)
            if await replicas.drained(rig.store, replica, gateway_ttl=demand.GATEWAY_TTL):
                break
        assert await replicas.drained(rig.store, replica, gateway_ttl=demand.GATEWAY_TTL)
        assert engine.counters.requests == 1


async def test_the_model_list_wakes_nobody() -> None:
    """Polling the list would keep a GPU burning round the clock."""
    from lamplighter.store import demand

    async with running() as rig:
        for path in ("/v1/models", "/v1/models/big", "/health", "/ready", "/metrics"):
            assert (await rig.client.get(path)).status_code == 200
        await asyncio.sleep(0.4)
        totals = await demand.totals(rig.store)
        assert all(not (entry.queued or entry.in_flight or entry.wanted_until) for entry in totals.values())
        shown = (await rig.client.get("/v1/models")).json()["data"][0]
        assert (shown["id"], shown["state"]) == ("big", "asleep")


async def _head(rig: Rig, path: str) -> httpx.Response:
    return await rig.client.head(path)


@pytest.mark.parametrize("path", ["/v1/models", "/health"])
async def test_head_has_no_body(path: str) -> None:
    """Health checks of load balancers use HEAD; a body would break the connection's next answer."""
    async with running() as rig:
        answer = await _head(rig, path)
        assert answer.status_code == 200
        assert answer.content == b""
        assert (await rig.client.get(path)).status_code == 200

"""`testing.engine`: a fake that lies about what it does would make every test on top of it worthless."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.engine import FakeEngine, Wrong

CHAT = "/v1/chat/completions"


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(tokens=6) as server:
        yield server


async def post(engine: FakeEngine, path: str = CHAT, **body: Any) -> httpx.Response:
    body.setdefault("messages", [{"role": "user", "content": "one two"}])
    async with httpx.AsyncClient(base_url=engine.url, timeout=5) as client:
        return await client.post(path, json=body)


async def soon(met: Callable[[], bool]) -> None:
    """Until a socket has delivered what makes the condition true."""
    for _ in range(5000):
        if met():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


def events(text: str) -> list[Any]:
    """What an SSE client would read."""
    lines = [line.removeprefix("data: ") for line in text.replace("\r\n", "\n").split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_a_stream_has_openais_shape(engine: FakeEngine) -> None:
    """The gateway would be tested against something that no engine sends."""
    first, *middle, last, usage, done = events((await post(engine, stream=True, stream_options={"include_usage": True})).text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert len(middle) == 6
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8})
    assert done == "[DONE]"


async def test_usage_comes_only_when_asked_for(engine: FakeEngine) -> None:
    """Metering would look right in tests and be blind in production."""
    assert "usage" not in (await post(engine, stream=True)).text


async def test_limits_are_honoured(engine: FakeEngine) -> None:
    """`max_tokens` would seem to work whatever the gateway does with it."""
    answer = (await post(engine, max_tokens=3)).json()
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_completions_and_embeddings(engine: FakeEngine) -> None:
    """Two of the four routes would be untested."""
    assert (await post(engine, "/v1/completions", prompt="x")).json()["choices"][0]["text"]
    numbers = (await post(engine, "/v1/embeddings", input=["a", "b"])).json()["data"]
    assert [one["index"] for one in numbers] == [0, 1]
    assert numbers[0]["embedding"] != numbers[1]["embedding"]
    assert isinstance(
        (await post(engine, "/v1/embeddings", input="a", encoding_format="base64")).json()["data"][0]["embedding"], str
    )


async def test_a_long_prompt_gets_llamacpps_error(engine: FakeEngine) -> None:
    """The mapping of the engine's own error would be tested against an invention."""
    engine.behaviour = replace(engine.behaviour, context=1)
    answer = await post(engine)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "exceed_context_size_error"
    assert answer.json()["error"]["n_ctx"] == 1


async def test_bad_bodies_are_400(engine: FakeEngine) -> None:
    """A defect in the splicing of bodies would go unnoticed."""
    async with httpx.AsyncClient(base_url=engine.url) as client:
        assert (await client.post(CHAT, content=b"{")).status_code == 400
        assert (await client.post(CHAT, content=b"[]")).status_code == 400


async def test_the_first_requests_can_be_refused(engine: FakeEngine) -> None:
    """Retries would be untested."""
    engine.behaviour = replace(engine.behaviour, status_503_times=2)
    assert [(await post(engine)).status_code for _ in range(3)] == [503, 503, 200]


async def test_a_key_is_demanded(engine: FakeEngine) -> None:
    """A gateway that forgets the engine's key would pass every test."""
    engine.behaviour = replace(engine.behaviour, key="secret")
    assert (await post(engine)).status_code == 401


@pytest.mark.parametrize("wrong", [Wrong.RESET, Wrong.GARBAGE, Wrong.CUT])
async def test_broken_connections_break(engine: FakeEngine, wrong: Wrong) -> None:
    """The gateway's handling of a dying engine would be tested against a healthy one."""
    engine.behaviour = replace(engine.behaviour, wrong=wrong)
    with pytest.raises(httpx.TransportError):
        await post(engine, stream=True)


@pytest.mark.parametrize("wrong", [Wrong.HANG, Wrong.STALL])
async def test_silence_is_silent_and_leaving_is_counted(engine: FakeEngine, wrong: Wrong) -> None:
    """Tests of cancellation read these counters."""
    engine.behaviour = replace(engine.behaviour, wrong=wrong)
    request = asyncio.create_task(post(engine, stream=True))
    await soon(lambda: engine.counters.running > 0)
    request.cancel()
    await soon(lambda: engine.counters.cancelled > 0)
    assert (engine.counters.running, engine.counters.cancelled, engine.counters.finished) == (0, 1, 0)


async def test_streams_that_end_wrongly_end_cleanly_on_the_wire(engine: FakeEngine) -> None:
    """These are the ends that a gateway is tempted to believe."""

    async def text(wrong: Wrong) -> str:
        engine.behaviour = replace(engine.behaviour, wrong=wrong)
        return (await post(engine, stream=True, stream_options={"include_usage": True})).text

    assert not (await text(Wrong.HALF_EVENT)).endswith("\n\n")
    assert "[DONE]" not in await text(Wrong.NO_DONE)
    error = events(await text(Wrong.ERROR_EVENT))
    assert "error" in error[-1]
    assert '"usage"' not in await text(Wrong.USAGE_MISSING)
    assert "{not json" in await text(Wrong.GARBAGE_EVENT)
    assert max(len(line) for line in (await text(Wrong.HUGE_EVENT)).split("\n\n")) > 2 * 10**6
    assert len(events(await text(Wrong.CRLF_EVENTS))) == len(events(await text(Wrong.SPLIT_UTF8))) == 10


async def test_wrong_times_end(engine: FakeEngine) -> None:
    """ "Fails once, then works" is what retries are for."""
    engine.behaviour = replace(engine.behaviour, wrong=Wrong.STATUS_500, wrong_times=1)
    assert [(await post(engine)).status_code for _ in range(2)] == [500, 200]


async def test_a_crash_cuts_everything(engine: FakeEngine) -> None:
    """`kill -9` of the engine mid-stream, without a process."""
    engine.behaviour = replace(engine.behaviour, crash_after_tokens=3)
    with pytest.raises(httpx.TransportError):
        await post(engine, stream=True)
    assert engine.crashed
    with pytest.raises(httpx.ConnectError):
        await post(engine)


async def test_speed_and_loading_follow_the_clock() -> None:
    """Tests of slow engines would be slow, or the speed a fiction."""
    clock = VirtualClock()
    async with FakeEngine(clock=clock, load_seconds=30, tokens_per_second=2, tokens=5) as engine:
        assert (await post(engine)).status_code == 503
        await clock.advance(31)
        request = asyncio.create_task(post(engine))
        await soon(lambda: engine.counters.tokens > 0)
        assert engine.counters.tokens == 1
        await clock.advance(1.0)
        assert engine.counters.tokens == 3
        await clock.advance(5)
        assert (await request).status_code == 200


async def test_it_runs_as_a_process() -> None:
    """`make dev` and the benchmarks use it so."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lamplighter.testing.engine", "--model", "m", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/v1/models")).json()["data"][0]["id"] == "m"
    finally:
        process.kill()
        await process.wait()

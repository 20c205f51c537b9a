"""A stream survives the loss of its engine: on real sockets, through every way in, and without leaving anything behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.core.states import ReplicaState
from lamplighter.engines.continuing import Continues
from lamplighter.gateway.relay import Event
from lamplighter.store import usage
from lamplighter.testing.engine import WORDS, FakeEngine, Wrong
from tests.unit.gateway.harness import KEY, PretendedEngine, Rig, config_of, events, question, running, said

TOKENS = 20
TEXT = "".join(WORDS[index % len(WORDS)] for index in range(TOKENS))
FAST = {"idle_stream_timeout": "300ms", "heartbeat": "100ms", "early_headers": "0s"}


@pytest.fixture(autouse=True)
def _continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PretendedEngine, "continues", Continues.PREFILL, raising=False)


async def broke_off(engine: FakeEngine) -> None:
    """Return when the engine has come to the middle of an answer, where it fails."""
    for _ in range(1000):
        if engine.counters.tokens >= TOKENS // 2:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody asked it")


@asynccontextmanager
async def pair(
    first_wrong: Wrong | None, *, gateway: dict[str, Any] | None = None, **second: Any
) -> AsyncIterator[tuple[Rig, FakeEngine]]:
    """An engine that every request comes to first, and that fails; and one that becomes ready when the first has failed."""
    async with (
        FakeEngine(tokens=TOKENS, wrong=first_wrong, continues=True) as bad,
        FakeEngine(**{"tokens": TOKENS, "continues": True, **second}) as good,
        running(config_of(gateway={**FAST, **(gateway or {})})) as rig,
    ):
        first = await rig.ready(bad.url)

        async def replace_it() -> None:
            await broke_off(bad)
            await rig.advance(first, ReplicaState.LOST)
            await rig.ready(good.url)

        keeper = asyncio.create_task(replace_it())
        try:
            yield rig, good
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def stream(rig: Rig, **more: Any) -> list[Any]:
    answer = await rig.chat(stream=True, **more)
    assert answer.status_code == 200, answer.text
    return events(answer.text)


@pytest.mark.parametrize("wrong", [Wrong.CUT, Wrong.STALL, Wrong.HALF_EVENT])
async def test_another_engine_goes_on(wrong: Wrong) -> None:
    """A long answer would be lost with the machine that wrote it: on spot capacity, every day."""
    async with pair(wrong) as (rig, good):
        found = await stream(rig, stream_options={"include_usage": True})
        assert said(found) == TEXT
        assert found[-1] == "[DONE]"
        assert len({item["id"] for item in found[:-1]}) == 1
        assert not any("error" in item for item in found[:-1])
        told = found[-2]["usage"]  # the engine counts words, so that only the answer's count is exact here
        assert told["completion_tokens"] == TOKENS
        assert told["total_tokens"] == told["prompt_tokens"] + TOKENS
        assert good.bodies[0]["messages"][-1]["role"] == "assistant"
        await rig.until_idle()
        assert b'lamplighter_streams_continued_total{model="big",result="continued"} 1.0' in rig.gateway.metrics.render()
        await rig.gateway.services.accounts.flush()
        [entry] = await usage.recent(rig.store, limit=5)
        assert (entry.outcome, entry.retries >= 1, entry.completion_tokens, entry.estimated) == ("ok", True, TOKENS, True)


async def test_people_see_signs_of_life_meanwhile() -> None:
    """While another machine wakes, a proxy would cut the silent stream."""
    async with (
        FakeEngine(tokens=TOKENS, wrong=Wrong.CUT) as bad,
        FakeEngine(tokens=TOKENS, continues=True) as good,
        running(config_of(gateway=FAST)) as rig,
    ):
        first = await rig.ready(bad.url)
        asking = asyncio.create_task(rig.chat(stream=True))
        await broke_off(bad)
        await rig.advance(first, ReplicaState.LOST)
        await asyncio.sleep(0.5)
        await rig.ready(good.url)
        answer = await asking
        assert said(events(answer.text)) == TEXT
        assert answer.text.count(": lamplighter waking") >= 2
        assert ": lamplighter another replica goes on with this answer" in answer.text
        await rig.until_idle()


async def test_the_page_s_answers_go_on_too() -> None:
    """The same answer would survive for a program and be lost for a person."""
    async with pair(Wrong.CUT) as (rig, _):
        identity = rig.gateway.keyring.identify({b"x-api-key": KEY.encode()})
        body = {"messages": [{"role": "user", "content": "Say something."}]}
        async with rig.gateway.services.relay.generate(identity=identity, model="big", body=body) as items:
            found = [json.loads(item.data) async for item in items if isinstance(item, Event)]
        assert said(found) == TEXT
        await rig.until_idle()


async def test_ollama_s_clients_get_the_rest_too() -> None:
    """Another dialect is another way in to the same engine."""
    async with pair(Wrong.CUT) as (rig, _):
        answer = await rig.client.post(
            "/api/chat", json={"model": "big", "messages": [{"role": "user", "content": "Say something."}]}
        )
        lines = [json.loads(line) for line in answer.text.splitlines() if line]
        assert "".join(line["message"]["content"] for line in lines if "message" in line) == TEXT
        assert lines[-1]["done"] is True
        await rig.until_idle()


@pytest.mark.parametrize(
    ("gateway", "more"),
    [
        ({"continue_streams": False}, {}),
        ({}, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ({}, {"n": 1, "logprobs": True}),
    ],
)
async def test_where_it_is_off_or_not_possible_the_loss_is_told(gateway: dict[str, Any], more: dict[str, Any]) -> None:
    """Half a tool call would be taken for a whole one."""
    async with pair(Wrong.CUT, gateway=gateway) as (rig, good):
        found = await stream(rig, **more)
        assert found[-1]["error"]["code"] == "upstream_lost"
        await rig.until_idle()
        assert good.counters.requests == 0


async def test_an_engine_that_refuses_to_go_on_is_a_loss() -> None:
    """Its error would be put into the middle of an answer, or its other words after the first ones."""
    async with pair(Wrong.CUT, context=3) as (rig, good):
        found = await stream(rig)
        assert found[-1]["error"]["code"] == "upstream_lost"
        assert "[DONE]" not in found
        assert good.counters.requests == 1
        await rig.until_idle()
        assert b'result="failed"} 1.0' in rig.gateway.metrics.render()


async def test_engines_that_always_fail_end_it() -> None:
    """One poisonous request would kill every engine, one after the other, for ever."""
    async with pair(Wrong.CUT, wrong=Wrong.CUT) as (rig, good):
        found = await stream(rig)
        assert found[-1]["error"]["code"] == "upstream_lost"
        assert good.counters.requests <= 3
        text = said(found[:-1])
        assert TEXT.startswith(text)
        assert text
        await rig.until_idle()


async def test_nobody_waits_when_the_gateway_stops() -> None:
    """A stream that lost its engine would hold up the end, and its client would hear nothing."""
    async with FakeEngine(tokens=TOKENS, wrong=Wrong.CUT) as bad, running(config_of(gateway=FAST)) as rig:
        first = await rig.ready(bad.url)
        asking = asyncio.create_task(rig.chat(stream=True))
        await broke_off(bad)
        await rig.advance(first, ReplicaState.LOST)
        await asyncio.sleep(0.1)
        await rig.gateway.drain(0.5)
        found = events((await asking).text)
        assert found[-1]["error"]["code"] == "upstream_lost"
        await rig.until_idle()


async def test_who_leaves_meanwhile_leaves_nothing() -> None:
    """A place in the queue would be taken for ever, and a GPU woken for nobody."""
    async with FakeEngine(tokens=TOKENS, wrong=Wrong.CUT) as bad, running(config_of(gateway=FAST)) as rig:
        first = await rig.ready(bad.url)
        async with rig.client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as answer:
            async for line in answer.aiter_lines():
                if "waking" in line:
                    break
                if bad.counters.requests and not bad.counters.running and first is not None:
                    await rig.advance(first, ReplicaState.LOST)
                    first = None  # type: ignore[assignment] # once
        await rig.until_idle()


async def test_losing_the_error_is_impossible() -> None:
    """With nobody who could ever go on (a server that is gone), the client hears of it within seconds."""
    config = config_of(models={"big": {"engine": "fake", "pool": "cloud"}}, gateway={**FAST, "retries": 0})
    async with FakeEngine(tokens=TOKENS, wrong=Wrong.CUT) as bad, running(config) as rig:
        await rig.ready(bad.url)
        asking = asyncio.create_task(rig.chat(stream=True))
        await broke_off(bad)
        await bad.stop()
        bad.behaviour = replace(bad.behaviour, wrong=None)
        answer = await asyncio.wait_for(asking, 10)
        assert events(answer.text)[-1]["error"]["code"] == "upstream_lost"
        await rig.until_idle()

"""Generations for the chat page: the same path as HTTP, without HTTP."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import WakeFailure
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.relay import Event, Item, Started, UpstreamLost, Waking
from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import Rig, config_of, question, running

ME = Identity("pri_1", "me", "key_1", admin=False)


def body(**more: Any) -> dict[str, Any]:
    return {"messages": question()["messages"], **more}


async def collect(rig: Rig, **more: Any) -> list[Item]:
    settings: dict[str, Any] = {"identity": ME, "model": "big", "body": body(), **more}
    async with rig.gateway.services.relay.generate(**settings) as generation:
        return [item async for item in generation]


async def test_a_generation_starts_and_ends_with_usage() -> None:
    """The chat page would show nothing, or no token counts."""
    async with FakeEngine(model="big", tokens=5) as engine, running() as rig:
        await rig.ready(engine.url)
        first, *rest = await collect(rig)
        assert first == Started("big", None)
        payloads = [json.loads(item.data) for item in rest if isinstance(item, Event)]
        assert payloads[-1]["usage"]["completion_tokens"] == 5
        assert (
            "".join(item["choices"][0]["delta"].get("content") or "" for item in payloads if item["choices"])
            == "The lamp is lit while"
        )
        await rig.until_idle()


async def test_waking_is_told_before_the_start() -> None:
    """The page's wake card would stay empty."""
    async with FakeEngine(tokens=1) as engine, running() as rig:
        collecting = asyncio.create_task(collect(rig))
        await asyncio.sleep(0.1)
        wake = await rig.wake(stages=("boot", "load"))
        await asyncio.sleep(0.2)
        await rig.ready(engine.url)
        items = await collecting
        wakings = [item for item in items if isinstance(item, Waking)]
        assert wakings[0] == Waking(None)
        assert wakings[-1].wake is not None
        assert wakings[-1].wake.id == wake.id
        started = items[len(wakings)]
        assert isinstance(started, Started)
        assert started.woke_in is not None
        assert started.woke_in > 0.1


async def test_refusals_come_before_the_start() -> None:
    """The page would show an empty answer instead of the reason."""
    async with running() as rig:
        with pytest.raises(RequestError, match="does not exist"):
            await collect(rig, model="none")
        with pytest.raises(RequestError, match="at least one message"):
            await collect(rig, body=body(messages=[]))
        await rig.fail_wake(await rig.wake(), WakeFailure.OUT_OF_MEMORY)
        with pytest.raises(RequestError, match="does not fit into memory"):
            await collect(rig)
        await rig.until_idle()


@pytest.mark.parametrize("wrong", [Wrong.CUT, Wrong.HALF_EVENT])
async def test_a_broken_answer_is_lost_not_done(wrong: Wrong) -> None:
    """Half an answer would be kept as if it were whole."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        engine.behaviour = replace(engine.behaviour, wrong=wrong)
        with pytest.raises(UpstreamLost):
            await collect(rig)
        await rig.until_idle()


@pytest.mark.parametrize("wake", [True, False])
async def test_leaving_stops_everything_at_once(wake: bool) -> None:
    """Stop on the page would leave the engine working, or the model waking."""
    async with FakeEngine(tokens=100_000, tokens_per_second=100) as engine, running() as rig:
        if wake:
            await rig.ready(engine.url)
        settings: dict[str, Any] = {"identity": ME, "model": "big", "body": body(max_tokens=100_000)}
        async with rig.gateway.services.relay.generate(**settings) as generation:
            async for item in generation:
                if isinstance(item, Event) or not wake:
                    break
        await rig.until_idle()
        for _ in range(100):
            await asyncio.sleep(0.01)
            if engine.counters.cancelled == int(wake):
                break
        assert engine.counters.cancelled == int(wake)


async def test_a_slow_reader_makes_the_engine_wait() -> None:
    """A stalled page would fill the gateway's memory."""
    async with FakeEngine(tokens=1_000_000) as engine, running() as rig:
        await rig.ready(engine.url)
        settings: dict[str, Any] = {"identity": ME, "model": "big", "body": body(max_tokens=1_000_000)}
        async with rig.gateway.services.relay.generate(**settings) as generation:
            async for _ in generation:
                break
            before = -1
            for _ in range(40):
                if engine.counters.tokens == before:
                    break
                before = engine.counters.tokens
                await asyncio.sleep(0.3)
            assert engine.counters.tokens == before
            read = 0
            async for _ in generation:
                read += 1
                if read > before:
                    break
            assert engine.counters.tokens > before
        await rig.until_idle()


async def test_the_stand_in_says_who_it_is() -> None:
    """The page would label a small model's answer with the big one's name."""
    models = {"big": {"engine": "fake", "pool": "cloud", "while_waking": "small"}, "small": {"engine": "fake", "pool": "quick"}}
    async with (
        FakeEngine(tokens=1) as engine,
        running(config_of(models=models, pools={"cloud": {"kind": "fake"}, "quick": {"kind": "fake"}})) as rig,
    ):
        await rig.ready(engine.url, "small", pool="quick")
        assert (await collect(rig))[0] == Started("small", None)

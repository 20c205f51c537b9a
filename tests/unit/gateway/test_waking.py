"""Requests to a sleeping model: held, told, served, or sent away honestly."""

import asyncio
import time
from typing import Any

import pytest

from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.store import demand, wakes
from lamplighter.store.bus import Topic
from lamplighter.store.wakes import Stage
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import KEY, Rig, config_of, events, question, running, said

PAIR = {"big": {"engine": "fake", "pool": "cloud", "while_waking": "small"}, "small": {"engine": "fake", "pool": "quick"}}
POOLS = {"cloud": {"kind": "fake"}, "quick": {"kind": "fake"}}


async def later(seconds: float, rig: Rig, url: str, *models: str) -> None:
    await asyncio.sleep(seconds)
    await rig.ready(url, *models)


async def stored(rig: Rig, model: str = "big") -> demand.Demand:
    return (await demand.totals(rig.store)).get(model, demand.Demand(model))


async def until_stored(rig: Rig, what: str, value: Any, model: str = "big") -> None:
    for _ in range(200):
        if getattr(await stored(rig, model), what) == value:
            return
        await asyncio.sleep(0.01)
    assert getattr(await stored(rig, model), what) == value


async def test_a_held_request_is_demand_and_then_answered() -> None:
    """Nothing would wake the model, or the first request of the day would be lost."""
    async with FakeEngine(tokens=13) as engine, running() as rig:
        with rig.store.bus.subscribe(Topic.DEMAND) as hints:
            asking = asyncio.create_task(rig.chat())
            assert (Topic.DEMAND, "big") in await hints.wait(2)
        await until_stored(rig, "queued", 1)
        assert (await stored(rig)).oldest_queued_at == pytest.approx(time.time(), abs=5)
        await rig.ready(engine.url)
        answer = await asking
        assert answer.status_code == 200
        assert int(answer.headers["lamplighter-wake-ms"]) > 0
        await until_stored(rig, "queued", 0)
        await until_stored(rig, "in_flight", 0)
        assert (await stored(rig)).last_ended_at == pytest.approx(time.time(), abs=5)
        await rig.until_idle()


async def test_a_held_stream_gets_headers_stages_and_heartbeats() -> None:
    """Proxies and people would give up before the model is awake."""
    config = config_of(gateway={"early_headers": "100ms", "heartbeat": "300ms"})
    async with FakeEngine(tokens=13) as engine, running(config) as rig:
        began = time.monotonic()
        async with rig.client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as answer:
            assert time.monotonic() - began < 1.0
            assert answer.status_code == 200
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith(": lamplighter waking stage=queued elapsed=0s")
            wake = await rig.wake(stages=("boot", "load"), eta_p50=30.0, eta_p90=60.0)
            now = rig.store.clock.time()
            assert "stage=boot" in await _next_comment(lines)
            await wakes.progress(rig.store, wake.id, [Stage("boot", now, now), Stage("load", now)])
            comment = await _next_comment(lines)
            assert "stage=load" in comment
            assert "eta=" in comment
            assert "stage=load" in await _next_comment(lines)  # a heartbeat: nothing changed
            await rig.ready(engine.url)
            rest = "\n".join([line async for line in lines])
            assert said(events(rest)) != ""
            assert "[DONE]" in rest
        await rig.until_idle()


async def _next_comment(lines: Any) -> str:
    while not (line := await anext(lines)).startswith(":"):
        pass
    return str(line)


async def test_a_fast_wake_needs_no_early_headers() -> None:
    """A fast wake's true HTTP error would be hidden in a stream."""
    async with FakeEngine(tokens=13) as engine, running() as rig:
        asking = asyncio.create_task(rig.chat(stream=True))
        await later(0.1, rig, engine.url)
        answer = await asking
        assert "waking" not in answer.text
        assert int(answer.headers["lamplighter-wake-ms"]) >= 50


async def test_whole_answers_wait_no_longer_than_hold() -> None:
    """A client behind a proxy would see a broken connection instead of advice."""
    async with running(config_of(gateway={"hold": "200ms"})) as rig:
        wake = await rig.wake(stages=("boot", "load"), eta_p50=90.0, eta_p90=120.0)
        answer = await rig.chat()
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert (error["code"], error["stage"]) == ("model_waking", "boot")
        assert 80 < error["eta_seconds"] <= 90
        assert answer.headers["retry-after"] == "60"
        assert wake.outcome is None
        await rig.until_idle()


async def test_streams_wait_no_longer_than_max_wait() -> None:
    """A stream would hang for ever when nobody wakes the model."""
    async with running(config_of(gateway={"max_wait": "400ms", "early_headers": "50ms"})) as rig:
        answer = await rig.chat(stream=True)
        assert answer.status_code == 200
        items = events(answer.text)
        assert items[-1]["error"]["code"] == "model_waking"
        assert "[DONE]" not in items


async def test_105_at_once_hold_100_and_refuse_five() -> None:
    """A flood would take all memory, or more than the five too many would be refused."""
    async with FakeEngine(tokens=2) as engine, running() as rig:
        asking = [asyncio.create_task(rig.chat(stream=index % 2 == 0)) for index in range(105)]
        await until_stored(rig, "queued", 100)
        await rig.ready(engine.url)
        answers = await asyncio.gather(*asking)
        codes = [answer.status_code for answer in answers]
        assert (codes.count(200), codes.count(429)) == (100, 5)
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        await rig.until_idle()
        await until_stored(rig, "in_flight", 0)


@pytest.mark.parametrize("reason", [WakeFailure.OUT_OF_MEMORY, WakeFailure.BUDGET, WakeFailure.MODEL_NOT_FOUND])
async def test_a_wake_that_failed_for_good_is_told_at_once(reason: WakeFailure) -> None:
    """A person would wait for a model that cannot come, without learning why."""
    async with running(config_of(gateway={"early_headers": "50ms"})) as rig:
        asking = [asyncio.create_task(rig.chat()), asyncio.create_task(rig.chat(stream=True))]
        await until_stored(rig, "queued", 2)
        await asyncio.sleep(0.2)
        await rig.fail_wake(await rig.wake(), reason, detail="it needs 9 GB")
        whole, stream = await asyncio.gather(*asking)
        assert whole.status_code == VERDICTS[reason].status
        assert whole.json()["error"]["code"] == reason.value
        assert "it needs 9 GB" in whole.json()["error"]["message"]
        assert stream.status_code == 200
        assert events(stream.text)[-1]["error"]["code"] == reason.value
        again = await rig.chat(stream=True)
        assert again.status_code == VERDICTS[reason].status
        assert again.json()["error"]["next_step"] == VERDICTS[reason].next_step
        await rig.until_idle()


async def test_a_failure_that_is_tried_again_keeps_people_waiting() -> None:
    """One failed attempt would cost the answer although the next succeeds."""
    async with FakeEngine() as engine, running() as rig:
        asking = asyncio.create_task(rig.chat())
        await until_stored(rig, "queued", 1)
        await rig.fail_wake(await rig.wake(), WakeFailure.NO_CAPACITY)
        await asyncio.sleep(0.1)
        assert not asking.done()
        await rig.ready(engine.url)
        assert (await asking).status_code == 200


async def test_the_third_failure_in_a_row_is_told() -> None:
    """Clients would be held for an hour while the same failure repeats."""
    async with running() as rig:
        asking = asyncio.create_task(rig.chat())
        await until_stored(rig, "queued", 1)
        await rig.fail_wake(await rig.wake(attempt=3), WakeFailure.NO_CAPACITY)
        assert (await asking).json()["error"]["code"] == "no_capacity"


async def test_after_the_backoff_a_new_request_tries_anew() -> None:
    """A model that failed once would never come back."""
    async with FakeEngine() as engine, running() as rig:
        await rig.fail_wake(await rig.wake(), WakeFailure.OUT_OF_MEMORY, retry_in=-1)
        asking = asyncio.create_task(rig.chat())
        await until_stored(rig, "queued", 1)
        await rig.ready(engine.url)
        assert (await asking).status_code == 200


async def test_fail_does_not_wake() -> None:
    """A program that only wants to use what is awake would burn a GPU."""
    async with running() as rig:
        answer = await rig.chat(headers={"lamplighter-wake": "fail"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_asleep")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        await asyncio.sleep(0.4)
        assert await stored(rig) == demand.Demand("big")
        await rig.wake()
        await rig.gateway.services.view.refresh()
        assert (await rig.chat(headers={"lamplighter-wake": "fail"})).json()["error"]["stage"] == "boot"


@pytest.mark.parametrize("value", ["maybe", "", "wait, fail"])
async def test_other_wake_headers_are_refused(value: str) -> None:
    """A typo would silently mean something else."""
    async with running() as rig:
        answer = await rig.chat(headers={"lamplighter-wake": value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Lamplighter-Wake")


async def test_local_answers_at_once_and_wakes_the_other() -> None:
    """A person would wait although a small model could answer; or the big one would never wake."""
    async with (
        FakeEngine(model="small", tokens=13) as small,
        FakeEngine(model="big") as big,
        running(config_of(models=PAIR, pools=POOLS)) as rig,
    ):
        await rig.ready(small.url, "small", pool="quick")
        for headers in ({}, {"lamplighter-wake": "local"}):
            answer = await rig.chat(headers=headers)
            assert answer.json()["model"] == "small"
            assert answer.headers["lamplighter-served-by"] == "small"
            assert answer.headers["lamplighter-model"] == "small"
        await asyncio.sleep(0.3)
        wanted = await stored(rig)
        assert wanted.wanted_until is not None
        assert wanted.wanted_until > time.time() + 100
        assert wanted.queued == 0
        await rig.ready(big.url, "big")
        answer = await rig.chat()
        assert answer.json()["model"] == "big"
        assert "lamplighter-served-by" not in answer.headers
        await until_stored(rig, "wanted_until", None)


async def test_wait_waits_although_a_small_model_could_answer() -> None:
    """A program that needs the big model's quality would get the small one's."""
    async with (
        FakeEngine(model="small") as small,
        FakeEngine(model="big") as big,
        running(config_of(models=PAIR, pools=POOLS)) as rig,
    ):
        await rig.ready(small.url, "small", pool="quick")
        asking = asyncio.create_task(rig.chat(headers={"lamplighter-wake": "wait"}))
        await until_stored(rig, "queued", 1)
        await rig.ready(big.url, "big")
        assert (await asking).json()["model"] == "big"


async def test_local_without_a_small_model_is_refused() -> None:
    """A person would not learn what to configure."""
    async with running() as rig:
        answer = await rig.chat(headers={"lamplighter-wake": "local"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_local_model")


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_held_leaves_the_queue(stream: bool) -> None:
    """The model would be woken, and kept awake, for nobody."""
    async with running(config_of(gateway={"early_headers": "50ms"})) as rig:
        asking = asyncio.create_task(rig.chat(stream=stream))
        await until_stored(rig, "queued", 1)
        await asyncio.sleep(0.1)
        asking.cancel()
        await until_stored(rig, "queued", 0)
        await rig.until_idle()


async def test_a_model_removed_while_held_is_told() -> None:
    """Clients of a removed model would hang."""
    from lamplighter.store import overlay

    async with running() as rig:
        await overlay.add(rig.store, rig.gateway.services.config, "added", {"engine": "fake", "pool": "cloud"})
        await rig.gateway.services.view.refresh()
        asking = asyncio.create_task(rig.chat("added"))
        await until_stored(rig, "queued", 1, "added")
        await overlay.remove(rig.store, "added")
        assert (await asking).status_code == 404
        await rig.until_idle()


async def test_an_engine_that_dies_is_waited_for_anew() -> None:
    """The request that finds the engine dead would fail although a new one comes in a second."""
    async with FakeEngine() as dead, FakeEngine() as fresh, running() as rig:
        replica = await rig.ready(dead.url)
        dead.crash()
        asking = asyncio.create_task(rig.chat())
        await until_stored(rig, "queued", 1)
        await rig.advance(replica, ReplicaState.LOST)
        await rig.ready(fresh.url)
        assert (await asking).status_code == 200
        await rig.until_idle()


STATIC: dict[str, Any] = {
    "models": {"far": {"engine": "openai", "pool": "nas"}},
    "pools": {"nas": {"kind": "static", "url": "http://x"}},
}


async def test_a_static_server_that_is_down_is_said_at_once() -> None:
    """A person would wait for a server that nobody wakes."""
    async with FakeEngine(model="far") as engine, running(config_of(**STATIC)) as rig:
        replica = await rig.ready(engine.url, "far", pool="nas")
        assert (await rig.chat("far")).status_code == 200
        engine.crash()
        for state in (None, ReplicaState.UNREACHABLE):
            if state is not None:
                await rig.advance(replica, state)
            began = time.monotonic()
            for stream in (False, True):
                answer = await rig.chat("far", stream=stream)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unreachable")
                assert "retry-after" in answer.headers
            assert time.monotonic() - began < 3
        await rig.until_idle()


async def test_a_gateway_that_ends_takes_its_demand_back_and_sends_people_away() -> None:
    """The keeper would wake models for a gateway that is gone; clients would see cut connections."""
    async with FakeEngine(tokens=30, tokens_per_second=30) as engine, running(config_of(models=PAIR, pools=POOLS)) as rig:
        await rig.ready(engine.url, "small", pool="quick")
        held = asyncio.create_task(rig.chat("big", headers={"lamplighter-wake": "wait"}))
        streaming = asyncio.create_task(rig.chat("small", stream=True))
        await until_stored(rig, "queued", 1)
        await until_stored(rig, "in_flight", 1, "small")
        draining = asyncio.create_task(rig.gateway.drain(10))
        answer = await held
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gateway_stopping")
        late = await rig.chat("small")
        assert (late.status_code, late.headers["connection"]) == (503, "close")
        assert (await rig.client.get("/ready")).status_code == 503
        assert (await rig.client.get("/health")).status_code == 200
        assert events((await streaming).text)[-1] == "[DONE]"
        await draining
        rig.gateway.assert_idle()
        await rig.gateway.stop()
        assert (await stored(rig)).queued == 0
        assert KEY


async def test_answers_still_running_at_the_end_get_an_error_event() -> None:
    """A person would take half an answer for a whole one when the gateway restarts."""
    async with FakeEngine(tokens=10_000, tokens_per_second=20) as engine, running() as rig:
        await rig.ready(engine.url)
        streaming = asyncio.create_task(rig.chat(stream=True, max_tokens=10_000))
        await until_stored(rig, "in_flight", 1)
        await rig.gateway.drain(0.1)
        await rig.gateway.stop()
        items = events((await streaming).text)
        assert items[-1]["error"]["code"] == "upstream_lost"
        rig.gateway.assert_idle()

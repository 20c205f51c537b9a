"""Routing through a real gateway on a real socket: other names, other models, other replicas, and endpoints that fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import HealthReason, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.store import replicas
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import Rig, config_of, events, running, said

TWO = {"one": {"kind": "fake"}, "two": {"kind": "fake"}}
CHAIN = {
    "big": {"engine": "fake", "pool": "one", "fallback": ["middle", "small"], "aliases": ["gpt-4o"]},
    "middle": {"engine": "fake", "pool": "two"},
    "small": {"engine": "fake", "pool": "two"},
}
NAS = {"nas": {"kind": "static", "url": "http://127.0.0.1:9"}}
LONE = {"big": {"engine": "openai", "pool": "nas"}}


def error_of(answer: Any) -> dict[str, Any]:
    error = answer.json()["error"]
    assert isinstance(error, dict)
    return error


async def breaker_of(rig: Rig, replica: str) -> dict[str, Any] | None:
    status = (await rig.client.get("/api/status")).json()
    found = next(one["breaker"] for pool in status["pools"] for one in pool["replicas"] if one["id"] == replica)
    assert found is None or isinstance(found, dict)
    return found


# -- names


async def test_an_alias_is_the_model_itself() -> None:
    """A program that can only ask for `gpt-4o` could not be used."""
    async with FakeEngine(model="big") as engine, running(config_of(models=CHAIN, pools=TWO)) as rig:
        await rig.ready(engine.url, "big", pool="one")
        answer = await rig.chat("gpt-4o")
        assert answer.status_code == 200
        assert answer.headers["lamplighter-model"] == "big"
        assert "lamplighter-served-by" not in answer.headers
        assert (await rig.chat("gpt-4o", stream=True)).status_code == 200
        assert (await rig.chat("gpt-5")).status_code == 404
        await rig.until_idle()


async def test_aliases_are_listed_as_what_they_are() -> None:
    """A program that looks for its model in the list would not find it; or people would take it for a model of its own."""
    async with running(config_of(models=CHAIN, pools=TWO)) as rig:
        listed = {model["id"]: model.get("alias_of") for model in (await rig.client.get("/v1/models")).json()["data"]}
        assert listed == {"big": None, "middle": None, "small": None, "gpt-4o": "big"}
        one = (await rig.client.get("/v1/models/gpt-4o")).json()
        assert (one["id"], one["alias_of"], one["state"]) == ("gpt-4o", "big", "asleep")


# -- fallbacks


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chain_is_followed_to_the_one_that_can(stream: bool) -> None:
    """When the GPU cannot be had nobody would answer, although a smaller model runs."""
    async with FakeEngine(model="small") as engine, running(config_of(models=CHAIN, pools=TWO)) as rig:
        await rig.fail_wake(await rig.wake("big", pool="one"), WakeFailure.BAD_IMAGE)
        await rig.fail_wake(await rig.wake("middle", pool="two"), WakeFailure.BAD_IMAGE)
        await rig.ready(engine.url, "small", pool="two")
        answer = await rig.chat("big", stream=stream)
        assert answer.status_code == 200
        assert answer.headers["lamplighter-served-by"] == "small"
        assert answer.headers["lamplighter-model"] == "small"
        if stream:
            assert said(events(answer.text))
        await rig.until_idle()


async def test_a_stream_that_was_held_is_told_who_answers_in_the_end() -> None:
    """Its headers left while the first model was still to wake: they name the wrong one, and nothing would correct them."""
    config = config_of(models=CHAIN, pools=TWO, gateway={"early_headers": "20ms"})
    async with FakeEngine(model="small") as engine, running(config) as rig:
        await rig.fail_wake(await rig.wake("middle", pool="two"), WakeFailure.BAD_IMAGE)
        await rig.ready(engine.url, "small", pool="two")
        wake = await rig.wake("big", pool="one")
        asking = asyncio.create_task(rig.chat("big", stream=True))
        await asyncio.sleep(0.2)
        await rig.fail_wake(wake, WakeFailure.BAD_IMAGE)
        answer = await asking
        assert answer.headers["lamplighter-model"] == "big"
        assert ": lamplighter served-by=small\n" in answer.text
        assert said(events(answer.text))
        assert {event["model"] for event in events(answer.text) if isinstance(event, dict)} == {"small"}
        await rig.until_idle()


async def test_when_none_can_the_error_is_that_of_the_model_that_was_asked_for() -> None:
    """A person would read of models that they never asked for, and not why their own does not answer."""
    async with running(config_of(models=CHAIN, pools=TWO)) as rig:
        await rig.fail_wake(await rig.wake("big", pool="one"), WakeFailure.OUT_OF_MEMORY)
        for other in ("middle", "small"):
            await rig.fail_wake(await rig.wake(other, pool="two"), WakeFailure.BAD_IMAGE)
        answer = await rig.chat("big")
        assert error_of(answer)["code"] == "out_of_memory"
        assert answer.headers["lamplighter-model"] == "big"
        await rig.until_idle()


async def test_an_engine_that_only_fails_falls_back_after_its_retries() -> None:
    """The chain would wait for a wake to fail, while each request to the running engine does."""
    async with (
        FakeEngine(model="big", status_503_times=99) as broken,
        FakeEngine(model="middle") as engine,
        running(config_of(models=CHAIN, pools=TWO, gateway={"retries": 1})) as rig,
    ):
        await rig.ready(broken.url, "big", pool="one")
        await rig.ready(engine.url, "middle", pool="two")
        answer = await rig.chat("big")
        assert (answer.status_code, answer.headers["lamplighter-served-by"]) == (200, "middle")
        assert broken.counters.requests == 2
        await rig.until_idle()


async def test_a_clients_own_mistake_is_nobody_elses_to_answer() -> None:
    """A wrong request would run through all models, and be paid for."""
    async with FakeEngine(model="middle") as engine, running(config_of(models=CHAIN, pools=TWO)) as rig:
        await rig.ready(engine.url, "middle", pool="two")
        answer = await rig.client.post("/v1/chat/completions", json={"model": "big", "messages": []})
        assert answer.status_code == 400
        assert engine.counters.requests == 0


@pytest.mark.parametrize("when_full", [False, True])
async def test_a_full_queue_falls_back_only_when_told_to(when_full: bool) -> None:
    """A burst would spill over to a paid model without anybody's wish, or be refused although it should spill."""
    config = config_of(models=CHAIN, pools=TWO, gateway={"max_held": 1}, routing={"fallback_when_full": when_full})
    async with FakeEngine(model="middle") as engine, running(config) as rig:
        await rig.ready(engine.url, "middle", pool="two")
        waiting = asyncio.create_task(rig.chat("big"))
        await asyncio.sleep(0.1)
        answer = await rig.chat("big")
        assert (answer.status_code, answer.headers["lamplighter-model"]) == ((200, "middle") if when_full else (429, "big"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await rig.until_idle()


# -- circuits


async def test_a_dead_lone_server_is_found_out_once() -> None:
    """Every client of a server that was switched off would wait for a timeout of its own, for as long as it is off."""
    config = config_of(models=LONE, pools=NAS, gateway={"retries": 0}, breaker={"failures": 3, "open": "30s"})
    async with FakeEngine(model="big") as engine, running(config) as rig:
        replica = await rig.ready(engine.url, "big", pool="nas")
        assert (await rig.chat()).status_code == 200
        found = await breaker_of(rig, replica.id)
        assert found is not None
        assert (found["state"], found["failures"], found["retry_at"]) == ("closed", 0, None)
        engine.crash()
        lost = await asyncio.gather(*(rig.chat() for _ in range(3)))
        assert all(answer.status_code >= 500 for answer in lost)
        answer = await rig.chat()
        assert (answer.status_code, error_of(answer)["code"]) == (503, "circuit_open")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert "3 times in a row" in error_of(answer)["message"]
        found = await breaker_of(rig, replica.id)
        assert found is not None
        assert (found["state"], found["failures"]) == ("open", 3)
        assert found["reason"]
        metrics = (await rig.client.get("/metrics")).text
        assert f'lamplighter_breaker_state{{model="big",replica="{replica.id}"}} 2.0' in metrics
        assert 'lamplighter_breaker_opened_total{model="big"} 1.0' in metrics
        await rig.until_idle()


async def test_the_keepers_good_news_closes_the_pause() -> None:
    """A server that is back would not be asked until the pause of a minute is over."""
    config = config_of(models=LONE, pools=NAS, gateway={"retries": 0}, breaker={"failures": 1, "open": "60s"})
    async with FakeEngine(model="big", status_503_times=1) as engine, running(config) as rig:
        replica = await rig.ready(engine.url, "big", pool="nas")
        assert (await rig.chat()).status_code == 503
        assert error_of(await rig.chat())["code"] == "circuit_open"
        await rig.advance(replica, ReplicaState.UNREACHABLE, reason=HealthReason.NO_ANSWER)
        await asyncio.sleep(0.01)  # the two states must not begin at the same time
        await rig.advance(replica, ReplicaState.READY, reason=HealthReason.ANSWERED)
        assert (await rig.chat()).status_code == 200
        found = await breaker_of(rig, replica.id)
        assert found is not None
        assert found["state"] == "closed"
        await rig.until_idle()


async def test_an_engine_at_a_new_endpoint_has_a_clean_record() -> None:
    """A replica that was started anew would pay for the one before it."""
    config = config_of(gateway={"retries": 0}, breaker={"failures": 1, "open": "60s"})
    async with FakeEngine(model="big", status_503_times=1) as bad, FakeEngine(model="big") as good, running(config) as rig:
        replica = await rig.ready(bad.url)
        assert (await rig.chat()).status_code == 503
        await replicas.describe(rig.store, replica.id, term=rig.term, endpoint=Endpoint(good.url))
        await rig.gateway.services.view.refresh()
        assert (await rig.chat()).status_code == 200
        await rig.until_idle()


async def test_clients_that_leave_open_no_circuit() -> None:
    """A few impatient people would shut everybody out."""
    config = config_of(breaker={"failures": 2})
    async with FakeEngine(model="big", tokens_per_second=5) as engine, running(config) as rig:
        replica = await rig.ready(engine.url)
        for _ in range(4):
            asking = asyncio.create_task(rig.chat())
            await asyncio.sleep(0.1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        found = await breaker_of(rig, replica.id)
        assert found is not None
        assert found["state"] == "closed"
        await rig.until_idle()


# -- places


async def test_more_than_the_places_wait_their_turn_and_are_told() -> None:
    """An engine would be flooded; or a stream that waits would be cut by a proxy, not knowing why it waits."""
    models = {"big": {"engine": "fake", "pool": "cloud", "max_parallel": 2}}
    config = config_of(models=models, gateway={"early_headers": "50ms", "heartbeat": "100ms"})
    async with FakeEngine(model="big", tokens_per_second=30) as engine, running(config) as rig:
        await rig.ready(engine.url)
        answers = await asyncio.gather(*(rig.chat(stream=True) for _ in range(6)))
        assert all(said(events(answer.text)) for answer in answers)
        texts = "".join(answer.text for answer in answers)
        assert ": lamplighter queued position=" in texts
        assert "waking" not in texts
        assert engine.counters.peak == 2
        await rig.until_idle()


async def test_those_who_wait_for_a_place_are_demand() -> None:
    """The pool would never grow: what waits inside the gateway would be seen by nobody."""
    models = {"big": {"engine": "fake", "pool": "cloud", "max_parallel": 1}}
    async with FakeEngine(model="big", tokens_per_second=10) as engine, running(config_of(models=models)) as rig:
        await rig.ready(engine.url)
        tasks = [asyncio.create_task(rig.chat()) for _ in range(4)]
        seen: list[tuple[int, int]] = []
        for _ in range(100):
            await asyncio.sleep(0.02)
            snapshot = await rig.gateway.services.view.refresh()
            if (found := snapshot.demand.get("big")) is not None:
                seen.append((found.queued, found.in_flight))
            if (3, 1) in seen:
                break
        assert (3, 1) in seen
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rig.until_idle()


async def test_conversations_stay_on_their_replica() -> None:
    """Each turn would be read anew by another engine."""
    async with FakeEngine(model="big") as one, FakeEngine(model="big") as other, running() as rig:
        await rig.ready(one.url)
        await rig.ready(other.url)
        for number in range(8):
            before = (one.counters.requests, other.counters.requests)
            messages = [{"role": "user", "content": f"Conversation {number}"}]
            for _ in range(3):
                answer = await rig.client.post("/v1/chat/completions", json={"model": "big", "messages": messages})
                assert answer.status_code == 200
                messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
            took = (one.counters.requests - before[0], other.counters.requests - before[1])
            assert sorted(took) == [0, 3]


async def test_a_session_stays_on_its_replica_whatever_it_asks() -> None:
    """Somebody who ties requests together by a header would find them on two engines."""
    async with FakeEngine(model="big") as one, FakeEngine(model="big") as other, running() as rig:
        await rig.ready(one.url)
        await rig.ready(other.url)
        for number in range(6):
            body = {"model": "big", "messages": [{"role": "user", "content": f"Something else, {number}"}]}
            answer = await rig.client.post("/v1/chat/completions", json=body, headers={"lamplighter-session": "mine"})
            assert answer.status_code == 200
        assert sorted((one.counters.requests, other.counters.requests)) == [0, 6]


async def test_weights_of_servers_count_in_the_gateway() -> None:
    """The weights in the file would be read, checked, and forgotten."""
    async with FakeEngine(model="big", tokens_per_second=1) as heavy, FakeEngine(model="big", tokens_per_second=1) as light:
        pools = {"nas": {"kind": "static", "url": heavy.url, "weight": 3, "servers": [{"url": light.url}]}}
        async with running(config_of(models=LONE, pools=pools, routing={"affinity": False, "slow_start": "0s"})) as rig:
            await rig.ready(heavy.url, "big", pool="nas")
            await rig.ready(light.url, "big", pool="nas")
            tasks = [asyncio.create_task(rig.chat()) for _ in range(40)]
            for _ in range(200):
                await asyncio.sleep(0.02)
                if heavy.counters.running + light.counters.running == 40:
                    break
            assert heavy.counters.running + light.counters.running == 40
            assert 26 <= heavy.counters.running <= 34
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await rig.until_idle()


async def test_places_follow_the_model_and_its_engine() -> None:
    """A tiny embedded engine would be sent a thousand requests, or a large one be kept waiting for more."""
    models = {
        "small": {"engine": "llamacpp", "pool": "here", "source": "bundled", "slots": 3},
        "large": {"engine": "openai", "pool": "nas"},
        "told": {"engine": "openai", "pool": "nas", "max_parallel": 7},
    }
    config = config_of(models=models, pools={**NAS, "here": {"kind": "process"}}, gateway={"max_upstream_connections": 500})
    async with running(config) as rig:
        assert {lane.name: lane.places for lane in rig.gateway._lanes} == {"small": 12, "large": 500, "told": 7}


# -- a machine that is gone


async def first_words(lines: AsyncIterator[str]) -> None:
    """Read until the engine said something."""
    async for line in lines:
        if "content" in line and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            return


async def test_a_stream_ends_at_once_when_its_machine_is_gone() -> None:
    """A machine that was switched off closes no connection: people would look at half a sentence for two minutes before it is said to be lost."""
    async with FakeEngine(model="big", tokens_per_second=0.5) as engine, running() as rig:
        replica = await rig.ready(engine.url)
        body = {"model": "big", "stream": True, "tools": [], "messages": [{"role": "user", "content": "hello"}]}
        async with asyncio.timeout(10), rig.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await first_words(lines)
            await rig.advance(replica, ReplicaState.LOST)
            rest = [line async for line in lines if line]
        assert "upstream_lost" in rest[-1]
        assert "[DONE]" not in "".join(rest)
        await rig.until_idle()


async def test_a_model_that_leaves_a_server_cuts_nobody_else_there() -> None:
    """Several models on one server share its connections: unloading one would end the others' answers."""
    async with FakeEngine(model="big", tokens_per_second=30, tokens=12) as engine, running() as rig:
        gone = await rig.ready(engine.url)
        body = {"model": "big", "stream": True, "tools": [], "messages": [{"role": "user", "content": "hello"}]}
        async with asyncio.timeout(10), rig.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await first_words(lines)
            await rig.ready(engine.url)
            await rig.advance(gone, ReplicaState.LOST)
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        await rig.until_idle()

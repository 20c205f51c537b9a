"""Every API that clients may speak, through a real gateway: each family gets its own answers, streams, heartbeats and errors."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import KEY, Rig, config_of, running

MESSAGES = [{"role": "user", "content": "Say something."}]
CHAT = {"model": "big", "messages": MESSAGES}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "big", "prompt": "Say"},
    "/v1/responses": {"model": "big", "input": "Say something."},
    "/v1/messages": {**CHAT, "max_tokens": 16},
    "/api/chat": CHAT,
    "/api/generate": {"model": "big", "prompt": "Say something."},
}
AT_ONCE: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "big", "input": "a"},
    "/v1/messages/count_tokens": CHAT,
    "/v1/rerank": {"model": "big", "query": "a", "documents": ["b", "a"]},
    "/rerank": {"model": "big", "query": "a", "documents": ["b", "a"]},
    "/v1/tokenize": {"model": "big", "prompt": "two words"},
    "/tokenize": {"model": "big", "content": "two words"},
    "/v1/detokenize": {"model": "big", "tokens": [1, 2]},
    "/detokenize": {"model": "big", "tokens": [1, 2]},
    "/api/embed": {"model": "big", "input": ["a"]},
    "/api/embeddings": {"model": "big", "prompt": "a"},
}
TEXT = "The lamp is lit"
ENDS = {
    "/v1/chat/completions": "data: [DONE]",
    "/v1/completions": "data: [DONE]",
    "/v1/responses": "event: response.completed",
    "/v1/messages": "event: message_stop",
    "/api/chat": '"done":true',
    "/api/generate": '"done":true',
}
streaming = pytest.mark.parametrize("path", list(BODIES))


def message_of(path: str, body: dict[str, Any]) -> str:
    """The sentence of an error in the path's own shape; fails when it has another."""
    if path.startswith("/api/"):
        assert isinstance(body["error"], str)
        return body["error"]
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert "type" in body["error"]
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", [*BODIES, *AT_ONCE])
async def test_every_route_answers_and_counts(path: str) -> None:
    """A whole family of clients would be turned away, or its tokens would cost nothing."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post(
            path, json={**(BODIES.get(path) or AT_ONCE[path]), **({"stream": False} if path in BODIES else {})}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["lamplighter-model"] == "big"
        if path in BODIES:
            assert TEXT in answer.text
            assert 'lamplighter_tokens_total{kind="completion",model="big"} 16.0' in rig.gateway.metrics.render().decode()
        await rig.until_idle()


@streaming
async def test_every_stream_is_whole(path: str) -> None:
    """Each client waits for its own sign of the end."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post(path, json={**BODIES[path], "stream": True})
        assert answer.status_code == 200
        ndjson = path.startswith("/api/")
        assert answer.headers["content-type"].startswith("application/x-ndjson" if ndjson else "text/event-stream")
        assert ENDS[path] in answer.text
        assert "error" not in answer.text.replace('"error":null', "")
        assert 'lamplighter_tokens_total{kind="completion",model="big"} 16.0' in rig.gateway.metrics.render().decode()
        await rig.until_idle()


@streaming
@pytest.mark.parametrize("wrong", [Wrong.CUT, Wrong.HALF_EVENT, Wrong.NO_DONE])
async def test_no_stream_ends_cleanly_when_it_broke(path: str, wrong: Wrong) -> None:
    """Half an answer would be taken for all of it."""
    async with FakeEngine(wrong=wrong) as engine, running() as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post(path, json={**BODIES[path], "stream": True})
        lines = answer.text.replace('"error":null', "").strip().splitlines()
        if wrong is Wrong.NO_DONE and path != "/v1/responses":  # the answer is whole, only the last word is missing: we say it
            assert ENDS[path] in answer.text
            assert "error" not in answer.text
        else:
            assert ENDS[path] not in answer.text
            last = lines[-1].removeprefix("data: ")
            assert message_of(path, json.loads(last)).startswith("The answer broke off")
        await rig.until_idle()


@pytest.mark.parametrize("path", [*BODIES, *AT_ONCE])
async def test_errors_have_the_clients_shape(path: str) -> None:
    """A library that cannot read an error shows a person nothing, or the wrong thing."""
    async with running() as rig:
        body = BODIES.get(path) or AT_ONCE[path]
        unknown = await rig.client.post(path, json={**body, "model": "nope"})
        assert unknown.status_code == 404
        assert "`nope` does not exist" in message_of(path, unknown.json())
        keyless = await rig.client.post(path, json=body, headers={"authorization": ""})
        assert keyless.status_code == 401
        assert "API key" in message_of(path, keyless.json())
        broken = await rig.client.post(path, content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400
        assert "not valid JSON" in message_of(path, broken.json())
        method = await rig.client.get(path)
        assert method.status_code == 405
        assert method.headers["allow"] == "POST"
        assert "GET is not possible here" in message_of(path, method.json())


async def test_keys_come_as_each_client_sends_them() -> None:
    """Anthropic's library knows `x-api-key` alone; programs that know only a URL put the key into it."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        headers = {"authorization": "", "x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "x"}
        del rig.client.headers["authorization"]
        answer = await rig.client.post(
            "/v1/messages", json=BODIES["/v1/messages"], headers={k: v for k, v in headers.items() if v}
        )
        assert answer.status_code == 200
        assert (await rig.client.get("/api/tags", auth=("any", KEY))).status_code == 200


@pytest.mark.parametrize("path", [*BODIES, *AT_ONCE])
async def test_a_model_that_cannot_is_refused(path: str) -> None:
    """The engine would answer with something that makes no sense, after a wake that costs money."""
    models = {"big": {"engine": "fake", "pool": "cloud", "capabilities": ["completions"]}}
    if path in {"/v1/completions"}:
        models["big"]["capabilities"] = ["chat"]
    async with FakeEngine() as engine, running(config_of(models=models)) as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post(path, json=BODIES.get(path) or AT_ONCE[path])
        assert answer.status_code == 400, answer.text
        assert "does not serve" in message_of(path, answer.json())
        assert engine.counters.requests == 0


@streaming
async def test_a_held_stream_is_kept_alive_in_its_own_words(path: str) -> None:
    """A proxy cuts a silent connection; a client that gets words it does not know gives up."""
    gateway = {"heartbeat": "50ms", "early_headers": "10ms"}
    async with FakeEngine() as engine, running(config_of(gateway=gateway)) as rig:
        text = ""
        async with rig.client.stream("POST", path, json={**BODIES[path], "stream": True}) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_text():
                text += piece
                if text.count("lamplighter") >= 2 and not engine.counters.requests:
                    await rig.ready(engine.url)
        assert ENDS[path] in text
        assert TEXT.split()[1] in text
        if path.startswith("/api/"):
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
        elif path == "/v1/messages":
            assert 'event: ping\ndata: {"type":"ping"}\n\n' in text
        await rig.until_idle()


async def test_a_wake_that_fails_is_told_in_the_stream() -> None:
    """Its head is gone; a client that is not told waits for words that never come."""
    async with running(config_of(gateway={"heartbeat": "50ms", "early_headers": "10ms", "max_wait": "300ms"})) as rig:
        for path, body in BODIES.items():
            answer = await rig.client.post(path, json={**body, "stream": True})
            assert answer.status_code == 200
            last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
            assert "still waking" in message_of(path, json.loads(last))


async def test_an_order_to_load_wakes_the_model() -> None:
    """Programs made for Ollama warm a model up before they ask it."""
    async with FakeEngine() as engine, running() as rig:
        loading = asyncio.create_task(rig.client.post("/api/generate", json={"model": "big", "keep_alive": "5m"}))
        lane = next(iter(rig.gateway._lanes))
        for _ in range(500):
            if lane.queued:
                break
            await asyncio.sleep(0.01)
        await rig.ready(engine.url)
        answer = (await loading).json()
        assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")
        assert answer["load_duration"] > 0


async def test_reading_wakes_nothing() -> None:
    """A dashboard that lists models every few seconds would keep a GPU awake for ever."""
    async with running() as rig:
        for path in ("/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/big"):
            for method in ("GET", "HEAD"):
                answer = await rig.client.request(method, path)
                assert answer.status_code == 200, path
                assert bool(answer.content) is (method == "GET")
        assert (await rig.client.post("/api/show", json={"model": "big"})).status_code == 200
        assert (await rig.client.post("/api/pull", json={"model": "big"})).json() == {"status": "success"}
        lane = next(iter(rig.gateway._lanes))
        assert lane.idle
        assert lane.wanted_until is None


async def test_ollamas_lists() -> None:
    """A program made for Ollama offers nothing to choose from, or a model that is not there."""
    async with FakeEngine() as engine, running() as rig:
        listed = (await rig.client.get("/api/tags")).json()["models"]
        assert [model["name"] for model in listed] == ["big"]
        assert (await rig.client.get("/api/ps")).json() == {"models": []}
        await rig.ready(engine.url)
        (awake,) = (await rig.client.get("/api/ps")).json()["models"]
        assert awake["name"] == "big"
        shown = (await rig.client.post("/api/show", json={"name": "big:latest"})).json()
        assert {"completion", "embedding", "tools"} <= set(shown["capabilities"])
        assert (await rig.client.post("/api/show", json={"model": "nope"})).status_code == 404
        assert (await rig.client.post("/api/show", json={})).status_code == 400
        assert (await rig.client.post("/api/show", content=b"[")).status_code == 400
        chat = await rig.client.post("/api/chat", json={**CHAT, "model": "big:latest", "stream": False})
        assert chat.json()["model"] == "big:latest"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/push"), ("POST", "/api/create"), ("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", "/api/blobs/sha256:0"), ("POST", "/api/pull")],
)  # fmt: skip
async def test_models_are_not_changed_through_ollamas_api(method: str, path: str) -> None:
    """Anybody with a key could take models from others."""
    async with running() as rig:
        answer = await rig.client.request(method, path, json={"model": "other"})
        assert answer.status_code in {403, 404}
        assert isinstance(answer.json()["error"], str)


async def test_ollamas_greeting_is_for_its_clients_alone() -> None:
    """The page at `/` would be replaced by a line of text for everybody."""
    async with running() as rig:
        greeting = await rig.client.get("/", headers={"user-agent": "ollama-python/0.6.3"})
        assert greeting.text == "Ollama is running"
        assert "Ollama is running" not in (await rig.client.get("/")).text


async def limited(rig: Rig, *models: str) -> None:
    """From here on the rig's key may use `models` alone."""
    keyring = rig.gateway.keyring
    held: dict[bytes, Any] = keyring._identities
    for digest, identity in list(held.items()):
        held[digest] = replace(identity, models=frozenset(models))


async def test_a_limited_key_sees_its_own_models() -> None:
    """A key that was given away for one model would tell which others there are."""
    models = {name: {"engine": "fake", "pool": "cloud"} for name in ("big", "secret")}
    async with running(config_of(models=models)) as rig:
        await limited(rig, "big")
        assert "secret" not in (await rig.client.get("/v1/models")).text
        assert "secret" not in (await rig.client.get("/api/tags")).text
        assert "big" in (await rig.client.get("/api/tags")).text
        for answer in (
            await rig.client.get("/v1/models/secret"),
            await rig.client.post("/api/show", json={"model": "secret"}),
        ):
            assert answer.status_code == 404
            assert "There are: big" in answer.text

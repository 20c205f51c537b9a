"""No route goes around the gate: eight at once on a budget for one reach the engine once, whatever they ask and in whose words."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.operations import OPERATIONS
from lamplighter.gateway.relay import UpstreamLost
from lamplighter.store import principals, spend
from tests.unit.gateway.harness import Rig, config_of, running

HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": HELLO},
    "completions": {"prompt": "Hello"},
    "embeddings": {"input": "Hello"},
    "responses": {"input": "Hello"},
    "messages": {"messages": HELLO, "max_tokens": 5},
    "count_tokens": {"messages": HELLO},
    "rerank": {"query": "Hello", "documents": ["a", "b"]},
    "tokenize": {"content": "Hello"},
    "detokenize": {"tokens": [1, 2]},
    "ollama_chat": {"messages": HELLO},
    "ollama_generate": {"prompt": "Hello"},
    "ollama_embed": {"input": "Hello"},
    "ollama_embeddings": {"prompt": "Hello"},
}
LIMITS = {"budget_per_month": "0.01 USD"}  # an hour costs one, ten minutes are reserved: far more than is left, so one goes alone


class Engine:
    """Counts what reaches it and answers nothing until `open` is set; then it says that it is broken."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()
        self.reached = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(length)
                self.asked += 1
                self.reached.set()
                await self.open.wait()
                writer.write(b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Rig, Engine, str]]:
    """A gateway whose only model costs money, a slow engine, and a key with a small budget."""
    config = config_of(pools={"cloud": {"kind": "fake", "price": "1 USD/hour"}})
    async with running(config) as rig:
        engine = Engine()
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
        try:
            await rig.ready(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            rights = principals.Rights(limits=LIMITS)
            _, secret = await principals.create_key(rig.store, name="guest", admin=False, rights=rights)
            await rig.gateway.keyring.refresh()
            yield rig, engine, secret
            await rig.until_idle()
        finally:
            server.close()


@pytest.mark.parametrize("path", list(OPERATIONS))
async def test_eight_at_once_on_a_budget_for_one_reach_the_engine_once(path: str) -> None:
    """If this fails, there is a route by which a key spends what it does not have."""
    async with stage() as (rig, engine, secret):
        body = {"model": "big", **BODIES[OPERATIONS[path].name]}
        headers = {"authorization": f"Bearer {secret}"}
        asking = [asyncio.create_task(rig.client.post(path, json=body, headers=headers)) for _ in range(8)]
        done: set[Any] = set()
        while len(done) < 7:
            done, _ = await asyncio.wait(asking, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            asking_left = [task for task in asking if task not in done]
            assert asking_left, [task.result().text for task in done]
            await asyncio.sleep(0.01)
        await asyncio.wait_for(engine.reached.wait(), 10)
        assert [task.result().status_code for task in done] == [429] * 7
        for task in done:
            answer = task.result()
            assert "reserved" in json.dumps(answer.json())
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert engine.asked == 1
        engine.open.set()
        [last] = [task for task in asking if task not in done]
        assert (await last).status_code == 400


async def test_eight_answers_on_the_page_at_once_reach_the_engine_once() -> None:
    """If this fails, the chat page is a way around a key's budget."""
    async with stage() as (rig, engine, secret):
        identity = rig.gateway.keyring.identify({b"x-api-key": secret.encode()})

        async def answer() -> str:
            try:
                async with rig.gateway.services.relay.generate(identity=identity, model="big", body={"messages": HELLO}) as items:
                    async for _ in items:
                        pass
            except RequestError as error:
                return f"{error.status} {error.code}"
            except UpstreamLost:
                return "lost"
            return "whole"

        asking = [asyncio.create_task(answer()) for _ in range(8)]
        for _ in range(500):
            if sum(task.done() for task in asking) == 7 and engine.asked:
                break
            await asyncio.sleep(0.01)
        assert [task.result() for task in asking if task.done()] == ["429 rate_limit_exceeded"] * 7
        assert engine.asked == 1
        engine.open.set()
        await asyncio.gather(*asking)


async def test_a_refusal_speaks_each_clients_language_and_wakes_nothing() -> None:
    """If this fails, a key without a budget wakes a GPU, or a client's library cannot read why it was refused."""
    async with running(config_of(pools={"cloud": {"kind": "fake", "price": "1 USD/hour"}})) as rig:
        rights = principals.Rights(limits={"budget_per_month": "0 USD"})
        _, secret = await principals.create_key(rig.store, name="guest", admin=False, rights=rights)
        await rig.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        for path, operation in OPERATIONS.items():
            answer = await rig.client.post(path, json={"model": "big", **BODIES[operation.name]}, headers=headers)
            assert answer.status_code == 429, path
            assert answer.headers["x-should-retry"] == "false"
            assert "begins anew" in answer.text
        lane = next(iter(rig.gateway._lanes))
        assert (lane.queued, lane.in_flight, lane.last_ended_at) == (0, 0, None)


async def test_limits_come_back_in_openais_headers() -> None:
    """If this fails, a client cannot slow down before it is refused."""
    async with stage() as (rig, engine, _):
        engine.open.set()
        rights = principals.Rights(limits={"requests_per_minute": 2, "tokens_per_minute": 10_000})
        key, secret = await principals.create_key(rig.store, name="app", admin=False, rights=rights)
        await rig.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        answers = [await rig.chat(headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 400, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
        for answer in answers:
            assert answer.headers["x-ratelimit-limit-tokens"] == "10000"
            assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        error = answers[2].json()["error"]
        assert (error["code"], error["type"], error["limit"]) == ("rate_limit_exceeded", "requests", "requests_per_minute")
        admin = await rig.client.get("/api/limits")
        state = next(one for one in admin.json()["keys"] if one["id"] == key.id)
        assert state["limits"] == {"requests_per_minute": 2, "tokens_per_minute": 10_000}
        own = (await rig.client.get("/api/limits", headers=headers)).json()
        assert [one["id"] for one in own["keys"]] == [key.id]
        assert own["models"] == []


async def test_limits_are_set_over_the_api_and_hold_for_the_next_request() -> None:
    """If this fails, an owner who cuts a key off waits for a restart."""
    async with stage() as (rig, engine, _):
        engine.open.set()
        made = (await rig.client.post("/api/keys", json={"name": "app", "limits": {"parallel": 3}, "models": ["big"]})).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        assert (await rig.chat(headers=headers)).status_code == 400
        change = {"limits": {"budget_per_day": "0 USD"}, "expires_in": 1000}
        changed = await rig.client.patch(f"/api/keys/{made['id']}", json=change)
        assert changed.json()["limits"] == {"budget_per_day": "0 USD"}
        assert changed.json()["models"] == ["big"]
        assert (await rig.chat(headers=headers)).status_code == 429
        await rig.client.patch(f"/api/keys/{made['id']}", json={"limits": None, "inference": False})
        assert (await rig.chat(headers=headers)).json()["error"]["code"] == "inference_not_allowed"
        rotated = (await rig.client.post(f"/api/keys/{made['id']}/rotate", json={"grace": 0})).json()
        assert (await rig.chat(headers=headers)).status_code == 401
        assert (await rig.chat(headers={"authorization": f"Bearer {rotated['key']}"})).status_code == 403
        for body, code in (
            ({"name": "x", "models": ["nope"]}, "unknown_model"),
            ({"name": "x", "limits": {"budget_per_day": "5 EUR"}}, "another_currency"),
            ({"name": "x", "limits": {"parallel": 0}}, "invalid_request"),
            ({"name": "x", "limits": {"budget": "5 USD"}}, "invalid_request"),
            ({"name": "x", "expires_in": 0}, "invalid_request"),
        ):
            refused = await rig.client.post("/api/keys", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, code), body


async def test_a_proxys_own_password_does_not_hide_the_session() -> None:
    """If this fails, the page is unusable behind a proxy that asks for a password of its own."""
    async with stage() as (rig, _, secret):
        signed = await rig.client.post("/api/session", json={"key": secret})
        cookie = signed.headers["set-cookie"].split(";")[0]
        rig.client.cookies.clear()
        headers = {"cookie": cookie, "authorization": "Basic cHJveHk6cGFzc3dvcmQ="}
        assert (await rig.client.get("/api/session", headers=headers)).status_code == 200
        assert (await rig.client.get("/api/session", headers={"authorization": headers["authorization"]})).status_code == 401
        wrong = {"cookie": cookie, "authorization": "Bearer lk-wrong"}
        assert (await rig.client.get("/api/session", headers=wrong)).status_code == 401


async def test_what_an_engine_refuses_costs_no_tokens() -> None:
    """The bill and the account of the same request would differ, and a person would pay for a typo."""
    engine = Engine()
    engine.open.set()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    price = {"prompt": "1 USD/Mtok", "completion": "1 USD/Mtok"}
    model = {"engine": "fake", "pool": "cloud", "price": price, "limits": {"tokens_per_minute": 100_000}}
    async with server, running(config_of(models={"big": model})) as rig:
        await rig.ready(engine.url)
        answer = await rig.client.post("/v1/chat/completions", json={"model": "big", "messages": HELLO, "max_tokens": 50})
        assert answer.status_code == 400
        assert engine.asked == 1
        await rig.gateway.admission.spending.flush()
        [spent] = (await spend.since(rig.store, "2000-01-01")).values()
        assert (spent.requests, spent.prompt_tokens, spent.completion_tokens, spent.money) == (1, 0, 0, 0)

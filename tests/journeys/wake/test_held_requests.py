"""Requests that arrive at zero: held, told, answered; bounded; one wake however many ask."""

import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.journeys.harness import ADMIN_KEY, PATIENCE, Server, running

pytestmark = pytest.mark.model

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
BASE = "models: {small: {engine: llamacpp, pool: here, source: bundled, context: 512}}\npools: {here: {kind: process}}\n"


def test_a_stream_to_a_sleeping_model(server: Callable[..., Server]) -> None:
    """A person would look at nothing while the model loads, and a proxy would cut the connection."""
    with running(server(BASE + "gateway: {early_headers: 50ms, heartbeat: 200ms}")) as lamplighter, lamplighter.http() as client:
        began = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            headers_after = time.monotonic() - began
            lines = [line for line in answer.iter_lines() if line]
        assert answer.status_code == 200
        assert headers_after < 1, "headers within a second"
        comments = [line for line in lines if line.startswith(":")]
        assert comments, "heartbeats while it wakes"
        assert any("stage=" in line for line in comments)
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert any(json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1])


def test_json_to_a_sleeping_model(server: Callable[..., Server]) -> None:
    """A program without streaming would get an error instead of an answer."""
    with running(server(BASE)) as lamplighter, lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]


def test_json_when_hold_is_shorter_than_the_load(server: Callable[..., Server]) -> None:
    """A proxy would cut the connection in silence; an SDK could not retry."""
    with running(server(BASE + "gateway: {hold: 10ms}")) as lamplighter, lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        error = answer.json()["error"]
        assert error["code"] == "model_waking"
        assert error["message"]
        # The SDK's own retries then get the answer: the wake went on.
        assert lamplighter.openai(max_retries=6).chat.completions.create(**CHAT).choices[0].message.content


def test_a_crowd_at_zero(server: Callable[..., Server]) -> None:
    """Each of 105 askers would start an engine of its own, or wait without bound."""
    with running(server(BASE + "gateway: {max_held: 100}")) as lamplighter:
        limits = httpx.Limits(max_connections=105)
        # SIGSTOP-free and honest: the model is really asleep, so all 105 arrive while one engine loads.
        with httpx.Client(
            base_url=lamplighter.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=PATIENCE, limits=limits
        ) as client:
            client.get("/health")
            with ThreadPoolExecutor(105) as crowd:
                answers = list(
                    crowd.map(lambda _: client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2}), range(105))
                )
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses == {200: 100, 429: 5}
        for refused in (answer for answer in answers if answer.status_code == 429):
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        assert lamplighter.starts() == 1


def test_what_the_client_asks_of_the_wake(server: Callable[..., Server]) -> None:
    """`Lamplighter-Wake` would be ignored: a cron job would wake a GPU that it said not to wake."""
    with running(server(BASE)) as lamplighter, lamplighter.http() as client:
        refused = client.post("/v1/chat/completions", json=CHAT, headers={"lamplighter-wake": "fail"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_asleep"
        wrong = client.post("/v1/chat/completions", json=CHAT, headers={"lamplighter-wake": "perhaps"})
        assert wrong.status_code == 400
        time.sleep(1)
        assert lamplighter.model()["state"] == "asleep"
        assert lamplighter.starts() == 0


def test_a_small_model_answers_meanwhile(server: Callable[..., Server]) -> None:
    """While the large model wakes, the person would wait although a small one could answer."""
    config = """
models:
  small: {engine: llamacpp, pool: here, source: bundled, context: 512}
  large: {engine: fake, pool: cloud, while_waking: small}
pools:
  here: {kind: process}
  cloud: {kind: fake, stages: {capacity: 4s, load: 4s}}
"""
    with running(server(config)) as lamplighter, lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", json={**CHAT, "model": "large"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "small"
        assert answer.headers["lamplighter-served-by"] == "small"
        lamplighter.until("awake", "large")  # it woke meanwhile
        upgraded = client.post("/v1/chat/completions", json={**CHAT, "model": "large"})
        assert "lamplighter-served-by" not in upgraded.headers

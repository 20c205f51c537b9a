"""Only inference makes demand, and idle time counts from the end of the last answer."""

import json
import time
from collections.abc import Callable

import pytest
import websockets.sync.client

from tests.journeys.harness import ADMIN_KEY, Server, eventually, running

pytestmark = pytest.mark.model

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Write a long story about the sea."}], "max_tokens": 8}
BASE = "models: {{small: {{engine: llamacpp, pool: here, source: bundled, context: 2048}}}}\npools: {{here: {{kind: process, sleep_after: {0}}}}}\n"


def test_watching_neither_wakes_nor_keeps_awake(server: Callable[..., Server]) -> None:
    """A dashboard that polls would keep a GPU burning day and night."""
    with running(server(BASE.format("2s"))) as lamplighter, lamplighter.http() as client:
        socket = lamplighter.url.replace("http", "ws") + "/api/ws"
        with websockets.sync.client.connect(socket, additional_headers={"authorization": f"Bearer {ADMIN_KEY}"}) as page:

            def look() -> None:
                for path in ("/v1/models", "/v1/models/small", "/health", "/ready", "/metrics", "/api/status", "/api/chats"):
                    client.get(path)

            until = time.monotonic() + 3
            while time.monotonic() < until:
                look()
            assert lamplighter.starts() == 0, "watching woke it"
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200

            def asleep() -> bool:
                look()
                return bool(lamplighter.model()["state"] == "asleep")

            eventually(asleep, what="it sleeps although it is watched")
            assert lamplighter.engines() == []
            assert json.loads(page.recv(timeout=5))["type"] == "status"


def test_a_generation_longer_than_the_idle_time_is_not_cut(server: Callable[..., Server]) -> None:
    """Long answers would end in the middle."""
    with running(server(BASE.format("500ms"))) as lamplighter:
        stream = lamplighter.openai().chat.completions.create(**{**CHAT, "max_tokens": 700}, stream=True)
        began = time.monotonic()
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert reasons[-1] in {"stop", "length"}
        assert time.monotonic() - began > 1, "the answer was longer than the idle time, else this shows nothing"
        lamplighter.until("asleep")
        assert lamplighter.starts() == 1


def test_ordered_to_wake_and_to_sleep(server: Callable[..., Server]) -> None:
    """A person who wants the machine free at once would have to wait."""
    with running(server(BASE.format("10m"))) as lamplighter:
        lamplighter.order("wake")
        lamplighter.until("awake")
        lamplighter.order("sleep")
        lamplighter.until("asleep")
        assert lamplighter.engines() == []


def test_two_models_in_a_pool_of_one(server: Callable[..., Server]) -> None:
    """Two people with two models would each throw the other's out, or one would wait for ever."""
    config = """
models:
  one: {engine: llamacpp, pool: here, source: bundled, context: 512}
  two: {engine: llamacpp, pool: here, source: bundled, context: 512}
pools:
  here: {kind: process, max_replicas: 1, swap_after: 1s, min_residency: 2s}
"""
    with running(server(config)) as lamplighter:
        streams = {
            name: lamplighter.openai().chat.completions.create(**{**CHAT, "model": name}, stream=True) for name in ("one", "two")
        }
        for name, stream in streams.items():
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices), name
        assert lamplighter.starts() == 2, "each was loaded once: no thrashing"

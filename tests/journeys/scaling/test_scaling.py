"""Pools that grow and shrink under real load, and models that come and go on an Ollama: real processes, only the models are pretended."""

import asyncio
import concurrent.futures
import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from lamplighter.testing.ollama import FakeOllama
from tests.journeys.harness import Server, eventually, running


def program(folder: Path, *options: str) -> Path:
    """An executable that is the pretended vLLM with these options."""
    path = folder / "vllm"
    words = shlex.join([sys.executable, "-P", "-m", "lamplighter.testing.vllm"])
    path.write_text(f'#!/bin/sh\nexec {words} "$@" {shlex.join(options)}\n')
    path.chmod(0o755)
    return path


def chat(client: httpx.Client, model: str, tokens: int) -> str:
    """One streamed answer, whole; raises when it is not."""
    body = {"model": model, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "Write."}]}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = "".join(answer.iter_text())
        assert answer.status_code == 200, text
    assert "[DONE]" in text, text[-500:]
    assert '"error"' not in text
    return text


def ready(server: Server) -> list[dict[str, Any]]:
    """The pool's ready replicas, as its status shows them."""
    (pool,) = server.status()["pools"]
    return [one for one in pool["replicas"] if one["state"] == "ready"]


def test_one_to_three_and_back_and_nothing_is_lost(server: Callable[..., Server], tmp_path: Path) -> None:
    """A wave of people would wait for one engine; or answers would break off when the pool shrinks again."""
    fake = program(tmp_path, "--fake-tokens", "4000", "--fake-tokens-per-second", "25", "--fake-load-seconds", "0.3")
    config = f"""
models:
  m: {{engine: vllm, pool: gpu, source: "hf:owner/model", program: "{fake}"}}
pools:
  gpu:
    kind: process
    max_replicas: 3
    target_per_replica: 4
    scale_up_after: 500ms
    scale_down_after: 2s
    sleep_after: 1m
"""
    with running(server(config)) as lamplighter, lamplighter.http(limits=httpx.Limits(max_connections=64)) as client:
        chat(client, "m", 5)
        assert len(ready(lamplighter)) == 1
        with concurrent.futures.ThreadPoolExecutor(16) as people:
            wave = [people.submit(chat, client, "m", 200) for _ in range(12)]
            eventually(lambda: len(ready(lamplighter)) == 3, what="three replicas are ready")
            more = [people.submit(chat, client, "m", 250) for _ in range(4)]
            eventually(lambda: all(one["in_flight"] > 0 for one in ready(lamplighter)), what="requests spread over all three")
            for one in concurrent.futures.as_completed(wave):
                one.result()
            # What drains now still writes the last answers.
            for one in more:
                one.result()
        eventually(lambda: len(ready(lamplighter)) == 1 and len(lamplighter.engines()) <= 3, what="one replica is left")
        assert lamplighter.starts() == 3, "it never launched more than it may have"
        chat(client, "m", 5)


@contextlib.contextmanager
def ollama(**options: Any) -> Iterator[FakeOllama]:
    """A pretended Ollama in a thread of its own."""
    loop, fake = asyncio.new_event_loop(), FakeOllama(**options)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(fake.start(), loop).result(10)
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def test_models_of_an_ollama_come_and_go(server: Callable[..., Server]) -> None:
    """The GPU of the house would stay full of a model that nobody uses; or every request would wait for a load that nobody tells of."""
    with ollama(models=["llama3.2:3b"], library=["tiny"], load_seconds=0.5, pull_seconds=0.5) as fake:
        config = f"""
models:
  chat: {{engine: ollama, pool: nas, source: "llama3.2:3b"}}
  tiny: {{engine: ollama, pool: nas, pull: true}}
  lost: {{engine: ollama, pool: nas, source: "nobody/has-it"}}
pools:
  nas: {{kind: static, url: "{fake.url}", sleep_after: 2s, max_loaded: 1, swap_after: 500ms, min_residency: 500ms}}
"""
        with running(server(config)) as lamplighter, lamplighter.http() as client:
            time.sleep(1)
            assert fake.loads == [], "looking at it loads nothing"
            chat(client, "chat", 5)
            assert fake.loads == ["llama3.2:3b"]
            chat(client, "tiny", 5)  # pulled, and given the place of the other
            assert fake.loads == ["llama3.2:3b", "tiny:latest"]
            assert fake.residents() == ["tiny:latest"]
            lamplighter.until("asleep", "tiny")
            assert fake.residents() == []
            answer = client.post("/v1/chat/completions", json={"model": "lost", "messages": [{"role": "user", "content": "x"}]})
            assert answer.status_code == 503
            assert "ollama pull nobody/has-it" in answer.text

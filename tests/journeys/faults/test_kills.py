"""Things are killed at the worst moment. Nothing may lie, hang or stay behind."""

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.journeys.harness import Server, eventually, running

pytestmark = pytest.mark.model

STORY = {"model": "small", "messages": [{"role": "user", "content": "Write a very long story about a lamp."}], "max_tokens": 900}
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
BASE = "models: {small: {engine: llamacpp, pool: here, source: bundled, context: 2048}}\npools: {here: {kind: process}}\n"


@pytest.mark.parametrize("after", [1, 7, 30])
def test_the_engine_is_killed_and_another_one_goes_on(server: Callable[..., Server], after: int) -> None:
    """A long answer would be lost with the process that wrote it."""
    body = {**STORY, "max_tokens": 60, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    with running(server(BASE)) as lamplighter, lamplighter.http() as client:
        lines: list[str] = []
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if sum(line.startswith("data:") for line in lines) == after + 1 and not any("killed" in line for line in lines):
                    (engine,) = lamplighter.engines()[:1]
                    engine.send_signal(signal.SIGKILL)
                    lines.append(": killed")
        # That the text is the one that nobody interrupted is tested on one engine (tests/contract): between two runs of llama.cpp, what is in
        # its cache can decide a word on which it is undecided.
        before, told = said(lines[: lines.index(": killed")]), chunks(lines)[-1]["usage"]
        assert said(lines).startswith(before)
        assert len(said(lines)) > len(before)
        assert lines[-2:] == ["data: [DONE]", ""]
        assert len({chunk["id"] for chunk in chunks(lines)}) == 1
        finish = [choice["finish_reason"] for chunk in chunks(lines) for choice in chunk["choices"] if choice["finish_reason"]]
        assert finish in (["length"], ["stop"])
        assert told["completion_tokens"] == 60 if finish == ["length"] else told["completion_tokens"] < 60
        assert lamplighter.starts() == 2
        metrics = client.get("/metrics").text
        assert 'lamplighter_streams_continued_total{model="small",result="continued"} 1.0' in metrics


def chunks(lines: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def said(lines: list[str]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks(lines) for choice in chunk.get("choices", ()))


def test_the_engine_is_killed_in_the_middle_of_a_stream(server: Callable[..., Server]) -> None:
    """A half answer would look like a whole one."""
    with running(server(BASE + "gateway: {continue_streams: false}\n")) as lamplighter, lamplighter.http() as client:
        with client.stream("POST", "/v1/chat/completions", json={**STORY, "stream": True}) as answer:
            events = []
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(line)
                if len(events) == 5:
                    (engine,) = lamplighter.engines()[:1]
                    engine.send_signal(signal.SIGKILL)
                    events.append("killed")
        assert "[DONE]" not in "".join(events)
        assert '"error"' in events[-1]
        assert "upstream_lost" in events[-1]
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200, "the next request works"


def test_the_engine_is_killed_before_it_answered(server: Callable[..., Server]) -> None:
    """A program would get a bare connection error."""
    with running(server(BASE)) as lamplighter, lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        for engine in lamplighter.engines():
            engine.kill()
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200, "retried on a new engine"


def test_lamplighter_is_killed_at_zero(server: Callable[..., Server]) -> None:
    """A lock or a port file left behind would prevent the next start."""
    lamplighter = server(BASE)
    lamplighter.start().kill()
    with running(lamplighter), lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200


def test_lamplighter_is_killed_while_it_wakes_a_model(server: Callable[..., Server]) -> None:
    """An engine without an owner would stay, or a second one would be started beside it."""
    lamplighter = server(BASE).start()
    lamplighter.order("wake")
    eventually(lamplighter.engines, what="an engine process appears")
    lamplighter.kill()
    with running(lamplighter), lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        assert len([path for path in (lamplighter.data / "run" / "engines").iterdir() if path.is_dir()]) == 1


def test_lamplighter_is_killed_awake_and_adopts_its_engine(server: Callable[..., Server]) -> None:
    """After every crash the model would be loaded again while the old engine still holds its memory."""
    lamplighter = server(BASE).start()
    with lamplighter.http() as client:
        client.post("/v1/chat/completions", json=HELLO).raise_for_status()
    before = {process.pid for process in lamplighter.engines()}
    lamplighter.kill()
    with running(lamplighter), lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        assert {process.pid for process in lamplighter.engines()} == before, "the same engine answers"
        assert lamplighter.starts() == 1


@pytest.mark.timeout(150)
def test_nobody_comes_back_after_a_kill(server: Callable[..., Server]) -> None:
    """The engine would hold memory (in the cloud: burn money) for ever."""
    lamplighter = server(BASE).start()
    lamplighter.order("wake")
    lamplighter.until("awake")
    lamplighter.kill()
    assert lamplighter.engines()
    began = time.monotonic()
    eventually(lambda: not lamplighter.engines(), what="the engine ends itself", timeout=90)
    assert time.monotonic() - began <= 60


def test_sigterm_lets_a_running_answer_finish(server: Callable[..., Server]) -> None:
    """Every restart would cut somebody's answer."""
    lamplighter = server(BASE).start()
    try:
        stream = lamplighter.openai().chat.completions.create(**{**STORY, "max_tokens": 150}, stream=True)
        next(stream)
        assert lamplighter.process is not None
        lamplighter.process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert reasons[-1] in {"stop", "length"}
        assert lamplighter.process.wait(30) == 0
        assert lamplighter.engines() == []
    finally:
        lamplighter.stop()


def test_a_frozen_engine_is_noticed(server: Callable[..., Server]) -> None:
    """A hung engine would swallow requests until somebody looks, and cut the answers that it was writing."""
    config = BASE + "gateway: {idle_stream_timeout: 2s}\nkeeper: {interval: 500ms, probe_timeout: 500ms, hung_after: 2s}\n"
    with running(server(config)) as lamplighter, lamplighter.http() as client:
        with client.stream("POST", "/v1/chat/completions", json={**STORY, "stream": True}) as answer:
            lines: list[str] = []
            frozen: list[psutil.Process] = []
            for line in answer.iter_lines():
                lines.append(line)
                if not frozen and sum(one.startswith("data:") for one in lines) == 3:
                    frozen = lamplighter.engines()
                    for engine in frozen:
                        engine.send_signal(signal.SIGSTOP)
        assert frozen
        text = "".join(lines)
        assert ("[DONE]" in text) != ('"error"' in text), "whole, written on by the next engine, or broken and said to be"
        eventually(lambda: not any(engine.is_running() for engine in frozen), what="the frozen engine is ended")
        answered = eventually(
            lambda: (found := client.post("/v1/chat/completions", json=HELLO)).status_code == 200 and found,
            what="a new engine answers",
        )
        assert isinstance(answered, httpx.Response)

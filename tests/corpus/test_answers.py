"""The corpus of engines' answers: whatever an engine sends, its own client gets an answer or an error, and nobody else gets any of it."""

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.corpus.wire import Answer, answers, exchange
from tests.unit.gateway.harness import KEY, Rig, config_of, question, running

CASES: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8"))
EVIL = b"EVIL"
PATIENCE = 20.0


def whole(mark: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": mark}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def events(mark: str) -> bytes:
    deltas: tuple[dict[str, Any], ...] = (
        {"delta": {"content": mark}, "finish_reason": None},
        {"delta": {}, "finish_reason": "stop"},
    )
    return (
        b"".join(b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, **delta}]}).encode() for delta in deltas)
        + b"data: [DONE]\n\n"
    )


class Engine:
    """A socket that answers each question with the bytes of the case whose number is its mark, and every other question well."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stray: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Engine"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not re.match(rb"POST /m[0-9]+/v1/chat/completions HTTP/1\.1\r\n", head):
                    self.stray.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                mark = body["messages"][0]["content"]
                self.asked.append(mark)
                if not mark.startswith("case "):
                    kind, good = ("text/event-stream", events(mark)) if body.get("stream") else ("application/json", whole(mark))
                    writer.write(
                        f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(good)}\r\n\r\n".encode() + good
                    )
                    continue
                case = CASES[int(mark.split()[1])]
                writer.write(self._filled(case["send"], mark))
                if "later" in case:
                    await asyncio.sleep(0.05)
                    writer.write(self._filled(case["later"], mark))
                if (then := case.get("then", "stay")) != "stay":
                    await writer.drain()
                    if then == "reset":
                        await asyncio.sleep(0.05)
                        plug: socket.socket = writer.get_extra_info("socket")
                        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
        writer.close()

    def _filled(self, text: str, mark: str) -> bytes:
        good, stream = whole(mark), events(mark)
        bad = whole("EVIL")
        evil = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-evil: EVIL\r\ncontent-length: %d\r\n\r\n%b" % (
            len(bad),
            bad,
        )
        parts = {
            b"{JSON}": good,
            b"{LEN}": b"%d" % len(good),
            b"{HEX}": b"%x" % len(good),
            b"{EVENTS}": stream,
            b"{EVENTSLEN}": b"%d" % len(stream),
            b"{EVIL}": evil,
            b"{PORT}": b"%d" % self.port,
        }
        data = text.encode("latin-1")
        for name, value in parts.items():
            data = data.replace(name, value)
        return data


async def ask(rig: Rig, mark: str, *, stream: bool, model: str = "big") -> Answer:
    """One question on a connection of its own; its answer, taken apart strictly."""
    body = json.dumps({**question(model, stream=stream), "messages": [{"role": "user", "content": mark}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        KEY.encode(), len(body), body,
    )  # fmt: skip
    heard = await exchange(rig.port, request, silence=PATIENCE)
    found = answers(heard.data)
    assert len(found) == 1, f"{mark}: {len(found)} answers, the connection {'ended' if heard.closed else 'is silent'}"
    return found[0]


def judge(case: dict[str, str], answer: Answer, mark: str, *, stream: bool) -> str | None:
    """What is wrong, or None."""
    if EVIL in answer.raw or EVIL in answer.body:
        return f"EVIL reached the client: {answer.raw + answer.body!r}"
    if "set-cookie" in answer.headers or "location" in answer.headers:
        return f"headers of the engine reached the client: {answer.headers}"
    fine = answer.status == 200 and (answer.body == (events(mark) if stream else whole(mark)))
    failed = answer.status >= 400 and b'"error"' in answer.body
    if answer.status == 200:
        failed = b'data: {"error"' in answer.body and b"[DONE]" not in answer.body
    allowed = {"fine": fine, "error": failed, "either": fine or failed}[case["expect"]]
    return None if allowed else f"status {answer.status}, {answer.body[:300]!r}"


async def _run(rig: Rig, engine: Engine, model: str, case: dict[str, str], *, stream: bool) -> str | None:
    """One case against an endpoint of its own, and two good questions on the same connections, if those were kept."""
    await rig.ready(f"http://127.0.0.1:{engine.port}/{model}", model)
    began, mark = time.monotonic(), f"case {model[1:]}"
    answer = await ask(rig, mark, model=model, stream=stream)
    problem = judge(case, answer, mark, stream=stream)
    if time.monotonic() - began > PATIENCE / 2:
        problem = problem or f"it took more than {PATIENCE / 2:g} s"
    await asyncio.sleep(0.15 if "later" in case else 0)
    for other in (False, True):
        good = f"good {model} {other}"
        after = await ask(rig, good, model=model, stream=other)
        if after.status != 200 or after.body != (events(good) if other else whole(good)):
            problem = problem or f"the next client got {after.status} {after.body[:300]!r}"
    return problem


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_the_corpus(stream: bool) -> None:
    """One sick engine would answer other people's questions, or hang their clients."""
    wrong: dict[str, str] = {}
    chosen = {f"m{number}": case for number, case in enumerate(CASES) if case["asks"] in {"both", "stream" if stream else "json"}}
    config = config_of(
        gateway={"first_byte_timeout": "1500ms", "idle_stream_timeout": "1500ms", "retries": 0},
        models={model: {"engine": "fake", "pool": "cloud"} for model in chosen},
        pools={"cloud": {"kind": "fake", "max_replicas": len(chosen)}},
    )
    async with Engine().serving() as engine, running(config) as rig:

        async def one(model: str, case: dict[str, str]) -> None:
            if problem := await _run(rig, engine, model, case, stream=stream):
                wrong[case["name"]] = problem

        await asyncio.gather(*(one(model, case) for model, case in chosen.items()))
        await rig.until_idle()
        assert engine.stray == []
    assert not wrong, "\n".join(f"{name}: {problem}" for name, problem in wrong.items())


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(
    "flood",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n", b"x: y\r\n", b"\r\n"],
    ids=["100", "103", "headers", "lines"],
)
async def test_an_answer_that_never_begins_is_given_up(flood: bytes, stream: bool) -> None:
    """An engine that writes for ever without saying anything would fill the memory and hold its client."""
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" if flood.startswith(b"x") else b"")
        with contextlib.suppress(ConnectionError):
            while sent < 64 * 2**20:
                writer.write(flood * 512)
                sent += len(flood) * 512
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    pouring = await asyncio.start_server(pour, "127.0.0.1", 0)
    config = config_of(gateway={"first_byte_timeout": "1500ms", "retries": 0})
    async with pouring, running(config) as rig:
        await rig.ready(f"http://127.0.0.1:{pouring.sockets[0].getsockname()[1]}")
        began = time.monotonic()
        answer = await ask(rig, "x", stream=stream)
        assert answer.status >= 500 or b'data: {"error"' in answer.body
        assert time.monotonic() - began < 10
        assert sent < 8 * 2**20
        await rig.until_idle()


def test_every_case_says_what_it_is_for() -> None:
    """A corpus that nobody understands is one that nobody keeps."""
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names) > 25
    for case in CASES:
        assert set(case) <= {"name", "why", "asks", "send", "later", "then", "expect"}, case
        assert case["asks"] in {"json", "stream", "both"}, case
        assert case["expect"] in {"fine", "error", "either"}, case
        assert case["why"].endswith("."), case

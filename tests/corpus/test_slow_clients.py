"""Clients that read or write slowly, or not at all: many of them cost little memory, and in the end their connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import psutil
import pytest

from lamplighter.gateway import server
from lamplighter.testing.engine import FakeEngine
from tests.corpus.wire import exchange
from tests.unit.gateway.harness import KEY, Rig, config_of, question, running

MANY = 100
_MIB = 2**20


def _memory() -> float:
    """Megabytes of this process, in which gateway and engine run."""
    return psutil.Process().memory_info().rss / _MIB


class BigEngine:
    """Answers every request with a stream without end, as fast as it is taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["BigEngine"]:
        listening = await asyncio.start_server(self._pour, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening:
            yield self

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 16_000)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            while True:
                writer.write(event)
                self.sent += len(event)
                await writer.drain()
        writer.close()


def _post(body: bytes, length: int | None = None) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
        KEY.encode(), len(body) if length is None else length, body,
    )  # fmt: skip


async def _open(rig: Rig, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # As little as possible waits in this side's buffers: what piles up, piles up in the gateway.
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_clients_that_never_read_pin_little_memory() -> None:
    """A hundred stalled browsers would fill the gateway's memory with answers that nobody takes."""
    config = config_of(gateway={"idle_stream_timeout": "2s", "max_held": 1000})
    async with BigEngine().serving() as engine, running(config) as rig:
        await rig.ready(engine.url)
        before = _memory()
        body = json.dumps(question(stream=True)).encode()
        clients = [await _open(rig, _post(body)) for _ in range(MANY)]
        peak = 0.0
        for _ in range(20):
            await asyncio.sleep(0.1)
            peak = max(peak, _memory() - before)
        assert engine.sent > 10 * _MIB  # it pours until nobody takes any more
        assert peak < 100, f"{peak:.0f} MB for {MANY} clients that do not read"
        await rig.until_idle(30)  # given up: the engine works for nobody any more
        for _, writer in clients:
            writer.transport.abort()


async def test_bodies_that_stop_are_given_up() -> None:
    """A hundred clients that stop in the middle of a prompt would hold their halves for ever."""
    config = config_of(gateway={"body_timeout": "1s"})
    async with FakeEngine() as engine, running(config) as rig:
        await rig.ready(engine.url)
        before = _memory()
        half = b'{"model": "big", "messages": [{"role": "user", "content": "' + b"x" * 65_536
        clients = [await _open(rig, _post(half, 9_000_000)) for _ in range(MANY)]
        assert _memory() - before < 100
        for reader, writer in clients:
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(100), 20)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
            writer.transport.abort()
        assert engine.counters.requests == 0
        await rig.until_idle()
        assert (await rig.chat()).status_code == 200


async def test_dripping_heads_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand half-open heads (slowloris) would use up every connection."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    async with running() as rig:
        dripping = [await _open(rig, b"GET /health HTTP/1.1\r\nhost: localhost\r\n") for _ in range(MANY)]

        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            with contextlib.suppress(ConnectionError):
                for _ in range(12):  # always something, never the end
                    writer.write(b"x: y\r\n")
                    await asyncio.sleep(0.1)
            with contextlib.suppress(ConnectionError):
                return await asyncio.wait_for(reader.read(), 10)
            return b""

        assert set(await asyncio.gather(*(drip(*pair) for pair in dripping))) == {b""}
        assert (await rig.client.get("/health")).status_code == 200


async def test_a_client_that_shuts_its_side_down_still_gets_its_answer() -> None:
    """Programs that close their half after the request (`nc -N`, some load testers) would get nothing, or the engine would work on for nobody."""
    async with FakeEngine(tokens=3) as engine, running() as rig:
        await rig.ready(engine.url)
        reader, writer = await _open(rig, _post(json.dumps(question()).encode()))
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 200")
        writer.close()
        await rig.until_idle()


async def test_a_flood_of_pipelined_requests_is_taken_in_turns() -> None:
    """One connection would start a thousand requests at once, past every limit on what runs at the same time."""
    async with FakeEngine(tokens=1) as engine, running() as rig:
        await rig.ready(engine.url)
        heard = await exchange(rig.port, _post(json.dumps(question()).encode()) * 200, silence=5)
        assert heard.data.count(b"HTTP/1.1 200") == 200
        assert engine.counters.peak == 1
        await rig.until_idle()

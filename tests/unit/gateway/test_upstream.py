"""Connections to engines, against a server that says exactly what each test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from lamplighter.core.clock import SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.gateway import upstream as module
from lamplighter.gateway.connection import Cause, Connection, Head, Limits, UpstreamFailure
from lamplighter.gateway.upstream import Upstream, Upstreams
from lamplighter.testing.clock import VirtualClock

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def request(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(script: Script, *, prefix: str = "", key: str | None = None, **limits: float) -> AsyncIterator[Upstream]:
    """A pool of connections to a server that runs `script` for each."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"connect": 2.0, "first_byte": 5.0, "idle_stream": 5.0, **limits}
    pool = Upstream(Endpoint(f"http://127.0.0.1:{port}{prefix}", key), Limits(**settings), SystemClock())  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        pool.close()
        server.close()


def answers(*parts: bytes) -> Script:
    """Answer the first request with `parts`, then close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)

    return script


class Heard:
    """A taker that notes what it is told."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.pieces: list[bytes] = []
        self.silences: list[float] = []
        self.head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self.end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_head(self, head: Head) -> None:
        self.head.set_result(head)

    def on_piece(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        if not self.head.done() and failure is not None:
            self.head.set_exception(failure)
        elif failure is not None:
            self.end.set_exception(failure)
        else:
            self.end.set_result(announced)

    def on_silence(self, seconds: float) -> None:
        self.silences.append(seconds)


async def ask(pool: Upstream, body: bytes = b"{}", *, stream: bool = False) -> tuple[Heard, Head]:
    connection = await pool.acquire()
    heard = Heard(connection)
    try:
        connection.ask(pool.head("/v1/chat/completions", "req_1", len(body)), body, heard, stream=stream)
        return heard, await heard.head
    except BaseException:
        connection.done()
        raise


async def ask_whole(pool: Upstream, body: bytes = b"{}") -> Head:
    heard, head = await ask(pool, body)
    heard.connection.done()
    return head


async def test_the_request_is_what_engines_expect() -> None:
    """An engine behind a path prefix or with a key would never be reached."""
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(JSON)

    async with serving(script, prefix="/base", key="sk-1") as pool:
        assert (await ask_whole(pool, b'{"a":1}')).body == b"{}"
    head = seen[0]
    assert head.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:")
    for line in (b"authorization: Bearer sk-1", b"accept-encoding: identity", b"x-request-id: req_1", b"content-length: 7"):
        assert b"\r\n" + line + b"\r\n" in head
    assert head.endswith(b'\r\n\r\n{"a":1}')


async def test_connections_are_used_again() -> None:
    """Every request would pay for a new connection."""
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await request(reader)
            writer.write(JSON)

    async with serving(script) as pool:
        for _ in range(5):
            await ask_whole(pool)
        assert (connections, pool.idle) == (1, 1)


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ([b"HTTP/1.1 100 Continue\r\n\r\n", JSON], b"{}"),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + JSON], b"{}"),
        ([b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"], b"{}"),
        ([b"HTTP/1.0 200 OK\r\n\r\n", b"{", b"}"], b"{}"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n}\r\n0\r\n\r\n"], b"{}"),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"], b"{}"),
        ([bytes([byte]) for byte in JSON], b"{}"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
    ],
)
async def test_all_proper_ways_to_answer_are_read(parts: list[bytes], body: bytes) -> None:
    """An engine or a proxy in front of it that speaks HTTP another way could not be used."""
    async with serving(answers(*parts)) as pool:
        assert (await ask_whole(pool)).body == body


@pytest.mark.parametrize(
    ("parts", "cause", "received"),
    [
        ([], Cause.LOST, False),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}"], Cause.LOST, True),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"], Cause.LOST, True),
        ([b"not http at all\r\n\r\n"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000], Cause.PROTOCOL, True),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000], Cause.PROTOCOL, True),
    ],
)
async def test_improper_answers_are_failures(parts: list[bytes], cause: Cause, received: bool) -> None:
    """Garbage, half answers or attempts to smuggle would reach a client as if they were an answer."""
    async with serving(answers(*parts)) as pool:
        with pytest.raises(UpstreamFailure) as caught:
            await ask_whole(pool)
        assert (caught.value.cause, caught.value.received) == (cause, received)
        assert pool.quiet
        assert not pool.idle


async def test_a_stream_is_pushed_piece_by_piece() -> None:
    """Tokens would arrive late or in another order."""
    async with serving(answers(SSE, b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n")) as pool:
        heard, head = await ask(pool)
        assert head.body is None
        assert await heard.end
        heard.connection.done()
        assert pool.idle == 1
        assert b"".join(heard.pieces) == b"onetwo"


async def test_a_stream_that_came_whole_is_still_given() -> None:
    """A very fast answer would be lost."""
    async with serving(answers(SSE + b"3\r\none\r\n0\r\n\r\n")) as pool:
        heard, _ = await ask(pool)
        assert await heard.end
        heard.connection.done()
        assert heard.pieces == [b"one"]


async def test_a_stream_cut_off_is_a_failure() -> None:
    """A crashed engine would look like one that finished."""
    async with serving(answers(SSE, b"3\r\none\r\n")) as pool:
        heard, _ = await ask(pool)
        with pytest.raises(UpstreamFailure) as caught:
            await heard.end
        heard.connection.done()
        assert caught.value.cause is Cause.LOST
        assert heard.pieces == [b"one"]


async def test_a_stream_ended_by_closing_says_so() -> None:
    """The gateway could not tell a server of the old kind from one that died."""
    async with serving(answers(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"one")) as pool:
        heard, _ = await ask(pool)
        assert not await heard.end
        heard.connection.done()
        assert not pool.idle


async def test_leaving_closes_the_engines_connection_at_once() -> None:
    """The GPU would go on working for nobody."""
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(SSE + b"3\r\none\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with serving(script) as pool:
        heard, _ = await ask(pool)
        await asyncio.sleep(0.01)
        heard.connection.done()
        await asyncio.wait_for(closed.wait(), 1)
        assert pool.quiet


async def test_an_answer_that_nobody_asked_for_closes_the_connection() -> None:
    """A late answer would be given to the next client."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(JSON)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(JSON)
        await asyncio.sleep(1)

    async with serving(script) as pool:
        await ask_whole(pool)
        await asyncio.sleep(0.1)
        assert not pool.idle


async def test_more_than_the_bound_wait_their_turn() -> None:
    """An engine would be flooded with connections, or a request would be overtaken for ever."""
    open_now = peak = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, peak
        open_now += 1
        peak = max(peak, open_now)
        try:
            while True:
                await request(reader)
                await asyncio.sleep(0.005)
                writer.write(JSON)
        finally:
            open_now -= 1

    order: list[int] = []
    async with serving(script, connections=2) as pool:

        async def one(number: int) -> None:
            await ask_whole(pool)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
        assert peak == 2
        assert sorted(order[:4]) == [0, 1, 2, 3]
        assert pool.quiet


async def test_a_place_is_passed_on_when_its_taker_leaves() -> None:
    """After clients left, the rest would wait for ever."""
    gate = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            await gate.wait()
            writer.write(JSON)

    async with serving(script, connections=1) as pool:
        first = asyncio.create_task(ask_whole(pool))
        await asyncio.sleep(0.02)
        waiting = [asyncio.create_task(ask_whole(pool)) for _ in range(3)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        first.cancel()
        gate.set()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert [isinstance(result, Head) for result in results] == [False, False, True, True]


async def test_no_connection_is_told_quickly() -> None:
    """A person would wait for a server that is not there."""
    async with serving(answers()) as pool:
        url = pool.endpoint.url
    gone = Upstream(Endpoint(url), Limits(connect=1), SystemClock())
    with pytest.raises(UpstreamFailure) as caught:
        await gone.acquire()
    assert caught.value.cause is Cause.CONNECT
    assert gone.quiet


async def test_backpressure_reaches_the_engine() -> None:
    """A client that reads slowly would fill the gateway's memory."""
    written = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request(reader)
        writer.write(SSE)
        for _ in range(2000):
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            written += 65536

    async with serving(script) as pool:
        heard, _ = await ask(pool)
        heard.connection.pause()
        await asyncio.sleep(0.3)
        assert written < 64 * 2**20, "the engine was never made to wait"
        assert sum(map(len, heard.pieces)) < 4 * 2**20
        heard.connection.done()


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_ends_a_request(stream: bool) -> None:
    """A hung engine would hold its clients for ever; or a long prompt would be given up as early as a stream that stops."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        if stream:
            writer.write(SSE)  # as engines do that send the head when they begin to work
        await reader.read()

    clock = VirtualClock()
    async with serving(script) as real:
        pools = Upstreams(Limits(first_byte=4 if stream else 10, first_token=10 if stream else 4, idle_stream=4), clock)
        pool = pools.of(real.endpoint)
        await pools.start()
        connection = await pool.acquire()
        heard = Heard(connection)
        connection.ask(pool.head("/x", "r", 2), b"{}", heard, stream=stream)
        await asyncio.sleep(0.05)
        await clock.advance(9)
        assert not heard.end.done()
        assert heard.silences == [float(second) for second in range(1, 10)]
        await clock.advance(2)
        with pytest.raises(UpstreamFailure) as caught:
            await (heard.end if stream else heard.head)
        assert caught.value.cause is Cause.TIMEOUT
        connection.done()
        await pools.stop()


async def test_a_request_that_takes_too_long_as_a_whole_is_ended() -> None:
    """An answer that never comes to its end would hold its engine's slot for ever, one token at a time."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(SSE + b"3\r\none\r\n")
        await reader.read()

    clock = VirtualClock()
    async with serving(script) as real:
        pools = Upstreams(Limits(), clock)
        pool = pools.of(real.endpoint)
        await pools.start()
        connection = await pool.acquire()
        heard = Heard(connection)
        connection.ask(pool.head("/x", "r", 2), b"{}", heard, stream=True, deadline=clock.monotonic() + 30)
        await heard.head
        await clock.advance(29)
        assert not heard.end.done()
        await clock.advance(2)
        with pytest.raises(UpstreamFailure) as caught:
            await heard.end
        assert caught.value.cause is Cause.DEADLINE
        connection.done()
        await pools.stop()


@pytest.mark.parametrize("rest", [JSON, JSON[:20], b"garbage"])
async def test_more_than_was_asked_for_never_answers_the_next_request(rest: bytes) -> None:
    """An engine that is confused, or somebody who smuggles through it, would answer another client's request."""
    served = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await request(reader)
        served += 1
        writer.write(JSON + rest)
        await reader.read()

    async with serving(script) as pool:
        assert (await ask_whole(pool)).body == b"{}"
        assert not pool.idle
        assert (await ask_whole(pool)).body == b"{}"
        assert served == 2


async def test_unused_connections_are_closed_and_forgotten_endpoints_too() -> None:
    """A gateway would keep sockets to engines that are long gone."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(JSON)

    clock = VirtualClock()
    async with serving(script) as real:
        pools = Upstreams(Limits(), clock)
        pool = pools.of(real.endpoint)
        await pools.start()
        await ask_whole(pool)
        assert pools.counts() == (0, 1)
        await clock.advance(module._IDLE + 2)
        assert pools.counts() == (0, 0)
        await ask_whole(pool)
        pools.keep(set())
        await clock.advance(2)
        assert pools.counts() == (0, 0)
        assert pools.of(real.endpoint) is not pool
        await pools.stop()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "nonsense"])
def test_other_urls_are_refused(url: str) -> None:
    """A wrong URL would end in a traceback at the first request."""
    with pytest.raises(ValueError, match="URL"):
        Upstream(Endpoint(url), Limits(), SystemClock())

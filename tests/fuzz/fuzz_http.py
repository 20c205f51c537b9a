"""Fuzz target: both sides of the connections. Whatever arrives, and however it is cut on the way, the requests (or the answer) that are seen are the
same, and nothing but a closed connection comes of garbage."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn.server import ServerState

from lamplighter.gateway.connection import Connection, Head, UpstreamFailure
from lamplighter.gateway.server import HttpProtocol, configure
from tests.fuzz.fuzz_sse import cut

Seen = tuple[str, str, tuple[tuple[bytes, bytes], ...], bytes]
SEEDS = [
    b"\x00\x05GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x00\x01POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhelloGET /y HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x00\x02POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\nGET /z HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x00\x03POST /x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
    b"\x01\x05HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"\x01\x04HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n",
    b"\x01\x02HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
]
_loop = asyncio.new_event_loop()


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing reads."""

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is kept."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default


class Nobody:
    """The pool of a connection that belongs to no pool."""

    def give_back(self, connection: Connection, *, keep: bool) -> None:
        """It is not kept."""

    def lost(self, connection: Connection) -> None:
        """Nor missed."""


async def _settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def requests(pieces: list[bytes]) -> tuple[list[Seen], bool]:
    """The whole requests that the server hands on, and whether it closed the connection."""
    seen: list[Seen] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        fields = tuple(scope["headers"])
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        seen.append((scope["method"], scope["path"], fields, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = configure(app, lifespan="off", loop="none")
    config.load()
    wire, protocol = (
        Wire(),
        HttpProtocol(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()),
    )
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closing:
            protocol.data_received(piece)
            await _settle()
    closed = wire.closing
    wire.closing = True
    protocol.connection_lost(None)
    await _settle()
    return seen, closed


class Listener:
    """Takes one answer and remembers it."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body = bytearray()
        self.ends = 0
        self.cause: str | None = None

    def on_head(self, head: Head) -> None:
        """The answer begins."""
        assert self.head is None, "two heads for one request"
        self.head = head
        if head.body is not None:
            self.ends += 1

    def on_piece(self, data: bytes) -> None:
        """More of it."""
        assert self.ends == 0, "a piece behind the end"
        self.body += data

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """All of it, or a failure."""
        self.ends += 1
        self.cause = failure.cause if failure is not None else None

    def on_silence(self, seconds: float) -> None:
        """Nothing waits here."""


async def answer(pieces: list[bytes]) -> tuple[Any, ...]:
    """What a connection to an engine makes of these bytes, followed by the end of the connection."""
    wire, connection, listener = Wire(), Connection(Nobody()), Listener()
    connection.connection_made(wire)
    connection.busy = True
    connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"", listener)
    for piece in pieces:
        if not wire.closing:
            connection.data_received(piece)
    connection.connection_lost(None)
    assert listener.ends == 1, f"told {listener.ends} times that it is over"
    head = listener.head
    # How much of a broken answer was told before it broke may differ.
    return (listener.cause, head, bytes(listener.body)) if listener.cause is None else (listener.cause,)


def check(data: bytes) -> None:
    """One input: which side, how it is cut, then the bytes. Raises AssertionError, or whatever a connection must not raise."""
    if len(data) < 3:
        return
    side, step, stream = data[0] % 2, data[1] % 19 + 1, data[2:]
    if side == 0:
        whole, closed = _run(requests([stream]))
        pieces, closed_in_pieces = _run(requests(cut(stream, step)))
        assert closed == closed_in_pieces
        # Garbage right behind a request ends the connection before that request is begun; in a packet of its own it comes too late for that.
        assert whole == (pieces[: len(whole)] if closed else pieces), "which requests are seen depends on how the bytes were cut"
        for method, _, fields, _ in whole:
            assert method.isascii()
            assert sum(name == b"host" for name, _ in fields) <= 1
            assert not any(b"\n" in value or b"\r" in value or b"\0" in value for _, value in fields)
    else:
        at_once = _run(answer([stream]))
        in_pieces = _run(answer(cut(stream, step)))
        assert at_once == in_pieces, f"{at_once} or {in_pieces}"


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return _loop.run_until_complete(work)

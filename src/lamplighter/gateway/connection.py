"""HTTP/1.1 to an engine over one connection, parsed by httptools, with nothing between socket and reader.

An answer comes in one of two ways: whole (everything but event streams), or as a head followed by body bytes pushed into a function as they
arrive, without a task or queue per event. Not responsible for which connection or endpoint to use (`upstream`, `routing`), nor for what bytes mean.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

import httptools

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers that an engine may send."""
MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed: it is read whole before it is passed on, so that a broken one never looks complete."""
_UNREAD = 1024 * 1024
"""Bytes that may wait for their reader before the socket is no longer read."""
_JOIN = 64 * 1024
"""Requests up to this size leave in one write."""


class Cause(StrEnum):
    """Why an exchange with an engine failed."""

    CONNECT = "connect"
    """No connection: nothing was sent."""
    LOST = "lost"
    """The connection ended before the answer did."""
    TIMEOUT = "timeout"
    """Silence for longer than is allowed."""
    PROTOCOL = "protocol"
    """What came is not HTTP as it should be."""
    STALLED = "stalled"
    """Our own client does not read."""
    BUSY = "busy"
    """Every connection that may be open to the endpoint is in use."""


class UpstreamFailure(Exception):
    """An exchange failed. `received`: whether anything of the answer had come, so that trying again could be seen by the client."""

    def __init__(self, cause: Cause, detail: str, *, received: bool = False) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.received = received


@dataclass(slots=True)  # not frozen: that costs a microsecond for each request
class Head:
    """The beginning of an answer, or all of it: `body` is None for an event stream, which `Connection.pump` reads."""

    status: int
    content_type: bytes
    retry_after: bytes | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, and connections per endpoint."""

    connect: float = 5.0
    first_byte: float = 600.0
    idle_stream: float = 120.0
    connections: int = 1024


class Pool(Protocol):
    """Whom a connection belongs to."""

    def give_back(self, connection: "Connection", *, keep: bool) -> None:
        """The exchange is over; `keep`: the connection may be used for another."""
        ...

    def lost(self, connection: "Connection") -> None:
        """It is closed."""
        ...


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Made by `Upstream`, used as: `ask`, then `pump` if the head has no body, then `done`."""

    __slots__ = (
        "_close_delimited",
        "_complete",
        "_content_type",
        "_encoded",
        "_finished",
        "_head_done",
        "_keep",
        "_loop",
        "_parser",
        "_paused",
        "_pieces",
        "_pool",
        "_received",
        "_retry_after",
        "_sink",
        "_size",
        "_status",
        "_streaming",
        "_transport",
        "_waiter",
        "busy",
        "failure",
        "on_body",
        "on_tick",
        "silent",
        "stalled",
        "used",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # httptools calls it for every chunk: no Python in between
        self._parser = httptools.HttpResponseParser(self)
        self.busy = False
        self.used = 0
        self.silent = 0.0
        self.stalled = 0.0
        self.on_tick: Callable[[float], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._content_type = b""
        self._retry_after: bytes | None = None
        self._encoded = False
        self._close_delimited = True
        self._head_done = False
        self._complete = False
        self._keep = False
        self._received = False
        self._streaming = False
        self._paused = False
        self._size = 0
        self._pieces.clear()
        self._sink: Callable[[bytes], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] | None = None
        self.failure: UpstreamFailure | None = None
        self.silent = 0.0
        self.stalled = 0.0
        self.on_tick = None

    # -- what the gateway does with it

    def send(self, head: bytes, body: bytes) -> asyncio.Future[None]:
        """Send a request (`head` ends with its blank line). Await what is returned, then take the `answer`. Raises UpstreamFailure."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamFailure(Cause.LOST, "the connection was closed")
        self.used += 1
        if len(body) <= _JOIN:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def answer(self) -> Head:
        """The head, or all of the answer, once what `send` returned is done. Raises UpstreamFailure."""
        if self.failure is not None:
            raise self.failure
        pieces = self._pieces
        body = None if self._streaming else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Head(self._status, self._content_type, self._retry_after, body)

    async def ask(self, head: bytes, body: bytes) -> Head:
        """`send` and `answer` in one. Raises UpstreamFailure."""
        await self.send(head, body)
        return self.answer()

    async def pump(self, sink: Callable[[bytes], None]) -> bool:
        """Push every piece of an event stream's body into `sink`, as it comes, until the end. Raises UpstreamFailure.

        Returns whether the end was announced (False: the engine just closed the connection, so only the content can tell).
        """
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            sink(data)
        if self._paused and not self._complete:
            self.resume()
        if not self._complete and self.failure is None:
            self._sink = sink
            self._finished = self._loop.create_future()
            await self._finished
        if self.failure is not None:
            raise self.failure
        return not self._close_delimited

    @property
    def complete(self) -> bool:
        """Whether the answer has come to its end: what `pump` pushes now is the last."""
        return self._complete

    def pause(self) -> None:
        """The reader cannot take more: stop reading the socket, so that the engine feels it."""
        if not self._paused and self._transport is not None and not self._complete:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The reader can take more."""
        if self._paused and self._transport is not None:
            self._paused = False
            self.stalled = 0.0
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def fail(self, cause: Cause, detail: str) -> None:
        """End the exchange with a failure and close the connection; does nothing when it is over already."""
        if self.failure is None and not self._complete:
            self.failure = UpstreamFailure(cause, detail, received=self._received)
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def done(self) -> None:
        """The exchange is over: keep the connection when that is safe, else close it at once (the engine stops working for nobody)."""
        transport, keep = self._transport, self._keep and self._complete and self.failure is None
        if self._paused:
            self.resume()
        if transport is not None and (not keep or transport.is_closing()):
            transport.abort()
            keep = False
        if self.busy:  # before the reset: the pool counts
            self.busy = False
            self._reset()
            self._pool.give_back(self, keep=keep and transport is not None)

    def close(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, passed: float, limits: Limits) -> None:
        """Count `passed` more seconds of silence (ours or the client's), and end what lasted too long."""
        if self._paused:
            self.stalled += passed
            if self.stalled >= limits.idle_stream:
                self.fail(Cause.STALLED, "the client does not read its answer")
            return
        self.silent += passed
        limit = limits.idle_stream if self._streaming else limits.first_byte
        if self.silent >= limit:
            self.fail(Cause.TIMEOUT, f"the engine was silent for {limit:g}s")
        elif self.on_tick is not None:
            self.on_tick(self.silent)

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.silent = 0.0
        if not self.busy:
            self.close()  # an answer that nobody asked for: nothing on this connection can be trusted
            return
        self._received = True
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(Cause.PROTOCOL, f"the engine's answer is not proper HTTP: {error}")
            return
        if not self._head_done:
            if self._size > MAX_HEAD:
                self.fail(Cause.PROTOCOL, "the engine's headers are too large")
            return
        pieces = self._pieces
        sink = self._sink
        if sink is not None:
            if pieces:
                chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                sink(chunk)
            self._size = 0
        elif self._size > _UNREAD:
            if self._streaming:
                self.pause()
            elif self._size > MAX_WHOLE:
                self.fail(Cause.PROTOCOL, "the engine's answer is too large")
                return
        if self._complete:
            self._wake()

    def eof_received(self) -> bool:
        return False  # close our side too; connection_lost judges

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy and not self._complete and self.failure is None:
            if exc is None and self._head_done and self._close_delimited:
                self._complete = True  # the old way to end a body; its content must tell whether it is whole
            else:
                self.failure = UpstreamFailure(
                    Cause.LOST, f"the engine closed the connection{f': {exc}' if exc else ''}", received=self._received
                )
        self._wake()
        self._pool.lost(self)

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._content_type = value
        elif name in {b"content-length", b"transfer-encoding"}:
            self._close_delimited = False
        elif name == b"retry-after":
            self._retry_after = value
        elif name == b"content-encoding":
            self._encoded = value.lower() != b"identity"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100-continue and its kin: the real head follows
        self._status = status
        self._head_done = True
        self._keep = self._parser.should_keep_alive()
        if self._encoded:
            self.fail(Cause.PROTOCOL, "the engine compressed its answer although it was asked not to")
        elif self._content_type.lower().startswith(b"text/event-stream"):
            self._streaming = True
            self._wake_head()

    def on_message_complete(self) -> None:
        if not self._head_done:
            self._content_type, self._retry_after, self._close_delimited = b"", None, True  # of an interim answer
            return
        self._complete = True
        self._close_delimited = False

    # -- waking who waits

    def _wake_head(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        self._wake_head()
        finished = self._finished
        if finished is not None and not finished.done():
            finished.set_result(None)

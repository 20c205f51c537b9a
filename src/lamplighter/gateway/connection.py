"""HTTP/1.1 to an engine over one connection, parsed by httptools, with nothing between socket and reader.

An answer comes in one of two ways: whole (everything but event streams), or as a head followed by pieces of the body as they arrive. Either
way it is told by calls, in the very turn of the loop that read the socket: no future, task or queue in between. Not responsible for which
connection or endpoint to use (`upstream`, `routing`), nor for what bytes mean.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

import httptools

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers that an engine may send."""
MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed: it is read whole before it is passed on, so that a broken one never looks complete."""
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
    DEADLINE = "deadline"
    """The request as a whole took longer than is allowed."""
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
    """The beginning of an answer, or all of it: `body` is None for an event stream, whose pieces follow."""

    status: int
    content_type: bytes
    retry_after: bytes | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, and connections per endpoint.

    `first_byte`: silence before and within an answer that is not streamed. `first_token`: until the first bytes of a stream's body.
    `idle_stream`: silence within a stream after that.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    first_token: float = 600.0
    idle_stream: float = 120.0
    connections: int = 1024


class Taker(Protocol):
    """Who hears of one exchange: `on_head`, and for a stream `on_piece` any number of times and `on_end`; or `on_end` alone, with a failure.

    It calls `Connection.done` when it wants no more: within any of these calls, or at any other time.
    """

    def on_head(self, head: Head) -> None:
        """The answer begins (a stream), or is there."""
        ...

    def on_piece(self, data: bytes) -> None:
        """More of a stream's body. `Connection.complete` tells whether it is the last."""
        ...

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """A stream ended, or the exchange failed.

        `announced`: the engine said that this is the end; otherwise it just closed the connection, and only the content can tell.
        """
        ...

    def on_silence(self, seconds: float) -> None:
        """The engine has been silent for so long; called every second or so."""
        ...


class Pool(Protocol):
    """Whom a connection belongs to."""

    def give_back(self, connection: "Connection", *, keep: bool) -> None:
        """The exchange is over; `keep`: the connection may be used for another."""
        ...

    def lost(self, connection: "Connection") -> None:
        """It is closed."""
        ...


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Made by `Upstream`, used as: `ask`, then `done`, whatever came."""

    __slots__ = (
        "_close_delimited",
        "_content_type",
        "_encoded",
        "_flowing",
        "_head_done",
        "_keep",
        "_parser",
        "_paused",
        "_pieces",
        "_pool",
        "_received",
        "_retry_after",
        "_size",
        "_status",
        "_streamed",
        "_streaming",
        "_taker",
        "_told",
        "_transport",
        "busy",
        "complete",
        "deadline",
        "failure",
        "on_body",
        "silent",
        "stalled",
        "used",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self._pieces.append  # httptools calls it for every chunk: no Python in between
        self._parser: Any = httptools.HttpResponseParser(self)
        self.busy = False
        self.used = 0
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._content_type = b""
        self._retry_after: bytes | None = None
        self._encoded = False
        self._close_delimited = True
        self._head_done = False
        self.complete = False
        """The answer has come to its end: the piece that is told now is the last."""
        self._keep = False
        self._received = False
        self._streaming = False
        self._streamed = False
        self._flowing = False
        self._told = False
        self._paused = False
        self._size = 0
        self._pieces.clear()
        self._taker: Taker | None = None
        self.failure: UpstreamFailure | None = None
        self.silent = 0.0
        self.stalled = 0.0
        self.deadline: float | None = None

    # -- what the gateway does with it

    def ask(self, head: bytes, body: bytes, taker: Taker, *, stream: bool = False, deadline: float | None = None) -> None:
        """Send a request (`head` ends with its blank line); `taker` hears of the answer, never before this returns. Raises UpstreamFailure.

        `stream`: a stream was asked for, so that the limit until its first token counts. `deadline`: monotonic time of the pool's clock
        by which all of the answer must be there.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamFailure(Cause.LOST, "the connection was closed")
        self.used += 1
        self._taker = taker
        self._streamed = stream
        self.deadline = deadline
        if len(body) <= _JOIN:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def hand_over(self, taker: Taker) -> None:
        """From now on `taker` hears of this exchange."""
        self._taker = taker

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    def pause(self) -> None:
        """The taker cannot take more: stop reading the socket, so that the engine feels it."""
        if not self._paused and self._transport is not None and not self.complete:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The taker can take more."""
        if self._paused and self._transport is not None:
            self._paused = False
            self.stalled = 0.0
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def fail(self, cause: Cause, detail: str) -> None:
        """End the exchange with a failure and close the connection; does nothing when it is over already."""
        if self.failure is None and not self.complete:
            self.failure = UpstreamFailure(cause, detail, received=self._received)
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def done(self) -> None:
        """The exchange is over: keep the connection when that is safe, else close it at once (the engine stops working for nobody)."""
        transport, keep = self._transport, self._keep and self.complete and self.failure is None
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

    def sweep(self, passed: float, now: float, limits: Limits) -> None:
        """Count `passed` more seconds of silence (ours or the client's), and end what lasted too long. `now`: monotonic."""
        if self.deadline is not None and now >= self.deadline:
            self.fail(Cause.DEADLINE, "the request took longer than gateway.deadline allows")
            return
        if self._paused:
            self.stalled += passed
            if self.stalled >= limits.idle_stream:
                self.fail(Cause.STALLED, "the client does not read its answer")
            return
        self.silent += passed
        limit = limits.idle_stream if self._flowing else limits.first_token if self._streamed else limits.first_byte
        if self.silent >= limit:
            self.fail(Cause.TIMEOUT, f"the engine was silent for {limit:g}s")
        elif self._taker is not None:
            self._taker.on_silence(self.silent)

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.silent = 0.0
        taker = self._taker
        if taker is None:
            self.close()  # an answer that nobody asked for: nothing on this connection can be trusted
            return
        self._received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                self.fail(Cause.PROTOCOL, f"the engine's answer is not proper HTTP: {error}")
                return
            self._keep = False  # bytes behind a whole answer: it counts, and the connection ends with it
        if not self._flowing:
            if not self._begin(taker, len(data)):
                return
            taker = self._taker  # that of the stream, if it was handed over
        pieces = self._pieces
        if pieces and taker is not None:
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            taker.on_piece(chunk)
        if self.complete:
            self._end()

    def _begin(self, taker: Taker, size: int) -> bool:
        """The head and what follows it, up to the first piece of a stream. Returns whether there is one now, or the stream's end."""
        self._size += size
        if not self._head_done:
            if self._size > MAX_HEAD:
                self.fail(Cause.PROTOCOL, "the engine's headers are too large")
            return False
        if self._encoded:
            self.complete = False  # whole or not, it cannot be passed on
            self.fail(Cause.PROTOCOL, "the engine compressed its answer although it was asked not to")
            return False
        if self._streaming:
            if not self._told:
                self._told = True
                taker.on_head(Head(self._status, self._content_type, self._retry_after, None))
                if self._taker is None:
                    return False  # nobody wants more
            self._flowing = bool(self._pieces)
            return self._flowing or self.complete
        if self.complete:
            self._tell_whole(taker)
        elif self._size > MAX_WHOLE:
            self.fail(Cause.PROTOCOL, "the engine's answer is too large")
        return False

    def _tell_whole(self, taker: Taker) -> None:
        self._taker = None
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        taker.on_head(Head(self._status, self._content_type, self._retry_after, body))

    def _end(self) -> None:
        """Tell the taker, once, that nothing more comes."""
        taker, self._taker = self._taker, None
        if taker is None:
            return
        if self.failure is None and self._head_done and not self._streaming:
            self._tell_whole(taker)
        else:
            taker.on_end(self.failure, announced=not self._close_delimited)

    def eof_received(self) -> bool:
        return False  # close our side too; connection_lost judges

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy and not self.complete and self.failure is None:
            if exc is None and self._head_done and self._close_delimited and not self._encoded:
                self.complete = True  # the old way to end a body; its content must tell whether it is whole
            else:
                self.failure = UpstreamFailure(
                    Cause.LOST, f"the engine closed the connection{f': {exc}' if exc else ''}", received=self._received
                )
        self._parser = None  # it leads back here
        self._end()
        self._pool.lost(self)

    # -- httptools

    def on_message_begin(self) -> None:
        if self.complete:
            self._keep = False  # more than was asked for: what follows must never be taken for the answer to the next request

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._content_type = value
        elif name == b"content-length" or name == b"transfer-encoding":  # noqa: PLR1714 - a set here costs a hash for each header
            self._close_delimited = False
        elif name == b"retry-after":
            self._retry_after = value
        elif name == b"content-encoding":
            self._encoded = value.lower() != b"identity"

    def on_headers_complete(self) -> None:
        if self.complete:
            raise ValueError(
                "more than one answer"
            )  # ends the parsing: the first one's body is whole, and nothing is added to it
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100-continue and its kin: the real head follows
        self._status = status
        self._head_done = True
        self._keep = self._parser.should_keep_alive()
        self._streaming = self._content_type[:17].lower() == b"text/event-stream"

    def on_message_complete(self) -> None:
        if not self._head_done:
            self._content_type, self._retry_after, self._close_delimited = b"", None, True  # of an interim answer
            return
        self.complete = True
        self._close_delimited = False

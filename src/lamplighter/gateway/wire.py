"""One request that our server's protocol answers itself, past ASGI, and the way of its answer's bytes to the client's socket.

All of it is synchronous, so that a piece of a stream goes from the engine's socket to the client's within one call. Not responsible for
what is written, nor for reading HTTP (`server`).
"""

import asyncio
from http import HTTPStatus
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status)) for status in range(200, 600)}


def header_lines(headers: Headers) -> bytes:
    """Headers as they are sent, each line ended. Names and values are ours, or were checked."""
    return b"\r\n".join([b": ".join(header) for header in headers]) + b"\r\n" if headers else b""


class ClientConnection(Protocol):
    """What a wire needs of the connection that it answers on (`server.HttpProtocol`)."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    @property
    def peer(self) -> str:
        """The address at the other end, '' where there is none (a Unix socket)."""
        ...

    @property
    def paused(self) -> bool:
        """The client does not keep up with what is written."""
        ...

    def fixed_headers(self) -> bytes:
        """Header lines that every answer has, ready to send."""
        ...

    def answered(self, wire: "Wire") -> None:
        """The answer is complete: the next request's turn."""
        ...


class Wire:
    """One request and its answer. The connection feeds it (`begin`, `on_body`, `on_whole`, `leave`, `on_pause`, `on_resume`); whoever answers
    calls `start`, `write` any number of times, and `finish` or `abort`.

    `keep_alive`, `response_started`, `response_complete` and `disconnected` are named as in uvicorn's cycles, whose place it takes in the connection's books.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_head",
        "_lingering",
        "_old",
        "_transport",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "started",
    )

    def __init__(self, connection: ClientConnection, *, keep_alive: bool, old: bool) -> None:
        """`keep_alive`: the connection may be used for another request. `old`: the client speaks HTTP/1.0."""
        self._connection = connection
        self._transport = connection.transport
        self._old = old
        self._head = b""
        self._chunked = False
        self._lingering: asyncio.TimerHandle | None = None
        self.keep_alive = keep_alive
        self.more_body = True
        """The request is not whole yet."""
        self.started = False
        """The head is written."""
        self.response_complete = False
        self.disconnected = False

    # -- for the connection

    @property
    def response_started(self) -> bool:
        """Whether anything of the answer was written."""
        return self.started and not self._head

    def begin(self) -> None:
        """Its turn has come: all answers before it are complete. Bytes of the body may have come already."""
        raise NotImplementedError

    def on_body(self, data: bytes) -> None:
        """More of the request's body."""
        raise NotImplementedError

    def on_whole(self) -> None:
        """The request's body is whole. Overrides call this first."""
        self.more_body = False
        if self._lingering is not None:
            self._complete()

    def heard(self) -> None:
        """Something of a request came that is not whole yet."""

    def leave(self) -> None:
        """The client is gone. Overrides call this first."""
        self.disconnected = self.response_complete = True
        self._cancel_linger()

    def on_pause(self) -> None:
        """The client does not keep up: write no more than what is in hand until `on_resume`."""

    def on_resume(self) -> None:
        """It does again."""

    # -- for whoever answers

    def start(self, status: int, lines: bytes, *, length: int | None, close: bool = False) -> None:
        """The head; it leaves with the first bytes of the body. `lines`: header lines, ready to send.

        `length`: of the body in bytes, None when it is not known yet. `close`: end the connection after this answer; `lines` do not say so.
        """
        self.started = True
        if close:
            self.keep_alive = False
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._old:
            self.keep_alive = False  # HTTP/1.0 knows no chunks: the connection's end is the body's
            framing = b""
        else:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        self._head = b"%b%b%b%b%b" % (
            STATUS_LINES[status],
            self._connection.fixed_headers(),
            lines,
            framing,
            b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
        )

    def write(self, data: bytes) -> None:
        """A part of the body; nothing happens when the client is gone."""
        if self.response_complete:
            return
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data) if data else self._head
        elif self._head:
            data = self._head + data
        self._head = b""
        self._transport.write(data)

    def finish(self, data: bytes = b"", *, linger: float = 0.0) -> None:
        """The last part of the body. `linger`: seconds for which the rest of an unread request is read and forgotten before the connection is
        closed; closing it at once would make the client lose the answer.
        """
        if self.response_complete or self._lingering is not None:
            return
        if self._chunked:
            data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (self._head, len(data), data) if data else self._head + b"0\r\n\r\n"
        elif self._head:
            data = self._head + data
        self._head = b""
        if data:
            self._transport.write(data)
        if linger and self.more_body:
            self._lingering = self._connection.loop.call_later(linger, self._complete)
        else:
            self._complete()

    def abort(self) -> None:
        """Break the connection: the client must not take what came for a whole answer."""
        self.response_complete = True
        self._transport.abort()

    def _complete(self) -> None:
        self._cancel_linger()
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._connection.answered(self)

    def _cancel_linger(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

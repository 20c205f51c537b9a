"""How an answer's bytes reach the client: one interface, a fast way for our own server protocol, a slow one for any ASGI server.

All of it is synchronous, so that a piece of a stream goes from the engine's socket to the client's within one call. Not responsible for
what is written.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

Headers = list[tuple[bytes, bytes]]

_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, _phrase(status)) for status in range(200, 600)}


class Wire(Protocol):
    """One answer on its way to one client. When the client leaves, the task that made the wire is cancelled."""

    waits: bool
    """Whether `aclose` must be awaited before the request's task may end."""
    started: bool
    """The head was written."""
    gone: bool
    """The client left."""
    on_pause: Callable[[], None] | None
    on_resume: Callable[[], None] | None

    @property
    def paused(self) -> bool:
        """The client does not keep up: write no more than what is in hand until `on_resume`."""
        ...

    def start(self, status: int, headers: Headers, *, length: int | None) -> None:
        """The head. `length`: of the body in bytes, None when it is not known yet. Leaves with the first bytes of the body."""
        ...

    def write(self, data: bytes) -> None:
        """A part of the body; nothing happens when the client is gone."""
        ...

    def finish(self, data: bytes = b"") -> None:
        """The last part of the body."""
        ...

    def abort(self) -> None:
        """Break the connection: the client must not take what came for a whole answer."""
        ...

    def close(self) -> None:
        """Everything is written, or nobody is there; release what the wire holds."""
        ...

    async def aclose(self) -> None:
        """Wait until what was written is on its way, for wires that do not write at once."""
        ...


class AsgiWire:
    """Over ASGI's `send` and `receive`, for any server. Two small tasks live as long as the answer."""

    waits = True

    def __init__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.started = False
        self.gone = False
        self._paused = False
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self._task = asyncio.current_task()
        self._send = send
        self._messages: deque[dict[str, Any]] = deque()
        self._size = 0
        self._wanted = asyncio.Event()
        self._closed = False
        self._broken = False
        self._watcher = asyncio.create_task(self._watch(receive))
        self._writer = asyncio.create_task(self._write())

    @property
    def paused(self) -> bool:
        return self._paused

    def start(self, status: int, headers: Headers, *, length: int | None) -> None:
        self.started = True
        fields = [*headers, (b"content-length", b"%d" % length)] if length is not None else headers
        self._put({"type": "http.response.start", "status": status, "headers": fields})

    def write(self, data: bytes) -> None:
        if data:
            self._put({"type": "http.response.body", "body": data, "more_body": True})

    def finish(self, data: bytes = b"") -> None:
        self._put({"type": "http.response.body", "body": data, "more_body": False})
        self._closed = True
        self._wanted.set()

    def abort(self) -> None:
        self._broken = self._closed = True
        self._messages.clear()
        self._wanted.set()

    def close(self) -> None:
        self._watcher.cancel()
        if self.gone:
            self._writer.cancel()
        self._closed = True
        self._wanted.set()

    async def aclose(self) -> None:
        self.close()
        await asyncio.gather(self._watcher, self._writer, return_exceptions=True)
        if self._broken:
            raise ConnectionAbortedError("the answer could not be completed")  # a server breaks the connection on an exception

    def _put(self, message: dict[str, Any]) -> None:
        if self.gone or self._closed:
            return
        self._messages.append(message)
        self._size += len(message.get("body", b""))
        self._wanted.set()
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            if self.on_pause is not None:
                self.on_pause()

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._messages:
                message = self._messages.popleft()
                try:
                    await self._send(message)
                except OSError:
                    self._leave()
                    return
                self._size -= len(message.get("body", b""))
                if self._paused and self._size <= _LOW_WATER:
                    self._paused = False
                    if self.on_resume is not None:
                        self.on_resume()
            if self._closed:
                return

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._closed:
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        self._messages.clear()
        if self._task is not None:
            self._task.cancel()


class DirectWire:
    """Straight to the socket of our own server protocol (`server.HttpProtocol`), past ASGI's `send`.

    It keeps the books of uvicorn's cycle as `send` would, so that keep-alive, pipelining and shutdown go on working.
    """

    waits = False

    __slots__ = (
        "_chunked",
        "_connection",
        "_cycle",
        "_head",
        "_last",
        "_task",
        "_transport",
        "gone",
        "on_pause",
        "on_resume",
        "started",
    )

    def __init__(self, connection: Any, cycle: Any) -> None:
        self.started = False
        self.gone = False
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self._connection = connection
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._task = asyncio.current_task()
        self._head = b""
        self._chunked = False
        self._last = False
        connection.wire = self

    @property
    def paused(self) -> bool:
        return bool(self._cycle.flow.write_paused)

    def start(self, status: int, headers: Headers, *, length: int | None) -> None:
        cycle = self._cycle
        old = cycle.scope["http_version"] != "1.1"
        self.started = cycle.response_started = True
        cycle.waiting_for_100_continue = False
        parts = [STATUS_LINES[status], self._connection.fixed_headers()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"connection" and value == b"close":
                cycle.keep_alive = False
        if length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif cycle.scope["method"] == "HEAD":
            pass
        elif old:
            cycle.keep_alive = False  # HTTP/1.0 knows no chunks: the connection's end is the body's
        else:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        if not cycle.keep_alive and (b"connection", b"close") not in headers:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        self._head = b"".join(parts)

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        if self._cycle.scope["method"] == "HEAD":
            data = b""
        if self._head:
            head, self._head = self._head, b""
        else:
            head = b""
        if self._chunked and data:
            self._transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        elif head or data:
            self._transport.write(head + data)

    def finish(self, data: bytes = b"") -> None:
        cycle = self._cycle
        if self.gone or self._last:
            return
        self._last = True
        head, self._head = self._head, b""
        if cycle.scope["method"] == "HEAD":
            data = b""
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if head or data:
            self._transport.write(head + data)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        self._connection.wire = None
        cycle.on_response()

    def abort(self) -> None:
        self._last = True
        self._cycle.response_complete = True
        self._connection.wire = None
        self._transport.abort()

    def close(self) -> None:
        if self._connection.wire is self:
            self._connection.wire = None

    async def aclose(self) -> None:
        self.close()

    def leave(self) -> None:
        """For the connection: the client is gone."""
        self.gone = True
        self._cycle.disconnected = True
        if self._task is not None and not self._last:
            self._task.cancel()


def make_wire(scope: dict[str, Any], receive: Any, send: Any) -> Wire:
    """The fastest wire that this server allows. Call it after the request's body was read, in the task that answers."""
    connection = scope.get("extensions", {}).get("lamplighter.connection")
    cycle = getattr(send, "__self__", None)
    if connection is not None and cycle is not None:
        wire = DirectWire(connection, cycle)
        if cycle.disconnected or cycle.transport.is_closing():
            wire.gone = True
        return wire
    return AsgiWire(scope, receive, send)


def body_in_hand(scope: dict[str, Any], send: Any) -> bytes | None:
    """The request's whole body, when our own server protocol has it already (nearly always); None: `receive` it."""
    if "lamplighter.connection" not in scope.get("extensions", ()):
        return None
    cycle = send.__self__
    if cycle.more_body or cycle.disconnected:
        return None
    body = bytes(cycle.body)
    cycle.body = bytearray()
    cycle.message_event.clear()
    cycle.flow.resume_reading()
    return body


async def discard(receive: Any, *, seconds: float) -> None:
    """Read and forget what the client still sends, for a while: closing at once would make it lose the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return

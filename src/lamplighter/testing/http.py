"""A small HTTP/1.1 server for fakes, with a hand on every byte: whatever a broken server can send, it can send.

asyncio and httptools, no framework: thousands of open streams in a test process. Not a server for production: it trusts its clients.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self, cast

import httptools

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST instead of FIN


@dataclass(slots=True)
class Request:
    """One request, complete. `target` as sent (path and query); header names in lower case."""

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


class Exchange:
    """One request and the answer that is being written to it."""

    def __init__(self, request: Request, connection: "_Connection") -> None:
        self.request = request
        self._connection = connection
        self._chunked = False
        self.started = False
        self.ended = False

    def start(self, status: int, headers: Mapping[str, str] | None = None, *, length: int | None = None) -> None:
        """Send the status line and headers; without `length` the body is chunked."""
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._chunked = length is None
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.started = True

    def write(self, data: bytes) -> None:
        """Send a part of the body, at once."""
        if data:
            self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """Complete the answer."""
        if self._chunked and not self.ended:
            self.raw(b"0\r\n\r\n")
        self.ended = True

    def answer(
        self, status: int, body: bytes, content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self.start(status, {"content-type": content_type, **(headers or {})}, length=len(body))
        self.write(b"" if self.request.method == "HEAD" else body)
        self.end()

    def raw(self, data: bytes) -> None:
        """Bytes exactly as they are, framing or not."""
        self._connection.transport.write(data)

    def close(self) -> None:
        """Close the connection cleanly after what was written (FIN), whatever the framing promised."""
        self.ended = True
        self._connection.transport.close()

    def reset(self) -> None:
        """Cut the connection (RST); what was not yet sent is lost."""
        self.ended = True
        self._connection.reset()

    async def drain(self) -> None:
        """Wait while the client reads more slowly than we write."""
        await self._connection.writable.wait()


Handler = Callable[[Exchange], Awaitable[None]]


class _Connection(asyncio.Protocol):
    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.writable = asyncio.Event()
        self.writable.set()
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._waiting: list[Request] = []
        self._task: asyncio.Task[None] | None = None

    # asyncio
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are of no class of asyncio's
        self.server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def eof_received(self) -> None:
        """A client that half-closes has left, as for every server of engines."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self.writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # httptools
    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._request.body += body

    def on_message_complete(self) -> None:
        self._request.method = self._parser.get_method().decode()
        self._waiting.append(self._request)
        self._next()

    def _next(self) -> None:
        if self._task is None and self._waiting and not self.transport.is_closing():
            self._task = asyncio.get_running_loop().create_task(self._serve(self._waiting.pop(0)))

    async def _serve(self, request: Request) -> None:
        exchange = Exchange(request, self)
        try:
            await self.server.handler(exchange)
            if not exchange.ended:
                exchange.end()
        finally:
            self._task = None
            if not exchange.ended:
                self.transport.close()
        if request.headers.get("connection", "").lower() == "close":
            self.transport.close()
        self._next()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class HttpServer:
    """Serves `handler` on a port of loopback that the kernel chose. `async with HttpServer(handler) as server: server.url`."""

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.host = host
        self.port = port
        self._tls = tls
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its base URL, without a slash at the end."""
        return f"http{'' if self._tls is None else 's'}://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), self.host, self.port, backlog=4096, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Stop listening and reset every connection: what a killed process looks like from outside."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.reset()

    async def stop(self) -> None:
        """Stop listening, cut every connection and wait until their handlers ended."""
        self.cut()
        for _ in range(1000):
            if not self.connections:
                break
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"

"""The server's side of HTTP/1.1: uvicorn's httptools protocol with limits on what a connection may cost, and a way past ASGI for the routes
that an application wants to answer on the socket itself.

Keep-alive, pipelining, websockets, 100-continue and the end of the server stay uvicorn's. Not responsible for routes. `configure` is the one
place that says how uvicorn must run us.
"""

import asyncio
import gc
import time
from email.utils import formatdate
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.server import ServerState

from lamplighter.gateway.framing import StrictProtocol
from lamplighter.gateway.wire import ClientConnection, Headers, Wire

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers; more gets 431."""
HEAD_SECONDS = 15.0
"""How long a client may take to send its headers, from connecting or from their first byte; then the connection is closed."""
KEEP_ALIVE_SECONDS = 75
MAX_CONNECTIONS = 20_000
"""Sockets of clients that may be open at once."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: 122\r\nconnection: close\r\n\r\n"
    b'{"error":{"message":"The request\'s headers are too large.","type":"invalid_request_error","param":null,"code":"headers"}}\n'
)


class DirectRoutes(Protocol):
    """The POST routes that an application answers on the connection itself, without scope, task or channel for each request."""

    def take(
        self, connection: ClientConnection, url: bytes, headers: Headers, *, keep_alive: bool, old: bool, expects: bool
    ) -> Wire | None:
        """What answers a POST to `url` (as it stands in the request line); None: it is no such route. Never raises.

        `old`: the client speaks HTTP/1.0. `expects`: it waits for `100 Continue` before it sends the body.
        """
        ...


class Connections(ServerState):
    """What uvicorn knows of a server's connections, and whether they should end one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = False

    def leave(self) -> None:
        """Every answer that has not begun is the last of its connection, so that clients find another gateway for the next one."""
        self.leaving = True
        for connection in self.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False


class HttpProtocol(StrictProtocol):
    """One client's connection.

    `cycle`, uvicorn's for the request read last, may be a `Wire`: a request of a direct route. `_current` is the wire whose turn it is,
    told at once of a client that leaves or cannot keep up; `_receiving` the one whose body is being read.
    """

    cycle: Any  # not only uvicorn's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._routes = cast("DirectRoutes | None", getattr(getattr(app, "__self__", app), "direct", None))
        self._book = self.server_state if isinstance(self.server_state, Connections) else Connections()
        self._current: Wire | None = None
        self._receiving: Wire | None = None
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._quiet_since = 0.0
        self._quiet_timer: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """The address at the other end, '' where there is none (a Unix socket)."""
        return self.client[0] if self.client else ""

    @property
    def paused(self) -> bool:
        """The client does not keep up with what is written."""
        return self.flow.write_paused

    def fixed_headers(self) -> bytes:
        """Header lines that every answer of a direct route has, ready to send."""
        return _date_line()

    def answered(self, wire: Wire) -> None:
        """The answer of a direct route is complete."""
        self._current = None
        if self.cycle is wire:  # nothing came after it: let go of it
            self.cycle = None
        self.on_response_complete()

    # -- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
            self._quiet_timer = None
        wire, self._current, self._receiving = self._current, None, None
        if isinstance(self.cycle, Wire):
            self.cycle = None  # not uvicorn's to end
        super().connection_lost(exc)
        self.pipeline.clear()  # requests that nobody waits for
        if wire is not None:
            wire.leave()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._receiving is not None:
            self._receiving.heard()
        if self._head_size and self._in_head:  # a head that is not whole yet
            if self._head_timer is None:
                self._arm()
            # Counted over whole reads, so up to one read more than the limit is let through.
            if self._head_size > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._current is not None:
            self._current.on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._current is not None:
            self._current.on_resume()

    # -- httptools

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, see StrictProtocol; said again here because every header comes through
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version = self.check_head()
        self._in_head = False
        self._head_size = 0
        self._disarm()
        parser = self.parser
        if (
            self._routes is not None
            and parser.get_method() == b"POST"
            and not (parser.should_upgrade() and self._should_upgrade())
        ):
            old = version == "1.0"
            wire = self._routes.take(
                self,
                self.url,
                self.headers,
                keep_alive=parser.should_keep_alive() and not old and not self._book.leaving,
                old=old,
                expects=self.expect_100_continue,
            )
            if wire is not None:
                self._take(wire)
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, which only ASGI needs
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self._book.leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _take(self, wire: Wire) -> None:
        before, self.cycle = self.cycle, wire
        self._receiving = wire
        if before is None or before.response_complete:
            self._current = wire
            wire.begin()
        else:  # pipelined: its turn comes after the answers before it
            self.flow.pause_reading()
            self.pipeline.appendleft((cast("Any", wire), self.app))

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None:
            self._receiving.on_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        wire = self._receiving
        if wire is None or (self.parser.should_upgrade() and self._framing()):  # the latter: its body is still to come
            super().on_message_complete()
            return
        self._receiving = None
        self._in_head = True
        wire.on_whole()

    def abandon(self, cycle: Any) -> None:
        wire, self._current, self._receiving = self._current, None, None
        if not isinstance(cycle, Wire):
            super().abandon(cycle)
        if wire is not None:
            wire.leave()

    # -- uvicorn

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Wire):
            self.loop.call_soon(self._begin, cycle)  # not at once: a thousand pipelined requests would be a thousand calls deep
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, wire: Wire) -> None:
        if not self.transport.is_closing():
            self._current = wire
            wire.begin()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        # One timer for the whole connection, looked at when it fires: to set and cancel one for each answer costs more than parsing it.
        self._quiet_since = self.loop.time()
        if self._quiet_timer is None:
            self._quiet_timer = self.loop.call_later(self.timeout_keep_alive, self._quiet)

    def _quiet(self) -> None:
        self._quiet_timer = None
        if self.transport.is_closing():
            return
        busy = self._head_size or not self._in_head or (self.cycle is not None and not self.cycle.response_complete)
        left = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if busy:
            left = self.timeout_keep_alive
        elif left <= 0.01:
            self.transport.close()
            return
        self._quiet_timer = self.loop.call_later(left, self._quiet)

    def handle_websocket_upgrade(self) -> None:
        if self._quiet_timer is not None:  # the connection is no longer ours
            self._quiet_timer.cancel()
            self._quiet_timer = None
        super().handle_websocket_upgrade()

    # -- slow clients

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._in_head and not self.transport.is_closing():
            self.transport.close()


_date = (0, b"")


def _date_line() -> bytes:
    global _date  # noqa: PLW0603 - a cache of one second
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n")
    return _date[1]


def settle() -> None:
    """Tell the garbage collector that what is there now stays: call it once, when everything is started.

    Requests make few cycles, but the collector looks at all young objects every few hundred allocations, and now and then at the whole heap:
    in a process with a heap like ours that was a tenth of the time, and pauses in everybody's stream.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def configure(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration for `app`. `options` may add or replace settings (host, port, fd, ssl_keyfile ...)."""
    settings: dict[str, Any] = {
        "http": HttpProtocol,
        "loop": "uvloop",
        "ws": "websockets-sansio",
        "ws_max_size": 256 * 1024,
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "backlog": 4096,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        **options,
    }
    return uvicorn.Config(app, **settings)

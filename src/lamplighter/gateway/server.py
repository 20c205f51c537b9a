"""The server's side of HTTP/1.1: uvicorn's httptools protocol with limits on what a connection may cost, and a direct way to its socket.

Not responsible for routes. `configure` is the one place that says how uvicorn must run us.
"""

import asyncio
import gc
import time
from email.utils import formatdate
from typing import Any

import uvicorn

from lamplighter.gateway.framing import StrictProtocol
from lamplighter.gateway.wire import DirectWire

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


class HttpProtocol(StrictProtocol):
    """One client's connection. `wire` is the answer under way, told at once of a client that leaves or cannot keep up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wire: DirectWire | None = None
        self._extensions = {"lamplighter.connection": self}
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def fixed_headers(self) -> bytes:
        """Header lines that every answer has, ready to send."""
        return _date_line()

    # -- asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn declares it
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        wire, self.wire = self.wire, None
        super().connection_lost(exc)
        self.pipeline.clear()  # requests that nobody waits for
        if wire is not None:
            wire.leave()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._head_size and self._in_head:  # a head that is not whole yet
            if self._head_timer is None:
                self._arm()
            # Counted over whole reads, so up to one read more than the limit is let through.
            if self._head_size > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.wire is not None and self.wire.on_pause is not None:
            self.wire.on_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.wire is not None and self.wire.on_resume is not None:
            self.wire.on_resume()

    # -- httptools

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item] # not data: the way back to this object

    def on_headers_complete(self) -> None:
        self.check_head()
        self._in_head = False
        self._head_size = 0
        self._disarm()
        super().on_headers_complete()

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

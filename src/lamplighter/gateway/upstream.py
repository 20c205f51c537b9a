"""HTTP/1.1 to the engines: one pool of keep-alive connections per endpoint, parsed by httptools, with nothing between socket and reader.

An answer comes in one of two ways: whole (everything but event streams), or as a head followed by body bytes pushed into a function as they
arrive, without a task or queue per event. Not responsible for which endpoint to ask, for retrying on another one, or for what bytes mean.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast
from urllib.parse import urlsplit

import httptools

from lamplighter.core.clock import Clock
from lamplighter.core.endpoint import Endpoint

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers that an engine may send."""
MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of an answer that is not streamed: it is read whole before it is passed on, so that a broken one never looks complete."""
_UNREAD = 1024 * 1024
"""Bytes that may wait for their reader before the socket is no longer read."""
_JOIN = 64 * 1024
"""Requests up to this size leave in one write."""
_IDLE = 30.0
"""Seconds after which an unused connection is closed."""
_TICK = 1.0


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


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. Made by `Upstream`, used as: `ask`, then `pump` if the head has no body, then `done`."""

    __slots__ = (
        "_close_delimited", "_complete", "_content_type", "_encoded", "_finished", "_head_done", "_keep",
        "_loop", "_parser",
        "_paused", "_pieces", "_received", "_retry_after", "_sink", "_size", "_status", "_streaming", "_transport", "_upstream", "_waiter",
        "busy", "failure", "on_body", "on_tick", "silent", "stalled", "used",
    )  # fmt: skip

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
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
            self._upstream.give_back(self, keep=keep and transport is not None)

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
        self._upstream.lost(self)

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


class Upstream:
    """The connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, limits: Limits, clock: Clock) -> None:
        """`endpoint.url`: http or https, with any path prefix. Raises ValueError when it is no such URL."""
        self.endpoint = endpoint
        self._limits = limits
        self._clock = clock
        parts = urlsplit(endpoint.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{endpoint.url!r} is not an http(s) URL")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        prefix = parts.path.rstrip("/").encode()
        fields = [b"host: " + parts.netloc.encode(), b"user-agent: lamplighter", b"accept-encoding: identity"]
        if endpoint.key:
            fields.append(b"authorization: Bearer " + endpoint.key.encode())
        self._prefix = prefix
        self._fields = b" HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\ncontent-type: application/json\r\n"
        self._heads: dict[str, bytes] = {}
        self._idle: dict[Connection, float] = {}  # newest last; the value is when it became idle
        self.busy: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False

    @property
    def idle(self) -> int:
        """Open connections that nobody uses."""
        return len(self._idle)

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return not self.busy and not self._opening and not self._waiting

    def head(self, path: str, request_id: str, length: int) -> bytes:
        """The head of a POST of `length` bytes of JSON to `path`, blank line included."""
        fixed = self._heads.get(path)
        if fixed is None:
            fixed = self._heads[path] = b"POST " + self._prefix + path.encode() + self._fields
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (fixed, request_id.encode(), length)

    def take(self) -> Connection | None:
        """An idle connection, if there is one and nobody waits for it; without waiting."""
        while self._idle and not self._waiting:
            connection, _ = self._idle.popitem()
            transport = connection._transport  # noqa: SLF001 - the pool and its connections are one unit
            if transport is None or transport.is_closing():
                continue
            connection.busy = True
            self.busy.add(connection)
            return connection
        return None

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """A connection: an idle one (unless `fresh`), a new one, or the next that becomes free, in order of asking.

        Raises UpstreamFailure: CONNECT, or BUSY when none became free in time.
        """
        if not fresh and (connection := self.take()) is not None:
            return connection
        if len(self.busy) + len(self._idle) + self._opening >= self._limits.connections and not self._evict():
            return await self._queue()
        return await self._open()

    def _evict(self) -> bool:
        """Make room by closing the oldest idle connection."""
        for connection in self._idle:
            del self._idle[connection]
            connection.close()
            return True
        return False

    async def _queue(self) -> Connection:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._limits.first_byte):
                connection = await waiter
        except TimeoutError:
            raise UpstreamFailure(Cause.BUSY, "all connections to the engine are in use") from None
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.done():
                if (given := waiter.result()) is not None:
                    given.done()
                else:
                    self._pass_on()  # a free place was ours: it belongs to the next in line
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)
        return connection if connection is not None else await self._open()

    async def _open(self) -> Connection:
        if self._closed:
            raise UpstreamFailure(Cause.CONNECT, "the gateway is stopping")
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        self._opening += 1
        try:
            async with asyncio.timeout(self._limits.connect):
                _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            raise UpstreamFailure(Cause.CONNECT, f"no connection within {self._limits.connect:g}s") from None
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UpstreamFailure(Cause.CONNECT, _reason(error)) from error
        finally:
            self._opening -= 1
            if connection is None:
                self._pass_on()  # the place is free again
        connection.busy = True
        self.busy.add(connection)
        return connection

    def give_back(self, connection: Connection, *, keep: bool) -> None:
        """For connections only: the exchange is over."""
        self.busy.discard(connection)
        if not keep or self._closed:
            connection.close()
            self._pass_on()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                connection.busy = True
                self.busy.add(connection)
                waiter.set_result(connection)
                return
        self._idle[connection] = self._clock.monotonic()

    def lost(self, connection: Connection) -> None:
        """For connections only: it is closed."""
        if self._idle.pop(connection, None) is not None:
            self._pass_on()

    def _pass_on(self) -> None:
        """A place became free: the first in line may open a connection."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def sweep(self, passed: float) -> None:
        """Close what was silent for too long. `passed`: seconds since the last call."""
        now = self._clock.monotonic()
        for connection in list(self.busy):
            connection.sweep(passed, self._limits)
        for connection, since in list(self._idle.items()):
            if now - since <= _IDLE:
                break  # the rest is younger
            del self._idle[connection]
            connection.close()

    def close(self) -> None:
        """Close everything; running exchanges fail as lost."""
        self._closed = True
        for connection in list(self._idle):
            connection.close()
        self._idle.clear()
        for connection in list(self.busy):
            connection.fail(Cause.LOST, "the gateway is stopping")
        self._pass_on()


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"no connection: {text}"


class Upstreams:
    """All endpoints' pools, by endpoint, and the one task that looks for silence."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._pools: dict[Endpoint, Upstream] = {}
        self._retired: list[Upstream] = []
        self._task: asyncio.Task[None] | None = None

    def of(self, endpoint: Endpoint) -> Upstream:
        """The pool of `endpoint`, made at first use. Raises ValueError for a URL that cannot be used."""
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = Upstream(endpoint, self._limits, self._clock)
        return pool

    def keep(self, endpoints: set[Endpoint]) -> None:
        """Forget every other endpoint; what still runs on one finishes."""
        for endpoint in [known for known in self._pools if known not in endpoints]:
            self._retired.append(self._pools.pop(endpoint))

    def counts(self) -> tuple[int, int]:
        """Connections (busy, idle)."""
        pools = [*self._pools.values(), *self._retired]
        return sum(len(pool.busy) for pool in pools), sum(pool.idle for pool in pools)

    async def start(self) -> None:
        """Begin to look for silence."""
        self._task = asyncio.create_task(self._run(), name="gateway-upstreams")

    async def stop(self) -> None:
        """Close every connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for pool in [*self._pools.values(), *self._retired]:
            pool.close()
        self._pools.clear()
        self._retired.clear()

    async def _run(self) -> None:
        tick = min(_TICK, self._limits.first_byte / 4, self._limits.idle_stream / 4)
        while True:
            await self._clock.sleep(tick)
            for pool in [*self._pools.values(), *self._retired]:
                pool.sweep(tick)
            for pool in [pool for pool in self._retired if pool.quiet]:
                pool.close()
                self._retired.remove(pool)

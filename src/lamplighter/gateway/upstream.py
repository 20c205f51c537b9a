"""The pools of connections to the engines: one per endpoint, bounded, fair to those who wait, swept for silence.

Not responsible for what happens on a connection (`connection`), which endpoint to ask (`routing`), or asking another one (`dispatch`).
"""

import asyncio
import contextlib
import ssl
from collections import deque
from urllib.parse import urlsplit

from lamplighter.core.clock import Clock
from lamplighter.core.endpoint import Endpoint
from lamplighter.gateway.connection import Cause, Connection, Limits, UpstreamFailure

_IDLE = 30.0
"""Seconds after which an unused connection is closed."""
_TICK = 1.0


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
        self._ssl = _trust(endpoint) if parts.scheme == "https" else None
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
            if not connection.usable:
                continue
            connection.busy = True
            self.busy.add(connection)
            return connection
        return None

    async def acquire(self, *, fresh: bool = False, patience: float | None = None) -> Connection:
        """A connection: an idle one (unless `fresh`), a new one, or the next that becomes free, in order of asking.

        `patience`: seconds that it may wait for one that becomes free, when that is less than `Limits.first_byte`. Raises UpstreamFailure:
        CONNECT, or BUSY when none became free in time.
        """
        if not fresh and (connection := self.take()) is not None:
            return connection
        if len(self.busy) + len(self._idle) + self._opening >= self._limits.connections and not self._evict():
            return await self._queue(self._limits.first_byte if patience is None else min(patience, self._limits.first_byte))
        return await self._open()

    def _evict(self) -> bool:
        """Make room by closing the oldest idle connection."""
        for connection in self._idle:
            del self._idle[connection]
            connection.close()
            return True
        return False

    async def _queue(self, patience: float) -> Connection:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(patience):
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
            connection.sweep(passed, now, self._limits)
        for connection, since in list(self._idle.items()):
            if now - since <= _IDLE:
                break  # the rest is younger
            del self._idle[connection]
            connection.close()

    def lose(self, detail: str) -> None:
        """The machine behind it is gone: running exchanges fail as lost, now and not when their silence has become too long."""
        for connection in list(self.busy):
            connection.fail(Cause.LOST, detail)

    def close(self) -> None:
        """Close everything; running exchanges fail as lost."""
        self._closed = True
        for connection in list(self._idle):
            connection.close()
        self._idle.clear()
        for connection in list(self.busy):
            connection.fail(Cause.LOST, "the gateway is stopping")
        self._pass_on()


def _trust(endpoint: Endpoint) -> ssl.SSLContext:
    """Whose certificates are taken. Raises ValueError when the endpoint's own file cannot be used."""
    context = ssl.create_default_context()
    if endpoint.ca is not None:
        try:
            context.load_verify_locations(endpoint.ca)
        except OSError as error:  # ssl's own errors are among them
            raise ValueError(f"the file of authorities {endpoint.ca} cannot be used: {error.strerror or error}") from error
    return context


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
        limits = self._limits
        tick = min(_TICK, limits.first_byte / 4, limits.first_token / 4, limits.idle_stream / 4)
        while True:
            await self._clock.sleep(tick)
            for pool in [*self._pools.values(), *self._retired]:
                pool.sweep(tick)
            for pool in [pool for pool in self._retired if pool.quiet]:
                pool.close()
                self._retired.remove(pool)

"""A clock that stands still until a test moves it, and then runs everything that falls due, in order, each to its end.

Not responsible for sockets and sub-processes: what waits for the outside world needs the real clock. The store is taken care of: its
transactions run inside `busy`, and time waits for them.
"""

import asyncio
import heapq
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

START = 1_790_000_000.0
"""Unix seconds at which a virtual clock begins, unless told otherwise."""
_QUIET_TURNS = 3
_MAX_TURNS = 100_000
_MAX_REAL_SECONDS = 30.0


class VirtualClock:
    """Implements `core.clock.Clock`. Make it inside a running event loop's life, move it with `advance`."""

    def __init__(self, start: float = START) -> None:
        self._start = start
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._serial = 0
        self._outside = 0
        self._inside = asyncio.Event()
        self._inside.set()

    def time(self) -> float:
        return self._start + self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._timer(seconds)

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        if event.is_set():
            return True
        if timeout is None:
            await event.wait()
            return True
        if timeout <= 0:
            await asyncio.sleep(0)
            return event.is_set()
        timer, waiter = self._timer(timeout), asyncio.ensure_future(event.wait())
        either: set[asyncio.Future[Any]] = {timer, waiter}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            timer.cancel()
            waiter.cancel()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While any of these is open, virtual time does not move."""
        self._outside += 1
        self._inside.clear()
        try:
            yield
        finally:
            self._outside -= 1
            if not self._outside:
                self._inside.set()

    async def advance(self, seconds: float) -> None:
        """Move time forward by `seconds`, stopping at each timer that falls due to let what waited for it run until it waits again."""
        target = self._now + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            if timer.done():
                continue
            self._now = max(self._now, due)
            timer.set_result(None)
            await self.settle()
        self._now = target
        await self.settle()

    async def settle(self) -> None:
        """Return once nothing can run without time moving: no callback is ready, no transaction is open.

        Raises TimeoutError when that does not come about: something turns the event loop for ever.
        """
        loop, quiet, limit = asyncio.get_running_loop(), 0, time.monotonic() + _MAX_REAL_SECONDS
        for _ in range(_MAX_TURNS):
            await asyncio.sleep(0)
            if self._outside:
                quiet = 0
                async with asyncio.timeout(max(0.0, limit - time.monotonic())):
                    await self._inside.wait()
            elif getattr(loop, "_ready", None):  # asyncio's own queue of callbacks; other loops get the turns alone
                quiet = 0
            else:
                quiet += 1
                if quiet == _QUIET_TURNS:
                    return
            if time.monotonic() > limit:
                break
        raise TimeoutError("the event loop does not come to rest; does something poll without waiting for the clock?")

    @property
    def waiting(self) -> int:
        """How many sleepers and timeouts are pending: what a test may assert to be zero at its end."""
        return sum(not timer.done() for _, _, timer in self._timers)

    def _timer(self, seconds: float) -> asyncio.Future[None]:
        timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serial += 1
        if seconds != float("inf"):
            heapq.heappush(self._timers, (self._now + seconds, self._serial, timer))
        return timer

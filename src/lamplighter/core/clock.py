"""Time as a dependency, so that tests control it. `lamplighter.testing.clock.VirtualClock` is the other implementation."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What our code may know of time."""

    def time(self) -> float:
        """Wall clock, Unix seconds (UTC): for what is stored or shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations inside one process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once (but after one turn of the loop) when not positive."""
        ...

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        """True when `event` is set within `timeout` seconds (None: no limit), False when the time ran out first."""
        ...


class SystemClock:
    """The real clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True

"""Time as a dependency, so that tests control it. `lamplighter.testing.clock.VirtualClock` is the other implementation."""

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


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

    def busy(self) -> AbstractContextManager[None]:
        """Around work that the event loop cannot see (a database's thread): a clock that a test moves stands still meanwhile.

        The work must not itself wait for this clock.
        """
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

    def busy(self) -> AbstractContextManager[None]:
        return nullcontext()


async def cancellable(work: Awaitable[T]) -> T:
    """The result of an `asyncio.gather`, or its first failure; but a cancellation is always told as one.

    `gather` answers it by the exception of a part that failed in the same moment, and whoever catches that one goes on as if nobody had
    asked for the end.
    """
    try:
        return await work
    except Exception as error:
        raise_if_cancelled(error)
        raise


def raise_if_cancelled(instead_of: Exception) -> None:
    """For whoever catches everything: a failure must not hide that this task was told to end. Raises CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from instead_of


async def within(clock: Clock, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of `work`, or TimeoutError when `clock` counts `seconds` first; the work is cancelled then, and when the caller is."""
    task, done = asyncio.ensure_future(work), asyncio.Event()
    task.add_done_callback(lambda _: done.set())
    try:
        if not await clock.wait(done, seconds):
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})

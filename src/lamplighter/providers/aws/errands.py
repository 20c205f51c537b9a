"""Work that goes on beside the watch over AWS: named, never twice at once, paced, and never the end of anything when it breaks."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError

_log = structlog.get_logger(__name__)

STOP_LIMIT = 10.0
"""Seconds that a stop waits for work that was told to end; the calls in it have limits of their own."""


class Errands:
    """Of one pool."""

    def __init__(self, pool: str, clock: Clock) -> None:
        self._clock = clock
        self._tried: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = _log.bind(pool=pool)

    def due(self, what: str, every: float) -> bool:
        """Whether `every` seconds are over since this was last true; if so they begin again."""
        now = self._clock.monotonic()
        if now - self._tried.get(what, float("-inf")) < every:
            return False
        self._tried = {other: at for other, at in self._tried.items() if now - at < 3600.0} | {what: now}
        return True

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside, unless it is being done; what fails is logged, and is the caller's to try again."""
        running = self._tasks.get(name)
        if running is not None and not running.done():
            work.close()
            return
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        self._tasks[name] = asyncio.create_task(self._logged(name, work), name=name)

    async def stop(self) -> None:
        """Abandon what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_LIMIT)
        self._tasks = {}

    async def _logged(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LamplighterError as error:
            self._log.warning("something could not be done, and is tried again", what=name, error=error.message)
        except Exception:  # noqa: BLE001 - a defect here must not end what else is done; it is logged whole
            self._log.exception("something broke", what=name)

"""Work that goes on for as long as the gateway does: a defect in it is logged and it begins again, never silently dead.

Not responsible for errors that the work expects: it handles those itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from lamplighter.core.clock import Clock

PAUSE = 1.0
"""Seconds between a failure and the next life."""

_log = structlog.get_logger(__name__)


def forever(name: str, life: Callable[[], Coroutine[object, object, None]], clock: Clock) -> asyncio.Task[None]:
    """A task that lives `life` again and again, until it is cancelled."""
    return asyncio.create_task(_lives(name, life, clock), name=name)


async def _lives(name: str, life: Callable[[], Awaitable[None]], clock: Clock) -> None:
    while True:
        try:
            await life()
        except Exception as error:  # noqa: BLE001 - whatever it was, the gateway must not go on without this work
            _log.error("background_work_failed", work=name, exc_info=error)
        await clock.sleep(PAUSE)

"""Keeps a part of the process alive: when it crashes, it is logged and started again, less and less eagerly. Never silently dead.

Not responsible for what the part does, nor for parts that end because they were asked to.
"""

from collections.abc import Awaitable, Callable

import structlog

from lamplighter.core.clock import Clock

_log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
WELL_AFTER = 60.0
"""Seconds of life after which a crash counts as the first one again."""


async def supervise(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run `run` for ever, again after every exception and every unasked end; ends only by cancellation."""
    pause = FIRST_PAUSE
    while True:
        began = clock.monotonic()
        try:
            await run()
            _log.error(f"the {name} ended by itself; it is started again", pause=pause)
        except Exception as error:  # noqa: BLE001 - whatever a part dies of must not take the others along
            _log.exception(f"the {name} crashed; it is started again", pause=pause, error=str(error))
        if clock.monotonic() - began >= WELL_AFTER:
            pause = FIRST_PAUSE
        await clock.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)

"""An event loop in a thread of its own, so that fakes serve tests of every kind: plain functions, async ones, and journeys with real processes."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 30.0


class Background:
    """A loop that runs between `start` and `stop`. Methods are for other threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises RuntimeError when it does not run."""
        if self._loop is None:
            raise RuntimeError(f"{self._name} does not run")
        return self._loop

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._loop is not None

    def start(self) -> None:
        """Run the loop."""
        ready = threading.Event()

        async def wait() -> None:
            self._loop = asyncio.get_running_loop()
            self._ended = asyncio.Event()
            ready.set()
            await self._ended.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(wait()), name=self._name, daemon=True)
        self._thread.start()
        if not ready.wait(_PATIENCE):
            raise RuntimeError(f"{self._name} did not start")

    def call(self, work: Coroutine[Any, Any, T], timeout: float = _PATIENCE) -> T:
        """Run it there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def stop(self) -> None:
        """End the loop; what still runs there is cancelled."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_PATIENCE)
        self._loop = self._thread = None


__all__ = ["Background"]

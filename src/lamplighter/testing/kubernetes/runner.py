"""What runs beside an API server as its client: a thread of its own around one coroutine, started and stopped by a `with`."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from lamplighter.testing.kubernetes.background import Background


class Runner(ABC):
    """Runs `run` until it is stopped. Subclasses set `self.ready` once they work."""

    def __init__(self, name: str) -> None:
        self.background = Background(name)
        self.ready: asyncio.Event
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self) -> None:
        """Work until cancelled."""

    def start(self) -> Self:
        """Work; returns once it is ready to. Raises what `run` raises before."""
        self.background.start()

        async def begin() -> None:
            self.ready = asyncio.Event()
            self._task = asyncio.create_task(self.run())
            waiting = asyncio.create_task(self.ready.wait())
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self._task.done():
                self._task.result()

        try:
            self.background.call(begin())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop; what it made in the cluster stays."""
        if not self.background.running:
            return

        async def end() -> None:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

        self.background.call(end())
        self.background.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.stop)


__all__ = ["Runner"]

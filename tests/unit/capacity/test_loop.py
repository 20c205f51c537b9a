"""A pool's rounds end when they are told to, whatever the provider says in that moment."""

import asyncio
from typing import Any, cast

from lamplighter.capacity.loop import PoolLoop
from lamplighter.config import parse
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ProviderError
from lamplighter.store.store import Store


class Refusing:
    """A pool whose round answers its cancellation by a failure, as `asyncio.gather` does when a part fails in the same moment."""

    name = "cloud"
    due_at = float("inf")

    def __init__(self) -> None:
        self.rounds = 0
        self.begun = asyncio.Event()

    async def step(self, urgent: Any) -> bool:
        self.rounds += 1
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ProviderError("refused") from None
        return False


async def test_a_failure_in_the_moment_of_the_end_is_not_the_next_round() -> None:
    """`lamplighter up` would never end: each of its loops is waited for."""
    store = await Store.open(None, SystemClock())
    pool = Refusing()
    loop = PoolLoop(cast("Any", pool), cast("Any", None), store, parse("{}").keeper)
    running = asyncio.create_task(loop.run())
    await pool.begun.wait()
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert running.cancelled()
    assert pool.rounds == 1
    await store.close()

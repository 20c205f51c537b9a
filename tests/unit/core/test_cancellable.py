"""A task that is told to end ends, whatever else fails in that moment."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from lamplighter.core.clock import cancellable


async def end_in_the_moment_of_a_failure(guard: Any) -> BaseException:
    """How a task ends that gathers two parts, of which one has just failed when it is cancelled."""
    loop = asyncio.get_running_loop()
    one, other = loop.create_future(), loop.create_future()

    async def part(what: Awaitable[Any]) -> Any:
        return await what

    async def whole() -> None:
        await guard(asyncio.gather(part(one), part(other)))

    task = asyncio.create_task(whole())
    await asyncio.sleep(0.01)
    one.set_exception(ValueError("refused"))
    await asyncio.sleep(0)  # the part has ended, and its sum does not know it yet
    task.cancel()
    (end,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(end, BaseException)
    return end


async def test_a_cancellation_is_not_answered_by_a_failure() -> None:
    """A keeper that is told to stop would take it for one more error of AWS, and go on for ever: `lamplighter up` would not end."""

    async def plain(work: Awaitable[Any]) -> Any:
        return await work

    assert isinstance(await end_in_the_moment_of_a_failure(plain), ValueError), "if Python mends this, `cancellable` can go"
    assert isinstance(await end_in_the_moment_of_a_failure(cancellable), asyncio.CancelledError)


async def test_a_failure_alone_is_told() -> None:
    """An error would be swallowed with the fear of cancellations."""

    async def fails() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await cancellable(asyncio.gather(fails()))

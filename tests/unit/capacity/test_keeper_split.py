"""Two keepers at the same machines: one leads, and when both believe it the count of replicas is right again within a minute."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lamplighter.capacity.keeper import ENGINES_TTL, LEASE_TTL, TRY_EVERY, Keeper
from lamplighter.core.errors import StoreUnavailable
from lamplighter.store import leases
from tests.unit.capacity.world import World, world


def _second(w: World, holder: str = "second", host: str | None = None) -> Keeper:
    return Keeper(w.config, w.store, w.clock, w.providers, {"fake": w.doctor}, holder=holder, host=host)


def _term(keeper: Keeper) -> int | None:
    """The term in which it leads now."""
    return keeper.term


@asynccontextmanager
async def _running(keeper: Keeper) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(keeper.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_dead_keeper_is_replaced_in_seconds() -> None:
    """If this fails, the death of the leading keeper leaves requests waiting for a wake that nobody begins."""
    async with world() as w:
        await w.beat(1)
        second = _second(w)
        async with _running(second):
            await w.beat(20)
            assert _term(second) is None
            await w.kill()
            await w.beat(LEASE_TTL + TRY_EVERY + 0.1, every=0.5)
            assert _term(second) == (_term(w.keeper) or 0) + 1
            await w.serve("m", 1)
            assert w.cloud.most == 1


async def test_a_split_comes_to_the_desired_count() -> None:
    """If this fails, a keeper that was frozen for a while launches beside its successor, and the second machine runs on, and is paid for."""
    async with world() as w:
        second = _second(w)
        async with _running(second):
            await w.beat(1)
            frozen = w.keeper
            term = _term(frozen)
            await w.kill()  # its process stands still: the object remembers that it leads
            await w.ask("m", queued=1)
            await w.beat(LEASE_TTL + 2)
            assert _term(second) is not None
            assert _term(frozen) == term
            await w.ask("m", in_flight=1)
            thawed = asyncio.create_task(frozen._keep())  # and it goes on where it stood
            await w.beat(60)
            assert thawed.done()
            assert _term(frozen) is None
            assert await w.states() == ["ready"]
            assert len(w.cloud.machines) == 1


async def test_engine_processes_bind_the_leadership_to_their_host() -> None:
    """If this fails, a keeper on another host declares engines lost that it only cannot see, and starts them a second time."""
    async with world(run=False) as w:
        here, there = _second(w, "here", host="here"), _second(w, "there", host="there")
        async with _running(here) as living:
            await w.beat(2)
            assert _term(here) is not None
            async with _running(there):
                await w.beat(30)
                assert _term(there) is None
                living.cancel()  # the host is gone
                await asyncio.wait({living})
                await w.beat(ENGINES_TTL - 15)
                assert _term(there) is None
                await w.beat(20)
                assert _term(there) is not None
        again = _second(w, "again", host="there")  # another process of the same host need not wait for that
        assert await leases.hold(w.store, leases.ENGINES, "there", ttl=60)
        async with _running(again):
            await w.beat(LEASE_TTL + TRY_EVERY + 1)
            assert _term(again) is not None


async def test_an_outage_of_the_store_does_not_end_local_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, engines that answer end themselves because the database was restarted for too long."""
    async with world(run=False) as w:
        here = _second(w, "here", host="here")
        async with _running(here):
            await w.beat(5)
            assert _term(here) is not None

            def away() -> None:
                raise StoreUnavailable("PostgreSQL cannot be reached")

            with monkeypatch.context() as patch:
                patch.setattr(w.store, "write", away)
                patch.setattr(w.store, "read", away)
                await w.clock.advance(LEASE_TTL + 10)
                assert _term(here) is None
                renewals = w.cloud.renewals
                await w.clock.advance(60)
                assert w.cloud.renewals - renewals >= 4
            await w.clock.advance(5)
            assert _term(here) is not None

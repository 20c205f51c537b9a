"""Accounts and spent money are summed alike on both databases, also when several gateways write the same day at the same moment."""

import asyncio

import pytest

from lamplighter.core.ids import new_id
from lamplighter.store import spend, usage
from lamplighter.store.spend import Spent, Where
from lamplighter.store.store import Store
from lamplighter.store.usage import Entry
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open


@pytest.fixture
async def store(opened: Open) -> Store:
    return await opened(VirtualClock())


def entry(at: float, *, model: str = "m", tokens: int = 3, status: int = 200) -> Entry:
    return Entry(
        id=new_id("use"), at=at, request_id="req", gateway_id="g", key_id="key", principal_id="prn", route="chat", model=model,
        asked=None, replica_id=None, status=status, outcome="ok" if status == 200 else "error", prompt_tokens=1,
        completion_tokens=tokens, estimated=False, seconds=1.0, ttft=None, itl=0.1, queue_seconds=0.0, wake_seconds=0.0,
        engine_seconds=1.0, retries=0, cost_micros=None,
    )  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("by", ["key", "model", "day"])
async def test_sums_are_the_same_however_they_are_asked(store: Store, by: usage.By, exact: bool) -> None:
    """If this fails, what was used cannot be seen on PostgreSQL, or the days' sums tell another story than the requests."""
    now = store.clock.time()
    await usage.write(store, [entry(now - 10), entry(now - 90_000, model="other", tokens=5), entry(now - 5, status=500)])
    found, _ = await usage.totals(store, by, since=now - 3 * 86_400, exact=exact)
    assert sum(total.requests for total in found) == 3
    assert sum(total.completion_tokens for total in found) == 11
    assert sum(total.failed for total in found) == 1
    assert len(found) == {"key": 1, "model": 2, "day": 2}[by]
    assert len(list(await usage.recent(store, limit=2))) == 2
    assert await usage.prune(store, keep=86_400.0) == 1


async def test_a_batch_sent_again_counts_once(store: Store) -> None:
    """If this fails, an answer of the database that was lost on its way makes a day's requests count twice."""
    batch = [entry(store.clock.time())]
    await usage.write(store, batch)
    await usage.write(store, batch, again=True)
    (total,), _ = await usage.totals(store, "model", since=0.0, exact=False)
    assert total.requests == 1


async def test_gateways_add_to_the_same_day(store: Store) -> None:
    """If this fails, of two gateways that write the same key's money one is lost, and the budget with it."""
    where = [Where("2026-11-22", f"key{number}", "m") for number in range(4)]
    batches = [{one: Spent(1, 2, 3, 4) for one in (where if number % 2 else reversed(where))} for number in range(10)]
    await asyncio.gather(*(spend.add(store, batch) for batch in batches))
    found = await spend.since(store, "2026-11-22")
    assert set(found) == set(where)
    assert {(spent.requests, spent.money) for spent in found.values()} == {(10, 40)}

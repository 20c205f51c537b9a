"""The money of a pool on the virtual clock: every machine-second is in the ledger, and what cannot be paid does not run."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lamplighter.capacity.purse import period_end, period_start
from lamplighter.config import Config
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.providers.base import Rate
from lamplighter.store import ledger
from tests.unit.capacity.doubles import PricedCloud
from tests.unit.capacity.world import World, tree, world

DOLLAR = 10**9
RATE = Rate(DOLLAR * 36 // 100, "USD", "spot g4dn.xlarge, eu-central-1a")
"""0.36 USD an hour: 0.0001 USD a second."""
CENT = DOLLAR // 100


def config(budget: str | None = None, **pool: object) -> Config:
    more = {"budget": budget} if budget else {}
    return tree({"cloud": {"sleep_after": "100s", **more, **pool}}, {"m": "cloud"})


async def spent(here: World) -> int:
    return ledger.total(await ledger.entries(here.store, since=0.0), 0.0, here.clock.time())


async def test_every_second_of_a_machine_is_in_the_ledger() -> None:
    """A forgotten boot or idle minute is money that nobody can find again."""
    async with world(config(), kind=PricedCloud, rate=RATE) as here:
        began = here.clock.time()
        await here.serve("m", 30)
        await here.beat(101)
        await here.ack()
        await here.beat(5)
        assert await here.states() == []
        [entry] = await ledger.entries(here.store, since=0.0)
        assert entry.basis == RATE.basis
        assert entry.ended_at is not None
        assert entry.started_at - began < 1
        assert 130 < entry.ended_at - entry.started_at < 140
        assert await spent(here) == entry.cost(0, 1e12) > 13 * CENT // 10


async def test_a_keeper_that_dies_loses_no_entry_and_begins_none_twice() -> None:
    """After each restart the machine would be billed once more, or never again."""
    async with world(config(), kind=PricedCloud, rate=RATE) as here:
        await here.serve("m", 10)
        for _ in range(3):
            await here.restart()
            await here.beat(5)
        assert len(await ledger.entries(here.store, since=0.0)) == 1


async def test_a_changed_price_is_a_new_entry() -> None:
    """A spot price that rose would be accounted at its old height."""
    async with world(config(), kind=PricedCloud, rate=RATE) as here:
        await here.serve("m", 10)
        here.cloud.rate = Rate(2 * RATE.hourly, "USD", RATE.basis)
        await here.beat(30)
        first, second = await ledger.entries(here.store, since=0.0)
        assert first.ended_at == second.started_at
        assert second.hourly == 2 * first.hourly


async def test_a_configured_price_is_accounted_too() -> None:
    """A box with a price on its electricity would cost nothing in the books."""
    async with world(config(price="0.36 USD/hour")) as here:
        await here.serve("m", 10)
        [entry] = await ledger.entries(here.store)
        assert entry.hourly == RATE.hourly


async def test_a_wake_that_cannot_be_paid_is_refused_before_it_costs_anything() -> None:
    """The refusal would come with the bill."""
    async with world(config("1 USD/month"), kind=PricedCloud, rate=RATE, least=2 * DOLLAR) as here:
        await here.ask("m", queued=1)
        await here.beat(10)
        wake = await here.wake("m")
        assert (wake.outcome, wake.reason) == ("failed", WakeFailure.BUDGET)
        assert wake.detail == "Of 1 USD/month of the pool 'cloud', 1.00 USD is left. This wake costs at least 2.00 USD."
        assert here.cloud.launches == 0


async def test_what_runs_is_drained_when_the_money_is_spent() -> None:
    """A cap that only looks at the beginning is no cap: one long day would cost the month three times over."""
    async with world(config("0.02 USD/day"), kind=PricedCloud, rate=RATE) as here:
        await here.serve("m", 100)
        assert await here.states() == ["ready"]
        await here.ask("m", in_flight=1)
        await here.beat(105)
        [replica] = await here.replicas()
        assert (replica.state, replica.reason) == (ReplicaState.DRAINING, "budget_spent")
        await here.beat(130, every=2)  # the answer goes on and on: it gets two minutes
        assert await here.states() == []
        assert await spent(here) < 4 * CENT
        await here.ask("m", queued=1)
        await here.beat(20)
        assert (await here.wake("m")).reason is WakeFailure.BUDGET
        assert here.cloud.launches == 1


async def test_a_new_period_pays_again() -> None:
    """A month's budget that is spent would lock its pool for ever."""
    async with world(config("0.01 USD/day"), kind=PricedCloud, rate=RATE) as here:
        await here.serve("m", 110)
        await here.ack()
        await here.beat(10)
        assert await here.states() == []
        await here.kill()  # nobody has to look for the rest of the day
        await here.clock.advance(period_end("day", here.clock.time()) - here.clock.time() + 1)
        await here.restart()
        await here.serve("m", 5)
        assert here.cloud.launches == 2


async def test_gateways_are_told_price_and_rest() -> None:
    """The page could not say before a wake what it will cost."""
    async with world(config("1 USD/month"), kind=PricedCloud, rate=RATE, least=5 * CENT) as here:
        await here.beat(20)
        told = (await ledger.costs(here.store))["cloud"]
        assert (told.hourly, told.least, told.basis, told.spent) == (RATE.hourly, 5 * CENT, RATE.basis, 0)
        await here.serve("m", 60)
        assert (await ledger.costs(here.store))["cloud"].spent > CENT // 2
        shown = here.metrics.render().decode()
        assert 'lamplighter_pool_hourly_cost{currency="USD",pool="cloud"} 0.36' in shown
        assert 'lamplighter_pool_budget{currency="USD",pool="cloud"} 1.0' in shown


async def test_what_costs_nothing_writes_nothing() -> None:
    """A laptop without prices would write to its disk for ever."""
    async with world() as here:
        await here.serve("m", 10)
        assert await ledger.costs(here.store) == {}
        assert await ledger.entries(here.store, since=0.0) == []


@given(st.floats(min_value=0, max_value=4e9), st.sampled_from(["day", "month"]))
def test_periods_follow_each_other_without_a_gap(now: float, period: str) -> None:
    """A second that belongs to no period, or to two, is counted never or twice."""
    start, end = period_start(period, now), period_end(period, now)
    assert start <= now < end
    assert period_start(period, end) == end
    assert Decimal(end - start) in {Decimal(86_400 * days) for days in ((1,) if period == "day" else (28, 29, 30, 31))}

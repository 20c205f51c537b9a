"""Limits and budgets in one process: who gets through, what is reserved, what is charged, what is said."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from lamplighter.core.errors import RequestError, StoreUnavailable
from lamplighter.gateway.admission.bodies import Bodies
from lamplighter.gateway.sse import Usage
from lamplighter.store import spend
from lamplighter.store.spend import Spent, Where
from tests.unit.gateway.admission.rig import CONTEXT, Rig, ask, config_of, gate_of, key, rig

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC).timestamp()


def fields(grant: Any) -> dict[str, str]:
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in grant.headers}


async def test_requests_a_minute_come_as_a_burst_and_then_evenly() -> None:
    """If this fails, a key is cut off too early, or may ask without end."""
    async with rig() as r:
        me = key(requests_per_minute=60)
        first = await r.admit(me)
        assert fields(first) == {"limit-requests": "60", "remaining-requests": "59", "reset-requests": "1s"}
        first.settle(Usage(1, 1), seconds=1)
        for _ in range(59):
            await r.used(me, 1, 1)
        error = await r.refused(me)
        assert (error.status, error.type, error.code, error.retry_after) == (429, "requests", "rate_limit_exceeded", 1)
        assert "60 requests a minute" in error.message
        assert ("x-ratelimit-remaining-requests", "0") in error.headers
        await r.clock.advance(1.0)
        await r.used(me, 1, 1)
        await r.refused(me)
        await r.used(key("key_2", requests_per_minute=60), 1, 1)  # another key has its own
        await r.clock.advance(3600)
        for _ in range(60):
            await r.used(me, 1, 1)
        await r.refused(me)  # an idle hour is not saved up


async def test_tokens_a_minute_are_corrected_by_what_was_used() -> None:
    """If this fails, a guess counts instead of the truth, and keys are cut off for tokens that they never used."""
    async with rig() as r:
        me = key(tokens_per_minute=600)
        grant = await r.admit(me, ask(max_tokens=400))
        rest = int(fields(grant)["remaining-tokens"])
        assert 100 < rest < 200  # 400, and the prompt as estimated
        assert (await r.refused(me, ask(max_tokens=400))).type == "tokens"
        grant.settle(Usage(10, 20), seconds=1)
        after = await r.admit(me, ask(max_tokens=400))
        after.settle(Usage(10, 590), seconds=1)  # more than was reckoned: it is owed
        error = await r.refused(me, ask(max_tokens=100))
        assert error.retry_after is not None
        await r.clock.advance(error.retry_after)
        (await r.admit(me, ask(max_tokens=100))).settle(None, seconds=0)


async def test_a_request_larger_than_the_minute_gets_through_alone() -> None:
    """If this fails, one long question can never be asked, or many at once."""
    async with rig() as r:
        me = key(tokens_per_minute=50)
        grant = await r.admit(me, ask(max_tokens=900))
        await r.refused(me, ask(max_tokens=1))
        grant.settle(Usage(10, 40), seconds=1)
        error = await r.refused(me, ask(max_tokens=1))
        assert ("x-ratelimit-remaining-tokens", "0") in error.headers  # exactly what it used, no more and no less
        await r.clock.advance(60)
        (await r.admit(me, ask(max_tokens=900))).settle(None, seconds=0)


async def test_parallel_requests_are_counted_until_they_are_over() -> None:
    """If this fails, one key opens as many streams as it likes, or is locked out by streams that ended."""
    async with rig() as r:
        me = key(parallel=2)
        one, two = await r.admit(me), await r.admit(me)
        error = await r.refused(me)
        assert (error.code, error.retry_after) == ("rate_limit_exceeded", 1)
        one.settle(None, seconds=0)
        one.settle(None, seconds=0)  # twice is once
        three = await r.admit(me)
        await r.refused(me)
        two.settle(Usage(1, 1), seconds=1)
        three.settle(Usage(1, 1), seconds=1)


async def test_eight_at_once_on_a_budget_for_one_admit_one() -> None:
    """If this fails, parallel requests spend a budget many times over."""
    async with rig() as r:
        me = key(budget_per_month="0.001 USD")  # a thousand tokens: the bound of one request
        request = ask(max_tokens=1000)
        results = await asyncio.gather(*(r.admit(me, request) for _ in range(8)), return_exceptions=True)
        [grant] = [result for result in results if not isinstance(result, BaseException)]
        errors = [result for result in results if isinstance(result, RequestError)]
        assert len(errors) == 7
        assert {error.code for error in errors} == {"rate_limit_exceeded"}  # not spent yet: only reserved
        assert "reserved" in errors[0].message
        grant.settle(Usage(10, 1000), seconds=1)
        error = await r.refused(me, request)
        assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
        assert ("x-should-retry", "false") in error.headers
        assert "0.001 USD a month" in error.message


async def test_a_budget_is_usable_to_its_end_and_passed_by_one_request_at_the_most() -> None:
    """If this fails, the last cents cannot be spent by clients that send no `max_tokens`, or are spent many times."""
    async with rig() as r:
        me = key(budget_per_day="0.0005 USD")  # half of what the model could write
        grant = await r.admit(me, ask())
        await r.refused(me, ask())
        await r.refused(me, ask(max_tokens=1))
        grant.settle(Usage(5, 499), seconds=1)
        grant = await r.admit(me, ask())  # one token is left
        grant.settle(Usage(5, CONTEXT), seconds=1)
        assert (await r.refused(me, ask(max_tokens=1))).code == "insufficient_quota"


async def test_small_requests_share_a_budget() -> None:
    """If this fails, `max_tokens` does not help to use a budget in parallel."""
    async with rig() as r:
        me = key(budget_per_day="0.0005 USD")
        grants = [await r.admit(me, ask(max_tokens=100)) for _ in range(5)]
        await r.refused(me, ask(max_tokens=100))
        for grant in grants:
            grant.settle(Usage(5, 50), seconds=1)
        grants = [await r.admit(me, ask(max_tokens=100)) for _ in range(2)]
        await r.refused(me, ask(max_tokens=100))
        for grant in grants:
            grant.settle(None, seconds=0)


async def test_what_costs_nothing_needs_no_budget() -> None:
    """If this fails, a key whose money is spent is cut off from the free model beside the expensive one."""
    async with rig() as r:
        me = key(budget_per_day="0 USD")
        await r.refused(me, ask("big"))
        await r.used(me, 10, 10, ask("free"))


async def test_an_answer_that_nobody_counted_is_not_free() -> None:
    """If this fails, leaving early is a way to ask for nothing."""
    async with rig() as r:
        me = key(tokens_per_day=10_000)
        (await r.admit(me, ask(text="word " * 400))).settle(None, seconds=1.0)
        (await r.admit(me, ask(text="word " * 400))).settle(None, seconds=0.0)  # this one reached no engine
        await r.gate.spending.flush()
        [(where, spent)] = (await spend.since(r.store, "2026-01-01")).items()
        assert (where.key_id, where.model, spent.requests) == ("key_1", "big", 1)
        assert 100 < spent.prompt_tokens < 1000


async def test_seconds_on_an_engine_cost_the_pools_price() -> None:
    """If this fails, a GPU by the hour is free for whoever writes little."""
    config = config_of(big={"price": None}, pools={"cloud": {"kind": "fake", "price": "3.6 USD/hour"}})
    async with rig(config) as r:
        me = key(budget_per_day="1 USD")  # reserves ten minutes: 0.6
        grant = await r.admit(me)
        assert (await r.refused(me)).code == "rate_limit_exceeded"
        grant.settle(Usage(1, 1), seconds=100)
        await r.gate.spending.flush()
        [spent] = (await spend.since(r.store, "2026-01-01")).values()
        assert spent.money == 10**8


@pytest.mark.parametrize(("limit", "later"), [("tokens_per_day", 12 * 3600 + 1), ("tokens_per_month", (9 * 24 - 12) * 3600 + 1)])
async def test_days_and_months_begin_anew_in_utc(limit: str, later: float) -> None:
    """If this fails, a key stays locked after midnight, or a month ends early."""
    async with rig(start=NOON) as r:
        bound: dict[str, Any] = {limit: 100}
        me = key(**bound)
        await r.used(me, 50, 50)
        error = await r.refused(me)
        assert error.code == "insufficient_quota"
        assert error.body()["error"]["resets_at"] == NOON + later - 1
        assert error.retry_after == 3600
        await r.clock.advance(later - 2)
        await r.refused(me)
        await r.clock.advance(2)
        await r.used(me, 50, 50)


async def test_a_reservation_lives_through_midnight() -> None:
    """If this fails, a stream that runs at midnight frees what it never had, or locks its key for ever."""
    async with rig(start=NOON) as r:
        me = key(tokens_per_day=2500)
        grant = await r.admit(me, ask(max_tokens=900))
        await r.clock.advance(13 * 3600)
        other = await r.admit(me, ask(max_tokens=900))
        await r.refused(me, ask(max_tokens=900))
        grant.settle(Usage(100, 900), seconds=1)
        other.settle(Usage(100, 800), seconds=1)
        assert r.gate.spending.account("key:key_1").day_tokens == 1900


async def test_a_models_limits_hold_for_all_keys_together() -> None:
    """If this fails, a model meant for four gets forty."""
    async with rig(config_of(big={"limits": {"parallel": 2}, "limits_per_key": {"parallel": 1}})) as r:
        one = await r.admit(key("key_1"))
        assert "This key on the model `big`" in (await r.refused(key("key_1"))).message
        two = await r.admit(key("key_2"))
        assert "All keys together on the model `big`" in (await r.refused(key("key_3"))).message
        await r.used(key("key_1"), 1, 1, ask("free"))
        one.settle(None, seconds=0)
        two.settle(None, seconds=0)


async def test_a_key_may_have_limits_for_one_model() -> None:
    """If this fails, a key cannot be kept from one expensive model alone."""
    async with rig() as r:
        me = key(by_model={"big": {"requests_per_minute": 1}})
        await r.used(me, 1, 1)
        await r.refused(me)
        await r.used(me, 1, 1, ask("free"))


async def test_defaults_hold_for_every_key_that_does_not_say_otherwise() -> None:
    """If this fails, a new key is limitless although the file says what keys may."""
    async with rig(config_of(limits={"requests_per_minute": 1, "parallel": 5})) as r:
        await r.used(key("key_1"), 1, 1)
        await r.refused(key("key_1"))
        own = key("key_2", budget_per_month="1 USD")
        await r.used(own, 1, 1)
        await r.refused(own)
        lifted = key("key_3", requests_per_minute="unlimited")
        for _ in range(5):
            await r.used(lifted, 1, 1)


async def test_nothing_is_taken_when_one_of_several_limits_refuses() -> None:
    """If this fails, refused requests eat the limits of others."""
    async with rig(config_of(big={"limits": {"requests_per_minute": 2}})) as r:
        me, other = key("key_1", requests_per_minute=1), key("key_2")
        await r.used(me, 1, 1)
        for _ in range(20):
            await r.refused(me)
        await r.used(other, 1, 1)
        await r.refused(other)


async def test_a_key_without_the_right_is_refused() -> None:
    """If this fails, a key meant for administration alone runs up a bill, or a guest reaches any model."""
    async with rig() as r:
        error = await r.refused(key(inference=False))
        assert (error.status, error.code) == (403, "inference_not_allowed")
        guest = key(models=frozenset({"free"}))
        error = await r.refused(guest, ask("big"))
        assert (error.status, error.code, error.param) == (403, "model_not_allowed", "model")
        await r.used(guest, 1, 1, ask("free"))
        by_name = key(models=frozenset({"big"}))
        (await r.admit(by_name, ask("alias"), "big")).settle(None, seconds=0)
        # asked for `big`, answered by its stand-in: the permission is that for `big`
        (await r.admit(by_name, ask("big"), "free")).settle(None, seconds=0)
        with pytest.raises(RequestError, match="`big`"):
            await r.admit(guest, ask("big"), "free")


async def test_the_gateway_takes_in_so_many_at_once() -> None:
    """If this fails, one gateway can be filled without bound."""
    async with rig(config_of(gateway={"max_parallel": 3})) as r:
        grants = [await r.admit(key()) for _ in range(3)]
        error = await r.refused(key("key_2"))
        assert (error.status, error.code, error.retry_after) == (503, "gateway_full", 1)
        for grant in grants:
            grant.settle(None, seconds=0)
        (await r.admit(key())).settle(None, seconds=0)


async def test_what_was_used_is_known_after_a_restart() -> None:
    """If this fails, a restart gives every key its budget again."""
    async with rig(start=NOON) as r:
        me = key(tokens_per_day=1000, tokens_per_month=5000)
        await r.used(me, 100, 800)
        await r.clock.advance(1.5)  # written once a second
        async with gate_of(r.config, r.store, r.clock) as again:
            account = again.spending.account("key:key_1")
            assert (account.day_tokens, account.month_tokens, account.month_money) == (900, 900, 800_000)
            assert again.spending.account("pair:key_1:big").month_tokens == 900
            assert again.spending.account("model:big").month_tokens == 900
            other = Rig(again, r.store, r.clock, r.config)
            grant = await other.admit(me, ask(max_tokens=90))
            await other.refused(me, ask(max_tokens=900))
            grant.settle(None, seconds=0)


async def test_what_was_used_is_written_on_stop() -> None:
    """If this fails, a rolling restart gives away what its last second cost."""
    async with rig() as r:
        async with gate_of(r.config, r.store, r.clock) as other:
            (await Rig(other, r.store, r.clock, r.config).admit(key())).settle(Usage(3, 4), seconds=1)
        [spent] = (await spend.since(r.store, "2026-01-01")).values()
        assert (spent.requests, spent.prompt_tokens, spent.completion_tokens, spent.money) == (1, 3, 4, 4000)


async def test_a_store_that_refuses_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk forgives what was spent meanwhile."""
    async with rig() as r:
        real = spend.add

        async def broken(*_: Any) -> None:
            await r.used(key(), 5, 5)  # somebody goes on meanwhile
            raise StoreUnavailable("gone")

        monkeypatch.setattr(spend, "add", broken)
        await r.used(key(), 1, 2)
        await r.clock.advance(1.2)
        monkeypatch.setattr(spend, "add", real)
        await r.clock.advance(1.2)
        [spent] = (await spend.since(r.store, "2026-01-01")).values()
        assert (spent.prompt_tokens, spent.completion_tokens) == (6, 7)
        assert r.gate.spending.unwritten == 0


async def test_the_batches_of_several_gateways_add_up() -> None:
    """If this fails, gateways overwrite each other's sums."""
    async with rig() as r:
        where = Where("2026-09-21", "key_1", "big")
        await asyncio.gather(*(spend.add(r.store, {where: Spent(1, 10, 5, 7)}) for _ in range(5)))
        assert (await spend.since(r.store, "2026-09-01"))[where] == Spent(5, 50, 25, 35)
        await r.gate.spending.reload()
        assert r.gate.spending.account("key:key_1").month_tokens == 75


async def test_a_limit_that_is_set_later_knows_what_was_used() -> None:
    """If this fails, setting a budget begins at zero in the middle of the month."""
    async with rig() as r:
        await r.used(key(), 100, 900)
        assert (await r.refused(key(tokens_per_month=1000))).code == "insufficient_quota"
        await r.used(key(), 1, 1)


async def test_a_budget_in_another_currency_buys_nothing() -> None:
    """If this fails, five yen buy for five dollars."""
    async with rig() as r:
        await r.refused(key(budget_per_day="500 JPY"))
        await r.used(key(budget_per_day="500 JPY"), 1, 1, ask("free"))


async def test_a_refusal_is_counted_by_its_limit() -> None:
    """If this fails, nobody sees on a dashboard which limit bites."""
    async with rig() as r:
        me = key(parallel=1)
        grant = await r.admit(me)
        await r.refused(me)
        metrics = r.gate._metrics
        assert 'lamplighter_refusals_total{model="big",reason="parallel"} 1.0' in metrics.render().decode()
        assert "lamplighter_reservations 1.0" in metrics.render().decode()
        grant.settle(None, seconds=0)
        assert "lamplighter_reservations 0.0" in metrics.render().decode()


def test_bodies_are_bounded_together() -> None:
    """If this fails, many large uploads at once take all memory."""
    bodies = Bodies(100)
    bodies.reserve(500)  # alone, one that is too large still fits
    with pytest.raises(RequestError) as refused:
        bodies.reserve(1)
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    bodies.release(500)
    bodies.reserve(60)
    bodies.reserve(40)
    assert bodies.used == 100


async def test_a_clock_that_goes_back_locks_nobody_out() -> None:
    """If this fails, a corrected clock at midnight throws counts away, or keeps yesterday's for ever."""
    async with rig(start=NOON) as r:
        me = key(tokens_per_day=100)
        await r.used(me, 60, 0)
        r.clock._start -= 86_400
        await r.used(me, 60, 0)
        r.clock._start += 86_400
        await r.used(me, 60, 0)

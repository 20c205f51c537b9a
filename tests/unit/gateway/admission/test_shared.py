"""Limits that several gateways share through a real Redis: one count for all, nothing leaked, and life without it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from lamplighter.config import Config
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import RequestError
from lamplighter.gateway.admission import gate as gate_module
from lamplighter.gateway.admission.counters import Demand, Used
from lamplighter.gateway.admission.gate import Gate
from lamplighter.gateway.admission.plans import Plan
from lamplighter.gateway.admission.rules import Rules
from lamplighter.gateway.admission.shared import Held, Missing, Shared
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage
from lamplighter.store import demand as demand_store
from lamplighter.store.store import Store
from tests.services import Redis
from tests.unit.gateway.admission.rig import ask, config_of, gate_of, key


@asynccontextmanager
async def gates(url: str, count: int = 2, *, patience: str = "10s") -> AsyncIterator[tuple[Store, Config, list[Gate]]]:
    """So many gateways on one store and one Redis; nothing may stay reserved in any of them, nor in Redis.

    `patience`: how long Redis may take. A busy machine must not look like a Redis that is gone.
    """
    config = config_of(redis={"url": url}, shared_timeout=patience)
    clock = SystemClock()
    store = await Store.open(None, clock)
    try:
        async with gate_of(config, store, clock) as one:
            made = [one]
            more = [gate_of(config, store, clock) for _ in range(count - 1)]
            made += [await context.__aenter__() for context in more]
            for gate in made:
                gate._gateways = count
            try:
                yield store, config, made
                for gate in made:
                    gate.assert_idle()
            finally:
                for context in more:
                    await context.__aexit__(None, None, None)
    finally:
        await store.close()


async def admit(gate: Gate, identity: Identity, request: InferenceRequest | None = None) -> Any:
    request = request or ask()
    return gate.admit_now(identity, request, request.model) or await gate.admit(identity, request, request.model)


async def tries(gates: list[Gate], identity: Identity, count: int, request: InferenceRequest | None = None) -> list[Any]:
    """Many at once, spread over the gateways: the grants of those that got through."""
    found = await asyncio.gather(
        *(admit(gates[index % len(gates)], identity, request) for index in range(count)), return_exceptions=True
    )
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, RequestError):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


async def reserved(url: str, store: Store) -> tuple[int, int]:
    """Leases in Redis, and the sum of tokens and money that they hold."""
    client = redis.asyncio.Redis.from_url(url)
    try:
        leases = total = 0
        async for name in client.scan_iter(f"lamplighter:{{{store.installation}}}:*"):
            if name.endswith(b":leases"):
                leases += await client.zcard(name)
            elif name.endswith(b":state"):
                total += sum(int(value or 0) for value in await client.hmget(name, "pt", "pm"))
        return leases, total
    finally:
        await client.aclose()


async def until_free(url: str, store: Store) -> None:
    for _ in range(200):
        if await reserved(url, store) == (0, 0):
            return
        await asyncio.sleep(0.02)
    assert await reserved(url, store) == (0, 0)


async def test_eight_at_once_over_two_gateways_admit_one(redis_url: str) -> None:
    """If this fails, every gateway more is a budget more."""
    async with gates(redis_url) as (store, _, both):
        me = key(budget_per_month="0.001 USD")
        request = ask(max_tokens=1000)
        [grant] = await tries(both, me, 8, request)
        grant.settle(Usage(10, 1000), seconds=1)
        await until_free(redis_url, store)
        for gate in both:
            with pytest.raises(RequestError) as refused:
                await admit(gate, me, request)
            assert refused.value.code == "insufficient_quota"


async def test_gateways_share_each_kind_of_limit(redis_url: str) -> None:
    """If this fails, a limit holds for each gateway alone."""
    async with gates(redis_url, 3) as (store, _, all_):
        cases: list[tuple[str, dict[str, Any], int]] = [
            ("key_r", {"requests_per_minute": 10}, 10),
            ("key_p", {"parallel": 4}, 4),
            ("key_t", {"tokens_per_minute": 1000}, 5),  # of 150 and the prompt's estimate
            ("key_d", {"tokens_per_day": 1000}, 3),  # of 150 and each byte of the prompt
        ]
        for name, limits, expected in cases:
            grants = await tries(all_, key(name, **limits), 24, ask(max_tokens=150))
            assert len(grants) == expected, name
            for grant in grants:
                grant.settle(Usage(1, 1), seconds=1)
        await until_free(redis_url, store)


async def test_what_a_key_may_is_told_by_any_gateway(redis_url: str) -> None:
    """If this fails, the `x-ratelimit` headers jump with each gateway that answers."""
    async with gates(redis_url) as (_, _, both):
        me = key(requests_per_minute=10, tokens_per_minute=6000)
        rests = []
        for gate in both:
            grant = await admit(gate, me, ask(max_tokens=500))
            fields = dict(grant.headers)
            rests.append((int(fields[b"x-ratelimit-remaining-requests"]), int(fields[b"x-ratelimit-remaining-tokens"])))
            grant.settle(None, seconds=0)
        (one, tokens), (other, fewer) = rests
        assert (one, other) == (9, 8)
        assert tokens > fewer


async def test_without_limits_redis_is_never_asked(redis_url: str) -> None:
    """If this fails, everybody pays a round trip for the limits of somebody else."""
    async with gates(redis_url) as (_, _, [one, _other]):
        grant = one.admit_now(key(), ask(), "big")
        assert grant is not None
        assert grant.headers == []
        grant.settle(None, seconds=0)
        assert one.admit_now(key(parallel=1), ask(), "big") is None


async def test_a_killed_gateways_reservations_end(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, `kill -9` locks a key's budget until somebody notices."""
    monkeypatch.setattr("lamplighter.gateway.admission.shared.LEASE", 2.0)
    monkeypatch.setattr(gate_module, "RENEW_SECONDS", 0.3)
    async with gates(redis_url) as (store, _, [one, other]):
        me = key(parallel=1)
        grant = await admit(one, me)
        await asyncio.sleep(2.5)
        with pytest.raises(RequestError):  # it lives and renews
            await admit(other, me)
        for task in one._tasks:  # as a killed one: nothing is renewed, nothing is settled
            task.cancel()
        again = None
        for _ in range(100):
            await asyncio.sleep(0.1)
            with contextlib.suppress(RequestError):
                again = await admit(other, me)
                break
        assert again is not None
        again.settle(None, seconds=0)
        await until_free(redis_url, store)
        grant.settle(None, seconds=0)


async def test_a_client_that_leaves_while_redis_thinks_leaks_nothing(redis_url: str) -> None:
    """If this fails, impatient clients use up a key's places for good."""
    async with gates(redis_url) as (store, _, both):
        me = key(parallel=50, tokens_per_day=10**6)
        for index in range(40):
            task = asyncio.create_task(admit(both[index % 2], me))
            await asyncio.sleep(random.random() * 0.002)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(result, BaseException):
                result.settle(None, seconds=0)
        await until_free(redis_url, store)


async def test_redis_learns_from_the_store_what_was_used(redis_url: str) -> None:
    """If this fails, a Redis that lost its memory gives every key its budget again."""
    async with gates(redis_url) as (store, _, both):
        me = key(tokens_per_month=5000)
        [grant] = await tries(both, me, 1)
        grant.settle(Usage(1000, 3900), seconds=1)
        await until_free(redis_url, store)
        for gate in both:
            await gate.spending.flush()  # as each does every second
        client = redis.asyncio.Redis.from_url(redis_url)
        await client.flushdb()
        await client.aclose()
        (await admit(both[1], me, ask(max_tokens=1))).settle(Usage(50, 60), seconds=1)  # a hundred are left
        await until_free(redis_url, store)
        for gate in both:
            with pytest.raises(RequestError) as refused:
                await admit(gate, me, ask(max_tokens=1))
            assert refused.value.code == "insufficient_quota"


async def test_a_gateway_goes_on_without_redis_and_returns_to_it(redis_server: Redis) -> None:
    """If this fails, Redis is a single point of failure, or its return is never noticed."""
    async with gates(redis_server.url) as (store, _, both):
        me = key(parallel=4, tokens_per_month=100_000)
        before = await tries(both, me, 2)
        assert {gate.mode for gate in both} == {"redis"}
        redis_server.kill()
        started = asyncio.get_running_loop().time()
        during = await tries(both, me, 20)
        assert asyncio.get_running_loop().time() - started < 8  # refused at once: nobody waits for an answer
        assert {gate.mode for gate in both} == {"degraded"}
        assert len(during) == 2  # each gateway its half: two, of which one was taken before
        assert both[0].admit_now(key(), ask(), "big") is not None
        both[0].outstanding -= 1  # that one is not settled: only whether it waits was asked
        assert "lamplighter_limits_degraded 1.0" in both[0]._metrics.render().decode()
        during[0].settle(Usage(10, 990), seconds=1)
        redis_server.start()
        for _ in range(300):
            if {gate.mode for gate in both} == {"redis"}:
                break
            await asyncio.sleep(0.05)
        assert {gate.mode for gate in both} == {"redis"}
        assert (await reserved(redis_server.url, store))[0] == 3  # those still under way are there again
        after = await tries(both, me, 20)
        assert len(after) == 1
        for grant in (*before, *during[1:], *after):
            grant.settle(Usage(1, 1), seconds=1)
        await until_free(redis_server.url, store)
        with pytest.raises(RequestError) as refused:  # what was used meanwhile was not forgotten
            await admit(both[1], key(parallel=4, tokens_per_month=1000))
        assert refused.value.code == "insufficient_quota"


async def test_a_frozen_redis_costs_one_short_wait(redis_server: Redis) -> None:
    """If this fails, each request waits for a Redis that hangs."""
    async with gates(redis_server.url, patience="1s") as (_, _, [one, _other]):
        me = key(requests_per_minute=1000)
        (await admit(one, me)).settle(None, seconds=0)
        redis_server.freeze()
        try:
            loop = asyncio.get_running_loop()
            began = loop.time()
            (await admit(one, me)).settle(None, seconds=0)
            assert 0.9 < loop.time() - began < 5
            for _ in range(50):
                grant = one.admit_now(me, ask(), "big")
                assert grant is not None
                grant.settle(None, seconds=0)
        finally:
            redis_server.thaw()


async def test_a_gateway_that_starts_without_redis_serves(redis_server: Redis) -> None:
    """If this fails, nothing starts while Redis is away."""
    redis_server.kill()
    async with gates(redis_server.url, 1) as (_, _, [one]):
        assert one.mode == "degraded"
        (await admit(one, key(parallel=1))).settle(None, seconds=0)
        redis_server.start()


async def test_the_number_of_gateways_is_known(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, without Redis each of ten gateways allows the whole limit."""
    monkeypatch.setattr(gate_module, "RELOAD_SECONDS", 0.05)
    async with gates(redis_url, 1) as (store, _, [one]):
        for name in ("gtw_a", "gtw_b", "gtw_c"):
            await demand_store.heartbeat(store, name)
        for _ in range(100):
            if one._gateways == 3:
                break
            await asyncio.sleep(0.02)
        assert one._gateways == 3


def plan_of(shared_name: str, rules: Rules) -> Plan:
    """A plan with one limited account."""
    from lamplighter.costs import Tariff
    from lamplighter.gateway.admission.counters import Account

    account = Account(shared_name)
    return Plan(
        key="k", model="m", accounts=(account, account, account), subjects=(account,), rules=(rules,),
        limited=((account, rules),), words=("It",), tariff=Tariff(),
        context=1, reserve_seconds=1.0, own=None, config=None, windows=True, reckoned=True,
    )  # fmt: skip


async def test_redis_and_memory_decide_alike(redis_url: str) -> None:
    """If this fails, the same request is admitted by one gateway and refused by several."""
    from lamplighter.gateway.admission.counters import Calendar

    chance = random.Random(7)
    clock = SystemClock()
    calendar = Calendar(clock)
    shared = Shared(redis_url, "parity", clock, calendar, timeout=5)
    agreed = {True: 0, False: 0}
    try:
        for round_ in range(60):
            rules = Rules(
                requests=chance.choice([0, 3]),
                tokens=chance.choice([0, 500]),
                parallel=chance.choice([0, 2]),
                day_tokens=chance.choice([0, 900]),
                month_tokens=chance.choice([0, 1500]),
                day_money=chance.choice([None, 0, 10**12]),
                month_money=chance.choice([None, 3 * 10**12]),
            )
            plan = plan_of(f"key:{round_}", rules)
            account = plan.limited[0][0]
            await shared.seed(plan, {account.name: Used()})
            running: list[Held] = []
            for step in range(12):
                demand = Demand(
                    chance.randrange(50),
                    chance.randrange(1, 700),
                    chance.randrange(1, 800),
                    chance.choice([0, 1, 7 * 10**11, 10**13]),
                )
                held = Held(f"r{step}", plan, demand)
                admitted, [reading] = await shared.admit(held)
                verdict = rules.judge(reading, demand)
                assert admitted is (verdict is None), (rules, reading, demand, verdict)
                agreed[admitted] += 1
                expected = reading._replace(
                    parallel=len(running),
                    reserved_tokens=sum(one.demand.tokens for one in running),
                    reserved_money=sum(one.demand.money for one in running),
                )
                assert reading == expected
                if admitted:
                    running.append(held)
                if running and chance.random() < 0.4:
                    over = running.pop(chance.randrange(len(running)))
                    await shared.settle([(over, chance.randrange(200), chance.choice([0, 10**11]))])
            await shared.settle([(held, 0, 0) for held in running])
    finally:
        await shared.aclose()
    assert min(agreed.values()) > 50


async def test_redis_asks_for_what_it_does_not_know(redis_url: str) -> None:
    """If this fails, an unknown window counts as an empty one."""
    from lamplighter.gateway.admission.counters import Calendar

    clock = SystemClock()
    shared = Shared(redis_url, "unknown", clock, Calendar(clock), timeout=5)
    try:
        plan = plan_of("key:x", Rules(month_tokens=10))
        with pytest.raises(Missing):
            await shared.admit(Held("a", plan, Demand(1, 1, 1, 0)))
        await shared.seed(plan, {"key:x": Used(0, 10, 0, 0)}, only_raise=True)
        with pytest.raises(Missing):
            await shared.admit(Held("a", plan, Demand(1, 1, 1, 0)))
        await shared.seed(plan, {"key:x": Used(0, 10, 0, 0)})
        assert (await shared.admit(Held("a", plan, Demand(1, 1, 1, 0))))[0] is False
    finally:
        await shared.aclose()

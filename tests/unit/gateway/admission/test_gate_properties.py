"""Whatever happens in whatever order, nothing stays reserved and no budget is passed by more than one request."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.gateway.admission.counters import Account, Calendar, Demand, Used
from lamplighter.gateway.admission.rules import Rules
from lamplighter.gateway.sse import Usage
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.admission.rig import Rig, ask, config_of, gate_of, key, rig

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "admit", "settle", "unreached", "unknown", "wait", "restart", "relimit"]),
        st.integers(0, 7),
        st.integers(1, 400),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_reservations_are_zero_after_any_interleaving(steps: list[tuple[str, int, int]]) -> None:
    """If this fails, some order of requests, ends, kills and changed limits locks a key's budget for ever."""
    asyncio.run(_interleave(steps))


async def _interleave(steps: list[tuple[str, int, int]]) -> None:
    config = config_of(big={"limits": {"parallel": 6, "tokens_per_month": 50_000}})
    async with rig(config) as first:
        keys = [key(f"key_{index}", parallel=3, tokens_per_day=2000, budget_per_month="0.002 USD") for index in range(3)]
        current, contexts, running = first, [], list[Any]()
        for what, index, amount in steps:
            if what == "admit":
                try:
                    running.append(await current.admit(keys[index % 3], ask(max_tokens=amount)))
                except RequestError as error:
                    assert error.status == 429  # noqa: PT017 - any other error is a defect
            elif what == "wait":
                first.clock._start += amount * 300  # days pass at once
            elif what == "relimit":
                keys[index % 3] = key(f"key_{index % 3}", parallel=1 + index) if index % 2 else key(f"key_{index % 3}")
            elif what == "restart":  # a kill: those under way are never settled in the new process
                running.clear()
                context = gate_of(config, first.store, first.clock)
                contexts.append(context)
                current = Rig(await context.__aenter__(), first.store, first.clock, config)
                current.gate.assert_idle()
                first.gate.outstanding = 0
                first.gate.spending._accounts.clear()
            elif running:
                grant = running.pop(index % len(running))
                grant.settle(Usage(amount, amount) if what == "settle" else None, seconds=float(what != "unreached"))
        for grant in running:
            grant.settle(None, seconds=0.0)
        current.gate.assert_idle()
        for context in contexts:
            await context.__aexit__(None, None, None)


@settings(max_examples=300, deadline=None)
@given(
    limit=st.integers(1, 1000),
    requests=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400), st.booleans()), max_size=40),
)
def test_a_budget_is_passed_by_one_request_at_the_most(limit: int, requests: list[tuple[int, int, bool]]) -> None:
    """If this fails, a family's ten dollars become twenty."""
    calendar = Calendar(VirtualClock())
    calendar.look()
    rules, account = Rules(month_money=limit), Account("key:x")
    running: list[tuple[Demand, int]] = []
    largest = 0
    for bound, used, at_once in requests:
        demand = Demand(0, 0, 0, bound)
        account.turn(calendar)
        if rules.judge(account, demand) is None:
            account.take(demand, 0)
            running.append((demand, min(used, bound)))
            largest = max(largest, bound)
        if at_once:
            for one, spent in running:
                account.settle(one, 0, 0)
                account.spend(calendar, 0, spent)
            running.clear()
        assert account.month_money + account.reserved_money < limit + largest
    assert account.reserved_money == sum(one.money for one, _ in running)


@given(
    limit=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=300),
)
def test_no_minute_sees_more_than_a_burst_and_a_minutes_worth(limit: int, gaps: list[float]) -> None:
    """If this fails, a limit of requests a minute is none."""
    rules, account, now, passed = Rules(requests=limit), Account("key:x"), 0.0, list[float]()
    demand = Demand(0, 0, 0, 0)
    for gap in gaps:
        now += gap
        account.drain(now, limit, 0)
        if rules.judge(account, demand) is None:
            account.take(demand, 0)
            passed.append(now)
    for begin in passed:
        within = sum(begin <= at < begin + 60 for at in passed)
        assert within <= 2 * limit
    assert account.requests <= limit + 1e-6


def test_a_share_is_never_nothing() -> None:
    """If this fails, with more gateways than a limit has places nobody may ask while Redis is away."""
    rules = Rules(requests=60, tokens=1000, parallel=1, day_tokens=7, month_money=9)
    assert rules.share(8) == Rules(requests=8, tokens=125, parallel=1, day_tokens=7, month_money=9)
    assert Rules().share(3).empty
    assert Used() == (0, 0, 0, 0)

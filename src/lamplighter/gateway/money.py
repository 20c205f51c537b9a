"""What people are told of the money of pools and wakes: exact amounts as decimal text, never a float. Pure."""

from decimal import Decimal
from typing import Any

from lamplighter.config import PoolConfig
from lamplighter.costs import amount_of, nanos_of
from lamplighter.store.ledger import Entry, PoolCost

Json = dict[str, Any]
_MILLIONTH = Decimal("0.000001")


def _text(nanos: int, currency: str) -> str:
    amount: Decimal = amount_of(nanos, currency).amount
    return format(amount, "f")


def quote_json(cost: PoolCost | None) -> Json | None:
    """What the next wake of a pool would cost; None when nobody knows, or it costs nothing."""
    if cost is None or cost.hourly is None or not cost.hourly:
        return None
    return {
        "hourly": _text(cost.hourly, cost.currency),
        "least": _text(cost.least or 0, cost.currency),
        "currency": cost.currency,
        "basis": cost.basis,
        "source": cost.source,
        "at": cost.quoted_at,
    }


def budget_json(pool: PoolConfig, cost: PoolCost | None) -> Json | None:
    """How much of a pool's budget is used; None when it has none."""
    budget = pool.budget
    if budget is None:
        return None
    limit, spent = nanos_of(budget.limit), cost.spent if cost is not None else 0
    currency = budget.limit.currency
    return {
        "limit": _text(limit, currency),
        "period": budget.period,
        "spent": _text(spent, currency),
        "left": _text(max(0, limit - spent), currency),
        "currency": currency,
        "since": cost.since if cost is not None else None,
    }


def spent_json(cost: PoolCost | None) -> Json | None:
    """What a pool's machines cost since the period began; None for a pool that costs nothing."""
    if cost is None:
        return None
    return {"amount": _text(cost.spent, cost.currency), "currency": cost.currency, "since": cost.since}


def so_far_json(running: Json | None, now: float) -> Json | None:
    """What a replica has cost until `now` (Unix seconds), from what `running_json` told of it: an estimate, to a millionth."""
    if running is None:
        return None
    seconds = Decimal(str(round(max(0.0, now - running["since"]), 3)))
    amount = (Decimal(running["hourly"]) * seconds / 3600).quantize(_MILLIONTH)
    return {"amount": format(amount, "f"), "currency": running["currency"]}


def running_json(entry: Entry | None) -> Json | None:
    """What one replica costs: whoever shows it multiplies by the time since `since`. None: nothing."""
    if entry is None:
        return None
    return {
        "hourly": _text(entry.hourly, entry.currency),
        "currency": entry.currency,
        "basis": entry.basis,
        "since": entry.started_at,
    }

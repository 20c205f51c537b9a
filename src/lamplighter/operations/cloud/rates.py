"""What machines cost by the hour, as far as AWS or our dated table says so: for what a wake would cost, and what has run.

Not responsible for the keeper's own reckoning (the provider's quote), nor for what stands still.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from lamplighter.config import AwsPool
from lamplighter.core.errors import ProviderError
from lamplighter.operations.cloud.stacks import Stack
from lamplighter.providers.aws import account
from lamplighter.providers.aws.inventory import Rates
from lamplighter.providers.aws.prices import BILLION, on_demand_table
from lamplighter.providers.aws.standing import Prices


@dataclass(frozen=True, slots=True)
class Wake:
    """What one machine of a pool costs while it runs. `hourly`: USD of the cheapest now, disk and address included; None: not known."""

    pool: str
    text: str
    hourly: Decimal | None
    dearest: Decimal | None


def rates_of(region: str) -> Rates:
    """Prices of one region; the spot market is asked once for each type."""
    prices, asked = Prices(region), dict[str, dict[tuple[str, str], Decimal]]()

    def rate(kind: str, market: str, zone: str) -> Decimal | None:
        if market == "on-demand":
            return on_demand(prices, kind)
        if kind not in asked:
            asked[kind] = _spot(region, [kind])
        return asked[kind].get((kind, zone))

    return rate


def on_demand(prices: Prices, kind: str) -> Decimal | None:
    """The list price of a type, USD an hour; None when our tables lack it."""
    if (found := on_demand_table().prices.get(prices.region, {}).get(kind)) is not None:
        return Decimal(found) / BILLION
    return prices.hourly(kind) if prices.has(kind) else None


def wakes(stack: Stack) -> list[Wake]:
    """What a wake of each pool costs by the hour, now."""
    return [wake_of(stack.region, name, pool) for name, pool in stack.pools.items()]


def wake_of(region: str, name: str, pool: AwsPool) -> Wake:
    """The same for one pool."""
    prices = Prices(region)
    beside = prices.hourly("address") + prices.hourly("gp3", pool.disk_gb)
    parts, known = [], list[Decimal]()
    if pool.market == "spot":
        found = _allowed(pool, _spot(region, pool.instance_types))
        for kind in pool.instance_types:
            here = sorted((price, zone) for (one, zone), price in found if one == kind)
            if here:
                parts.append(f"spot {kind} {here[0][0].normalize():f} USD/h in {here[0][1]}")
                known.append(here[0][0])
    if pool.market == "on-demand" or pool.on_no_capacity == "on-demand":
        for kind in pool.instance_types:
            price = on_demand(prices, kind)
            parts.append(
                f"on-demand {kind} {price.normalize():f} USD/h" if price is not None else f"on-demand {kind}: no price known here"
            )
            known += [price] if price is not None else []
    text = "; ".join(parts) or "no price is known now"
    return Wake(
        name,
        f"{text}; and {beside:.3f} USD/h for its address and {pool.disk_gb} GB of disk",
        min(known) + beside if known else None,
        max(known) + beside if known else None,
    )


def _allowed(pool: AwsPool, found: dict[tuple[str, str], Decimal]) -> Iterable[tuple[tuple[str, str], Decimal]]:
    return [(where, price) for where, price in found.items() if not pool.zones or where[1] in pool.zones]


def _spot(region: str, types: Sequence[str]) -> dict[tuple[str, str], Decimal]:
    """Empty when AWS does not say: a price is a courtesy beside what is asked for."""
    try:
        return account.spot_prices(region, types)
    except ProviderError:
        return {}


__all__ = ["Wake", "on_demand", "rates_of", "wake_of", "wakes"]

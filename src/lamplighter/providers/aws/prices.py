"""What machines cost: spot prices from AWS, on-demand prices from AWS or from a small dated table, and from both what a wake would cost.

Only the machine itself: disks, traffic and public addresses come on top, and `lamplighter cloud plan` tells what stands all month.
How often spot machines are interrupted is not told: AWS publishes it on a page, without an interface. The placement score is what it offers.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib.resources import files
from typing import Any

import structlog

from lamplighter.core.clock import Clock
from lamplighter.providers.aws.client import Aws, AwsError
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT
from lamplighter.providers.aws.picture import Machine
from lamplighter.providers.base import Quote, Rate

_log = structlog.get_logger(__name__)

BILLION = 10**9
SMALLEST_BILL = 60.0
"""Seconds: AWS bills Linux machines by the second, a minute at least."""
SPOT_FRESH, ON_DEMAND_FRESH, SCORE_FRESH = 300.0, 86_400.0, 3600.0
AGAIN = 120.0
"""Seconds until prices that could not be had are asked for again."""
USUAL_BOOT = {"stock": 480.0, "baked": 180.0}
"""Seconds of a wake before there are any of our own: the middle of what is published, see docs."""
_PRICING_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to get a machine. `hourly`: billionths of a dollar."""

    market: str
    kind: str
    zone: str | None
    hourly: int

    @property
    def basis(self) -> str:
        """For people."""
        return f"{self.market} {self.kind}" + (f", {self.zone}" if self.zone else "")


@dataclass(slots=True)
class Prices:
    """The prices of one region, as far as they are known. Hold them in memory: they are asked for again after a restart."""

    aws: Aws
    clock: Clock
    types: tuple[str, ...]
    spot: dict[tuple[str, str], int] = field(default_factory=dict)
    """By type and zone."""
    on_demand: dict[str, int] = field(default_factory=dict)
    score: int | None = None
    """AWS's own guess of 1 to 10 how likely a spot request is to succeed here."""
    spot_at: float | None = None
    source: str = ""
    _next: dict[str, float] = field(default_factory=dict)

    async def refresh(self) -> None:
        """Ask for what is old. Never raises for what AWS says: prices are no reason not to work."""
        now = self.clock.monotonic()
        for name, fresh, ask in (
            ("spot", SPOT_FRESH, self._ask_spot),
            ("on-demand", ON_DEMAND_FRESH, self._ask_on_demand),
            ("score", SCORE_FRESH, self._ask_score),
        ):
            if now < self._next.get(name, float("-inf")):
                continue
            try:
                await ask()
                self._next[name] = now + fresh
            except AwsError as error:
                _log.debug("prices could not be had", what=name, error=error.message)
                self._next[name] = now + (AGAIN if name == "spot" else SCORE_FRESH)
        if not self.on_demand:
            table = on_demand_table()
            self.on_demand = {
                kind: table.prices[self.aws.region][kind] for kind in self.types if kind in table.prices.get(self.aws.region, {})
            }
            self.source = f"table of {table.read} ({table.source})"

    def offers(self, market: str, zones: Iterable[str] = ()) -> list[Offer]:
        """What can be had in a market, cheapest first."""
        only = set(zones)
        if market == ON_DEMAND:
            found = [Offer(ON_DEMAND, kind, None, price) for kind, price in self.on_demand.items() if kind in self.types]
        else:
            found = [
                Offer(SPOT, kind, zone, price)
                for (kind, zone), price in self.spot.items()
                if kind in self.types and (not only or zone in only)
            ]
        return sorted(found, key=lambda offer: (offer.hourly, offer.kind, offer.zone or ""))

    def rate(self, machine: Machine) -> Rate | None:
        """What a machine that runs costs; None when it is not known."""
        hourly = self.spot.get((machine.kind, machine.zone)) if machine.market == SPOT else self.on_demand.get(machine.kind)
        if hourly is None:
            return None
        return Rate(hourly, "USD", f"{machine.market} {machine.kind}, {machine.zone}")

    def quote(self, market: str, zones: Iterable[str], seconds: float) -> Quote | None:
        """What the next wake would cost if nobody asks twice: `seconds` at the cheapest rate, a minute at least."""
        offers = self.offers(market, zones)
        if not offers:
            return None
        offer = offers[0]
        spot = market == SPOT
        at = self.spot_at if spot and self.spot_at is not None else self.clock.time()
        source = "AWS spot price history" if spot else self.source
        if spot and self.score is not None:
            source += f"; placement score {self.score} of 10"
        least = int(offer.hourly * max(seconds, SMALLEST_BILL) / 3600)
        return Quote(Rate(offer.hourly, "USD", offer.basis), least, at, source)

    async def _ask_spot(self) -> None:
        now = self.clock.time()
        raw = await self.aws.pages(
            "ec2",
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=list(self.types),
            ProductDescriptions=["Linux/UNIX"],
            StartTime=_datetime(now),
        )
        self.spot = newest_spot(raw) or self.spot
        self.spot_at = now

    async def _ask_on_demand(self) -> None:
        """The price list's own interface, which answers in few regions only, for every region."""
        found: dict[str, int] = {}
        for kind in self.types:
            terms = {
                "instanceType": kind, "regionCode": self.aws.region, "operatingSystem": "Linux", "preInstalledSw": "NA",
                "tenancy": "Shared", "capacitystatus": "Used", "licenseModel": "No License required",
            }  # fmt: skip
            filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in terms.items()]
            answer = await self.aws.call(
                "pricing", "get_products", region=_PRICING_REGION, ServiceCode="AmazonEC2", Filters=filters, MaxResults=10
            )
            price = listed_price(answer.get("PriceList") or ())
            if price is not None:
                found[kind] = price
        if found:
            self.on_demand = found
            self.source = "AWS price list"

    async def _ask_score(self) -> None:
        answer = await self.aws.call(
            "ec2", "get_spot_placement_scores", InstanceTypes=list(self.types), TargetCapacity=1, RegionNames=[self.aws.region]
        )
        scores = [int(one["Score"]) for one in answer.get("SpotPlacementScores") or () if one.get("Region") == self.aws.region]
        self.score = max(scores, default=None)


def newest_spot(history: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """By type and zone, the newest price of each, in billionths."""
    found: dict[tuple[str, str], tuple[Any, int]] = {}
    for one in history:
        key = (str(one["InstanceType"]), str(one["AvailabilityZone"]))
        price = billionths(one.get("SpotPrice"))
        if price is not None and (key not in found or one["Timestamp"] > found[key][0]):
            found[key] = (one["Timestamp"], price)
    return {key: price for key, (_, price) in found.items()}


def listed_price(price_list: Iterable[object]) -> int | None:
    """The hourly on-demand price of AWS's price list, in billionths."""
    for text in price_list:
        try:
            product: Any = json.loads(text) if isinstance(text, str) else text
            for term in product["terms"]["OnDemand"].values():
                for dimension in term["priceDimensions"].values():
                    price = billionths(dimension["pricePerUnit"].get("USD"))
                    if price and dimension.get("unit") in ("Hrs", None):
                        return price
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def billionths(text: object) -> int | None:
    """A price in dollars, as text, in billionths."""
    try:
        return int(Decimal(str(text)) * BILLION)
    except (InvalidOperation, ValueError, OverflowError):
        return None


def dollars(hourly: int) -> str:
    """For people: `0.526 USD/h`."""
    return f"{Decimal(hourly) / BILLION:.4f}".rstrip("0").rstrip(".") + " USD/h"


@dataclass(frozen=True, slots=True)
class Table:
    """On-demand prices that ship with us: by region and type, in billionths. `read`: the date on which they were read."""

    read: str
    source: str
    prices: Mapping[str, Mapping[str, int]]


@cache
def on_demand_table() -> Table:
    """From `prices.json`."""
    raw = json.loads(files("lamplighter.providers.aws").joinpath("prices.json").read_text(encoding="utf-8"))
    prices = {
        region: {kind: billionths(price) or 0 for kind, price in kinds.items()} for region, kinds in raw["usd_per_hour"].items()
    }
    return Table(raw["read"], raw["source"], prices)


def _datetime(now: float) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(now, UTC)

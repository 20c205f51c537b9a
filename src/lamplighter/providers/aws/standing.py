"""What a stack costs while nothing runs in it: a small dated table of list prices, and sums over it. Pure.

A region that is not in the table is reckoned at the dearest that is, and says so. Not responsible for what machines cost by the hour.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

HOURS = Decimal(730)
"""Hours of a month, as AWS reckons."""
_DEFAULT_DISK = 8
_GATEWAY = "Gateway"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. `monthly`: USD, None when it depends on use alone; `basis`: how it was reckoned."""

    what: str
    count: int
    monthly: Decimal | None
    basis: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What merely exists. `guessed`: the region is not in the table."""

    lines: tuple[Line, ...]
    region: str
    checked: str
    guessed: bool

    @property
    def monthly(self) -> Decimal:
        """USD a month."""
        return sum((line.monthly for line in self.lines if line.monthly is not None), Decimal(0))


class Prices:
    """List prices of one region, in USD."""

    def __init__(self, region: str) -> None:
        table = _table()
        regions: Mapping[str, Mapping[str, str]] = table["regions"]
        self.region = region
        self.checked = str(table["checked"])
        self.guessed = region not in regions
        if self.guessed:
            dearest = {
                name: max((Decimal(one[name]) for one in regions.values()), default=Decimal(0)) for name in regions["us-east-1"]
            }
        else:
            dearest = {name: Decimal(price) for name, price in regions[region].items()}
        self._prices = {name: Decimal(price) for name, price in table["everywhere"].items()} | dearest
        self._units: Mapping[str, str] = table["units"]

    def monthly(self, what: str, amount: Decimal | int = 1) -> Decimal:
        """`amount` (pieces, or GB) of something for a month. KeyError when there is no price of it."""
        price = self._prices[what] * Decimal(amount)
        return price * HOURS if self._units[what] == "hour" else price

    def hourly(self, what: str, amount: Decimal | int = 1) -> Decimal:
        """The same for an hour."""
        return self.monthly(what, amount) / HOURS

    def unit(self, what: str) -> str:
        """Such as `0.0952 USD per GB-month`."""
        return f"{self._prices[what]} USD per {self._units[what]}"

    def has(self, what: str) -> bool:
        """Whether the table knows it."""
        return what in self._prices


@cache
def _table() -> Mapping[str, Any]:
    found = json.loads((resources.files("lamplighter.providers.aws") / "standing.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)  # noqa: S101 - our own file
    return found


def sources() -> Mapping[str, str]:
    """Where each price was published."""
    found: Mapping[str, str] = _table()["sources"]
    return found


def reckon(region: str, existing: Iterable[tuple[str, Mapping[str, Any]]]) -> Standing:
    """What `existing` (Terraform's types and values) costs a month while nobody asks for anything."""
    prices = Prices(region)
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for kind, values in existing:
        by_type.setdefault(kind, []).append(values)
    lines = [*_disks(prices, by_type), *_network(prices, by_type), *_machines(prices, by_type), *_pieces(prices, by_type)]
    return Standing(tuple(lines), region, prices.checked, prices.guessed)


_Found = Mapping[str, Sequence[Mapping[str, Any]]]


def _disks(prices: Prices, found: _Found) -> Iterable[Line]:
    volumes = found.get("aws_ebs_volume", ())
    if volumes:
        size = sum(int(one.get("size") or _DEFAULT_DISK) for one in volumes)
        yield Line("volumes for weights", len(volumes), prices.monthly("gp3", size), f"{size} GB gp3, {prices.unit('gp3')}")


def _network(prices: Prices, found: _Found) -> Iterable[Line]:
    for kind, what, price in (("aws_nat_gateway", "NAT gateway", "nat"), ("aws_eip", "public addresses", "address")):
        if one := found.get(kind, ()):
            yield Line(what, len(one), prices.monthly(price, len(one)), prices.unit(price))
    endpoints = [one for one in found.get("aws_vpc_endpoint", ()) if (one.get("vpc_endpoint_type") or _GATEWAY) != _GATEWAY]
    if endpoints:
        # Each is billed once for every zone that it is in; the subnets are unknown before they are made.
        zones = sum(max(1, len(one.get("subnet_ids") or ())) for one in endpoints)
        yield Line(
            "VPC endpoints", len(endpoints), prices.monthly("endpoint", zones), f"{zones} zones, {prices.unit('endpoint')}"
        )


def _machines(prices: Prices, found: _Found) -> Iterable[Line]:
    for one in found.get("aws_instance", ()):
        kind = str(one.get("instance_type"))
        disks = one.get("root_block_device") or [{}]
        size = sum(int(disk.get("volume_size") or _DEFAULT_DISK) for disk in disks)
        if prices.has(kind):
            monthly = prices.monthly(kind) + prices.monthly("gp3", size)
            yield Line(f"lighthouse ({kind})", 1, monthly, f"{prices.unit(kind)}; {size} GB gp3")
        else:
            yield Line(f"lighthouse ({kind})", 1, None, "no price of this type is known here: see AWS's price list")


def _pieces(prices: Prices, found: _Found) -> Iterable[Line]:
    for kind, what, price in (
        ("aws_secretsmanager_secret", "secrets", "secret"),
        ("aws_cloudwatch_metric_alarm", "alarms", "alarm"),
        ("aws_kms_key", "encryption keys", "key"),
    ):
        if one := found.get(kind, ()):
            yield Line(what, len(one), prices.monthly(price, len(one)), prices.unit(price))
    for kind, what, price in (("aws_s3_bucket", "bucket", "s3"), ("aws_ecr_repository", "image repository", "ecr")):
        if one := found.get(kind, ()):
            yield Line(what, len(one), None, f"by what is in it: {prices.unit(price)}")
    if one := found.get("aws_budgets_budget", ()):
        yield Line("budget warnings", len(one), Decimal(0), "no charge without budget actions")


__all__ = ["HOURS", "Line", "Prices", "Standing", "reckon", "sources"]

"""Prices, scores and quotas as AWS answers them (botocore's Stubber), and what a wake costs by them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from lamplighter.providers.aws.client import Aws
from lamplighter.providers.aws.machines import accelerator, family, vcpus
from lamplighter.providers.aws.picture import Machine
from lamplighter.providers.aws.prices import BILLION, Prices, billionths, dollars, listed_price, newest_spot, on_demand_table
from lamplighter.providers.aws.quotas import Quotas
from lamplighter.testing.clock import VirtualClock

REGION = "eu-central-1"
Stub = Callable[[str], Stubber]


@pytest.fixture
def aws() -> Aws:
    return Aws(REGION, VirtualClock())


@pytest.fixture
def stub(aws: Aws) -> Stub:
    """A stubbed client of a service: what is not expected fails."""
    stubs: dict[str, Stubber] = {}

    def make(service: str) -> Stubber:
        if service not in stubs:
            region = "us-east-1" if service == "pricing" else REGION
            client = boto3.client(service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x")
            aws._clients[service, region] = client
            stubs[service] = Stubber(client)
            stubs[service].activate()
        return stubs[service]

    return make


def spot(kind: str, zone: str, price: str, minute: int) -> dict[str, Any]:
    return {
        "InstanceType": kind,
        "AvailabilityZone": zone,
        "SpotPrice": price,
        "Timestamp": datetime(2026, 11, 28, 12, minute, tzinfo=UTC),
    }


HISTORY = [
    spot("g4dn.xlarge", "eu-central-1a", "0.300000", 5),
    spot("g4dn.xlarge", "eu-central-1a", "0.250000", 1),
    spot("g4dn.xlarge", "eu-central-1b", "0.200100", 2),
    spot("g5.xlarge", "eu-central-1a", "0.600000", 3),
]
LISTED = '{"terms": {"OnDemand": {"x": {"priceDimensions": {"y": {"unit": "Hrs", "pricePerUnit": {"USD": "0.6580000000"}}}}}}}'


async def test_a_quote_from_live_prices(aws: Aws, stub: Stub) -> None:
    """The person would be told a price that is not the cheapest, or not of now."""
    stub("ec2").add_response("describe_spot_price_history", {"SpotPriceHistory": HISTORY})
    stub("ec2").add_response("get_spot_placement_scores", {"SpotPlacementScores": [{"Region": REGION, "Score": 7}]})
    stub("pricing").add_response("get_products", {"PriceList": [LISTED]})
    stub("pricing").add_response("get_products", {"PriceList": []})
    prices = Prices(aws, VirtualClock(), ("g4dn.xlarge", "g5.xlarge"))
    await prices.refresh()
    quote = prices.quote("spot", (), 1800)
    assert quote is not None
    assert quote.rate.hourly == 200_100_000
    assert quote.rate.basis == "spot g4dn.xlarge, eu-central-1b"
    assert quote.least == 100_050_000
    assert quote.source == "AWS spot price history; placement score 7 of 10"
    elsewhere = prices.quote("spot", ("eu-central-1a",), 1800)
    assert elsewhere is not None
    assert elsewhere.rate.hourly == 300_000_000
    on_demand = prices.quote("on-demand", (), 1)
    assert on_demand is not None
    assert on_demand.rate.hourly == 658_000_000
    assert on_demand.least == 658_000_000 // 60, "a minute is the smallest bill"
    assert on_demand.source == "AWS price list"


async def test_without_the_price_list_a_dated_table_serves(aws: Aws, stub: Stub) -> None:
    """An account that may not ask for prices would wake blindly."""
    stub("ec2").add_client_error("describe_spot_price_history", "UnauthorizedOperation")
    stub("ec2").add_client_error("get_spot_placement_scores", "UnauthorizedOperation")
    stub("pricing").add_client_error("get_products", "AccessDeniedException")
    prices = Prices(aws, VirtualClock(), ("g4dn.xlarge", "made.up"))
    await prices.refresh()
    assert prices.quote("spot", (), 60) is None
    quote = prices.quote("on-demand", (), 3600)
    assert quote is not None
    assert quote.rate.hourly == 658_000_000
    assert on_demand_table().read in quote.source


def test_the_rate_is_that_of_the_machine_that_runs() -> None:
    """The ledger would book the price of another zone or market."""
    prices = Prices(Aws(REGION, VirtualClock()), VirtualClock(), ("g4dn.xlarge",))
    prices.spot = newest_spot(HISTORY)
    prices.on_demand = {"g4dn.xlarge": 658_000_000}
    machine = Machine("i-1", "running", "g4dn.xlarge", "eu-central-1a", "spot", 0.0)
    rate = prices.rate(machine)
    assert rate is not None
    assert (rate.hourly, rate.currency, rate.basis) == (300_000_000, "USD", "spot g4dn.xlarge, eu-central-1a")
    other = prices.rate(Machine("i-1", "running", "g4dn.xlarge", "eu-central-1a", "on-demand", 0.0))
    assert other is not None
    assert other.hourly == 658_000_000
    assert prices.rate(Machine("i-1", "running", "p5.48xlarge", "eu-central-1a", "spot", 0.0)) is None


def test_prices_as_text() -> None:
    """A rounding of a price by thousands would pass every budget."""
    assert billionths("0.526000") == 526_000_000
    assert billionths("never") is None
    assert dollars(526 * BILLION // 1000) == "0.526 USD/h"
    assert dollars(2 * BILLION) == "2 USD/h"
    assert listed_price(["{}", "no json", LISTED]) == 658_000_000
    assert listed_price([]) is None


def test_the_table_has_its_source_and_sane_prices() -> None:
    """A table without a date would be believed for ever."""
    table = on_demand_table()
    assert datetime.fromisoformat(table.read).year >= 2026
    assert table.source
    assert all(BILLION // 10 < price < 20 * BILLION for kinds in table.prices.values() for price in kinds.values())
    assert table.prices["us-east-1"]["g4dn.xlarge"] == 526_000_000


async def test_a_quota_of_nothing_refuses_and_says_what_to_ask_for(aws: Aws, stub: Stub) -> None:
    """A new account has no quota for GPUs: it would wait its whole boot deadline for a machine that cannot come."""
    stub("service-quotas").add_response(
        "get_service_quota", {"Quota": {"Value": 0.0}}, {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}
    )
    quotas = Quotas(aws, VirtualClock())
    told = await quotas.refused("spot", ("g4dn.xlarge",), ())
    assert told is not None
    assert "L-3819A6DF" in told
    assert "Ask AWS for 8" in told
    assert await quotas.refused("spot", ("g4dn.xlarge",), ()) == told, "asked once an hour only"


async def test_what_runs_counts_against_the_quota(aws: Aws, stub: Stub) -> None:
    """The second machine would be promised and refused by AWS minutes later."""
    stub("service-quotas").add_response("get_service_quota", {"Quota": {"Value": 4.0}})
    quotas = Quotas(aws, VirtualClock())
    running = Machine("i-1", "running", "g4dn.xlarge", "eu-central-1a", "spot", 0.0)
    assert await quotas.refused("spot", ("g4dn.xlarge",), ()) is None
    assert "of which 4 are in use" in (await quotas.refused("spot", ("g4dn.xlarge",), (running,)) or "")


async def test_a_quota_that_cannot_be_asked_refuses_nothing(aws: Aws, stub: Stub) -> None:
    """Without the permission to ask, nothing could be woken."""
    stub("service-quotas").add_client_error("get_service_quota", "AccessDeniedException")
    assert await Quotas(aws, VirtualClock()).refused("spot", ("g4dn.xlarge",), ()) is None


def test_what_is_known_of_machines() -> None:
    """vLLM would be told to compute in a format that the GPU does not have."""
    t4 = accelerator("g4dn.xlarge")
    assert t4 is not None
    assert (t4.name, t4.count, t4.bf16) == ("T4", 1, False)
    assert 14 * 2**30 < t4.memory < 16 * 2**30  # what CUDA gives, not what stands on the box
    four = accelerator("g5.12xlarge")
    assert four is not None
    assert (four.count, four.bf16) == (4, True)
    assert accelerator("t3.micro") is None
    assert accelerator("g4dn.huge") is None
    assert (vcpus("g4dn.xlarge"), vcpus("g5.12xlarge"), vcpus("odd")) == (4, 48, None)
    assert (family("g4dn.xlarge"), family("vt1.3xlarge"), family("p5.48xlarge"), family("t3.micro")) == (
        "g",
        "vt",
        "p",
        "standard",
    )

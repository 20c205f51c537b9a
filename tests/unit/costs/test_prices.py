"""What an answer costs: exact sums, from prices as people write them."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.config import Config, parse
from lamplighter.core.errors import ConfigError
from lamplighter.core.units import Money, Price
from lamplighter.costs import NANOS, amount_of, micros, nanos_of, tariff_of


def config_of(model: dict[str, Any] | None = None, pool: dict[str, Any] | None = None) -> Config:
    return Config.model_validate(
        {
            "models": {"big": {"engine": "fake", "pool": "cloud", **(model or {})}},
            "pools": {"cloud": {"kind": "fake", **(pool or {})}},
        }
    )


def test_tokens_cost_what_the_file_says() -> None:
    """If this fails, a bill differs from the price list."""
    config = config_of({"price": {"prompt": "0.15 USD/Mtok", "completion": "0.60 USD/Mtok"}})
    tariff = tariff_of(config, config.models["big"])
    assert tariff.cost(1_000_000, 0, 5.0) == NANOS * 15 // 100
    assert tariff.cost(0, 1_000_000, 5.0) == NANOS * 60 // 100
    assert tariff.cost(10, 20, 0.0) == 10 * 150 + 20 * 600
    assert not tariff.free


def test_time_costs_a_share_of_the_hour() -> None:
    """If this fails, a GPU's hour is billed twice, or not at all."""
    config = config_of(pool={"price": "0.526 USD/hour"})
    assert tariff_of(config, config.models["big"]).cost(10, 10, 3600.0) == NANOS * 526 // 1000
    config = config_of(pool={"price": "3.60 USD/hour", "price_share": 4})
    assert tariff_of(config, config.models["big"]).cost(0, 0, 10.0) == NANOS // 100 // 4


def test_both_prices_add() -> None:
    """If this fails, a model with both kinds of price is sold for one of them."""
    config = config_of({"price": {"completion": "1 EUR/Ktok"}}, {"price": "36 EUR/hour"})
    assert tariff_of(config, config.models["big"]).cost(5, 1000, 1.0) == NANOS + NANOS // 100


def test_nothing_is_free_unless_it_has_no_price() -> None:
    """If this fails, an installation without prices begins to count money, or a tiny request costs nothing."""
    config = config_of()
    assert tariff_of(config, config.models["big"]).free
    assert tariff_of(config, config.models["big"]).cost(10**9, 10**9, 1e6) == 0
    config = config_of({"price": {"prompt": "0.0001 USD/Mtok"}})
    assert tariff_of(config, config.models["big"]).cost(1, 0, 0.0) == 1  # rounded up


@given(
    price=st.decimals("0.000001", "1000", places=6),
    prompt=st.integers(0, 10**7),
    completion=st.integers(0, 10**7),
    seconds=st.floats(0, 10**5),
)
def test_a_sum_is_never_below_the_exact_one_and_at_most_two_billionths_above(
    price: Decimal, prompt: int, completion: int, seconds: float
) -> None:
    """If this fails, many small requests cost more or less than they should."""
    config = config_of(
        {"price": {"prompt": f"{price:f} USD/Mtok", "completion": "0.60 USD/Mtok"}}, {"price": "0.526 USD/hour", "price_share": 3}
    )
    exact = prompt * Fraction(price) / 10**6 + completion * Fraction(60, 100) / 10**6
    exact += Fraction(round(seconds * 10**6), 10**6) * Fraction(526, 1000) / 3600 / 3
    found = tariff_of(config, config.models["big"]).cost(prompt, completion, seconds)
    assert exact * NANOS <= found < exact * NANOS + 2


@given(st.decimals("0", "100000000", places=9))
def test_money_survives_the_way_to_whole_numbers_and_back(amount: Decimal) -> None:
    """If this fails, a budget shrinks or grows each time it is read."""
    assert amount_of(nanos_of(Money(amount, "USD")), "USD") == Money(
        amount_of(nanos_of(Money(amount, "USD")), "USD").amount, "USD"
    )
    assert amount_of(nanos_of(Money(amount, "USD")), "USD").amount == amount
    assert micros(nanos_of(Money(amount, "USD"))) >= nanos_of(Money(amount, "USD")) / 1000


@pytest.mark.parametrize("text", ["0.15 USD", "0.15/Mtok", "0.15 USD/Gtok", "free", "-1 USD/Mtok", "1 usd/Mtok"])
def test_other_prices_are_refused(text: str) -> None:
    """If this fails, a typing error makes answers free."""
    with pytest.raises(ValueError, match="write"):
        Price.parse(text, ("token", "Ktok", "Mtok"))
    assert str(Price.parse("0.15 USD/Mtok", ("token", "Mtok"))) == "0.15 USD/Mtok"


def test_an_installation_has_one_currency() -> None:
    """If this fails, dollars are taken for euros, or an error does not say where the other currency stands."""
    with pytest.raises(ConfigError, match=r"models\.small\.price\.prompt: is in EUR"):
        parse(
            "limits: {default: {budget_per_day: 1 USD}}\n"
            "models: {small: {engine: llamacpp, pool: here, source: bundled, price: {prompt: 1 EUR/Mtok}}}\n"
            "pools: {here: {kind: process}}"
        )

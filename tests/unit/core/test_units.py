"""Durations, sizes and money as people write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.units import Budget, Duration, Money, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("55s", 55), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), (" 5 s ", 5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    """If this fails, `sleep_after: 10m` is not ten minutes."""
    assert float(Duration.parse(text)) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 minutes", "-5s", "5s!", "1e3s", "nevr"])
def test_what_is_no_duration(text: str) -> None:
    """If this fails, a typing error becomes a setting."""
    with pytest.raises(ValueError, match="is not a duration"):
        Duration.parse(text)


@given(st.integers(0, 10**7))
def test_durations_read_what_they_write(seconds: int) -> None:
    """If this fails, `config show` prints a file that means something else."""
    assert float(Duration.parse(str(Duration(seconds)))) == seconds


def test_odd_durations_are_written_exactly() -> None:
    """If this fails, a printed setting loses its fraction."""
    assert str(Duration.parse("never")) == "never"
    for text in ("250ms", "1500ms", "0s", "1h30m", "1d"):
        assert str(Duration.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "count"), [("512 B", 512), ("10MB", 10**7), ("10mb", 10**7), ("2 GiB", 2**31), ("1.5 KB", 1500), ("0B", 0)]
)
def test_sizes(text: str, count: int) -> None:
    """If this fails, a limit is a thousand times too large."""
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["", "10", "MB", "-1MB", "1 XB", "1MB/s"])
def test_what_is_no_size(text: str) -> None:
    """If this fails, a typing error becomes a limit."""
    with pytest.raises(ValueError, match="is not a size"):
        Size.parse(text)


def test_sizes_are_shown_shortly() -> None:
    """If this fails, a person has to count digits."""
    assert [str(Size(count)) for count in (0, 999, 1500, 98_000_000, 2 * 10**12)] == ["0 B", "999 B", "1.5 KB", "98 MB", "2 TB"]


def test_money_is_exact_and_of_one_currency() -> None:
    """If this fails, cents vanish, or dollars are added to euros."""
    assert Money.parse("0.1 USD") + Money.parse("0.2 USD") == Money(Decimal("0.3"), "USD")
    with pytest.raises(ValueError, match="cannot add EUR to USD"):
        Money.parse("1 USD") + Money.parse("1 EUR")
    for text in ("1", "USD", "1 usd", "-1 USD", "1.2.3 USD"):
        with pytest.raises(ValueError, match="is not money"):
            Money.parse(text)


def test_budgets() -> None:
    """If this fails, a budget's period is not what was written."""
    budget = Budget.parse("60 USD/month")
    assert (budget.limit, budget.period, str(budget)) == (Money(Decimal(60), "USD"), "month", "60 USD/month")
    for text in ("60 USD", "60 USD/year", "60/month"):
        with pytest.raises(ValueError, match="is not"):
            Budget.parse(text)

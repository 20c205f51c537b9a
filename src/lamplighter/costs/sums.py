"""Money as whole numbers: billionths of the installation's currency, so that a million small sums lose nothing. Pure."""

from decimal import Decimal

from lamplighter.core.units import Money

NANOS = 10**9
"""In one unit of the currency (a dollar, a euro)."""


def nanos_of(money: Money) -> int:
    """Whole billionths, rounded up: a cap is never smaller than written by more than one of them."""
    scaled = money.amount * NANOS
    return int(scaled.to_integral_value(rounding="ROUND_CEILING"))


def amount_of(nanos: int, currency: str) -> Money:
    """Back to an amount for people: exact, without needless zeros."""
    amount = Decimal(nanos) / NANOS
    whole = amount.normalize()
    return Money(whole.quantize(Decimal(1)) if whole == whole.to_integral_value() else whole, currency)


def micros(nanos: int) -> int:
    """Millionths, rounded up, for accounts that keep those."""
    return -(-nanos // 1000)

"""What machines cost by the hour, as far as AWS or our dated table says so: for what a wake would cost, and what has run.

Not responsible for the keeper's own reckoning (`providers.aws`), from which the prices come.
"""

from decimal import Decimal

from lamplighter.providers.aws.inventory import Rates


def rates_of(region: str) -> Rates:
    """Prices of one region, each asked once."""
    from lamplighter.providers.aws import standing

    prices = standing.Prices(region)

    def rate(kind: str, market: str, zone: str) -> Decimal | None:
        return prices.hourly(kind) if market == "on-demand" and prices.has(kind) else None

    return rate

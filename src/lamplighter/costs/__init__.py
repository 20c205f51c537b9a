"""What answers cost: prices from the configuration and the exact sums made with them. Live prices of clouds come in behind the same names.

Not responsible for limits and budgets (`gateway.admission`), nor for keeping what was spent (`store.spend`).
"""

from lamplighter.costs.prices import NANOS, Tariff, tariff_of
from lamplighter.costs.sums import amount_of, micros, nanos_of

__all__ = ["NANOS", "Tariff", "amount_of", "micros", "nanos_of", "tariff_of"]

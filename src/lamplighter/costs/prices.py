"""What one request costs: by the token, by the second on an engine, or both. Pure and exact.

A pool's price is for one replica. Several requests may run on it at once, so each pays its own seconds times the price, divided by the
pool's `price_share`. With a share of 1 nobody is ever charged too little; a share above what really runs side by side would do that.
"""

from dataclasses import dataclass
from fractions import Fraction

from lamplighter.config import Config, ModelConfig
from lamplighter.core.units import TOKENS, Price
from lamplighter.costs.sums import NANOS

_HOUR = 3600
_TICKS = 10**6
"""Seconds are counted in millionths: a float would not be exact."""
_NOTHING = Fraction(0)
"""Also a sign: who sees this very object need not compute with it."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """The prices of one model in one pool, as billionths of the currency: `prompt` and `completion` for each token, over
    `denominator`; `second` for each second on an engine. All zero: it costs nothing.
    """

    prompt: int = 0
    completion: int = 0
    denominator: int = 1
    second: Fraction = _NOTHING

    @property
    def free(self) -> bool:
        """Whether nothing that it does costs anything."""
        return not (self.prompt or self.completion or self.second)

    def cost(self, prompt_tokens: int, completion_tokens: int, seconds: float) -> int:
        """Whole billionths, rounded up. `seconds`: on an engine."""
        total = -(-(prompt_tokens * self.prompt + completion_tokens * self.completion) // self.denominator)
        if self.second is not _NOTHING and seconds > 0:
            time = round(seconds * _TICKS) * self.second
            total += -(-time.numerator // (time.denominator * _TICKS))
        return total


FREE = Tariff()


def tariff_of(config: Config, model: ModelConfig) -> Tariff:
    """What `model` costs. A model of the overlay has no price of its own, but its pool may have one."""
    price = model.price
    prompt = _per_token(price.prompt) if price is not None else Fraction(0)
    completion = _per_token(price.completion) if price is not None else Fraction(0)
    pool = config.pools.get(model.pool)
    second = _NOTHING
    if pool is not None and pool.price is not None:
        second = Fraction(pool.price.money.amount) * NANOS / _HOUR / pool.price_share or _NOTHING
    if not (prompt or completion or second):
        return FREE
    denominator = prompt.denominator * completion.denominator
    return Tariff(int(prompt * denominator), int(completion * denominator), denominator, second)


def _per_token(price: Price | None) -> Fraction:
    return Fraction(0) if price is None else Fraction(price.money.amount) * NANOS / TOKENS[price.unit]


__all__ = ["FREE", "NANOS", "Tariff", "tariff_of"]

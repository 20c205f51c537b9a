"""Hours in which a model stays awake although nobody asks: from a schedule to what `plan` takes for demand.

Not responsible for what hours are (`config.schedule`) nor for when a person sees them (the gateway's status).
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import replace

from lamplighter.capacity.eta import Eta
from lamplighter.config import Config, ModelConfig
from lamplighter.config.schedule import following, span
from lamplighter.core.clock import Clock
from lamplighter.store.demand import Demand

UNKNOWN_LEAD = 120.0
"""Seconds before the hours begin at which a model is woken whose wakes nobody has measured yet."""
MARGIN = 5.0
LONGEST_LEAD = 1800.0
LEAD_FOR = 60.0
"""Seconds for which the time is not worked out again by which a model is woken before its hours."""


def lead(eta: Eta | None) -> float:
    """Seconds before the hours begin at which the wake must begin, so that nine times of ten it is done in time."""
    return UNKNOWN_LEAD if eta is None else min(LONGEST_LEAD, eta.p90 + MARGIN)


def warmed(demand: Demand, schedule: Collection[str], now: float, ahead: float) -> Demand:
    """`demand`, wanted until the end of the hours that hold now or begin within `ahead` seconds.

    A person who sends the model to sleep during them has the last word until they end.
    """
    hours = span(schedule, now, ahead) if schedule else None
    if hours is None or (demand.sleep_asked_at is not None and demand.sleep_asked_at >= hours.start - ahead):
        return demand
    return replace(demand, wanted_until=max(demand.wanted_until or 0.0, hours.end))


class Hours:
    """The hours of one pool's models. `lead_of`: how long before them a model's wake must begin, see `lead`."""

    def __init__(self, config: Config, lead_of: Callable[[str], Awaitable[float]], clock: Clock) -> None:
        self._config = config
        self._lead_of = lead_of
        self._clock = clock
        self._leads: dict[str, tuple[float, float]] = {}
        """By model: when it was worked out (monotonic seconds), and the lead."""

    async def anticipated(self, demand: dict[str, Demand], models: Mapping[str, ModelConfig]) -> dict[str, Demand]:
        """`demand` with what the hours of these models add to it."""
        for model, config in models.items():
            schedule = self._config.hours(config)
            if schedule and self._config.pools[config.pool].elastic:
                at, ahead = self._leads.get(model, (float("-inf"), 0.0))
                if self._clock.monotonic() - at >= LEAD_FOR:
                    ahead = await self._lead_of(model)
                    self._leads[model] = (self._clock.monotonic(), ahead)
                demand[model] = warmed(demand.get(model) or Demand(model), schedule, self._clock.time(), ahead)
        return demand

    def dates(self, models: Mapping[str, ModelConfig]) -> Iterator[float]:
        """When a wake for hours to come is due (Unix seconds)."""
        for model, config in models.items():
            begins = following(self._config.hours(config), self._clock.time())
            if begins is not None and model in self._leads:
                yield begins - self._leads[model][1]

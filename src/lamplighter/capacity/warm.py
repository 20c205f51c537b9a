"""Hours in which a model stays awake although nobody asks: from a schedule to what `plan` takes for demand. Pure.

Not responsible for what hours are (`config.schedule`) nor for when a person sees them (the gateway's status).
"""

from collections.abc import Collection
from dataclasses import replace

from lamplighter.capacity.eta import Eta
from lamplighter.config.schedule import span
from lamplighter.store.demand import Demand

UNKNOWN_LEAD = 120.0
"""Seconds before the hours begin at which a model is woken whose wakes nobody has measured yet."""
MARGIN = 5.0
LONGEST_LEAD = 1800.0


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

"""How long a wake takes, told from past ones of the same model in the same pool. Pure.

A wake is *warm* when the weights were already there: nothing was pulled. The two kinds differ by minutes and are never mixed; from cold
wakes a warm one is still told, by leaving their pull out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lamplighter.store.wakes import Stage, Wake

PULL = "pull"
PULLED_AFTER = 1.0
"""Seconds; a pull stage that ends sooner only looked whether the weights are there."""


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds for a whole wake: half of them, and nine of ten, were not longer."""

    p50: float
    p90: float


def pull_seconds(stages: Sequence[Stage], now: float) -> float | None:
    """How long the pull took, or takes so far; None when there was none, or it has not begun."""
    for stage in stages:
        if stage.name == PULL and stage.started_at is not None:
            return (now if stage.ended_at is None else stage.ended_at) - stage.started_at
    return None


def expect_warm(past: Sequence[Wake]) -> bool:
    """Whether the next wake will be warm, by its successful predecessors, newest first.

    After the first one the weights are usually here. From the second on it is known whether this pool keeps them.
    """
    return bool(past) and (len(past) == 1 or past[0].warm)


def estimate(past: Sequence[Wake], *, warm: bool) -> Eta | None:
    """From successful wakes; None when none of them tells anything about this kind."""
    seconds = [wake.seconds for wake in past if wake.warm == warm and wake.seconds is not None]
    if warm and not seconds:
        seconds = [
            wake.seconds - (pull_seconds(wake.stages, wake.ended_at or 0.0) or 0.0) for wake in past if wake.seconds is not None
        ]
    if not seconds:
        return None
    return Eta(p50=round(quantile(seconds, 0.5), 3), p90=round(quantile(seconds, 0.9), 3))


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the closest ranks (Hyndman and Fan's type 7). `values` must not be empty."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

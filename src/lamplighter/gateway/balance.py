"""Which of several replicas is next: pure functions over candidates. Nothing here knows of queues, circuits or clocks.

Where affinity is wanted it is weighted rendezvous hashing (Thaler and Ravishankar 1998): each replica draws a number from the key, the
highest is the key's home, and a replica that comes or goes moves only its own keys. Its load is bounded as in consistent hashing with
bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): a replica with more than `factor` times its fair share gives way to the next.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1
_LEAST_SHARE = 0.1
"""Of its weight, that a replica has as soon as it is ready."""


@dataclass(slots=True)
class Candidate(Generic[T]):
    """A replica that may be chosen. `load`: requests on it; `weight`: its share of them, relative to the others; `seed`: of its identity."""

    item: T
    seed: int
    load: int
    weight: float


def digest(value: bytes) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "little")


def grown(weight: float, age: float, span: float) -> float:
    """The weight of a replica that has been ready for `age` seconds, when it grows to `weight` within `span` seconds."""
    if age >= span:
        return weight
    return weight * max(_LEAST_SHARE, age / span)


def least_loaded(candidates: Sequence[Candidate[T]], chance: Callable[[], float] = random.random) -> T:
    """The less busy of two taken by chance, relative to their weights; heavier ones are taken more often."""
    if len(candidates) == 1:
        return candidates[0].item
    one = _drawn(candidates, chance)
    other = _drawn([candidate for candidate in candidates if candidate is not one], chance)
    return (one if _busy(one) <= _busy(other) else other).item


def ranked(candidates: Sequence[Candidate[T]], key: int) -> list[Candidate[T]]:
    """Weighted rendezvous: the key's home first, then who stands in for it, in an order that is the same everywhere."""
    return sorted(candidates, key=lambda candidate: (_score(key, candidate), candidate.seed), reverse=True)


def bounded(ranking: Sequence[Candidate[T]], factor: float) -> T:
    """The first of `ranking` whose load, with one more, stays within `factor` times its fair share of all."""
    total = sum(candidate.load for candidate in ranking) + 1
    weights = sum(candidate.weight for candidate in ranking)
    for candidate in ranking:
        if candidate.load < factor * total * candidate.weight / weights:
            return candidate.item
    return min(ranking, key=_busy).item  # not reached with a factor of 1 or more, but for rounding


def _busy(candidate: Candidate[T]) -> float:
    """What its load would be, in relation to its weight."""
    return (candidate.load + 1) / candidate.weight


def _drawn(candidates: Sequence[Candidate[T]], chance: Callable[[], float]) -> Candidate[T]:
    left = chance() * sum(candidate.weight for candidate in candidates)
    for candidate in candidates:
        left -= candidate.weight
        if left < 0:
            return candidate
    return candidates[-1]


def _score(key: int, candidate: Candidate[T]) -> float:
    mixed = (key ^ candidate.seed) & _MASK  # the finaliser of splitmix64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    mixed ^= mixed >> 31
    return -candidate.weight / math.log((mixed + 0.5) / 2.0**64)

"""Which target answers a request, when the name that was asked for is being changed, or was: a lane's `split`. Nothing here when it is not.

Sticky by conversation: the same key falls on the same side for as long as the weight stays, and only moves towards the candidate when it grows.
Nobody waits for a candidate: while it is not awake, the stable target answers. Not responsible for the weight (the keeper's), nor for what counts
as an outcome (`outcomes`).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lamplighter.core.rollouts import WHOLE
from lamplighter.gateway.balance import digest
from lamplighter.store.outcomes import Side
from lamplighter.store.rollouts import Route
from lamplighter.store.usage import blames_engine

if TYPE_CHECKING:
    from lamplighter.gateway.lane import Lane
    from lamplighter.gateway.metering import Record


class Outcomes(Protocol):
    """Who counts how requests end."""

    def add(self, trial: "Trial", *, failed: bool, first_token: float | None) -> None:
        """One request ended. Never waits, never fails."""
        ...


class Split:
    """Who answers for the name of a lane. `candidate` None: `stable` answers everything, and nothing is counted."""

    __slots__ = ("_seed", "candidate", "outcomes", "route", "stable")

    def __init__(self, route: Route, stable: "Lane", candidate: "Lane | None", outcomes: Outcomes | None) -> None:
        self.route = route
        self.stable = stable
        self.candidate = candidate
        self.outcomes = outcomes
        self._seed = digest(route.rollout.encode())

    def belongs(self, key: bytes) -> bool:
        """Whether a conversation belongs to the candidate. b'': whoever has no key is assigned by chance."""
        weight = self.route.weight
        if weight <= 0 or weight >= WHOLE:
            return weight > 0
        drawn = digest(key + self._seed.to_bytes(8, "little")) if key else random.getrandbits(64)
        return drawn % WHOLE < weight

    def choose(self, key: Callable[[], bytes], able: Callable[["Lane"], bool]) -> tuple["Lane", "Trial | None"]:
        """The lane that answers, and the request's part in the trial. `key`: of its conversation; `able`: whether a lane can do what it asks."""
        candidate = self.candidate
        if candidate is None:
            return self.stable, None
        # By the weight first: the key is looked up only where it decides.
        if self.route.weight > 0 and candidate.awake and able(candidate) and (self.route.weight >= WHOLE or self.belongs(key())):
            return candidate, Trial(self, "candidate")
        return self.stable, Trial(self, "stable")


@dataclass(slots=True)
class Trial:
    """One request's part in a rollout. `side`: who answers it. `scarred`: another target failed it first, so that its time says nothing."""

    split: Split
    side: Side
    scarred: bool = False
    blameless: bool = False
    """However it ends, it says nothing of its target."""

    def finish(self, record: "Record") -> None:
        """The request is over: count it, unless it says nothing of the target."""
        outcomes = self.split.outcomes
        if outcomes is None or self.blameless or not record.reached:
            return
        failed = blames_engine(record.status, record.outcome)
        if failed is None:
            return
        first = None if record.first_at is None or self.scarred else max(0.0, record.first_at - record.began - record.asleep)
        outcomes.add(self, failed=failed, first_token=first)

    def failed(self) -> None:
        """Its target failed it, and another one answers in its place."""
        if self.split.outcomes is not None:
            self.split.outcomes.add(self, failed=True, first_token=None)

    def turn_to_stable(self) -> None:
        """The stable target answers from here on."""
        self.side, self.scarred = "stable", True


def splits(
    routes: Mapping[str, Route], lanes: Mapping[str, "Lane"], known: Mapping[str, "Split | None"], outcomes: Outcomes | None
) -> dict[str, Split]:
    """The splits that `routes` ask for, by name; those that stay the same are the same objects. A target that is not there changes nothing."""
    found: dict[str, Split] = {}
    for name, route in routes.items():
        stable, candidate = _offered(lanes, route.stable), _offered(lanes, route.candidate)
        if stable is None:
            stable = _offered(lanes, name)
        if stable is None or (candidate is None and stable is lanes.get(name)):
            continue
        old = known.get(name)
        if old is not None and (old.route, old.stable, old.candidate) == (route, stable, candidate):
            found[name] = old
        else:
            found[name] = Split(route, stable, candidate, outcomes)
    return found


def _offered(lanes: Mapping[str, "Lane"], name: str | None) -> "Lane | None":
    lane = lanes.get(name) if name is not None else None
    return lane if lane is not None and lane.known else None

"""What a provider must do: `scale` and `observe`, both returning at once. One contract suite runs against every provider and every fake.

A provider keeps no lifecycle state: it tells what exists, the keeper decides what that means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason, WakeFailure


class Presence(StrEnum):
    """Whether the provider says that a replica lives."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Ending was asked and is under way."""
    ENDED = "ended"
    """It lived and lives no more; told until it is doomed, so that the keeper learns why."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of one replica's start. Unix seconds; `progress` 0..1 when known."""

    name: str
    started_at: float
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """The provider will take a replica back: it is drained at once, and replaced while it still answers.

    `at`: Unix seconds when it is taken, if that is certain (a spot interruption); None for a mere warning (a rebalance recommendation).
    """

    at: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """What one replica really costs. `hourly`: billionths of `currency` an hour. `basis`: for people, such as `spot g4dn.xlarge, eu-central-1a`."""

    hourly: int
    currency: str
    basis: str


@dataclass(frozen=True, slots=True)
class Quote:
    """What a wake would cost, told before it. `rate`: of the machine that would probably be taken.

    `least`: billionths of the currency that this wake costs if nobody asks a second time: its usual boot, the idle time, the smallest bill.
    `at`: Unix seconds of the price. `source`: where it is from, for people.
    """

    rate: Rate
    least: int
    at: float
    source: str


@dataclass(frozen=True, slots=True)
class Observation:
    """One replica as the provider sees it now.

    `handle`: the provider's own id, stable for the replica's life. `models`: what it holds or loads. `stages`: what it went through so far,
    in order. `endpoint`: as soon as there is one to probe. `failure`/`loss`: why it ended, or why it will never be ready.
    `notice`: it will be taken back. `rate`: what it costs from `billed_from` (Unix seconds; default: `started_at`) on; None: nothing, or unknown.
    """

    handle: str
    models: tuple[str, ...]
    presence: Presence
    stages: tuple[StageReport, ...] = ()
    endpoint: Endpoint | None = None
    failure: WakeFailure | None = None
    loss: LossReason | None = None
    detail: str | None = None
    started_at: float = 0.0
    notice: Notice | None = None
    rate: Rate | None = None
    billed_from: float | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """How many replicas of each model must exist, `doomed` ones not counted. Absolute: asking twice launches once."""

    replicas: Mapping[str, int] = field(default_factory=dict)


class Provider(Protocol):
    """One pool's capacity."""

    stages: tuple[str, ...]
    """Names of a wake's stages, in order; empty for always-on capacity."""

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Launch what is missing for `desired` and begin to end the `doomed` handles. Returns at once.

        Idempotent; ending what is absent succeeds; never ends what is not doomed. A launch that cannot even begin is reported by `observe`
        as an ENDED replica with its `failure`. Raises ProviderError only when nothing could be done at all.
        """
        ...

    async def observe(self) -> Sequence[Observation]:
        """Everything that carries our installation id in this pool. Returns at once. Raises ProviderError when it cannot know."""
        ...

    async def renew(self) -> None:
        """Renew the leases of everything that runs: what is not renewed ends itself."""
        ...

    async def close(self) -> None:
        """Release what this object holds; ends no replica."""
        ...


@runtime_checkable
class Quoting(Protocol):
    """An ability of providers whose capacity has a price that changes."""

    async def quote(self) -> Quote | None:
        """What the next wake would cost, from what is known; returns at once. None: not known yet. Raises ProviderError."""
        ...

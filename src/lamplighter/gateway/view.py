"""An always-current picture of the store in memory, so that no request and no page has to ask the database.

It is refreshed on the bus's hints and every few seconds. It never writes, and it decides nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.engines.base import Capability, Engine, capabilities_of
from lamplighter.store import demand as demand_store
from lamplighter.store import ledger, overlay, replicas, rollouts, wakes
from lamplighter.store.bus import Subscription, Topic
from lamplighter.store.demand import Demand
from lamplighter.store.ledger import Entry, PoolCost
from lamplighter.store.replicas import Replica
from lamplighter.store.rollouts import Changes
from lamplighter.store.store import Store
from lamplighter.store.wakes import Wake

_log = structlog.get_logger(__name__)

REFRESH = 2.0
"""Seconds between refreshes when no hint comes."""
GAP = 0.02
"""Least seconds between two refreshes: a burst of hints costs one reading."""
STALE_AFTER = 15.0
"""Seconds without a successful reading after which the picture must not be trusted."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store as it was a moment ago. `models`: the file's and the overlay's. `wakes`: the newest of each (pool, model). `costs`: by pool.
    `entries`: of the ledger, what costs now, by replica. `changes`: of what serves a name, those under way and those in force.
    """

    version: int = 0
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    replicas: tuple[Replica, ...] = ()
    wakes: Mapping[tuple[str, str], Wake] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    costs: Mapping[str, PoolCost] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)

    def capabilities(self, model: str, engine: Engine) -> frozenset[Capability]:
        """What `model` can be asked for: as a replica of it told when one did, else as its kind of engine usually has."""
        told = (one.capabilities for one in self.replicas if model in one.models and one.capabilities is not None)
        return capabilities_of(engine, self.models[model], next(told, None))

    def wake_of(self, model: str) -> Wake | None:
        """The newest wake of `model` in its pool, or None when it was never woken (or is not known)."""
        config = self.models.get(model)
        return self.wakes.get((config.pool, model)) if config else None


def _priced(
    found: Mapping[tuple[str, str], Wake], rows: Sequence[Replica], entries: Mapping[str, Entry]
) -> Mapping[tuple[str, str], Wake]:
    """The wakes, each with what its replica costs."""
    if not entries:
        return found
    of_wake = {row.wake_id: entries[row.id] for row in rows if row.id in entries and row.wake_id is not None}
    return {key: replace(wake, entry=of_wake.get(wake.id)) for key, wake in found.items()}


class View:
    """Holds the newest `Snapshot`. `start` reads once before it returns; `stop` ends the refreshing."""

    def __init__(self, store: Store, config: Config, clock: Clock) -> None:
        self.snapshot = Snapshot()
        self._store = store
        self._config = config
        self._clock = clock
        self._read_at: float | None = None
        self._failing = False
        self._changed = asyncio.Event()
        self._nudged = asyncio.Event()
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything once, then keep it fresh. Raises StoreError when the first reading fails."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="gateway-view")

    async def stop(self) -> None:
        """End the refreshing; the last snapshot stays."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Call `listener` with every new snapshot, in the loop's thread, before anybody awaiting `changed` runs."""
        self._listeners.append(listener)

    def nudge(self) -> None:
        """Something was written that no hint tells of: read soon."""
        self._nudged.set()

    @property
    def age(self) -> float:
        """Seconds since the last successful reading; infinite before the first."""
        return float("inf") if self._read_at is None else self._clock.monotonic() - self._read_at

    @property
    def fresh(self) -> bool:
        """Whether the snapshot can be trusted."""
        return self.age <= STALE_AFTER

    async def changed(self, version: int, timeout: float | None = None) -> Snapshot:
        """The snapshot as soon as its version is not `version`, or as it is when `timeout` seconds passed."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while self.snapshot.version == version:
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                break
            await self._clock.wait(self._changed, left)
        return self.snapshot

    async def refresh(self) -> Snapshot:
        """Read now. Raises StoreError."""
        rows = tuple(await replicas.living(self._store))
        entries = {entry.replica_id: entry for entry in await ledger.entries(self._store)}
        fresh = Snapshot(
            version=self.snapshot.version + 1,
            models=await overlay.effective(self._store, self._config),
            replicas=rows,
            wakes=_priced(await wakes.latest(self._store), rows, entries),
            demand=await demand_store.totals(self._store),
            costs=await ledger.costs(self._store),
            entries=entries,
            changes=await rollouts.changes(self._store),
        )
        self._read_at = self._clock.monotonic()
        old = self.snapshot
        if old.version == 0 or fresh != replace(old, version=fresh.version):
            self.snapshot = fresh
            for listener in self._listeners:
                listener(fresh)
            self._changed.set()  # those who wait now are woken; the next round gets an unset event
            self._changed = asyncio.Event()
        return self.snapshot

    async def _run(self) -> None:
        with self._store.bus.subscribe(Topic.REPLICAS, Topic.MODELS, Topic.DEMAND) as hints:
            hinted = asyncio.create_task(self._forward(hints), name="gateway-view-hints")
            try:
                while True:
                    await self._clock.wait(self._nudged, REFRESH)
                    self._nudged.clear()
                    try:
                        await self.refresh()
                    except StoreError as error:
                        if not self._failing:
                            _log.warning("the store cannot be read; the last known picture is used", error=error.message)
                        self._failing = True
                    else:
                        self._failing = False
                    await self._clock.sleep(GAP)
            finally:
                hinted.cancel()

    async def _forward(self, hints: Subscription) -> None:
        while True:
            await hints.wait()  # what it says does not matter: a refresh reads everything
            self._nudged.set()

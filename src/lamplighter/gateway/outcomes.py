"""Counts how requests end for both targets of a rollout, and writes the sums in batches beside the data path.

While the store is away the sums wait in memory: there are at most a few for each rollout. Not responsible for what counts as a failure.
"""

import asyncio
import contextlib

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.gateway.background import forever
from lamplighter.gateway.switching import Trial
from lamplighter.observability.metrics import Metrics
from lamplighter.store import outcomes
from lamplighter.store.outcomes import Seen, Where
from lamplighter.store.store import Store

INTERVAL = 1.0
"""Seconds between two batches."""
MOST = 1000
"""Sums that wait for the store at the most; what is more is forgotten."""

_log = structlog.get_logger(__name__)


class Outcomes:
    """The sums of one gateway. Implements `switching.Outcomes`."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._waiting: dict[Where, Seen] = {}
        self._some = asyncio.Event()
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def add(self, trial: Trial, *, failed: bool, first_token: float | None) -> None:
        """See `switching.Outcomes`."""
        route = trial.split.route
        where = Where(route.rollout, route.step, trial.side)
        seen = self._waiting.get(where)
        if seen is None:
            if len(self._waiting) >= MOST:
                return
            seen = self._waiting[where] = Seen()
        seen.note(failed=failed, first_token=first_token)
        self._metrics.rollout_requests.labels(route.name, trial.side, "failed" if failed else "ok").inc()
        self._some.set()

    async def start(self) -> None:
        """Write from now on."""
        self._task = forever("outcomes", self._run, self._clock)

    async def stop(self) -> None:
        """Write what waits, and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.flush()

    async def flush(self) -> bool:
        """Write what waits; whether the store took it."""
        batch, self._waiting = self._waiting, {}
        self._some.clear()
        if not batch:
            return True
        try:
            await outcomes.add(self._store, batch)
        except BaseException as error:  # also when cancelled: nothing that was seen is forgotten
            for where, seen in batch.items():
                self._waiting.setdefault(where, Seen()).add(seen)
            self._some.set()
            if not isinstance(error, StoreError):
                raise
            if not self._away:
                _log.warning("what was seen of a model's change cannot be written; it is tried again", error=error.message)
            self._away = True
            return False
        self._away = False
        return True

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._clock.sleep(INTERVAL)
            await self.flush()

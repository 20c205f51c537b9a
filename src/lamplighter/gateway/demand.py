"""Tells the store what clients are asking of each model, that this gateway lives, and that it has left a draining replica.

At once when somebody begins to wait for a sleeping model; otherwise at most every `THROTTLE` seconds, because every generation changes the
counts. Not responsible for the counts themselves: lanes keep them.
"""

import asyncio
import contextlib
from collections.abc import Iterable

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.gateway.routing import Lane, Lanes, Target
from lamplighter.gateway.view import View
from lamplighter.store import demand, replicas
from lamplighter.store.demand import GatewayDemand
from lamplighter.store.store import Store

_log = structlog.get_logger(__name__)

THROTTLE = 0.25
"""Least seconds between two reports, unless somebody begins to wait."""
HEARTBEAT = 5.0
_RETRY = 1.0


class DemandReporter:
    """The writer of this gateway's demand. `start` announces the gateway, `stop` takes all its demand back."""

    def __init__(self, store: Store, clock: Clock, gateway_id: str, lanes: Lanes, view: View) -> None:
        self._store = store
        self._clock = clock
        self._gateway_id = gateway_id
        self._lanes = lanes
        self._view = view
        self._dirty: dict[Lane, None] = {}
        self._wake: dict[str, None] = {}
        self._leaving: dict[tuple[str, int], None] = {}
        self._acknowledged: dict[str, int] = {}
        self._busy: dict[str, tuple[bool, bool]] = {}
        self._touched = asyncio.Event()
        self._urgent = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def touch(self, lane: Lane, *, urgent: bool = False) -> None:
        """The lane's counts changed. `urgent`: the keeper should look at once."""
        if lane not in self._dirty:
            self._dirty[lane] = None
            self._touched.set()
        if urgent:
            self._wake[lane.name] = None
            self._touched.set()
            self._urgent.set()

    def emptied(self, target: Target) -> None:
        """None of our requests is on a draining target: acknowledge its drain."""
        epoch = target.draining_epoch
        if epoch is None or self._acknowledged.get(target.replica_id) == epoch:
            return
        self._leaving[(target.replica_id, epoch)] = None
        self._touched.set()
        self._urgent.set()

    async def start(self) -> None:
        """Announce the gateway, then go on reporting. Raises StoreError when it cannot be announced."""
        await demand.heartbeat(self._store, self._gateway_id)
        self._task = asyncio.create_task(self._run(), name="gateway-demand")

    async def stop(self) -> None:
        """Take back what this gateway demands; the time of its last answers stays."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        try:
            await self._flush()
            await demand.leave(self._store, self._gateway_id)
        except StoreError as error:
            _log.warning("the gateway could not say that it leaves; its demand expires by itself", error=error.message)

    async def _run(self) -> None:
        last = self._clock.monotonic()
        while True:
            await self._clock.wait(self._touched, HEARTBEAT)
            since = self._clock.monotonic() - last
            if self._touched.is_set() and since < THROTTLE:
                await self._clock.wait(self._urgent, THROTTLE - since)
            try:
                await self._flush()
            except StoreError as error:
                if not self._failing:
                    _log.warning("demand cannot be written; it is tried again", error=error.message)
                self._failing = True
                await self._clock.sleep(_RETRY)
                continue
            self._failing = False
            last = self._clock.monotonic()

    async def _flush(self) -> None:
        self._touched.clear()
        self._urgent.clear()
        lanes, self._dirty = self._dirty, {}
        wake, self._wake = self._wake, {}
        leaving, self._leaving = self._leaving, {}
        try:
            if lanes or wake:
                await demand.report(self._store, self._gateway_id, [_row(lane) for lane in lanes], wake=list(wake))
                if self._turned(lanes):
                    self._view.nudge()
            elif not leaving:
                await demand.heartbeat(self._store, self._gateway_id)
            for replica_id, epoch in leaving:
                await replicas.acknowledge_drain(self._store, replica_id, self._gateway_id, epoch)
                self._acknowledged[replica_id] = epoch
        except BaseException:  # also when cancelled: nothing that was to be said is forgotten
            self._dirty = {**lanes, **self._dirty}
            self._wake = {**wake, **self._wake}
            self._leaving = {**leaving, **self._leaving}
            self._touched.set()
            raise
        living = {target.replica_id for target in self._lanes.targets()}
        self._acknowledged = {replica: epoch for replica, epoch in self._acknowledged.items() if replica in living}

    def _turned(self, lanes: Iterable[Lane]) -> bool:
        """Whether waiting or working began or ended somewhere: what people see. Mere counts show with the view's next refresh."""
        turned = False
        for lane in lanes:
            now = (lane.queued > 0, lane.in_flight > 0)
            turned = turned or self._busy.get(lane.name) != now
            self._busy[lane.name] = now
        return turned


def _row(lane: Lane) -> GatewayDemand:
    loads: dict[str, int] = {}
    for target, count in lane.loads.items():
        loads[target.replica_id] = loads.get(target.replica_id, 0) + count
    return GatewayDemand(
        model=lane.name,
        queued=lane.queued,
        in_flight=lane.in_flight,
        oldest_queued_at=lane.oldest_queued_at,
        last_ended_at=lane.last_ended_at,
        wanted_until=lane.wanted_until,
        loads=loads,
    )

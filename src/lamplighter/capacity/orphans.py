"""Concludes the replicas of pools that are no longer configured. Nobody can reach them any more, but each ends itself when its lease runs out.

Not responsible for replicas of a configured pool whose model is gone: the pool's own keeper drains those.
"""

from collections.abc import Collection

import structlog

from lamplighter.core.errors import LamplighterError, StaleTerm
from lamplighter.core.reasons import StopReason
from lamplighter.core.states import ReplicaState
from lamplighter.store import replicas, wakes
from lamplighter.store.demand import GATEWAY_TTL
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store

_log = structlog.get_logger(__name__)
S = ReplicaState

LEASE_OVER = 60.0
"""Seconds without renewal after which an engine of ours has certainly ended itself."""
LOOK_EVERY = 5.0
_DETAIL = "its pool is no longer configured"


class Orphans:
    """Looks after the rows of every pool that is not in `pools`, during one term."""

    def __init__(self, store: Store, pools: Collection[str], term: int) -> None:
        self._store = store
        self._pools = pools
        self._term = term

    async def run(self) -> None:
        """Look every few seconds until cancelled. Raises StaleTerm when another keeper leads."""
        while True:
            try:
                await self.step()
            except StaleTerm:
                raise
            except LamplighterError as error:
                _log.warning("replicas of former pools could not be looked after", error=str(error))
            await self._store.clock.sleep(LOOK_EVERY)

    async def step(self) -> bool:
        """One look; whether anything changed. Raises StaleTerm, StoreError."""
        changed = False
        for row in await replicas.living(self._store):
            if row.pool in self._pools:
                continue
            to = await self._next(row)
            if to is not None:
                _log.info("replica of a former pool", id=row.id, pool=row.pool, state=to.value)
                await replicas.advance(
                    self._store, row.id, to, term=self._term, reason=None if to is S.GONE else StopReason.UNOWNED, detail=_DETAIL
                )
                changed = True
        for wake in await wakes.under_way(self._store):
            if wake.pool not in self._pools:
                await wakes.end(self._store, wake.id, "cancelled", detail=_DETAIL, term=self._term)
                changed = True
        return changed

    async def _next(self, row: Replica) -> ReplicaState | None:
        match row.state:
            case S.READY | S.UNREACHABLE:
                return S.DRAINING
            case S.DRAINING:
                over = self._store.clock.time() - row.since >= LEASE_OVER
                return S.STOPPING if over or await replicas.drained(self._store, row, gateway_ttl=GATEWAY_TTL) else None
            case S.LAUNCHING | S.STARTING | S.PARKED | S.FAILED:
                return S.STOPPING
            case S.STOPPING | S.LOST:
                # Counted from the row's last change: whoever renewed its lease did so before.
                return S.GONE if self._store.clock.time() - row.since >= LEASE_OVER else None
            case _:
                return None

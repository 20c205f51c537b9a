"""The control plane's process: leads by numbered terms, runs every pool's loop while it leads, and ends what it owns when told.

Not responsible for a pool's rounds (`pool`) nor for when they are due (`loop`).
"""

import asyncio
from collections.abc import Awaitable, Mapping

import structlog

from lamplighter.capacity.loop import PoolLoop
from lamplighter.capacity.orphans import Orphans
from lamplighter.capacity.pool import CALL_LIMIT, PoolKeeper
from lamplighter.capacity.rollouts import Rollouts
from lamplighter.config import Config
from lamplighter.core.clock import Clock, within
from lamplighter.core.errors import LamplighterError, StaleTerm, StoreError
from lamplighter.engines.base import Engine
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Provider
from lamplighter.store import demand, leases, replicas, rollouts, wakes
from lamplighter.store.leases import ENGINES, KEEPER
from lamplighter.store.store import Store

_log = structlog.get_logger(__name__)

LEASE_TTL = 10.0
"""Seconds for which a keeper leads without renewing: a dead one is replaced after so long, and up to `TRY_EVERY` more."""
RENEW_EVERY = 3.0
TRY_EVERY = 1.0
"""Seconds between tries to lead while another does."""
ENGINES_TTL = 60.0
"""Seconds for which the engine processes of a host may outlive its keeper: before that, a keeper elsewhere would start them twice."""
SUSTAIN_EVERY = 10.0
"""Seconds between renewals of what runs here while the store is away."""
SWEEP_EVERY = 3600.0
END_LIMIT = 10.0
"""Seconds that `shutdown` waits for replicas to be gone."""


class _Ending(Exception):
    """Shutdown was asked."""


class Keeper:
    """One process's keeper. `run` until it is cancelled or `shutdown` is called; then `shutdown` once.

    `providers`: by pool name; a pool without one is not kept. `engines`: by kind. `holder`: this process's name in the lease.
    `force_lead`: take the leadership over at once. Only for a process with proof that the former holder is dead: the owner of the data
    folder's lock. `host`: names the place where engine processes run, if there are any; a keeper of another place leads only when those
    have certainly ended.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        providers: Mapping[str, Provider],
        engines: Mapping[str, Engine],
        *,
        holder: str,
        force_lead: bool = False,
        host: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.term: int | None = None
        """The term in which it leads; None while it does not."""
        self._config = config
        self._store = store
        self._clock = clock
        self._providers = providers
        self._engines = engines
        self._holder = holder
        self._force = force_lead
        self._host = host
        self._away_since: float | None = None
        self._sustained_at = 0.0
        self._metrics = metrics or Metrics(process=False)
        self._pools: dict[str, PoolKeeper] = {}
        self._orphans: Orphans | None = None
        self._rollouts: Rollouts | None = None
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Lead when nobody else does, and keep every pool while leading; until cancelled, or `shutdown`."""
        self._ended.clear()
        try:
            while not self._ending.is_set():
                if await self._lead():
                    await self._keep()
                else:
                    await self._sustain()
                    await self._clock.wait(self._ending, TRY_EVERY)
        finally:
            self._ended.set()

    async def step(self) -> bool:
        """Lead if possible, and one round of every pool; whether anything changed. For tests and for tools that take one look.

        The first exception of a pool is raised, after every pool had its round.
        """
        if self.term is None and not await self._lead():
            return False
        assert self._orphans is not None  # noqa: S101 - leading made it
        assert self._rollouts is not None  # noqa: S101 - likewise
        await self._rollouts.step()  # first: what it decides is what the pools are asked for
        rounds = [pool.step() for pool in self._pools.values()]
        results = await asyncio.gather(*rounds, self._orphans.step(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return any(results)

    async def shutdown(self, *, end: bool) -> bool:
        """Stop keeping, and give the leadership up. `end`: also end every replica, without waiting for what runs on it.

        True when nothing of ours is left running, or nothing was to be ended. Waits at most `END_LIMIT` seconds for a pool; what is not gone
        then ends itself when its lease runs out. Without `end` everything runs on, for the next keeper to adopt.
        """
        self._ending.set()
        await self._ended.wait()
        if self.term is None:
            return not end
        gone = True
        if end:
            for result in await asyncio.gather(*(p.end(END_LIMIT) for p in self._pools.values()), return_exceptions=True):
                if isinstance(result, BaseException):
                    _log.error("a pool could not be ended", error=str(result) or type(result).__name__)
                gone = gone and result is True
        term, self.term = self.term, None
        self._metrics.keeper_leads.labels().set(0)
        try:
            await leases.release(self._store, KEEPER, term=term)
        except StoreError as error:
            _log.warning("the leadership could not be released; it runs out", error=str(error))
        return gone

    # --- leading ------------------------------------------------------------------------------------------------------------------------

    async def _lead(self) -> bool:
        """Take the leadership if it is free."""
        try:
            if self._host is not None and not await leases.hold(self._store, ENGINES, self._host, ttl=ENGINES_TTL):
                self._away_since = None
                return False
            term = await leases.acquire(self._store, KEEPER, self._holder, ttl=LEASE_TTL, force=self._force)
        except StoreError as error:
            if self._away_since is None:
                self._away_since = self._sustained_at = self._clock.monotonic()
                _log.warning("the leadership cannot be had", error=str(error))
            return False
        self._away_since = None
        if term is None:
            return False
        _log.debug("leading", term=term, holder=self._holder)
        self.term = term
        self._metrics.keeper_leads.labels().set(1)
        self._pools = {
            name: PoolKeeper(name, self._config, self._store, provider, self._engines, self._metrics, term)
            for name, provider in self._providers.items()
        }
        self._orphans = Orphans(self._store, frozenset(self._providers), term)
        self._rollouts = Rollouts(self._config, self._store, self._engines, self._metrics, term)
        return True

    async def _sustain(self) -> None:
        """While the store is away nobody can know who leads: engine processes of this host are kept alive, for those whom they serve."""
        if self._host is None or self._away_since is None or self._clock.monotonic() - self._sustained_at < SUSTAIN_EVERY:
            return
        self._sustained_at = self._clock.monotonic()
        renewals = [within(self._clock, provider.renew(), CALL_LIMIT) for provider in self._providers.values()]
        for result in await asyncio.gather(*renewals, return_exceptions=True):
            if isinstance(result, Exception):
                _log.warning("leases could not be renewed", error=str(result) or type(result).__name__)

    async def _keep(self) -> None:
        """Everything that runs while this process leads; returns when it leads no longer, or shutdown was asked."""
        assert self.term is not None  # noqa: S101 - only called after `_lead`
        assert self._orphans is not None  # noqa: S101 - likewise
        assert self._rollouts is not None  # noqa: S101 - likewise
        loops = [PoolLoop(pool, self._providers[name], self._store, self._config.keeper) for name, pool in self._pools.items()]
        work: list[Awaitable[None]] = [
            self._renew(self.term), self._until_ending(), self._sweep(), self._orphans.run(), self._rollouts.run(),
        ]  # fmt: skip
        for loop in loops:
            work += [loop.run(), loop.renew()]
        try:
            async with asyncio.TaskGroup() as group:
                for one in work:
                    group.create_task(_awaited(one))
        except* _Ending:
            pass
        except* StaleTerm as stale:
            _log.warning("another keeper leads", error=str(stale.exceptions[0]))
            self.term = None
            self._metrics.keeper_leads.labels().set(0)
            self._metrics.rollout_weight.replace({})  # whoever leads tells them
            self._metrics.rollout_phase.replace({})

    async def _until_ending(self) -> None:
        await self._ending.wait()
        raise _Ending

    async def _renew(self, term: int) -> None:
        """Keep the lease; raises StaleTerm when it is lost, or could not be renewed for as long as it lasts (unless nobody else can lead)."""
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(RENEW_EVERY)
            try:
                if not await leases.renew(self._store, KEEPER, term=term, ttl=LEASE_TTL):
                    raise StaleTerm(f"term {term} is over")
                renewed = self._clock.monotonic()
                if self._host is not None:
                    await leases.hold(self._store, ENGINES, self._host, ttl=ENGINES_TTL)
            except StaleTerm:
                raise
            except StoreError as error:
                _log.warning("the leadership could not be renewed", error=str(error))
                # The owner of the data folder's lock knows that nobody else leads: on a full disk it goes on renewing its engines' leases.
                if not self._force and self._clock.monotonic() - renewed >= LEASE_TTL:
                    raise StaleTerm(f"term {term} could not be renewed for {LEASE_TTL:g} s") from error

    async def _sweep(self) -> None:
        """Forget what is old, now and every hour."""
        while True:
            try:
                await demand.sweep(self._store)
                await wakes.sweep(self._store)
                await replicas.sweep(self._store)
                await rollouts.sweep(self._store)
            except LamplighterError as error:
                _log.warning("old rows could not be removed", error=str(error))
            await self._clock.sleep(SWEEP_EVERY)


async def _awaited(work: Awaitable[None]) -> None:
    await work

"""The provider kind `aws` with `federation: liqo`: a machine becomes a cluster, joins home's, and the engine is a pod there.

It composes: machines are the AwsProvider's, with all its dead-men; peering, namespace and pod are home's; one machine is one replica all the way,
and its handle is the order's. The truth is in AWS and in the home cluster, where each machine's workload is also its record (`node_workload`); a
new object adopts whatever an earlier one began. Not responsible for the steps themselves (`node_passage`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from lamplighter.config import ModelConfig
from lamplighter.config.federation import FederationConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import Clock, cancellable
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Engine
from lamplighter.federation.node_duty import Clustered
from lamplighter.federation.node_passage import Country, Liqo, OurLiqo, Passage
from lamplighter.federation.node_sight import Seen, Sight
from lamplighter.federation.node_telling import CHAIN, merged
from lamplighter.providers.aws.admission import Authority
from lamplighter.providers.aws.errands import Errands
from lamplighter.providers.aws.nodes import Facts
from lamplighter.providers.aws.provider import AwsProvider
from lamplighter.providers.base import Desired, Observation, Quote
from lamplighter.providers.kubernetes.access import Access
from lamplighter.providers.kubernetes.client import Cluster

_log = structlog.get_logger(__name__)

MOVING, CALM = 0.5, 2.0
"""Seconds between two looks at the home cluster: while a machine is on its way in or out, and while pods serve."""
SWEEP = 30.0
"""Seconds between two looks while nothing runs: a former keeper may have left something."""
TICK = 0.1
STALE = 60.0
RECEIVES_FOR = 60.0
"""Seconds for which home is not asked again whether it can take a machine in."""
_NEVER = ("liqo_missing", "opened_otherwise", "terminating")
STRAY_AFTER = 5.0
"""Seconds for which a record without a machine is left alone: AWS's answers agree only after a while."""
ABANDONED_AFTER = 45.0
"""Seconds without any call of the keeper after which nothing is done any more: another keeper leads."""


class FederatedProvider:
    """One pool. For tests: `liqo`, `home` and `connect` in the place of the real ones."""

    stages: tuple[str, ...] = CHAIN

    def __init__(
        self,
        name: str,
        config: AwsPool,
        *,
        federation: FederationConfig,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        mesh: MeshConfig,
        data: Path,
        installation: str,
        clock: Clock,
        authority: Callable[[], Authority] | None = None,
        liqo: Liqo | None = None,
        home: Callable[[], Cluster] | None = None,
        connect: Callable[[Access], Cluster] = Cluster.connect,
    ) -> None:
        duty = Clustered(federation, models, engines, mesh)
        self.aws = AwsProvider(
            name, config, models=models, engines=engines, mesh=mesh, data=data, installation=installation, clock=clock,
            authority=authority, duty=duty,
        )  # fmt: skip
        self._log = _log.bind(pool=name)
        if config.model_storage.kind != "none":
            self._log.warning("model_storage is not used by pods of a federated pool; `kind: none` saves its price")
        self._clock = clock
        self._connect_home = home or (lambda: connect(home_access(federation)))
        self._home: Cluster | None = None
        self._country = Country(
            pool=name, installation=installation, config=config, federation=federation, duty=duty, liqo=liqo or OurLiqo(clock),
            clock=clock, home=self._cluster, kubeconfig=self.aws.kubeconfig, connect=connect,
        )  # fmt: skip
        self._sight = Sight(self._country)
        self._passages: dict[str, Passage] = {}
        self._doomed: set[str] = set()
        self._strays: dict[str, float] = {}
        """Since when (monotonic) a record has been seen whose machine AWS does not know."""
        self._last: dict[str, Observation] = {}
        """What AWS said last of machines that it does not know any more, and of which something is left in the home cluster."""
        self._errands = Errands(name, clock)
        self._wanted = asyncio.Event()
        self._looking = asyncio.Lock()
        self._received_at = float("-inf")
        """When home was last found to be able to take a machine in (monotonic)."""
        self._adopted = False
        self._busy = False
        """Whether AWS has anything of ours, orders included."""
        self._loop: asyncio.Task[None] | None = None
        self._used_at = clock.monotonic()

    # --- the contract -------------------------------------------------------------------------------------------------------------------

    async def observe(self) -> Sequence[Observation]:
        """AWS's picture and home's, at once; only the first call of an object's life asks them. Raises ProviderError."""
        self._use()
        await self._first()
        found = {one.handle: one for one in await self.aws.observe()}
        if found and not self._busy:
            self._wanted.set()
        self._busy = bool(found)
        seen = self._sight.fresh(STALE)
        now = self._clock.time()
        told = []
        for handle, one in found.items():
            passage = self._passages.get(handle)
            told.append(merged(one, passage, seen.pod(handle), seen.key, doomed=handle in self._doomed, now=now))
            self._last[handle] = one
        for handle, passage in self._passages.items():
            if handle not in found and handle in self._last and not passage.clear:
                told.append(merged(self._last[handle], passage, seen.pod(handle), seen.key, doomed=True, now=now))
        self._last = {handle: one for handle, one in self._last.items() if handle in found or handle in self._passages}
        return sorted(told, key=lambda one: (one.started_at, one.handle))

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Machines are ordered at once; the doomed first leave the home cluster, then their machines end. Raises ProviderError."""
        self._use()
        _, problem = await cancellable(asyncio.gather(self._first(), self._hindrance(desired)))
        facts = self.aws.facts()
        self._doomed = (self._doomed | doomed) & {*facts, *self._passages, *doomed}
        for handle in self._doomed & set(facts):
            self._passage(handle, facts[handle]).leave()
        staying = {handle for handle in self._doomed if handle in self._passages and not self._passages[handle].released}
        living = sum(one.living and handle not in self._doomed for handle, one in facts.items())
        if sum(desired.replicas.values()) <= living:
            problem = None
        if problem is not None:  # nothing is launched; whoever is to end ends nevertheless
            desired = Desired({})
        await self.aws.scale(desired, doomed - staying, frozenset(staying))
        self._wanted.set()
        if problem is not None:
            raise problem

    async def renew(self) -> None:
        """Leases of the machines; what is on its way out gets none. Raises ProviderError."""
        await self.aws.renew()

    async def quote(self) -> Quote | None:
        """The machine's: nothing else of the chain costs money."""
        return await self.aws.quote()

    async def close(self) -> None:
        """Stop all work. Machines that were to end are ended by name; what they leave in the home cluster the next object clears."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop}, timeout=5.0)
        await self._errands.stop()
        await self.aws.close()
        for passage in self._passages.values():
            await passage.close()
        if self._home is not None:
            home, self._home = self._home, None
            await home.close()

    async def _hindrance(self, desired: Desired) -> ProviderError | None:
        """Why home could not take a machine in at all, asked before one is paid for; None: it could."""
        if not any(desired.replicas.values()) or self._clock.monotonic() - self._received_at < RECEIVES_FOR:
            return None
        try:
            opened = await self._country.liqo.open(self._cluster(), self._country.space)
        except ProviderError as error:
            return error
        if opened.reason in _NEVER:
            what = opened.detail or f"The namespace {self._country.space} cannot be offloaded ({opened.reason})."
            return ProviderError(what, reason=WakeFailure.FEDERATION_FAILED, next_step=opened.next_step)
        self._received_at = self._clock.monotonic()
        return None

    # --- the work -----------------------------------------------------------------------------------------------------------------------

    def _use(self) -> None:
        self._used_at = self._clock.monotonic()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name=f"federation {self._country.pool}")

    def _cluster(self) -> Cluster:
        """Home's. Raises ProviderError."""
        if self._home is None:
            self._home = self._connect_home()
        return self._home

    async def _run(self) -> None:
        """For as long as a keeper asks."""
        while self._clock.monotonic() - self._used_at < ABANDONED_AFTER:
            try:
                await self._round()
            except LamplighterError as error:
                self._log.debug("the home cluster could not be looked at", error=error.message)
            except Exception:  # noqa: BLE001 - one defect must not leave machines unwatched; it is logged whole
                self._log.exception("a part of the federation broke, and is begun again")
            await self._clock.sleep(TICK)
            await self._clock.wait(self._wanted, self._pace())
            self._wanted.clear()

    def _pace(self) -> float:
        if any(passage.brisk for passage in self._passages.values()) or (self._busy and not self._passages):
            return MOVING
        return CALM if self._passages or self._busy else SWEEP

    async def _first(self) -> None:
        """The first look of this object's life, at both. Raises ProviderError."""
        if self._adopted:
            return
        await cancellable(asyncio.gather(self.aws.first(), self._first_home()))
        self._meet(self.aws.facts())
        self._adopted = True

    async def _first_home(self) -> None:
        async with self._looking:
            if self._sight.seen is None:
                await self._sight.look(self._passages)

    async def _round(self) -> None:
        await self._first()
        async with self._looking:
            seen = await self._sight.look(self._passages)
        facts = self.aws.facts()
        self._meet(facts)
        now = self._clock.monotonic()
        strays = {handle for handle in seen.records if handle not in self._passages and handle not in facts}
        self._strays = {handle: self._strays.get(handle, now) for handle in strays}
        for handle, since in self._strays.items():
            if now - since >= STRAY_AFTER:
                record = seen.records[handle]
                self._log.warning("a machine left something in the home cluster", handle=handle, instance=record.instance)
                self._passages[handle] = Passage(self._country, handle, record.instance, record.model)
        for handle, passage in list(self._passages.items()):
            self._errands.start(f"passage {handle}", self._step(passage, facts.get(handle), seen))

    def _meet(self, facts: Mapping[str, Facts]) -> None:
        """Begin, or adopt, whatever there is of each machine."""
        seen = self._sight.seen
        for handle, fact in facts.items():
            if seen is not None and (fact.living or handle in seen.records):
                self._passage(handle, fact).look(seen.pod(handle))

    def _passage(self, handle: str, facts: Facts) -> Passage:
        found = self._passages.get(handle)
        if found is None:
            found = self._passages[handle] = Passage(self._country, handle, facts.instance, facts.model)
        return found

    async def _step(self, passage: Passage, facts: Facts | None, seen: Seen) -> None:
        """One machine's next step, beside those of the others."""
        handle, record = passage.handle, seen.records.get(passage.handle)
        if facts is None or not facts.living or handle in self._doomed:
            try:
                await passage.depart(facts, record)
            finally:  # the home cluster may not answer; the machine must not wait for it
                if passage.released and handle in self._doomed and facts is not None and not passage.let_go:
                    await self.aws.release(frozenset({handle}))
                    passage.let_go = True
            if passage.clear and (facts is None or not facts.living):
                await passage.close()
                self._passages.pop(handle, None)
                self._doomed.discard(handle)
        else:
            await passage.enter(facts, record)


def home_access(federation: FederationConfig) -> Access:
    """How the home cluster is reached."""
    kubeconfig = None if federation.kubeconfig is None else Path(federation.kubeconfig)
    return Access(context=federation.context, kubeconfig=kubeconfig, namespace=federation.namespace)


__all__ = ["FederatedProvider", "home_access"]

"""The provider kind `aws`: GPU machines through a stack's Auto Scaling groups, joined over the mesh.

The truth is in AWS: orders and nodes are written down as tags (`picture`), decisions are pure (`decide`), and a new object adopts whatever
an earlier one began, in every phase. Capacity is only ever raised after AWS's own dead-man was told when to end it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from lamplighter.config import ModelConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.ids import new_id
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Engine
from lamplighter.providers.aws.admission import Admission, Authority, open_authority
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.aws.decide import Drop, Terms, excess, open_orders, owners, place
from lamplighter.providers.aws.duty import Contained, Duty
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT, Manifests
from lamplighter.providers.aws.nodes import Facts, Keys
from lamplighter.providers.aws.observing import CAPACITY, observations
from lamplighter.providers.aws.picture import Machine, Order, Picture
from lamplighter.providers.aws.poller import Poller
from lamplighter.providers.aws.prices import USUAL_BOOT, Prices
from lamplighter.providers.aws.quotas import Quotas
from lamplighter.providers.aws.reading import Writes
from lamplighter.providers.aws.renewing import Renewing
from lamplighter.providers.aws.watcher import Watcher
from lamplighter.providers.base import Desired, Observation, Presence, Quote

_log = structlog.get_logger(__name__)

STALE = 60.0
"""Age in seconds from which a picture is worth nothing."""
FRESH = 2.0
"""Age in seconds up to which a picture is good enough to act upon."""
PRICES_EVERY = 60.0
FOREVER = 3600.0
"""Idle time that a quote reckons with where a pool never sleeps: one hour."""


class AwsProvider:
    """One pool. `authority`: for tests, what certifies nodes instead of the mesh's online authority. `duty`: what its nodes are there for,
    unless they run the engine themselves.
    """

    def __init__(
        self,
        name: str,
        config: AwsPool,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        mesh: MeshConfig,
        data: Path,
        installation: str,
        clock: Clock,
        authority: Callable[[], Authority] | None = None,
        duty: Duty | None = None,
    ) -> None:
        self._duty = duty or Contained(models, engines)
        self.stages: tuple[str, ...] = (CAPACITY, *self._duty.stages)
        self._name = name
        self._config = config
        self._clock = clock
        self._aws = Aws(config.region, clock)
        self._manifests = Manifests(self._aws, config.stack, installation, clock)
        self._keys = Keys(data)
        writes = Writes(clock)
        self._groups = Groups(self._aws, clock, writes, name)
        self._admission = Admission(
            self._aws,
            self._groups,
            pool=name,
            duty=self._duty,
            mesh=mesh,
            keys=self._keys,
            authority=authority or (lambda: open_authority(data, mesh, clock)),
            clock=clock,
        )
        self.prices = Prices(self._aws, clock, config.instance_types)
        self._quotas = Quotas(self._aws, clock)
        self._poller = Poller(
            name,
            config,
            aws=self._aws,
            manifests=self._manifests,
            groups=self._groups,
            writes=writes,
            admission=self._admission,
            keys=self._keys,
            prices=self.prices,
            clock=clock,
        )
        self._renewing = Renewing(self._poller, self._manifests, self._groups, self._admission, self._keys, clock)
        self.watcher = Watcher(self._poller, self._aws, self._manifests, self._groups, data, clock)
        self._stillborn: dict[str, Observation] = {}
        """Launches that could not even become an order, while others of the same call could."""
        self._watching: asyncio.Task[None] | None = None
        self._pricing: asyncio.Task[None] | None = None
        self._priced_at = float("-inf")
        self._asked_price = asyncio.Event()
        self._log = _log.bind(pool=name)

    # --- the contract -------------------------------------------------------------------------------------------------------------------

    async def observe(self) -> Sequence[Observation]:
        """From the newest picture, at once; only the first call of an object's life asks AWS. Raises ProviderError when it is too old."""
        self._use()
        await self._poller.first()
        picture = self._picture()
        found = observations(
            picture,
            self._poller.nodes,
            self._poller.doomed,
            self._clock.time(),
            key=self._engine_key,
            rate=self.prices.rate,
            ended_since=self._poller.ended_since,
            names=self._duty.stages,
            serves=self._duty.serves,
        )
        return sorted((*found, *self._stillborn.values()), key=lambda one: (one.started_at, one.handle))

    async def scale(self, desired: Desired, doomed: frozenset[str], parting: frozenset[str] = frozenset()) -> None:
        """Write down the orders that are missing and raise capacity for them; ask the doomed to end. Raises ProviderError.

        A launch that would be refused (no quota, too dear, no mesh, an engine that cannot run there) is refused here, before it costs anything.

        `parting`: handles that are as good as doomed, whose machines somebody still needs for a moment. They are not ended yet, but no lease
        is renewed: should that moment never end, they end themselves.
        """
        self._use()
        await self._poller.first()
        for handle in doomed:
            self._stillborn.pop(handle, None)
        problem: ProviderError | None = None
        async with self._poller.lock:
            if self._clock.monotonic() - self._poller.picture_at > FRESH:
                await self._poller.look()
            picture = self._picture()
            known = set(open_orders(picture)) | set(owners(picture.machines))
            self._poller.doomed |= doomed & known
            self._poller.parting = parting & known
            leaving = doomed | parting
            wanted = place(picture, desired.replicas, leaving, await self._terms(), self._failed(picture))
            try:
                await self._order(wanted, desired.replicas, leaving)
            except ProviderError as error:
                problem = error
            await self._poller.act()
        self._poller.hurry()
        if problem is not None:
            raise problem

    async def renew(self) -> None:
        """Leases, AWS's dead-man, certificates and blocklists of everything that runs, as far as it is known. Raises ProviderError."""
        await self._renewing.renew()

    async def close(self) -> None:
        """Stop all work. What was to be ended is ended by name; everything else runs on, for the next object."""
        beside = [task for task in (self._watching, self._pricing) if task is not None]
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._poller.doomed |= self._poller.parting
        await self._poller.stop()

    async def quote(self) -> Quote | None:
        """The cheapest machine that may be taken, for as long as a wake usually takes and the pool then waits; from prices that are known."""
        self._asked_price.set()
        if (self._pricing is None or self._pricing.done()) and self._prices_are_due():
            self._pricing = asyncio.create_task(self._ask_prices(), name=f"aws prices {self._name}")
        idle = float(self._config.sleep_after)
        boots = self._poller.boots
        boot = sum(boots) / len(boots) if boots else USUAL_BOOT["baked" if self._config.image != "stock" else "stock"]
        market = self._config.market
        zones = self._config.zones
        quote = self.prices.quote(market, zones, boot + (FOREVER if idle == float("inf") else idle))
        if quote is None and market == SPOT:
            # Spot is never dearer than on-demand, so that bounds it.
            return self.prices.quote(ON_DEMAND, (), boot + (FOREVER if idle == float("inf") else idle))
        return quote

    # --- for whoever does more with a node ----------------------------------------------------------------------------------------------

    def facts(self) -> Mapping[str, Facts]:
        """The nodes of the newest picture, by handle. Raises ProviderError when it is too old."""
        picture = self._picture()
        by_id = {machine.id: machine for machine in picture.machines}
        found: dict[str, Facts] = {}
        for handle, instance in owners(picture.machines).items():
            machine, node = by_id[instance], self._poller.nodes.get(instance)
            ready = node is not None and node.ready_at is not None and node.failure is None
            found[handle] = Facts(machine.id, machine.kind, machine.model, machine.living, machine.gone, machine.overlay, ready)
        return found

    async def first(self) -> None:
        """See that there is a picture. Raises ProviderError."""
        self._use()
        await self._poller.first()

    async def release(self, handles: frozenset[str]) -> None:
        """End machines that were `parting`: nobody needs them any more. Raises ProviderError."""
        self._use()
        async with self._poller.lock:
            self._poller.parting -= handles
            self._poller.doomed |= handles & (set(open_orders(self._picture())) | set(owners(self._picture().machines)))
            await self._poller.act()
        self._poller.hurry()

    async def kubeconfig(self, handle: str, facts: Facts) -> str:
        """Of the cluster that a node has become, asked of its agent over the mesh. Raises ProviderError."""
        if facts.overlay is None:
            raise ProviderError(f"The machine {facts.instance} has no address in the mesh.")
        token = self._keys.agent(facts.instance, handle)
        return await self._poller.dialer.kubeconfig(facts.overlay, token)

    # --- orders -------------------------------------------------------------------------------------------------------------------------

    async def _order(self, models: Sequence[str], desired: Mapping[str, int], doomed: frozenset[str]) -> None:
        """Give one order for each of `models`; the caller holds the lock. Raises ProviderError."""
        if not models:
            return
        _, part = await self._manifests.pool(self._name)
        await self._admission.authority()
        models = self._that_can_run(models, part.instance_types[0])
        if not models:
            return
        market, note = await self._market(part.instance_types)
        now = self._clock.time()
        orders = [Order(new_id("aws"), model, now, now, note) for model in models]
        for order in orders:
            await self._groups.put(order, part.groups[market])
            self._log.info("ordered", handle=order.id, model=order.model, market=market)
        # Another keeper may have done the same at this moment: look again before anything is raised.
        picture = await self._poller.look()
        for handle in excess(picture, desired, {*doomed, *self._failed(picture)}, {order.id for order in orders}):
            self._log.warning("an order was given twice, and is withdrawn", handle=handle)
            await self._groups.do(Drop(handle, part.groups[market]), 0.0)
            await self._poller.look()

    def _that_can_run(self, models: Sequence[str], kind: str) -> list[str]:
        """Those of `models` whose engine can run on such a machine; the others are told as ended. Raises ProviderError when none can."""
        able: list[str] = []
        refused: dict[str, ProviderError] = {}
        for model in models:
            try:
                self._duty.prepare(model, kind)
                able.append(model)
            except LamplighterError as error:
                reason = getattr(error, "reason", WakeFailure.ENGINE_REFUSED)
                refused[model] = ProviderError(error.message, reason=reason, next_step=error.next_step)
        told = {model for one in self._stillborn.values() for model in one.models}
        fresh = {model: why for model, why in refused.items() if model not in told}
        if fresh and not able:
            raise next(iter(fresh.values()))
        for model, why in fresh.items():
            handle, now = new_id("aws"), self._clock.time()
            self._stillborn[handle] = Observation(
                handle, (model,), Presence.ENDED, failure=why.reason, detail=why.message, started_at=now
            )
        return able

    async def _market(self, types: Sequence[str]) -> tuple[str, str]:
        """Where to ask first, and a note for people. Raises ProviderError when the quota or the price forbids it."""
        market: str = self._config.market
        machines = self._picture().machines
        refused = await self._quotas.refused(market, types, machines)
        note = ""
        if refused and market == SPOT and self._config.on_no_capacity == ON_DEMAND:
            other = await self._quotas.refused(ON_DEMAND, types, machines)
            if other is None:
                market, note = ON_DEMAND, f"no quota for spot machines; taking an on-demand {(await self._terms()).on_demand}"
                refused = None
        if refused:
            raise ProviderError(
                refused, reason=WakeFailure.QUOTA, next_step="Ask AWS for a higher quota; that takes hours to days."
            )
        dear = self._poller.too_dear(market)
        if dear:
            raise ProviderError(
                f"The wake is refused: {dear}.",
                reason=WakeFailure.BUDGET,
                next_step=f"Raise pools.{self._name}.max_price, or wait.",
            )
        return market, note

    def _failed(self, picture: Picture) -> set[str]:
        """Handles of living nodes that will never serve."""
        nodes = self._poller.nodes
        return {m.replica for m in picture.machines if m.replica and m.id in nodes and nodes[m.id].failure is not None}

    # --- small things -------------------------------------------------------------------------------------------------------------------

    def _use(self) -> None:
        self._poller.use()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self.watcher.run(), name=f"aws watcher {self._name}")
        if (self._pricing is None or self._pricing.done()) and self._prices_are_due():
            self._pricing = asyncio.create_task(self._ask_prices(), name=f"aws prices {self._name}")

    async def _ask_prices(self) -> None:
        """Prices, quotas and the mesh's authority, before somebody waits for them."""
        self._priced_at = self._clock.monotonic()
        self._asked_price.clear()
        await self.prices.refresh()
        await self._quotas.refused(self._config.market, self._config.instance_types, ())
        with contextlib.suppress(ProviderError):  # a launch tells what is missing
            await self._admission.authority()

    def _prices_are_due(self) -> bool:
        """Once a minute while something runs, or somebody asks what it would cost; at rest once."""
        needed = self._asked_price.is_set() or self._priced_at < 0 or any(machine.living for machine in self._poller.machines)
        return needed and self._clock.monotonic() - self._priced_at >= PRICES_EVERY

    def _picture(self) -> Picture:
        """The newest. Raises ProviderError when it is too old to say anything."""
        picture = self._poller.picture
        if picture is None or self._clock.monotonic() - self._poller.picture_at > STALE:
            error = self._poller.error
            message = error.message if error is not None else "AWS has not answered for a minute."
            raise ProviderError(
                message,
                reason=error.reason if error is not None else WakeFailure.UNREACHABLE,
                next_step=error.next_step if error is not None else "Check this machine's connection to the internet.",
            )
        return picture

    async def _terms(self) -> Terms:
        _, part = await self._manifests.pool(self._name)
        return self._poller.terms(part)

    def _engine_key(self, machine: Machine) -> str:
        return self._keys.engine(machine.id, machine.replica)

"""Keeps one pool's picture fresh and does what follows from it, as long as somebody asks: fast while something moves, calmly while nodes run,
and at rest with two calls every half a minute, which cost nothing.

Everything that it remembers can be lost. Not responsible for the keeper's contract (`provider`), nor for any decision (`decide`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import Clock, cancellable
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.admission import Admission
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.aws.decide import Action, End, Terms, decide, open_orders, owners, surplus
from lamplighter.providers.aws.dial import Dialer, DialError
from lamplighter.providers.aws.ending import END_AGAIN, Ending
from lamplighter.providers.aws.errands import STOP_LIMIT, Errands
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.letters import Letters
from lamplighter.providers.aws.mailbox import Mailbox
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT, Manifests, PoolManifest
from lamplighter.providers.aws.nodes import Keys, Node
from lamplighter.providers.aws.picture import Machine, Picture
from lamplighter.providers.aws.prices import Prices, dollars
from lamplighter.providers.aws.reading import Writes, take

_log = structlog.get_logger(__name__)

MOVING, AWAKE, REST = 1.0, 10.0, 30.0
"""Seconds between two pictures: while something is on its way, while nodes run, while there is nothing."""
GAP = 0.2
"""Seconds between two pictures at the least, however much somebody wants one."""
DIAL_FAST, DIAL_CALM = 0.2, 2.0
"""Seconds between two questions to a node: until it serves, and then."""
TICK = 0.05
ABANDONED_AFTER = 45.0
"""Seconds without any call of the keeper after which nothing is done any more: another keeper leads."""
FAILED_FOR = 5.0
"""Seconds for which a first look that failed is not tried again for those who ask."""
ON_DEMAND_PATIENCE = 120.0
MESH_PATIENCE = 180.0
"""Seconds after its boot within which a node must be reached over the mesh."""


class Poller:
    """One pool's picture, nodes and unfinished work. `use` starts it; it stops by itself when nobody uses it."""

    def __init__(
        self,
        name: str,
        config: AwsPool,
        *,
        aws: Aws,
        manifests: Manifests,
        groups: Groups,
        writes: Writes,
        admission: Admission,
        keys: Keys,
        prices: Prices,
        clock: Clock,
    ) -> None:
        self.name = name
        self.picture: Picture | None = None
        self.picture_at = float("-inf")
        """Monotonic seconds."""
        self.nodes: dict[str, Node] = {}
        """By instance."""
        self.doomed: set[str] = set()
        """Handles whose end was asked for and is not proven."""
        self.parting: frozenset[str] = frozenset()
        """Handles whose machines end as soon as whoever needs them lets go; their leases are not renewed meanwhile."""
        self.ended_since: dict[str, float] = {}
        self.error: ProviderError | None = None
        """Why the last picture could not be taken."""
        self.boots: list[float] = []
        """Seconds of the wakes that this process saw to their end."""
        self.lock = asyncio.Lock()
        """Held while a picture is taken and acted upon."""
        self.dialer = Dialer()
        self._config = config
        self._aws = aws
        self._manifests = manifests
        self._groups = groups
        self._writes = writes
        self._keys = keys
        self._prices = prices
        self._clock = clock
        self.errands = Errands(name, clock)
        self._ending = Ending(self, manifests, groups, admission, keys, clock)
        self._letters = Letters(self, Mailbox(aws, clock, name), manifests, admission, clock)
        self._used_at = clock.monotonic()
        self._failed_at = float("-inf")
        self.busy_at = float("-inf")
        """When there last was anything (monotonic)."""
        self._wanted = asyncio.Event()
        self._surplus_since: dict[str, float] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._log = _log.bind(pool=name)

    # --- being used ---------------------------------------------------------------------------------------------------------------------

    def use(self) -> None:
        """Somebody asks: work, or go on working."""
        self._used_at = self._clock.monotonic()
        if not self._loops or all(loop.done() for loop in self._loops):
            work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
                self._look,
                self._dial,
                self._letters.read_nodes,
                self._letters.read_events,
            )
            self._loops = [asyncio.create_task(self._keep(one), name=f"aws {self.name}") for one in work]

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do one of the loops for as long as somebody asks, whatever breaks in it."""
        while self.used:
            try:
                await work()
            except Exception:  # noqa: BLE001 - one defect must not leave machines unwatched; it is logged whole
                self._log.exception("a part of the watch over AWS broke, and is begun again")
                await self._clock.sleep(MOVING)

    @property
    def used(self) -> bool:
        """Whether a keeper still asks; else everything is left to whoever leads now."""
        return self._clock.monotonic() - self._used_at < ABANDONED_AFTER

    def hurry(self) -> None:
        """A new picture is wanted at once."""
        self._wanted.set()

    async def stop(self) -> None:
        """End all work of this process; whatever was to be ended is ended by name, without waiting for its last words."""
        for loop in self._loops:
            loop.cancel()
        if (
            self._loops
        ):  # each ends at once, but for the call that it is in: that has limits of its own, and is not waited for beyond this one
            _, left = await asyncio.wait(self._loops, timeout=STOP_LIMIT)
            if left:
                self._log.warning("some work does not end", what=sorted(task.get_name() for task in left))
        self._loops = []
        await self.errands.stop()
        await self._ending.at_once()
        await self.dialer.close()

    # --- the picture --------------------------------------------------------------------------------------------------------------------

    async def first(self) -> None:
        """Take the first picture of this object's life, with what its nodes say now. Raises ProviderError."""
        async with self.lock:
            if self.picture is not None:
                return
            if self.error is not None and self._clock.monotonic() - self._failed_at < FAILED_FOR:
                raise self.error  # nobody waits twice for the same timeouts
            picture = await self.look()
            await self.act()
        manifest, _ = await self._manifests.pool(self.name)
        living = [machine for machine in picture.machines if machine.living and machine.overlay is not None]
        await cancellable(asyncio.gather(*(self._ask(machine) for machine in living)))
        if any(machine.replica for machine in picture.machines):
            try:
                await self._letters.catch_up(manifest)
            except ProviderError as error:
                self._log.debug("the nodes' queue could not be read", error=error.message)

    async def refresh(self) -> None:
        """Take a picture and do what follows. Raises ProviderError."""
        async with self.lock:
            await self._refresh()

    async def _refresh(self) -> None:
        await self.look()
        if self.used:
            await self.act()

    async def look(self) -> Picture:
        """Take a picture; the caller holds the lock. Raises ProviderError."""
        try:
            manifest, part = await self._manifests.pool(self.name)
            picture = await take(self._aws, self._clock, manifest, self.name, part, self._writes)
        except ProviderError as error:
            self.error, self._failed_at = error, self._clock.monotonic()
            raise
        self._accept(picture)
        return picture

    def _accept(self, picture: Picture) -> None:
        first = self.picture is None
        self.picture, self.picture_at, self.error = picture, self._clock.monotonic(), None
        ids = {machine.id for machine in picture.machines}
        self.nodes = {instance: node for instance, node in self.nodes.items() if instance in ids}
        now = self._clock.time()
        self._surplus_since = {instance: self._surplus_since.get(instance, now) for instance in surplus(picture)}
        dead = {machine.id for machine in picture.machines if not machine.living}
        unseen = float("-inf") if first else now
        self.ended_since = {instance: self.ended_since.get(instance, unseen) for instance in dead}
        self.doomed &= set(open_orders(picture)) | set(owners(picture.machines))
        if self.moving or any(machine.living for machine in picture.machines):
            self.busy_at = self._clock.monotonic()

    async def act(self) -> bool:
        """Do what follows from the picture, if anything; the caller holds the lock. Raises ProviderError."""
        assert self.picture is not None  # noqa: S101 - the caller took one
        _, part = await self._manifests.pool(self.name)
        actions = decide(self.picture, self.doomed, self.terms(part), self._clock.time(), self._surplus_since)
        until = self._clock.time() + max(part.boot_deadline, part.lease) + part.drain
        done = [action for action in actions if await self._do_action(action, until)]
        if done:
            await self.look()
        self._ending.push()
        return bool(actions)

    async def _do_action(self, action: Action, until: float) -> bool:
        """Do one action; whether it was done. What ends an instance may fail, and is tried again; anything else stops those that follow."""
        if not isinstance(action, End):
            await self._groups.do(action, until)
            return True
        if not self.errands.due(f"take {action.machine}", END_AGAIN):
            return False
        try:
            await self._groups.do(action, until)
        except ProviderError as error:
            self._log.warning(
                "an instance could not be ended, which is tried again", instance=action.machine, error=error.message
            )
            return False
        return True

    def terms(self, part: PoolManifest) -> Terms:
        """What the pool allows now."""
        config = self._config
        offers = self._prices.offers(ON_DEMAND)
        on_demand = f"{offers[0].kind} for {dollars(offers[0].hourly)}" if offers else "machine"
        dear = self.too_dear(ON_DEMAND) or ""
        patience = float(config.spot_patience)
        return Terms(
            maximum=part.maximum,
            patience={SPOT: patience, ON_DEMAND: max(patience, ON_DEMAND_PATIENCE)},
            fall_back=config.market == SPOT and config.on_no_capacity == ON_DEMAND,
            on_demand=on_demand,
            dear=dear,
        )

    def too_dear(self, market: str) -> str | None:
        """Why not even the cheapest machine of a market may be taken, without a full stop; None: it may, or its price is not known."""
        limit = self._config.max_price
        offers = self._prices.offers(market, self._config.zones)
        if limit is None or not offers or offers[0].hourly <= int(limit.money.amount * 10**9):
            return None
        return f"the cheapest {market} machine costs {dollars(offers[0].hourly)} ({offers[0].basis}), more than the pool's max_price of {limit}"

    @property
    def moving(self) -> bool:
        """Whether something is on its way: an order, a node that does not serve yet, an end."""
        picture = self.picture
        if picture is None:
            return True
        if any(order.failure is None for order, _ in open_orders(picture).values()) or self.doomed or self._surplus_since:
            return True
        for machine in picture.machines:
            node = self.nodes.get(machine.id)
            if machine.living and (node is None or node.ready_at is None or node.missed > 1):
                return True
            if not machine.living and not machine.gone:
                return True
        return any(group.desired > len(group.counted) for group in picture.groups)

    async def _look(self) -> None:
        """Pictures for as long as somebody asks."""
        failures = 0
        while self.used:
            pause = MOVING if self.moving else AWAKE if any(m.living for m in self.machines) else REST
            await self._clock.wait(self._wanted, pause if not failures else min(REST, MOVING * 2.0**failures))
            self._wanted.clear()
            await self._clock.sleep(GAP)
            try:
                await self.refresh()
                failures = 0
            except ProviderError as error:
                failures = min(failures + 1, 5)
                self._log.debug("AWS could not be looked at", error=error.message)  # whoever observes is told, and warns

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Those of the last picture."""
        return self.picture.machines if self.picture is not None else ()

    # --- nodes --------------------------------------------------------------------------------------------------------------------------

    def node(self, machine: Machine) -> Node:
        """What is known of an instance."""
        return self.nodes.setdefault(machine.id, Node(machine.id))

    async def _dial(self) -> None:
        """Ask every node how it is, each at its own pace."""
        while self.used:
            await self._clock.sleep(TICK)
            for machine in self.machines:
                if not (machine.living and machine.overlay is not None and machine.replica):
                    continue
                node = self.node(machine)
                pace = DIAL_FAST if node.ready_at is None and node.missed < 300 else DIAL_CALM
                if self._clock.monotonic() - node.asked_at >= pace:
                    self.errands.start(f"ask {machine.id}", self._ask(machine))

    async def _ask(self, machine: Machine) -> None:
        node = self.node(machine)
        node.asked_at = self._clock.monotonic()
        assert machine.overlay is not None  # noqa: S101 - only such are asked
        try:
            token = self._keys.agent(machine.id, machine.replica)
            status = await self.dialer.status(machine.overlay, token, timeout=2.0)
        except DialError:
            node.missed += 1
            self._judge_mesh(machine, node)
            if node.met_at is not None and node.missed == 2:
                self.hurry()  # it may be gone
            return
        except ProviderError as error:
            self._log.warning("a node cannot be asked", instance=machine.id, error=error.message)
            return
        if status.instance != machine.id:
            return  # an address that had another node a moment ago
        was_ready, first = node.ready_at is not None, node.met_at is None
        node.hear(status, self._clock.time())
        if node.ready_at is not None and not was_ready and machine.ordered_at:
            self.boots = [*self.boots[-9:], node.ready_at - machine.ordered_at]
        if first:  # from now on the lease bounds it, and not the boot deadline: the next renewal may be seconds away
            self.errands.start(f"lease {machine.id}", self._first_lease(machine, token))

    async def _first_lease(self, machine: Machine, token: str) -> None:
        assert machine.overlay is not None  # noqa: S101 - it was just asked there
        _, part = await self._manifests.pool(self.name)
        await self.dialer.lease(machine.overlay, token, part.lease)

    def _judge_mesh(self, machine: Machine, node: Node) -> None:
        """Whether it is time to say that a node that has everything will not be reached."""
        booted = node.reports.get("boot")
        if node.met_at is not None or node.failure is not None or booted is None or booted.ended_at is None:
            return
        if self._clock.time() - max(booted.ended_at, node.assigned_at or 0.0) > MESH_PATIENCE:
            node.refuse(
                WakeFailure.MESH_TIMEOUT,
                f"The machine has its certificate, and does not answer at {machine.overlay} within {MESH_PATIENCE:.0f} s; "
                "`lamplighter mesh check` tells whether this machine's own mesh is well.",
            )

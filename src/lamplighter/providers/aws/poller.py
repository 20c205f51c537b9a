"""Keeps one pool's picture fresh and does what follows from it, as long as somebody asks: fast while something moves, calmly while nodes run,
and at rest with two calls every half a minute, which cost nothing.

Everything that it remembers can be lost. Not responsible for the keeper's contract (`provider`), nor for any decision (`decide`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.providers.aws.admission import Admission
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.aws.decide import Terms, decide, open_orders, owners, surplus
from lamplighter.providers.aws.dial import Dialer, DialError
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.mailbox import Letter, Mailbox, notice_of
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT, Manifest, Manifests, PoolManifest
from lamplighter.providers.aws.nodes import Keys, Node
from lamplighter.providers.aws.picture import Machine, Picture
from lamplighter.providers.aws.prices import Prices, dollars
from lamplighter.providers.aws.reading import Writes, take

_log = structlog.get_logger(__name__)

MOVING, AWAKE, REST = 1.0, 10.0, 30.0
"""Seconds between two pictures: while something is on its way, while nodes run, while there is nothing."""
GAP = 0.2
"""Seconds between two pictures at the least, however much somebody wants one."""
DIAL_FAST, DIAL_CALM = 0.3, 2.0
"""Seconds between two questions to a node: until it serves, and then."""
TICK = 0.1
ABANDONED_AFTER = 45.0
"""Seconds without any call of the keeper after which nothing is done any more: another keeper leads."""
ON_DEMAND_PATIENCE = 120.0
END_GRACE = 4.0
"""Seconds that a node has, once asked, to save its logs and end itself before it is ended by name."""
END_AGAIN = 5.0
FOREIGN_FOR = 60.0
LETTERS_AFTER = 60.0
"""Seconds for which the queues are still read after the last node is gone."""


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
        self._admission = admission
        self._keys = keys
        self._prices = prices
        self._clock = clock
        self._mailbox = Mailbox(aws, clock, name)
        self._used_at = clock.monotonic()
        self._busy_at = float("-inf")
        self._wanted = asyncio.Event()
        self._surplus_since: dict[str, float] = {}
        self._foreign: dict[str, float] = {}
        self._tried: dict[str, float] = {}
        """By instance or handle: when its end, its burial, a question to it was last tried (monotonic)."""
        self._settled: set[str] = set()
        """Instances that are buried, and handles that AWS was told to forget."""
        self._loops: list[asyncio.Task[None]] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = _log.bind(pool=name)

    # --- being used ---------------------------------------------------------------------------------------------------------------------

    def use(self) -> None:
        """Somebody asks: work, or go on working."""
        self._used_at = self._clock.monotonic()
        if not self._loops or all(loop.done() for loop in self._loops):
            work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
                self._look,
                self._dial,
                self._read_nodes,
                self._read_events,
            )
            self._loops = [asyncio.create_task(one(), name=f"aws {self.name}") for one in work]

    @property
    def used(self) -> bool:
        """Whether a keeper still asks; else everything is left to whoever leads now."""
        return self._clock.monotonic() - self._used_at < ABANDONED_AFTER

    def hurry(self) -> None:
        """A new picture is wanted at once."""
        self._wanted.set()

    async def stop(self) -> None:
        """End all work of this process; whatever was to be ended is ended by name, without waiting for its last words."""
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loops, self._tasks = [], {}
        doomed = [m for m in (self.picture.machines if self.picture else ()) if m.living and m.replica in self.doomed]
        for result in await asyncio.gather(*(self._terminate(machine) for machine in doomed), return_exceptions=True):
            if isinstance(result, BaseException):
                self._log.warning("an instance could not be ended; its lease ends it", error=str(result))
        await self.dialer.close()

    # --- the picture --------------------------------------------------------------------------------------------------------------------

    async def first(self) -> None:
        """Take the first picture of this object's life, with what its nodes say now. Raises ProviderError."""
        async with self.lock:
            if self.picture is not None:
                return
            picture = await self.look()
            await self.act()
        manifest, _ = await self._manifests.pool(self.name)
        living = [machine for machine in picture.machines if machine.living and machine.overlay is not None]
        await asyncio.gather(*(self._ask(machine) for machine in living))
        if any(machine.replica for machine in picture.machines):
            try:
                while await self._mailbox.nodes(manifest, self._from_node, wait=0):
                    continue
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
            self.error = error
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
            self._busy_at = self._clock.monotonic()

    async def act(self) -> bool:
        """Do what follows from the picture, if anything; the caller holds the lock. Raises ProviderError."""
        assert self.picture is not None  # noqa: S101 - the caller took one
        _, part = await self._manifests.pool(self.name)
        actions = decide(self.picture, self.doomed, self.terms(part), self._clock.time(), self._surplus_since)
        until = self._clock.time() + max(part.boot_deadline, part.lease) + part.drain
        for action in actions:
            await self._groups.do(action, until)
        if actions:
            await self.look()
        self.end_doomed()
        self._bury_the_dead()
        return bool(actions)

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
                self._log.warning("AWS could not be looked at", error=error.message)

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
                    self._do(f"ask {machine.id}", self._ask(machine))

    async def _ask(self, machine: Machine) -> None:
        node = self.node(machine)
        node.asked_at = self._clock.monotonic()
        assert machine.overlay is not None  # noqa: S101 - only such are asked
        try:
            token = self._keys.agent(machine.id, machine.replica)
            status = await self.dialer.status(machine.overlay, token, timeout=2.0)
        except DialError:
            node.missed += 1
            if node.met_at is not None and node.missed == 2:
                self.hurry()  # it may be gone
            return
        except ProviderError as error:
            self._log.warning("a node cannot be asked", instance=machine.id, error=error.message)
            return
        if status.instance != machine.id:
            return  # an address that had another node a moment ago
        was_ready = node.ready_at is not None
        node.hear(status, self._clock.time())
        if node.ready_at is not None and not was_ready and machine.ordered_at:
            self.boots = [*self.boots[-9:], node.ready_at - machine.ordered_at]

    # --- letters ------------------------------------------------------------------------------------------------------------------------

    async def _read_nodes(self) -> None:
        await self._letters(lambda manifest: self._mailbox.nodes(manifest, self._from_node))

    async def _read_events(self) -> None:
        await self._letters(lambda manifest: self._mailbox.events(manifest, self._about_node))

    async def _letters(self, receive: Callable[[Manifest], Awaitable[int]]) -> None:
        while self.used:
            if self._clock.monotonic() - self._busy_at > LETTERS_AFTER:
                await self._clock.sleep(MOVING)
                continue
            try:
                manifest, _ = await self._manifests.pool(self.name)
                await receive(manifest)
            except ProviderError as error:
                self._log.warning("a queue could not be read", error=error.message)
                await self._clock.sleep(2 * MOVING)

    async def _from_node(self, letter: Letter) -> bool:
        """What a node says. False: it is no node of this pool."""
        machine = await self._known(letter.instance)
        if machine is None:
            return False
        node = self.node(machine)
        if letter.body.get("kind") != "hello":
            node.told(letter.body)
            if letter.body.get("kind") == "end":
                self.hurry()
            return True
        key = letter.body.get("public_key")
        if not isinstance(key, str) or not machine.living or not machine.replica or machine.replica in self.doomed:
            return True
        if node.met_at is not None and node.public_key not in ("", key):
            self._log.warning("a node that runs asked for a certificate for another key, and gets none", instance=machine.id)
            return True
        if node.failure is not None or (
            node.assigned_at is not None and self._clock.time() - node.assigned_at < 10 and node.public_key == key
        ):
            return True
        node.public_key = key
        manifest, part = await self._manifests.pool(self.name)
        used = [other.overlay for other in self.machines if other.overlay is not None and other.living and other.id != machine.id]
        await self._admission.admit(manifest, part, machine, node, used)
        self.hurry()
        return True

    async def _about_node(self, letter: Letter) -> bool:
        """What AWS says of an instance."""
        machine = await self._known(letter.instance)
        if machine is None:
            return False
        notice = notice_of(letter.body, letter.sent_at or self._clock.time())
        node = self.node(machine)
        if notice is not None and (node.notice is None or not node.notice.certain):
            self._log.warning(
                "AWS takes a machine back" if notice.certain else "AWS recommends to leave a machine", instance=machine.id
            )
            node.notice = notice
        self.hurry()
        return True

    async def _known(self, instance: str) -> Machine | None:
        """The instance, if it is one of this pool; a new picture is taken for one that is new."""
        machine = self.picture.machine(instance) if self.picture is not None else None
        fresh = machine is not None and (machine.replica or not machine.living)
        now = self._clock.monotonic()
        if not fresh and now - self._foreign.get(instance, float("-inf")) > FOREIGN_FOR:
            await self.refresh()
            machine = self.picture.machine(instance) if self.picture is not None else None
            if machine is None:
                self._foreign = {other: at for other, at in self._foreign.items() if now - at < FOREIGN_FOR} | {instance: now}
        return machine

    # --- ending -------------------------------------------------------------------------------------------------------------------------

    def end_doomed(self) -> None:
        """Push every doomed instance that lives towards its end."""
        for machine in self.machines:
            if machine.living and machine.replica in self.doomed and self._due(f"end {machine.id}", END_AGAIN):
                self._do(f"end {machine.id}", self._end(machine))

    async def _end(self, machine: Machine) -> None:
        """Ask the node, which saves its logs; if it does not end itself soon, end it by name."""
        node = self.node(machine)
        if node.met_at is not None and machine.overlay is not None:
            try:
                await self.dialer.end(machine.overlay, self._keys.agent(machine.id, machine.replica), "asked", timeout=1.5)
                until = self._clock.monotonic() + END_GRACE
                while self._clock.monotonic() < until:
                    self.hurry()
                    await self._clock.sleep(2 * GAP)
                    now = self.picture.machine(machine.id) if self.picture is not None else None
                    if now is None or not now.living:
                        return
            except ProviderError as error:
                self._log.debug("a node could not be asked to end itself", instance=machine.id, error=error.message)
        await self._terminate(machine)
        self.hurry()

    async def _terminate(self, machine: Machine) -> None:
        await self._groups.end(machine.id, machine.group)

    def _bury_the_dead(self) -> None:
        """Revoke what dead instances held, and let AWS forget those whose end the keeper knows of."""
        for machine in self.machines:
            if not machine.gone:
                continue
            if machine.id not in self._settled and machine.replica and self._due(f"bury {machine.id}", END_AGAIN):
                self._do(f"bury {machine.id}", self._bury(machine))
            forget = machine.replica in self.doomed and machine.replica not in self._settled
            if forget and self._due(f"forget {machine.id}", END_AGAIN):
                self._do(f"forget {machine.id}", self._forget(machine))

    async def _bury(self, machine: Machine) -> None:
        manifest, _ = await self._manifests.pool(self.name)
        await self._admission.bury(manifest, machine)
        self._settled.add(machine.id)

    async def _forget(self, machine: Machine) -> None:
        await self._groups.forget(machine.id)
        self._settled.add(machine.replica)

    def _due(self, what: str, every: float) -> bool:
        now = self._clock.monotonic()
        if now - self._tried.get(what, float("-inf")) < every:
            return False
        self._tried[what] = now
        return True

    def _do(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, unless it is being done; what fails is logged, and tried again when it is due."""
        running = self._tasks.get(name)
        if running is not None and not running.done():
            work.close()
            return
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        self._tasks[name] = asyncio.create_task(self._logged(name, work), name=name)

    async def _logged(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LamplighterError as error:
            self._log.warning("something could not be done, and is tried again", what=name, error=error.message)

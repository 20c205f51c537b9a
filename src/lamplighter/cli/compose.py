"""Puts an installation together: the store, a gateway and a keeper (or one of them) in a process, engines and providers by their kind.

Not responsible for which class a kind is (`kinds`), for sockets, signals or what is printed (`serve`), nor for any behaviour.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import structlog

from lamplighter.capacity.keeper import Keeper
from lamplighter.cli.keeper_port import KeeperPort
from lamplighter.cli.kinds import engines, provider
from lamplighter.cli.roles import Role
from lamplighter.cli.supervise import supervise
from lamplighter.config import (
    CommandPool,
    Config,
    ModelConfig,
    ProcessPool,
)
from lamplighter.config.secrets import resolve
from lamplighter.config.store import StoreConfig
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.errors import StoreError
from lamplighter.core.ids import new_id
from lamplighter.engines import memory
from lamplighter.engines.catalogue import weak_note
from lamplighter.gateway.app import Gateway
from lamplighter.observability.metrics import Metrics
from lamplighter.operations.datafolder import DataFolder
from lamplighter.store import demand, overlay, principals
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store

_READ_TIMEOUT = 5.0
_SKEW = 2.0
"""Seconds that this machine's clock may differ from the database's before we say so."""

_log = structlog.get_logger(__name__)


class LiveModels:
    """The models in force, the overlay's included, for providers: they ask from their own threads and must never act on an old list.

    Called from a thread it reads the store through the loop; called on the loop itself, which must not wait, it gives the newest known.
    """

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._known: Mapping[str, ModelConfig] = dict(config.models)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def __call__(self) -> Mapping[str, ModelConfig]:
        if threading.get_ident() != self._thread:
            reading = asyncio.run_coroutine_threadsafe(self.refresh(), self._loop)
            with contextlib.suppress(TimeoutError, StoreError):
                reading.result(_READ_TIMEOUT)
        return self._known

    async def refresh(self) -> None:
        """Read the overlay now. Raises StoreError."""
        self._known = await overlay.effective(self._store, self._config)

    async def follow(self) -> None:
        """Read at every change, for ever."""
        with self._store.bus.subscribe(Topic.MODELS) as changes:
            while True:
                await self.refresh()
                await changes.wait()


async def open_store(config: StoreConfig, folder: DataFolder, clock: Clock) -> Store:
    """The store of an installation: PostgreSQL if the configuration names one, else the data folder's file. Raises ConfigError, StoreError."""
    if config.url is None:
        return await Store.open(folder.store, clock)
    from lamplighter.store.postgres import Access  # late: who runs on SQLite shall not pay for it

    access = Access(
        url=resolve(config.url, where="store.url"),
        listen_url=resolve(config.listen_url, where="store.listen_url") if config.listen_url is not None else None,
        pool_size=config.pool_size,
        connect_timeout=float(config.connect_timeout),
        statement_timeout=float(config.statement_timeout),
    )
    store = await Store.connect(access, clock)
    try:
        if abs(skew := await store.skew()) > _SKEW:
            _log.warning(
                "this machine's clock is not the database's: leases and heartbeats are judged wrongly",
                ahead=round(-skew, 1),
                next_step="Set the clocks of all machines by NTP.",
            )
    except BaseException:
        await store.close()
        raise
    return store


class Installation:
    """The planes of one installation that this process runs. Make one with `Installation.open`; leaving its context ends everything in order."""

    def __init__(self, config: Config, folder: DataFolder, store: Store, clock: Clock, role: Role = Role.BOTH) -> None:
        self._config = config
        self._folder = folder
        self._store = store
        self._clock = clock
        self._kinds = engines()
        self.metrics = Metrics()
        self._models = LiveModels(store, config)
        self._providers = {
            name: provider(name, pool, config=config, models=self._models, data=folder.root, installation=store.installation, kinds=self._kinds, clock=clock)
            for name, pool in config.pools.items()
            if role.keeps
        }  # fmt: skip
        self._role = role
        self._gateway = Gateway(config, store, clock, self._kinds, metrics=self.metrics) if role.serves else None
        self._keeper: Keeper | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: Config, folder: DataFolder, role: Role = Role.BOTH) -> AsyncIterator[Self]:
        """Open the store and start what `role` says; at the end, end the engines and close it. Raises ConfigError, StoreError."""
        clock = SystemClock()
        store = await open_store(config.store, folder, clock)
        try:
            installation = cls(config, folder, store, clock, role)
            try:
                await installation._start()
                yield installation
            finally:
                await installation._stop()
        finally:
            await store.close()

    @property
    def gateway(self) -> Gateway:
        """The gateway of this process. Raises RuntimeError in a process that is none."""
        if self._gateway is None:
            raise RuntimeError("this process is a keeper only")
        return self._gateway

    @property
    def asgi(self) -> Callable[..., Any]:
        """The gateway's ASGI application; a keeper's own shows only how it is."""
        if self._gateway is None:
            return KeeperPort(self._config, self._store, self.metrics, lambda: self._keeper.term if self._keeper else None)
        return self._gateway.asgi

    @property
    def admin_asgi(self) -> Callable[..., Any]:
        """The same for the admin port."""
        return self.gateway.admin_asgi

    async def first_keys(self, preset: str | None) -> str | None:
        """Make sure that an admin key and the command line's own exist; the key to show now, if one was made. Raises ConfigError."""
        made = await principals.ensure_first_key(self._store, preset=preset)
        machine = f"{socket.gethostname()}:{self._folder.root}" if self._store.shared else None
        key = await principals.ensure_cli_key(self._store, self._folder.read_cli_key(), machine=machine)
        self._folder.write_private(self._folder.cli_key, f"{key}\n")
        await self.gateway.keyring.refresh()
        return made

    async def login_link(self, url: str) -> str:
        """A new one-time link into the page."""
        token, _ = await principals.create_login_token(self._store)
        return f"{url}/#login={token}"

    def weak_note(self) -> str | None:
        """A word about the first model whose answers are weak, if there is one."""
        total, cores = memory.total(), os.cpu_count() or 1
        notes = ((name, weak_note(model, total, cores)) for name, model in self._config.models.items())
        return next((f"{name}: {note}" for name, note in notes if note), None)

    async def leave(self) -> None:
        """Tell load balancers to look elsewhere, and go on taking what they send until they have noticed."""
        self.gateway.leave()
        await self._clock.sleep(self._config.server.shutdown_delay)

    async def drain(self) -> None:
        """Take no new requests; let running answers finish within the grace of the configuration."""
        if self._gateway is not None:
            await self._gateway.drain(self._config.server.shutdown_grace)

    def _new_keeper(self) -> Keeper:
        return Keeper(
            self._config,
            self._store,
            self._clock,
            self._providers,
            self._kinds,
            holder=new_id("kpr"),
            force_lead=not self._store.shared,  # with SQLite the lock of the data folder proves that any earlier holder is dead
            host=self._host(),
            metrics=self.metrics,
        )

    def _host(self) -> str | None:
        """Where engines run, or machines were woken, that only a keeper of this data folder knows of; None when there are none."""
        if self._store.shared and any(isinstance(pool, ProcessPool | CommandPool) for pool in self._config.pools.values()):
            return hashlib.sha256(f"{socket.gethostname()}:{self._folder.root}".encode()).hexdigest()[:32]
        return None

    async def _start(self) -> None:
        if not self._store.shared:
            await demand.bury(self._store)  # else a gateway that was killed would go on asking until its heartbeat is too old
        await self._models.refresh()
        if self._gateway is not None:
            await self._gateway.start()
        if not self._role.keeps:
            return
        self._tasks = [
            asyncio.create_task(supervise("keeper", self._keep, self._clock), name="keeper"),
            asyncio.create_task(supervise("list of models", self._models.follow, self._clock), name="models"),
        ]

    async def _keep(self) -> None:
        """One life of the keeper: after a crash the next one begins with nothing in memory, as after a restart."""
        self._keeper = self._new_keeper()
        await self._keeper.run()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gateway is not None:
            await self._gateway.stop()
        if self._keeper is not None:
            await self._keeper.shutdown(end=True)
        for one in self._providers.values():
            await one.close()

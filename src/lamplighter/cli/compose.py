"""Puts an installation together: the store, a gateway and a keeper in one process, engines and providers by their kind.

The one place that knows every kind. Not responsible for sockets, signals or what is printed (`serve`), nor for any behaviour.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

from lamplighter.capacity.keeper import Keeper
from lamplighter.cli.supervise import supervise
from lamplighter.config import Config, FakePool, ModelConfig, PoolConfig, ProcessPool, StaticPool
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.errors import StoreError
from lamplighter.core.ids import new_id
from lamplighter.engines import memory
from lamplighter.engines.base import Engine
from lamplighter.engines.catalogue import weak_note
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.gateway.app import Gateway
from lamplighter.observability.metrics import Metrics
from lamplighter.operations.datafolder import DataFolder
from lamplighter.providers.base import Provider
from lamplighter.providers.process.provider import ProcessProvider
from lamplighter.providers.static import StaticProvider
from lamplighter.store import demand, overlay, principals
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store

_READ_TIMEOUT = 5.0


def engines() -> Mapping[str, Engine]:
    """Every kind of engine, by its name in the configuration."""
    from lamplighter.testing.provider import FakeEngineKind

    kinds: tuple[Engine, ...] = (LlamaCpp(), OpenAICompatible(), FakeEngineKind())
    return {engine.kind: engine for engine in kinds}


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


def provider(
    name: str, pool: PoolConfig, *, models: LiveModels, data: Path, installation: str, kinds: Mapping[str, Engine], clock: Clock
) -> Provider:  # fmt: skip
    """The provider of one pool, by its kind."""
    match pool:
        case ProcessPool():
            return ProcessProvider(name, models=models, engines=kinds, data=data, installation=installation, clock=clock)
        case StaticPool():
            return StaticProvider(name, pool, models=models)
        case FakePool():
            from lamplighter.testing.provider import FakeProvider

            return FakeProvider(name, pool, models=models, installation=installation, clock=clock)


class Installation:
    """Both planes of one installation, running. Make one with `Installation.open`; leaving its context ends everything in order."""

    def __init__(self, config: Config, folder: DataFolder, store: Store, clock: Clock) -> None:
        self._config = config
        self._folder = folder
        self._store = store
        self._clock = clock
        self._kinds = engines()
        self._metrics = Metrics()
        self._models = LiveModels(store, config)
        self._providers = {
            name: provider(
                name, pool, models=self._models, data=folder.root, installation=store.installation, kinds=self._kinds, clock=clock
            )
            for name, pool in config.pools.items()
        }  # fmt: skip
        self._gateway = Gateway(config, store, clock, self._kinds, metrics=self._metrics)
        self._keeper: Keeper | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: Config, folder: DataFolder) -> AsyncIterator[Self]:
        """Open the store and start both planes; at the end, end the engines and close it. Raises StoreError."""
        clock = SystemClock()
        store = await Store.open(folder.store, clock)
        try:
            installation = cls(config, folder, store, clock)
            try:
                await installation._start()
                yield installation
            finally:
                await installation._stop()
        finally:
            await store.close()

    @property
    def asgi(self) -> Callable[..., Any]:
        """The gateway's ASGI application."""
        return self._gateway.asgi

    @property
    def admin_asgi(self) -> Callable[..., Any]:
        """The same for the admin port."""
        return self._gateway.admin_asgi

    async def first_keys(self, preset: str | None) -> str | None:
        """Make sure that an admin key and the command line's own exist; the key to show now, if one was made. Raises ConfigError."""
        made = await principals.ensure_first_key(self._store, preset=preset)
        key = await principals.ensure_cli_key(self._store, self._folder.read_cli_key())
        self._folder.write_private(self._folder.cli_key, f"{key}\n")
        await self._gateway.keyring.refresh()
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

    async def drain(self) -> None:
        """Take no new requests; let running answers finish within the grace of the configuration."""
        await self._gateway.drain(self._config.server.shutdown_grace)

    def _new_keeper(self) -> Keeper:
        return Keeper(
            self._config,
            self._store,
            self._clock,
            self._providers,
            self._kinds,
            holder=new_id("kpr"),
            force_lead=True,  # the lock of the data folder proves that any earlier holder is dead
            metrics=self._metrics,
        )

    async def _start(self) -> None:
        await demand.bury(self._store)  # else a gateway that was killed would go on asking until its heartbeat is too old
        await self._models.refresh()
        await self._gateway.start()
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
        await self._gateway.stop()
        if self._keeper is not None:
            await self._keeper.shutdown(end=True)
        for one in self._providers.values():
            await one.close()

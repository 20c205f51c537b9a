"""A whole small world on the virtual clock: a store, one or more pools of doubles, a keeper, and what gateways report."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.capacity.keeper import Keeper
from lamplighter.config import Config
from lamplighter.core.states import ReplicaState
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Provider
from lamplighter.store import demand, replicas, wakes
from lamplighter.store.demand import GatewayDemand
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store
from lamplighter.store.wakes import Wake
from lamplighter.testing.clock import VirtualClock
from tests.unit.capacity.doubles import Cloud, Doctor, FixedServer


@dataclass
class World:
    """What a test moves and looks at. The pool of doubles is named `cloud`."""

    clock: VirtualClock
    store: Store
    config: Config
    cloud: Cloud
    doctor: Doctor
    providers: dict[str, Provider]
    keeper: Keeper
    metrics: Metrics
    task: asyncio.Task[None] | None = None
    gateways: dict[str, dict[str, GatewayDemand]] = field(default_factory=dict)

    def start(self) -> None:
        """Let the keeper run."""
        self.task = asyncio.create_task(self.keeper.run())

    async def kill(self) -> None:
        """`kill -9`: the keeper's process is no more; nothing is said, released or ended."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            self.task = None

    async def restart(self, config: Config | None = None) -> None:
        """A new process on the same store and the same machines."""
        await self.kill()
        self.config = config or self.config
        self.keeper = new_keeper(self.config, self.store, self.clock, self.providers, self.doctor, self.metrics, force=True)
        self.start()

    async def ask(self, model: str, *, queued: int = 0, in_flight: int = 0, gateway: str = "g1", **more: Any) -> None:
        """What the gateway reports of `model` from now on; a waiting request is told to the keeper at once."""
        now = self.clock.time()
        if queued and "oldest_queued_at" not in more:
            before = self.gateways.get(gateway, {}).get(model)
            more["oldest_queued_at"] = before.oldest_queued_at if before and before.oldest_queued_at else now
        row = GatewayDemand(model, queued=queued, in_flight=in_flight, **more)
        self.gateways.setdefault(gateway, {})[model] = row
        await demand.report(self.store, gateway, [row], wake=[model] if queued or row.wanted_until else [])

    async def beat(self, seconds: float, every: float = 5.0) -> None:
        """Let time pass while the gateways live."""
        left = seconds
        while left > 0:
            for gateway in self.gateways:
                await demand.heartbeat(self.store, gateway)
            await self.clock.advance(min(every, left))
            left -= every

    async def serve(self, model: str, seconds: float) -> None:
        """One request that waits for the model and then runs for `seconds`; the gateway lives all the while."""
        await self.ask(model, queued=1)
        for _ in range(1000):
            if any(r.state is ReplicaState.READY and model in r.models for r in await self.replicas()):
                break
            await self.beat(0.1)
        else:
            raise AssertionError(f"{model} never became ready")
        await self.ask(model, in_flight=1)
        await self.beat(seconds)
        await self.done(model)

    async def done(self, model: str) -> None:
        """The last answer ended just now."""
        await self.ask(model, last_ended_at=self.clock.time())

    async def ack(self) -> None:
        """Every gateway lets go of what drains."""
        for replica in await self.replicas():
            if replica.state is ReplicaState.DRAINING:
                for gateway in self.gateways:
                    await replicas.acknowledge_drain(self.store, replica.id, gateway, replica.epoch)

    async def replicas(self) -> list[Replica]:
        return await replicas.living(self.store)

    async def states(self) -> list[str]:
        return [replica.state.value for replica in await self.replicas()]

    async def wake(self, model: str, pool: str = "cloud") -> Wake:
        return (await wakes.latest(self.store))[(pool, model)]


def tree(pools: Mapping[str, Mapping[str, Any]], models: Mapping[str, str], **keeper: Any) -> Config:
    """A configuration of pools (by name) and models (name -> pool)."""
    kinds = {name: pool.get("kind", "fake") for name, pool in pools.items()}
    return Config.model_validate(
        {
            "pools": {name: {"kind": "fake", **pool} for name, pool in pools.items()},
            "models": {
                name: {"engine": "openai" if kinds[pool] == "static" else "fake", "pool": pool} for name, pool in models.items()
            },
            "keeper": keeper,
        }
    )


def new_keeper(
    config: Config,
    store: Store,
    clock: VirtualClock,
    providers: Mapping[str, Provider],
    doctor: Doctor,
    metrics: Metrics,
    *,
    holder: str = "k1",
    force: bool = False,
) -> Keeper:
    engines = {"fake": doctor, "openai": doctor}
    return Keeper(config, store, clock, providers, engines, holder=holder, force_lead=force, metrics=metrics)


@asynccontextmanager
async def world(
    config: Config | None = None, *, path: Path | None = None, run: bool = True, kind: type[Cloud] = Cloud, **cloud: Any
) -> AsyncIterator[World]:
    """A world whose keeper runs (unless `run` is false), with one model `m` in the pool `cloud` unless told otherwise."""
    clock = VirtualClock()
    store = await Store.open(path, clock)
    config = config or tree({"cloud": {"sleep_after": "60s"}}, {"m": "cloud"})
    machines, metrics = kind(clock, **cloud), Metrics(process=False)
    doctor = Doctor(clock)
    providers: dict[str, Provider] = {}
    for name, pool in config.pools.items():
        if pool.kind == "static":
            providers[name] = FixedServer(clock)
        else:
            other = machines if name == "cloud" else Cloud(clock)
            doctor.clouds.append(other)
            providers[name] = other
    keeper = new_keeper(config, store, clock, providers, doctor, metrics)
    here = World(clock, store, config, machines, doctor, providers, keeper, metrics)
    if run:
        here.start()
        await clock.settle()
    try:
        yield here
    finally:
        await here.kill()
        await store.close()

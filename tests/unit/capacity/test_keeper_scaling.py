"""A whole keeper on the virtual clock: a spike, a split, a crash loop, hours that keep warm. Minutes of a cloud in a second of ours."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from lamplighter.capacity.keeper import Keeper
from lamplighter.config import Config, FakePool, ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Health, Probe
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Desired, Provider
from lamplighter.store import demand, replicas
from lamplighter.store.demand import GatewayDemand
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.provider import FakeCloud, FakeEngineKind, FakeProvider
from tests.unit.capacity.world import World, tree, world

S = ReplicaState
STAGES = {"capacity": "8s", "boot": "12s", "load": "5s"}


class FromOutside(FakeEngineKind):
    """Well when its pretended machine is up: the virtual clock does not wait for sockets."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        up = any(machine.up and machine.engine.url == endpoint.url for machine in self._cloud.machines.values())
        return Probe(Health.READY) if up else Probe(Health.DOWN, "nothing answers there")


@dataclass
class Sky:
    """One pool `cloud` with the model `m` on a `FakeCloud`, and a gateway that shares its requests among the ready replicas."""

    clock: VirtualClock
    store: Store
    config: Config
    cloud: FakeCloud
    history: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds, machines that are not ending, launches so far), at every half second."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def provider(self) -> FakeProvider:
        pool = self.config.pools["cloud"]
        assert isinstance(pool, FakePool)
        return FakeProvider("cloud", pool, models=lambda: dict(self.config.models), installation="ins", cloud=self.cloud)

    def keeper(self, name: str, provider: Provider | None = None, *, force: bool = False) -> Keeper:
        keeper = Keeper(
            self.config, self.store, self.clock, {"cloud": provider or self.provider()}, {"fake": FromOutside(self.cloud)},
            holder=name, force_lead=force, metrics=Metrics(process=False),
        )  # fmt: skip
        self.tasks.append(asyncio.create_task(keeper.run()))
        return keeper

    def living(self) -> int:
        return sum(not machine.ended and machine.ending_since is None for machine in self.cloud.machines.values())

    async def rows(self, *states: ReplicaState) -> list[Replica]:
        return [row for row in await replicas.living(self.store) if row.state in states]

    async def ask(self, requests: int) -> None:
        """So many requests want an answer now: on what is ready in equal parts, else queued. Drains are acknowledged when empty."""
        ready = await self.rows(S.READY)
        loads = {row.id: requests // len(ready) + (index < requests % len(ready)) for index, row in enumerate(ready)}
        waits = 0 if ready else requests
        report = GatewayDemand(
            "m", queued=waits, in_flight=requests - waits, oldest_queued_at=self.clock.time() if waits else None,
            last_ended_at=self.clock.time(), loads=loads,
        )  # fmt: skip
        await demand.report(self.store, "g1", [report], wake=["m"] if waits else [])
        for row in await self.rows(S.DRAINING):
            await replicas.acknowledge_drain(self.store, row.id, "g1", row.epoch)

    async def load(self, seconds: float, requests: int) -> None:
        """Hold this load for a while, and write the history."""
        for _ in range(round(seconds * 2)):
            await self.ask(requests)
            await self.clock.advance(0.5)
            self.history.append((self.clock.monotonic(), self.living(), self.cloud.launches))


@asynccontextmanager
async def sky(**pool: object) -> AsyncIterator[Sky]:
    clock = VirtualClock()
    store = await Store.open(None, clock)
    here = Sky(clock, store, tree({"cloud": {"stages": STAGES, **pool}}, {"m": "cloud"}), FakeCloud(clock))
    try:
        yield here
    finally:
        for task in here.tasks:
            task.cancel()
        await asyncio.gather(*here.tasks, return_exceptions=True)
        await here.cloud.close()
        await store.close()


async def test_a_spike_from_1_to_200_and_back() -> None:
    """A wave of people would wait for one machine; or each look would start more; or they would never end again."""
    pool = {"max_replicas": 6, "min_replicas": 1, "target_per_replica": 20, "scale_up_after": "5s", "scale_down_after": "60s"}
    async with sky(**pool) as here:
        here.keeper("k1")
        await here.load(60, 1)
        assert (here.living(), here.cloud.launches) == (1, 1)
        await here.load(60, 200)
        assert (here.living(), here.cloud.launches) == (6, 6), "200 requests at 20 a replica want 10; the pool may have 6"
        assert len(await here.rows(S.READY)) == 6
        batches = [at for (_, _, before), (at, _, after) in itertools.pairwise(here.history) if after > before]
        assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(batches)), batches
        here.history.clear()
        await here.load(50, 1)
        assert {count for _, count, _ in here.history} == {6}, "the next wave may come in a minute"
        await here.load(60, 1)
        assert here.living() == 1
        await here.load(300, 1)
        assert (here.living(), here.cloud.launches) == (1, 6), "it flaps"


async def test_a_wave_that_comes_and_goes_makes_nothing_flap() -> None:
    """Machines would be started and ended with every wave, and billed by the minute for nothing."""
    async with sky(max_replicas=4, target_per_replica=10, scale_up_after="3s", scale_down_after="60s") as here:
        here.keeper("k1")
        for _ in range(10):
            await here.load(20, 40)
            await here.load(20, 10)
        assert (here.living(), here.cloud.launches) == (4, 4)


class Late:
    """A provider whose orders arrive after `seconds`, even when whoever gave them is no longer: a split network that heals."""

    def __init__(self, inner: Provider, clock: VirtualClock, seconds: float) -> None:
        self.inner, self.clock, self.seconds = inner, clock, seconds
        self.stages = inner.stages
        self.under_way: set[asyncio.Task[None]] = set()

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        async def arrive() -> None:
            await self.clock.sleep(self.seconds)
            await self.inner.scale(desired, doomed)

        self.under_way.add(asyncio.create_task(arrive()))

    async def observe(self) -> Sequence[object]:
        return await self.inner.observe()

    async def renew(self) -> None:
        await self.inner.renew()

    async def close(self) -> None:
        await self.inner.close()


async def test_two_keepers_in_a_split_converge_within_a_minute() -> None:
    """Two keepers would each start what they think is missing, and nobody would end the surplus."""
    async with sky(max_replicas=5, target_per_replica=10, scale_up_after="1s", scale_down_after="30s") as here:
        late = Late(here.provider(), here.clock, 15)
        here.keeper("old", late)  # type: ignore[arg-type]
        await here.load(8, 40)  # it orders four, and nothing arrives yet
        assert late.under_way
        here.keeper("new", force=True)
        await here.load(60, 40)
        assert here.living() == 4, "the late orders of the old keeper were counted, or surplus ended"
        assert len(await here.rows(S.READY)) == 4
        assert here.cloud.launches <= 8
        await here.load(60, 40)
        assert (here.living(), len(await here.rows(S.READY))) == (4, 4), "it does not stay there"


async def test_a_late_order_of_a_dead_keeper_is_taken_back() -> None:
    """A keeper that died would start machines from its grave, and they would run for ever."""
    async with sky(max_replicas=5, target_per_replica=10, scale_up_after="1s", scale_down_after="10s") as here:
        here.keeper("k1")
        await here.load(60, 5)
        assert here.living() == 1
        await here.provider().scale(Desired({"m": 5}), frozenset())
        await here.load(0.5, 5)
        assert here.living() == 5
        await here.load(60, 5)
        assert here.living() == 1


async def test_a_crash_loop_waits_longer_each_time() -> None:
    """An engine that dies right after it was ready would be started again for ever, at full speed, while somebody asks."""
    async with world(tree({"cloud": {}}, {"m": "cloud"}, backoff="4s", backoff_max="60s")) as w:
        launched: list[float] = []
        await w.ask("m", queued=1)
        for _ in range(600):
            before = w.cloud.launches
            await w.beat(0.25)
            if w.cloud.launches > before:
                launched.append(w.clock.monotonic())
            if "ready" in await w.states():
                w.cloud.crash("m")
        pauses = [later - earlier for earlier, later in itertools.pairwise(launched)]
        assert pauses == sorted(pauses), pauses
        assert pauses[0] >= 4
        assert pauses[-1] >= 60
        assert len(launched) < 9
        wake = await w.wake("m")
        assert wake.outcome == "failed"
        assert wake.attempt >= 4
        assert "fell soon after" in (wake.detail or ""), "the person is not told why it waits"


async def test_a_replica_that_lasted_is_replaced_at_once_and_counts_anew() -> None:
    """One crash a day would be treated like a loop, and people would wait two minutes for the next engine."""
    async with world(tree({"cloud": {"sleep_after": "never"}}, {"m": "cloud"}, backoff="10s")) as w:
        await w.serve("m", 1)
        w.cloud.crash("m")
        await w.ask("m", queued=1)
        await w.beat(5)
        assert await w.states() == [], "it had been ready for a second"
        await w.beat(10)
        assert await w.states() == ["ready"]
        await w.ask("m", in_flight=1)
        await w.beat(90)
        w.cloud.crash("m")
        await w.ask("m", queued=1)
        await w.beat(3)
        assert await w.states() == ["ready"]
        assert (await w.wake("m")).attempt == 1


async def jump(w: World, clock_time: str) -> None:
    """Let time pass until the clock on a wall in Berlin shows it. The virtual clock begins on Monday, 21 September 2026, 16:13:20 there."""
    wall = datetime.fromisoformat(f"2026-09-21T{clock_time}").replace(tzinfo=ZoneInfo("Europe/Berlin"))
    seconds = wall.timestamp() - w.clock.time()
    assert seconds > 0, "the test's own calendar is wrong"
    await w.clock.advance(seconds)


async def test_hours_keep_a_model_awake_and_wake_it_in_time() -> None:
    """The first person in the morning would wait for the machine; or it would run through the night."""
    hours = ["Mon-Fri 16:20-16:30 Europe/Berlin", "Mon 16:50-17:00 Europe/Berlin"]
    pool = {"sleep_after": "60s", "keep_warm": hours}
    async with world(tree({"cloud": pool}, {"m": "cloud"}, interval="20s"), durations={"load": 30.0}) as w:
        await jump(w, "16:17:00")
        assert await w.states() == []
        await jump(w, "16:20:00")
        assert await w.states() == ["ready"]
        await jump(w, "16:29:50")
        assert await w.states() == ["ready"]
        await jump(w, "16:32:30")
        await w.ack()
        await jump(w, "16:49:00")
        assert await w.states() == [], "its wakes take half a minute: it is too early"
        await jump(w, "16:50:00")
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 2


async def test_a_person_has_the_last_word_until_the_hours_end() -> None:
    """Whoever needs the machine for something else would see it taken back every second."""
    hours = ["daily 16:00-16:20 Europe/Berlin", "daily 16:25-16:30 Europe/Berlin"]
    async with world(tree({"cloud": {"sleep_after": "60s", "keep_warm": hours}}, {"m": "cloud"}, interval="20s")) as w:
        await jump(w, "16:14:00")
        assert await w.states() == ["ready"]
        await demand.order_sleep(w.store, "m")
        await jump(w, "16:14:10")
        await w.ack()
        await jump(w, "16:19:30")
        assert await w.states() == []
        assert w.cloud.launches == 1
        await jump(w, "16:25:10")
        assert await w.states() == ["ready"], "the next hours count again"

"""The provider contract against every provider that scales: real processes with a pretended engine, and the pretended cloud."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import psutil
import pytest

from lamplighter.config import FakePool, ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.engines.state import ProcessState
from lamplighter.providers.base import Desired, Observation, Provider
from lamplighter.providers.process import ProcessProvider
from lamplighter.testing.child import FakeProcessEngine
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.contracts import ProviderContract
from lamplighter.testing.provider import FakeCloud, FakeProvider

MODELS = {"one": ModelConfig.model_validate({"engine": "fake", "pool": "pool"})}
LEASE = 2.0


class ProcessWorld:
    """Real processes in a temporary data folder."""

    model = "one"

    def __init__(self, data: Path) -> None:
        self.data = data
        self.provider = self.make("ins_ours")

    def make(self, installation: str) -> ProcessProvider:
        engines = {"fake": FakeProcessEngine()}
        return ProcessProvider(
            "pool",
            models=lambda: MODELS,
            engines=engines,
            data=self.data,
            installation=installation,
            clock=SystemClock(),
            lease=LEASE,
        )

    def another(self) -> Provider:
        return self.make("ins_ours")

    def foreign(self) -> Provider:
        return self.make("ins_theirs")

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], provider: Provider | None = None
    ) -> Sequence[Observation]:
        provider = provider or self.provider
        end = time.monotonic() + 30
        while True:
            await provider.renew()
            seen = await provider.observe()
            if met(seen):
                return seen
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.02)

    async def crash(self, handle: str) -> None:
        state = ProcessState.read(self.data / "run" / "engines" / handle)
        assert state is not None
        assert state.engine_pid is not None
        os.kill(state.engine_pid, signal.SIGKILL)

    async def abandon(self) -> None:
        end = time.monotonic() + LEASE + 10
        while pids(self.data):
            assert time.monotonic() < end, "an engine outlived its lease"
            await asyncio.sleep(0.05)


def pids(data: Path) -> list[int]:
    """Living processes that belong to the data folder."""
    living = (one for one in psutil.process_iter(["cmdline", "status"]) if one.info["status"] != psutil.STATUS_ZOMBIE)
    return [one.pid for one in living if any(str(data) in word for word in one.info["cmdline"] or ())]


class TestProcess(ProviderContract):
    """`process`."""

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[ProcessWorld]:
        world = ProcessWorld(tmp_path)
        yield world
        await world.provider.scale(Desired({}), frozenset(one.handle for one in await world.provider.observe()))
        await world.until(lambda seen: not seen)
        assert not pids(tmp_path)


class CloudWorld:
    """The pretended cloud on a virtual clock."""

    model = "one"

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.cloud = FakeCloud(self.clock, ending=3.0)
        self.provider = self.make("ins_ours")

    def make(self, installation: str) -> FakeProvider:
        pool = FakePool.model_validate({"kind": "fake"})
        return FakeProvider("pool", pool, models=lambda: MODELS, installation=installation, cloud=self.cloud)

    def another(self) -> Provider:
        return self.make("ins_ours")

    def foreign(self) -> Provider:
        return self.make("ins_theirs")

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], provider: Provider | None = None
    ) -> Sequence[Observation]:
        provider = provider or self.provider
        seen: Sequence[Observation] = ()
        for _ in range(1000):
            await provider.renew()
            seen = await provider.observe()
            if met(seen):
                return seen
            await self.clock.advance(0.5)
        raise AssertionError(seen)

    async def crash(self, handle: str) -> None:
        self.cloud.crash(handle)

    async def abandon(self) -> None:
        await self.clock.advance(self.cloud.lease + 1)


class TestFake(ProviderContract):
    """`fake`."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[CloudWorld]:
        world = CloudWorld()
        yield world
        await world.cloud.close()

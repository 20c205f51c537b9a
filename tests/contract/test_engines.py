"""The engine contract against every kind, each with a pretended server; `llamacpp` once more with the real one."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.engines.base import Engine
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.engines.sources.fetch import fetch
from lamplighter.engines.state import ProcessState
from lamplighter.providers.base import Desired, Observation
from lamplighter.providers.process import ProcessProvider
from lamplighter.testing.contracts import EngineContract
from lamplighter.testing.contracts.provider import ready
from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.http import Exchange
from lamplighter.testing.provider import FakeEngineKind

CACHE = Path(__file__).parents[2] / ".cache" / "models"


def nowhere() -> Endpoint:
    """An address of loopback at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")


class FakeServed:
    """Any kind, in front of a pretended server."""

    def __init__(self, engine: Engine, config: ModelConfig, server: FakeEngine) -> None:
        self.engine = engine
        self.name = "small"
        self.config = config
        self.endpoint = Endpoint(server.url, "secret")
        self.down = nowhere()
        self._server = server

    async def hang(self) -> None:
        async def silent(exchange: Exchange) -> None:
            await asyncio.Event().wait()

        self._server._server.handler = silent


KINDS: list[tuple[Engine, ModelConfig, str]] = [
    (LlamaCpp(), ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled"}), "small"),
    (OpenAICompatible(), ModelConfig.model_validate({"engine": "openai", "pool": "nas", "source": "upstream"}), "upstream"),
    (FakeEngineKind(), ModelConfig.model_validate({"engine": "fake", "pool": "fakes"}), "small"),
]


class TestEveryKind(EngineContract):
    """`llamacpp`, `openai`, `fake`."""

    @pytest.fixture(params=KINDS, ids=lambda kind: kind[0].kind)
    async def world(self, request: pytest.FixtureRequest) -> AsyncIterator[FakeServed]:
        engine, config, upstream = request.param
        async with FakeEngine(model=upstream, key="secret") as server:
            yield FakeServed(engine, config, server)


class RealServed:
    """llama.cpp itself."""

    name = "small"

    def __init__(self, endpoint: Endpoint, config: ModelConfig, folder: Path) -> None:
        self.engine: Engine = LlamaCpp()
        self.config = config
        self.endpoint = endpoint
        self.down = nowhere()
        self._folder = folder

    async def hang(self) -> None:
        state = ProcessState.read(self._folder)
        assert state is not None
        assert state.engine_pid is not None
        os.kill(state.engine_pid, signal.SIGSTOP)


async def until(provider: ProcessProvider, met: Callable[[Sequence[Observation]], bool]) -> Sequence[Observation]:
    """Poll, as the keeper does, until what is observed meets the condition."""
    seen: Sequence[Observation] = ()
    for _ in range(1200):
        seen = await provider.observe()
        if met(seen):
            return seen
        await asyncio.sleep(0.05)
    raise AssertionError(seen)


@pytest.mark.model
class TestLlamaCpp(EngineContract):
    """`llamacpp` with the bundled model."""

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[RealServed]:
        await asyncio.to_thread(fetch, "bundled", CACHE, lambda done, total: None)
        (tmp_path / "models").symlink_to(CACHE)
        config = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled"})
        engines: dict[str, Engine] = {"llamacpp": LlamaCpp()}
        provider = ProcessProvider(
            "here", models=lambda: {"small": config}, engines=engines, data=tmp_path, installation="ins", clock=SystemClock()
        )
        await provider.scale(Desired({"small": 1}), frozenset())
        try:
            (one,) = await until(provider, ready)
            assert one.endpoint is not None
            yield RealServed(one.endpoint, config, tmp_path / "run" / "engines" / one.handle)
        finally:
            await provider.scale(Desired({}), frozenset(seen.handle for seen in await provider.observe()))
            await until(provider, lambda seen: not seen)

"""Ollama: the engine contract, its models as replicas of a server that is there, and its program as a process of ours.

All against `lamplighter.testing.ollama`, which follows the published API: no real server can be had from the package indexes.
"""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Capability, Engine, Health
from lamplighter.engines.ollama.engine import Ollama
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.providers.process import ProcessProvider
from lamplighter.providers.resident import ResidentProvider
from lamplighter.testing.contracts import EngineContract
from lamplighter.testing.contracts.provider import ready
from lamplighter.testing.http import Exchange
from lamplighter.testing.ollama import FakeOllama
from tests.contract.test_engines import nowhere


def model(**settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({"engine": "ollama", "pool": "nas", **settings})


class Served:
    """Implements `EngineWorld`."""

    name = "small"

    def __init__(self, server: FakeOllama) -> None:
        self.engine: Engine = Ollama()
        self.config = model(source="llama3.2:3b")
        self.endpoint = Endpoint(server.url)
        self.down = nowhere()
        self._server = server

    async def hang(self) -> None:
        async def silent(exchange: Exchange) -> None:
            await asyncio.Event().wait()

        self._server._server.handler = silent


class TestOllama(EngineContract):
    """`ollama`, in front of a pretended server."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[Served]:
        async with FakeOllama(models=["llama3.2:3b"]) as server:
            yield Served(server)


class TestProbe:
    """What a health check says."""

    async def test_it_loads_nothing(self) -> None:
        """A dashboard would keep a GPU's memory full day and night."""
        async with FakeOllama(models=["m"]) as server:
            probe = await Ollama().probe(Endpoint(server.url), "m", model(), timeout=5)
            assert probe.health is Health.READY
            assert server.loads == []
            assert server.orders == []

    async def test_a_model_that_is_not_there_is_named_with_what_to_do(self) -> None:
        """A person would see "not found" and not know where to type what."""
        async with FakeOllama(models=["other"]) as server:
            probe = await Ollama().probe(Endpoint(server.url), "m", model(source="llama3.2:3b"), timeout=5)
            assert (probe.health, probe.reason) == (Health.FAILED, WakeFailure.MODEL_NOT_FOUND)
            assert "ollama pull llama3.2:3b" in (probe.detail or "")

    async def test_what_a_model_is_made_for_is_told(self) -> None:
        """A chat with an embedding model would end in the engine's own error."""
        async with FakeOllama(models=["chat", "nomic-embed-text"], embedders=["nomic-embed-text"]) as server:
            engine, endpoint = Ollama(), Endpoint(server.url)
            chats = await engine.probe(endpoint, "chat", model(), timeout=5)
            embeds = await engine.probe(endpoint, "nomic-embed-text", model(), timeout=5)
            assert chats.capabilities is not None
            assert chats.capabilities >= {Capability.CHAT, Capability.RESPONSES, Capability.MESSAGES}
            assert embeds.capabilities == frozenset({Capability.EMBEDDINGS})

    async def test_an_old_server_has_fewer_routes(self) -> None:
        """`/v1/messages` would be offered and answered 404."""
        async with FakeOllama(models=["m"], version="0.12.1") as server:
            probe = await Ollama().probe(Endpoint(server.url), "m", model(), timeout=5)
            assert probe.capabilities == frozenset({Capability.CHAT, Capability.COMPLETIONS, Capability.EMBEDDINGS})


class Pool:
    """A pool of places in a pretended server."""

    def __init__(self, server: FakeOllama, data: Path, **settings: Any) -> None:
        self.server = server
        self.data = data
        self.models = {"a": model(source="llama3.2:3b", **settings), "b": model(source="tiny", **settings)}
        self.provider = self.make()

    def make(self) -> ResidentProvider:
        return ResidentProvider(
            "nas",
            endpoint=lambda: Endpoint(self.server.url),
            models=lambda: self.models,
            engine=Ollama(),
            data=self.data,
            clock=SystemClock(),
        )

    async def until(
        self,
        met: Callable[[Sequence[Observation]], bool],
        provider: ResidentProvider | None = None,
        doomed: frozenset[str] = frozenset(),
    ) -> Sequence[Observation]:
        provider = provider or self.provider
        seen: Sequence[Observation] = ()
        for _ in range(400):
            if doomed:
                await provider.scale(Desired({}), doomed)
            await provider.renew()
            seen = await provider.observe()
            if met(seen):
                return seen
            await asyncio.sleep(0.02)
        raise AssertionError(seen)


@pytest.fixture
async def server() -> AsyncIterator[FakeOllama]:
    async with FakeOllama(models=["llama3.2:3b"], library=["tiny"]) as one:
        yield one


@pytest.fixture
async def pool(server: FakeOllama, tmp_path: Path) -> AsyncIterator[Pool]:
    one = Pool(server, tmp_path, pull=True)
    yield one
    await one.provider.close()


class TestResident:
    """Models of a server as replicas."""

    async def test_a_model_is_loaded_once_and_unloaded(self, pool: Pool) -> None:
        """The memory of the GPU would never be free again, or a model be loaded twice."""
        for _ in range(3):
            await pool.provider.scale(Desired({"a": 2}), frozenset())
        (one,) = await pool.until(ready)
        assert pool.server.loads == ["llama3.2:3b"]
        assert [stage.name for stage in one.stages] == ["load"]
        await pool.until(lambda seen: not seen, doomed=frozenset({one.handle}))
        assert pool.server.residents() == []

    async def test_a_pull_shows_its_progress(self, pool: Pool) -> None:
        """A person would look at a bar that stands still for half an hour."""
        pool.server.pull_seconds = 0.5
        await pool.provider.scale(Desired({"b": 1}), frozenset())
        shares: list[float] = []

        def look(seen: Sequence[Observation]) -> bool:
            shares.extend(
                stage.progress for one in seen for stage in one.stages if stage.name == "pull" and stage.progress is not None
            )
            return ready(seen)

        (one,) = await pool.until(look)
        assert [stage.name for stage in one.stages] == ["pull", "load"]
        assert shares == sorted(shares)
        assert 0 < min(share for share in shares if share) < 1

    @pytest.mark.parametrize(
        ("set_up", "reason"),
        [
            ({"refuse": "model requires more system memory (9.1 GiB) than is available (4.2 GiB)"}, WakeFailure.OUT_OF_MEMORY),
            ({"refuse": "llama runner process has terminated: exit status 2"}, WakeFailure.ENGINE_CRASHED),
            ({"library": []}, WakeFailure.MODEL_NOT_FOUND),
            ({"pull_error": "write /models/blobs/x: no space left on device"}, WakeFailure.DISK_FULL),
            ({"pull_error": "Get https://registry: dial tcp: lookup registry: no such host"}, WakeFailure.DOWNLOAD_FAILED),
        ],
    )
    async def test_what_fails_says_why(self, pool: Pool, set_up: dict[str, Any], reason: WakeFailure) -> None:
        """The keeper would try for ever what can never work, and the person not learn what to do."""
        for name, value in set_up.items():
            setattr(pool.server, name, value)
        await pool.provider.scale(Desired({"b": 1}), frozenset())
        (one,) = await pool.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert one.failure is reason, one
        assert one.endpoint is None
        await pool.until(lambda seen: not seen, doomed=frozenset({one.handle}))

    async def test_nothing_is_pulled_that_nobody_allowed(self, server: FakeOllama, tmp_path: Path) -> None:
        """A typing error in the file would fill the server's disk."""
        pool = Pool(server, tmp_path)
        await pool.provider.scale(Desired({"b": 1}), frozenset())
        (one,) = await pool.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert one.failure is WakeFailure.MODEL_NOT_FOUND
        assert "ollama pull tiny" in (one.detail or "")
        assert server.models == ["llama3.2:3b"]
        await pool.provider.close()

    async def test_what_is_loaded_is_held_by_a_lease(self, pool: Pool) -> None:
        """After a crash of ours the memory would stay full for ever; while we run, the server's own 5 minutes must not end a model."""
        await pool.provider.scale(Desired({"a": 1}), frozenset())
        await pool.until(ready)
        assert 0 < pool.server.orders[-1][2] < 600
        (load,) = pool.provider._loads.values()
        load.held_at -= 60
        before = len(pool.server.orders)
        await pool.until(lambda _: len(pool.server.orders) > before)

    async def test_a_model_that_the_server_dropped_is_lost_and_not_loaded_again_by_itself(self, pool: Pool) -> None:
        """Requests would be sent to a model that loads for a minute first, and a full server would be fought over."""
        await pool.provider.scale(Desired({"a": 1}), frozenset())
        await pool.until(ready)
        pool.server.loaded.clear()
        (one,) = await pool.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert one.loss is LossReason.VANISHED
        assert pool.server.loads == ["llama3.2:3b"]
        await pool.until(lambda seen: not seen, doomed=frozenset({one.handle}))

    async def test_a_second_object_adopts_what_is_loaded(self, pool: Pool) -> None:
        """After a restart of ours a loaded model would be forgotten, and never unloaded."""
        await pool.provider.scale(Desired({"a": 1}), frozenset())
        (before,) = await pool.until(ready)
        await pool.provider.close()
        second = pool.make()
        (after,) = await second.observe()
        assert (after.handle, after.models, after.endpoint) == (before.handle, before.models, before.endpoint)
        await pool.until(lambda seen: not seen, second, frozenset({before.handle}))
        assert pool.server.residents() == []
        assert pool.server.loads == ["llama3.2:3b"]

    async def test_what_others_loaded_is_not_ours_to_unload(self, pool: Pool) -> None:
        """Somebody's own `ollama run` would be thrown out by us."""
        await pool.server._bring(None, "llama3.2:3b", -1)  # type: ignore[arg-type]
        assert await pool.provider.observe() == []
        await pool.provider.scale(Desired({}), frozenset())
        assert pool.server.residents() == ["llama3.2:3b"]

    async def test_a_load_that_is_no_longer_wanted_is_called_off(self, pool: Pool) -> None:
        """Nobody could stop a pull of 40 GB that was a mistake."""
        pool.server.pull_seconds = 60
        await pool.provider.scale(Desired({"b": 1}), frozenset())
        (one,) = await pool.until(lambda seen: bool(seen) and bool(seen[0].stages))
        await pool.until(lambda seen: not seen, doomed=frozenset({one.handle}))
        assert "tiny:latest" not in pool.server.models

    async def test_an_embedding_model_is_loaded_too(self, server: FakeOllama, tmp_path: Path) -> None:
        """`/api/generate` refuses them, so they would never be ready."""
        server.embedders = ["llama3.2:3b"]
        pool = Pool(server, tmp_path)
        await pool.provider.scale(Desired({"a": 1}), frozenset())
        (one,) = await pool.until(ready)
        await pool.until(lambda seen: not seen, doomed=frozenset({one.handle}))
        assert [order[:2] for order in server.orders if order[0] == "/api/embed"]
        await pool.provider.close()

    async def test_a_server_that_is_away_is_told_and_survived(self, pool: Pool) -> None:
        """The keeper's round would fail, and with it every other decision of the pool."""
        await pool.provider.scale(Desired({"a": 1}), frozenset())
        (one,) = await pool.until(ready)
        pool.server.crash()
        assert [seen.handle for seen in await pool.provider.observe()] == [one.handle]
        assert (await Ollama().probe(Endpoint(pool.server.url), "a", pool.models["a"], timeout=1)).health is Health.DOWN
        await pool.provider.scale(Desired({"b": 1}), frozenset())
        seen = await pool.until(lambda seen: any(other.failure for other in seen))
        assert {other.failure for other in seen if other.failure} == {WakeFailure.UNREACHABLE}


class TestProcess:
    """`ollama serve` as a process of ours: one model a replica."""

    def program(self, folder: Path) -> str:
        path = folder / "ollama"
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-P", "-m", "lamplighter.testing.ollama"])} "$@"\n')
        path.chmod(0o755)
        return str(path)

    async def run(self, folder: Path, config: ModelConfig, met: Callable[[Sequence[Observation]], bool]) -> Sequence[Observation]:
        engines: dict[str, Engine] = {"ollama": Ollama()}
        provider = ProcessProvider(
            "here", models=lambda: {"m": config}, engines=engines, data=folder, installation="ins", clock=SystemClock()
        )
        await provider.scale(Desired({"m": 1}), frozenset())
        try:
            seen: Sequence[Observation] = ()
            for _ in range(600):
                seen = await provider.observe()
                if met(seen):
                    if seen[0].endpoint is not None:
                        probe = await Ollama().probe(seen[0].endpoint, "m", config, timeout=5)
                        assert probe.health is Health.READY, probe
                        assert probe.context == 4096, "it is loaded"
                    return seen
                await asyncio.sleep(0.05)
            raise AssertionError(seen)
        finally:
            while seen := await provider.observe():
                await provider.scale(Desired({}), frozenset(one.handle for one in seen))
                await asyncio.sleep(0.05)

    async def test_it_pulls_loads_and_is_ready(self, tmp_path: Path) -> None:
        """The first request would wait for a load that nobody told of."""
        config = model(pool="here", source="llama3.2:3b", pull=True, program=self.program(tmp_path))
        (one,) = await self.run(tmp_path, config, ready)
        assert [stage.name for stage in one.stages] == ["start", "pull", "load"]

    async def test_it_says_when_it_may_not_pull(self, tmp_path: Path) -> None:
        """A wake would fail without a word about the setting that is missing."""
        config = model(pool="here", source="llama3.2:3b", program=self.program(tmp_path))
        (one,) = await self.run(tmp_path, config, lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert one.failure is WakeFailure.MODEL_NOT_FOUND
        assert "pull: true" in (one.detail or "")

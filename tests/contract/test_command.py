"""The provider kind `command`: its contract, with a machine that real commands start and end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.config import CommandPool, ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Engine
from lamplighter.engines.ollama.engine import Ollama
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.providers.base import Desired, Observation, Presence, Provider
from lamplighter.providers.command import CommandProvider
from lamplighter.testing.contracts import ProviderContract
from lamplighter.testing.contracts.provider import ready
from tests.journeys.command.desk import Desk

ENGINES: dict[str, Engine] = {"openai": OpenAICompatible(), "ollama": Ollama(), "vllm": Vllm()}
LINGER = 0.5


class DeskWorld:
    """A machine that is a process, and the provider of its pool."""

    model = "one"

    def __init__(self, folder: Path, engine: str = "openai", **settings: Any) -> None:
        self.folder = folder
        self.desk = Desk(folder / "desk", engine)
        self.pool = CommandPool.model_validate(json.loads(self.desk.settings(wake_every="1s", **settings)))
        sources = ("fake", "fake") if engine == "openai" else ("llama3.2:3b", "tiny")
        self.models = {
            name: ModelConfig.model_validate({"engine": engine, "pool": "desk", "source": source})
            for name, source in zip(("one", "two"), sources, strict=True)
        }
        self.provider = self.make("ours")

    def make(self, installation: str) -> CommandProvider:
        return CommandProvider(
            "desk",
            self.pool,
            models=lambda: self.models,
            engines=ENGINES,
            data=self.folder / installation,
            clock=SystemClock(),
            linger=LINGER,
        )

    def another(self) -> Provider:
        return self.make("ours")

    def foreign(self) -> Provider:
        return self.make("theirs")  # another installation has another data folder; the machine is the same

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
            await asyncio.sleep(0.05)

    async def crash(self, handle: str) -> None:
        self.desk.crash()

    async def abandon(self) -> None:
        raise NotImplementedError

    async def off(self, provider: Provider | None = None) -> None:
        """Wait until the machine is put to sleep."""
        await self.until(lambda _: self.desk.process is None, provider)
        await (provider or self.provider).close()

    async def end(self) -> None:
        """Everything that runs ends, whoever started it."""
        await self.provider.close()
        last = self.another()
        while seen := await last.observe():
            await last.scale(Desired({}), frozenset(one.handle for one in seen))
            await asyncio.sleep(0.05)
        await last.close()
        self.desk.crash()


@pytest.fixture(params=["openai", "ollama"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DeskWorld]:
    one = DeskWorld(tmp_path, request.param)
    yield one
    await one.end()


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., DeskWorld]]:
    """Makes one that is not like the others; whatever the test comes to, nothing of it stays."""
    made: list[DeskWorld] = []

    def one(engine: str = "openai", **settings: Any) -> DeskWorld:
        made.append(DeskWorld(tmp_path, engine, **settings))
        return made[-1]

    yield one
    for world in made:
        await world.end()


class TestCommand(ProviderContract):
    """`command`. Two replicas are two models there: one machine serves a model once, however many ask."""

    async def test_counts_are_absolute_and_never_end_anything(self, world: DeskWorld) -> None:  # type: ignore[override]
        """A lower count must not cut an answer."""
        await world.provider.scale(Desired({"one": 1, "two": 1}), frozenset())
        before = await world.until(lambda seen: ready(seen, 2))
        await world.provider.scale(Desired({"one": 1}), frozenset())
        await world.provider.scale(Desired({}), frozenset())
        assert [one.handle for one in await world.provider.observe()] == [one.handle for one in before]
        assert world.desk.diary == ["wake"]

    async def test_what_is_doomed_ends_and_nothing_else_does(self, world: DeskWorld) -> None:  # type: ignore[override]
        """The machine would be put to sleep under a model that is still in use."""
        await world.provider.scale(Desired({"one": 1, "two": 1}), frozenset())
        first, second = await world.until(lambda seen: ready(seen, 2))
        await world.provider.scale(Desired({second.models[0]: 1}), frozenset({first.handle}))
        rest = await world.until(lambda seen: first.handle not in {one.handle for one in seen})
        assert [one.handle for one in rest] == [second.handle]
        await asyncio.sleep(LINGER * 2)
        assert ready(await world.provider.observe())
        assert world.desk.diary == ["wake"]

    async def test_a_doomed_replica_does_not_count(self, world: DeskWorld) -> None:  # type: ignore[override]
        """Replacing a hung model would wait for its end. The new one has the same address: it is the same machine."""
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (old,) = await world.until(ready)
        await world.provider.scale(Desired({"one": 1}), frozenset({old.handle}))
        (new,) = await world.until(lambda seen: ready(seen) and seen[0].handle != old.handle)
        assert new.endpoint == old.endpoint
        assert world.desk.diary == ["wake"]

    @pytest.mark.skip(reason="a machine of one's own has no lease: a later start adopts it, see TestPower")
    async def test_what_nobody_renews_ends_itself(self, world: DeskWorld) -> None:  # type: ignore[override]
        """See the reason."""


class TestPower:
    """When the machine is switched on and off."""

    async def test_the_first_wakes_it_and_the_last_puts_it_to_sleep(self, world: DeskWorld) -> None:
        """The machine would be woken for each model, or stay on for ever."""
        assert world.desk.process is None
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        assert [stage.name for stage in one.stages] == ["start", "reachable", "load"]
        await world.provider.scale(Desired({"one": 1, "two": 1}), frozenset())
        both = await world.until(lambda seen: ready(seen, 2))
        await world.provider.scale(Desired({}), frozenset(one.handle for one in both))
        await world.off()
        assert world.desk.diary == ["wake", "sleep"]

    async def test_what_was_on_already_is_used_at_once_and_left_on(self, world: DeskWorld) -> None:
        """Somebody who sits at the machine would be interrupted because a model is idle."""
        world.desk.switch_on()
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        await world.until(lambda seen: not seen)
        await asyncio.sleep(LINGER * 2)
        await world.provider.observe()
        await world.provider.close()
        assert world.desk.diary == []
        assert world.desk.process is not None

    async def test_after_a_crash_of_ours_the_next_start_puts_it_to_sleep(self, world: DeskWorld) -> None:
        """A machine that nobody remembers having woken would be on for weeks."""
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        second = world.another()
        (adopted,) = await second.observe()
        assert adopted.handle == one.handle
        await second.scale(Desired({}), frozenset({one.handle}))
        await world.off(second)
        assert world.desk.diary == ["wake", "sleep"]

    async def test_leaving_with_nothing_in_use_puts_it_to_sleep_first(self, world: DeskWorld) -> None:
        """Lamplighter's end follows the last model's within a moment: nobody would be there to do it later."""
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        await world.until(lambda seen: not seen)
        await world.provider.close()
        assert world.desk.process is None

    async def test_a_wake_that_is_called_off_ends_its_command(self, make: Callable[..., DeskWorld]) -> None:
        """A person who changed their mind would get the machine all the same, and a command that hangs would stay."""
        world = make(wake="sleep 300 & sleep 301")
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(lambda seen: bool(seen) and bool(seen[0].stages))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        while await world.provider.observe():
            await world.provider.scale(Desired({}), frozenset({one.handle}))
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 10
        await world.provider.close()
        for _ in range(250):
            if not [line for line in _command_lines() if "sleep 300" in line or "sleep 301" in line]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the command, or what it started, is still there")

    async def test_a_wake_command_that_fails_is_told_in_its_own_words(self, make: Callable[..., DeskWorld]) -> None:
        """A person would see "provider error" and not know that the name of the network card is wrong."""
        world = make(wake="echo noise; echo 'wakeonlan: no such device eth9' >&2; exit 3")
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert one.failure is WakeFailure.PROVIDER_ERROR
        assert one.detail == "The wake command failed with exit status 3: noise / wakeonlan: no such device eth9"
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        await world.until(lambda seen: not seen)
        await world.provider.close()
        assert world.desk.diary == [], "what was never woken is not put to sleep"

    async def test_a_machine_that_is_lost_is_woken_again(self, world: DeskWorld) -> None:
        """After a power cut the model would be away until somebody restarts Lamplighter."""
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        world.desk.crash()
        (dead,) = await world.until(lambda seen: seen[0].presence is Presence.ENDED)
        assert dead.loss in (LossReason.CRASHED, LossReason.VANISHED)
        await world.provider.scale(Desired({"one": 1}), frozenset({one.handle}))
        await world.until(lambda seen: ready(seen) and seen[0].handle != one.handle)
        assert world.desk.diary == ["wake", "wake"]

    async def test_an_ollama_gives_its_memory_back_before(self, make: Callable[..., DeskWorld]) -> None:
        """A machine that stays on would keep its GPU's memory full for somebody who went away."""
        world = make("ollama")
        world.desk.switch_on()
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(ready)
        assert await _residents(world) == ["llama3.2:3b"]
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        await world.until(lambda seen: not seen)
        assert await _residents(world) == []

    async def test_an_engine_that_lacks_the_model_is_a_failure_with_words(self, make: Callable[..., DeskWorld]) -> None:
        """The wake would go on until its deadline, and not say what is wrong."""
        world = make()
        world.models["one"] = ModelConfig.model_validate({"engine": "openai", "pool": "desk", "source": "other"})
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (one,) = await world.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert (one.failure, "no model 'other'" in (one.detail or "")) == (WakeFailure.MODEL_NOT_FOUND, True)


async def _residents(world: DeskWorld) -> list[str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{world.desk.url}/api/ps")
    return [one["name"] for one in answer.json()["models"]]


def _command_lines() -> list[str]:
    import psutil

    return [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]

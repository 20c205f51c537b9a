"""`providers.process`, beyond the contract: what a crash of ours leaves on disk, and launches that cannot begin."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.errors import ProviderError, SourceError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Command, Engine, LaunchSpec
from lamplighter.engines.state import CLAIM, LEASE, LOG, ProcessState, Spec, touch
from lamplighter.providers.base import Desired, Presence
from lamplighter.providers.process import ProcessProvider
from lamplighter.providers.process.replica import ABANDONED_AFTER, BEGIN_WITHIN
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.provider import FakeEngineKind

DEAD = 2**22 - 3
"""A pid that no process has."""


class Stub(FakeEngineKind):
    """An engine whose command a test decides."""

    def __init__(self, result: Command | Exception) -> None:
        self.result = result

    def command(self, spec: LaunchSpec) -> Command:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class World:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.root = data / "run" / "engines"
        self.clock = VirtualClock()
        self.models: dict[str, ModelConfig] = {"small": ModelConfig.model_validate({"engine": "fake", "pool": "here"})}

    def provider(self, engine: Engine | None = None, pool: str = "here") -> ProcessProvider:
        engines: Mapping[str, Engine] = {"fake": engine} if engine else {}
        return ProcessProvider(
            pool, models=lambda: self.models, engines=engines, data=self.data, installation="ins", clock=self.clock
        )

    def replica(self, handle: str = "prc_1", *, pool: str = "here", state: ProcessState | None = None) -> Path:
        """A folder as an earlier process of ours left it."""
        folder = self.root / handle
        folder.mkdir(parents=True)
        Spec(handle, "ins", pool, "small", "/models", self.clock.time(), key="k").write(folder)
        touch(folder / LEASE, self.clock.time())
        if state is not None:
            state.write(folder)
        return folder


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (Stub(SourceError("It is no source.", reason=WakeFailure.MODEL_NOT_FOUND)), WakeFailure.MODEL_NOT_FOUND),
        (Stub(Command(("/nonexistent/program",))), WakeFailure.ENGINE_MISSING),
        (FakeEngineKind(), WakeFailure.PROVIDER_ERROR),
        (None, WakeFailure.PROVIDER_ERROR),
    ],
)
async def test_a_launch_that_cannot_begin_is_told_with_its_reason(
    world: World, engine: Engine | None, reason: WakeFailure
) -> None:
    """The person would wait for the boot deadline to learn of a typing error."""
    provider = world.provider(engine)
    await provider.scale(Desired({"small": 1}), frozenset())
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.ENDED, reason)
    assert one.detail
    await provider.scale(Desired({}), frozenset({one.handle}))
    assert not await provider.observe()
    assert not world.root.exists() or not list(world.root.iterdir())


async def test_an_unknown_model_is_told_too(world: World) -> None:
    """A model deleted while it is asked for would stop the keeper."""
    provider = world.provider(FakeEngineKind())
    await provider.scale(Desired({"gone": 1}), frozenset())
    (one,) = await provider.observe()
    assert one.failure is WakeFailure.PROVIDER_ERROR


async def test_a_full_disk_is_told_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason would read "provider error", and half a folder would stay."""

    def full(self: Spec, folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Spec, "write", full)
    provider = world.provider(Stub(Command(("/bin/true",))))
    await provider.scale(Desired({"small": 1}), frozenset())
    (one,) = await provider.observe()
    assert one.failure is WakeFailure.DISK_FULL
    assert not list(world.root.iterdir())


async def test_a_process_that_ends_without_a_word_is_told(world: World) -> None:
    """An engine that cannot even be imported would look like one that still starts."""
    provider = world.provider(Stub(Command(("/bin/sh", "-c", "echo it is broken >&2; exit 7"))))
    await provider.scale(Desired({"small": 1}), frozenset())
    provider._children[next(iter(provider._children))].wait(10)
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.ENDED, WakeFailure.ENGINE_CRASHED)
    assert "(7)" in str(one.detail)
    assert "it is broken" in str(one.detail)
    await provider.scale(Desired({}), frozenset({one.handle}))
    assert not await provider.observe()


async def test_half_made_folders_are_cleaned_after_a_while(world: World) -> None:
    """Every crash at the wrong moment would leave a folder for ever."""
    half = world.root / "prc_half"
    half.mkdir(parents=True)
    os.utime(half, (world.clock.time(), world.clock.time()))
    provider = world.provider()
    assert not await provider.observe()
    assert half.exists()
    await world.clock.advance(BEGIN_WITHIN + 1)
    assert not await provider.observe()
    assert not half.exists()


async def test_a_launch_interrupted_before_its_process_is_given_up(world: World) -> None:
    """`kill -9` between the spec and the process would block the pool: one replica that never comes."""
    folder = world.replica()
    provider = world.provider(FakeEngineKind())
    (one,) = await provider.observe()
    assert one.presence is Presence.RUNNING  # its process may just be starting
    await world.clock.advance(BEGIN_WITHIN + 1)
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.ENDED, WakeFailure.ENGINE_CRASHED)
    assert (folder / CLAIM).exists()  # and if it does come, it finds that it was given up


async def test_a_slow_process_is_not_given_up(world: World) -> None:
    """A machine under load would start a second engine beside the first."""
    folder = world.replica()
    (folder / CLAIM).write_text("4711")
    await world.clock.advance(BEGIN_WITHIN + 1)
    (one,) = await world.provider().observe()
    assert one.presence is Presence.RUNNING


async def test_what_died_while_we_were_away_is_told(world: World) -> None:
    """After a restart the person must still learn why the answer broke off."""
    folder = world.replica(
        state=ProcessState(DEAD, 0.0, url="http://127.0.0.1:1", exit=-9, detail="The engine ended by itself (SIGKILL).")
    )
    (folder / LOG).write_text("first\nthe last words\n    at some frame\n")
    (one,) = await world.provider().observe()
    assert (one.presence, one.loss, one.endpoint) == (Presence.ENDED, LossReason.CRASHED, None)
    assert one.detail == "The engine ended by itself (SIGKILL). Its log ends: the last words"


async def test_a_reused_pid_is_not_our_engine(world: World) -> None:
    """After a reboot we would kill somebody else's process."""
    world.replica(state=ProcessState(os.getpid(), 0.0, url="http://127.0.0.1:1"))
    provider = world.provider()
    (one,) = await provider.observe()
    assert one.presence is Presence.ENDED
    await provider.scale(Desired({}), frozenset({one.handle}))
    assert not await provider.observe()  # and this test process still lives


async def test_a_pool_sees_its_own_replicas_only(world: World) -> None:
    """One pool's scaling would count, and end, another's engines."""
    world.replica(pool="other", state=ProcessState(DEAD, 0.0))
    assert not await world.provider().observe()
    assert len(await world.provider(pool="other").observe()) == 1


async def test_leftovers_of_a_deleted_pool_are_cleaned(world: World) -> None:
    """Logs and keys of pools that were renamed would stay for ever."""
    folder = world.replica(pool="renamed", state=ProcessState(DEAD, 0.0))
    await world.clock.advance(ABANDONED_AFTER + 1)
    assert not await world.provider().observe()
    assert not folder.exists()


async def test_renewing_touches_living_and_not_doomed_leases(world: World) -> None:
    """A doomed engine that hangs would be kept alive by us."""
    lease = world.replica() / LEASE
    provider = world.provider()
    await world.clock.advance(5)
    await provider.renew()
    assert lease.stat().st_mtime == world.clock.time()
    touch(lease.parent / "doomed", world.clock.time())
    await world.clock.advance(5)
    await provider.renew()
    assert lease.stat().st_mtime == world.clock.time() - 5


async def test_an_unreadable_folder_is_an_error_not_an_empty_pool(world: World) -> None:
    """The keeper would believe that all engines are gone and start them again."""
    world.data.joinpath("run").mkdir()
    world.root.write_text("a file")
    with pytest.raises(ProviderError):
        await world.provider().observe()


async def test_the_key_never_reaches_the_command_line_or_a_log(world: World) -> None:
    """Every user of the machine sees command lines."""
    seen: list[LaunchSpec] = []

    class Recorder(FakeEngineKind):
        def command(self, spec: LaunchSpec) -> Command:
            seen.append(spec)
            return Command(("/bin/true",))

    provider = world.provider(Recorder())
    await provider.scale(Desired({"small": 1}), frozenset())
    (spec,) = seen
    assert spec.key.startswith("lle-")
    assert spec.key not in repr(spec)
    found: list[Any] = [path.stat().st_mode & 0o77 for path in (spec.folder, *spec.folder.iterdir())]
    assert not any(found)
    for child in provider._children.values():
        child.wait(10)

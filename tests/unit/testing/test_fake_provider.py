"""`testing.provider`: the pretended cloud's misfortunes."""

from collections.abc import AsyncIterator

import pytest

from lamplighter.config import FakePool, ModelConfig
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.base import Desired, Presence
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.provider import FakeCloud, FakeProvider, Misfortune

POOL = FakePool.model_validate({"kind": "fake", "stages": {"capacity": "10s", "boot": "20s", "load": "5s"}})
MODELS = {"one": ModelConfig.model_validate({"engine": "fake", "pool": "p"})}
ONE = Desired({"one": 1})


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    world = FakeCloud(VirtualClock())
    yield world
    await world.close()


async def pass_time(cloud: FakeCloud, seconds: float) -> None:
    assert isinstance(cloud.clock, VirtualClock)
    await cloud.clock.advance(seconds)


def make(cloud: FakeCloud) -> FakeProvider:
    return FakeProvider("p", POOL, models=lambda: MODELS, cloud=cloud)


async def test_stages_pass_with_time(cloud: FakeCloud) -> None:
    """The wake card would be developed against a wake that jumps."""
    provider = make(cloud)
    await provider.scale(ONE, frozenset())
    await pass_time(cloud, 20)
    (one,) = await provider.observe()
    assert [(stage.name, stage.progress) for stage in one.stages] == [("capacity", 1.0), ("boot", 0.5)]
    assert one.endpoint is None
    await pass_time(cloud, 15)
    (one,) = await provider.observe()
    assert [stage.ended_at is not None for stage in one.stages] == [True, True, True]
    assert one.endpoint is not None


async def test_no_capacity_so_many_times(cloud: FakeCloud) -> None:
    """Backoff would be untested."""
    cloud.no_capacity = 1
    provider = make(cloud)
    await provider.scale(ONE, frozenset())
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.ENDED, WakeFailure.NO_CAPACITY)
    await provider.scale(ONE, frozenset({one.handle}))
    (two,) = await provider.observe()
    assert (two.presence, two.failure) == (Presence.RUNNING, None)
    assert cloud.launches == 2


async def test_a_misfortune_strikes_at_its_stage(cloud: FakeCloud) -> None:
    """A failure half-way would be told from the beginning, or never."""
    cloud.misfortunes.append(Misfortune("boot", WakeFailure.BAD_IMAGE))
    provider = make(cloud)
    await provider.scale(ONE, frozenset())
    await pass_time(cloud, 9)
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.RUNNING, None)
    await pass_time(cloud, 2)
    (one,) = await provider.observe()
    assert (one.presence, one.failure) == (Presence.ENDED, WakeFailure.BAD_IMAGE)
    await pass_time(cloud, 100)
    assert (await provider.observe())[0].endpoint is None


async def test_what_vanished_is_gone_and_what_crashed_is_told(cloud: FakeCloud) -> None:
    """Spot losses and crashes are two different reasons for a person."""
    provider = make(cloud)
    await provider.scale(Desired({"one": 2}), frozenset())
    await pass_time(cloud, 40)
    first, second = await provider.observe()
    cloud.vanish(first.handle)
    cloud.crash(second.handle)
    (left,) = await provider.observe()
    assert (left.handle, left.presence) == (second.handle, Presence.ENDED)


async def test_an_api_that_fails_raises(cloud: FakeCloud) -> None:
    """An outage of the provider must not look like an empty pool."""
    provider = make(cloud)
    cloud.down = "The API is on fire."
    with pytest.raises(ProviderError, match="fire"):
        await provider.observe()
    with pytest.raises(ProviderError, match="fire"):
        await provider.scale(ONE, frozenset())

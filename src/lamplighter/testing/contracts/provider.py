"""What every provider promises the keeper, as tests. `ProviderWorld` is what a suite needs to know of one provider's outside world."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lamplighter.core.reasons import LossReason
from lamplighter.providers.base import Desired, Observation, Presence, Provider

AT_ONCE = 2.0
"""Seconds that `scale` and `observe` may take at the most; a machine under test load is slow."""


class ProviderWorld(Protocol):
    """One provider and the world around it. `model`: the name of a model that it can run."""

    provider: Provider
    model: str

    def another(self) -> Provider:
        """A second object for the same pool, as after a crash of ours."""
        ...

    def foreign(self) -> Provider:
        """One of another installation, on the same capacity."""
        ...

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], provider: Provider | None = None
    ) -> Sequence[Observation]:
        """Let time pass, leases renewed, until what `provider` (default: the world's own) observes meets the condition."""
        ...

    async def crash(self, handle: str) -> None:
        """Kill the replica behind the provider's back."""
        ...

    async def abandon(self) -> None:
        """Let more than a lease's time pass without anybody renewing anything."""
        ...


def ready(seen: Sequence[Observation], count: int = 1) -> bool:
    """Whether exactly `count` replicas live and all have an endpoint."""
    return len(seen) == count and all(one.presence is Presence.RUNNING and one.endpoint is not None for one in seen)


class ProviderContract:
    """Needs a fixture `world` that gives a `ProviderWorld` without any replica."""

    async def test_asking_twice_launches_once(self, world: ProviderWorld) -> None:
        """A keeper that repeats itself would start two machines for one request, and somebody would pay for both."""
        for _ in range(3):
            await world.provider.scale(Desired({world.model: 1}), frozenset())
        seen = await world.until(ready)
        assert [one.models for one in seen] == [(world.model,)]

    async def test_both_calls_return_at_once(self, world: ProviderWorld) -> None:
        """A provider that waits for its machines would stop the keeper, and with it every other pool."""
        began = time.monotonic()
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        await world.provider.observe()
        assert time.monotonic() - began < AT_ONCE

    async def test_a_replica_keeps_its_handle_and_tells_its_stages_in_order(self, world: ProviderWorld) -> None:
        """A person would see the wake card jump, and the keeper would take one replica for two."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        handles = {one.handle for one in await world.provider.observe()}
        (one,) = await world.until(ready)
        assert {one.handle} == handles
        names = [stage.name for stage in one.stages]
        assert names == [name for name in world.provider.stages if name in names]
        assert names[-1] == world.provider.stages[-1]
        starts = [stage.started_at for stage in one.stages]
        assert starts == sorted(starts)
        assert all(stage.ended_at is not None and stage.ended_at >= stage.started_at for stage in one.stages)
        assert one.failure is None
        assert one.loss is None

    async def test_counts_are_absolute_and_never_end_anything(self, world: ProviderWorld) -> None:
        """A lower count must not cut an answer: only the keeper, who drained it, says which replica ends."""
        await world.provider.scale(Desired({world.model: 2}), frozenset())
        before = await world.until(lambda seen: ready(seen, 2))
        assert len({one.endpoint.url for one in before if one.endpoint}) == 2
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        await world.provider.scale(Desired({}), frozenset())
        assert [one.handle for one in await world.provider.observe()] == [one.handle for one in before]

    async def test_what_is_doomed_ends_and_nothing_else_does(self, world: ProviderWorld) -> None:
        """The wrong replica ended is an answer cut; one not ended is a bill."""
        await world.provider.scale(Desired({world.model: 2}), frozenset())
        first, second = await world.until(lambda seen: ready(seen, 2))
        await world.provider.scale(Desired({world.model: 1}), frozenset({first.handle}))
        rest = await world.until(lambda seen: first.handle not in {one.handle for one in seen})
        assert [one.handle for one in rest] == [second.handle]
        assert ready(rest)

    async def test_ending_is_told_as_stopping_and_never_as_a_loss(self, world: ProviderWorld) -> None:
        """An ordinary sleep would show up as a crash."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        (one,) = await world.until(ready)
        await world.provider.scale(Desired({}), frozenset({one.handle}))
        for seen in await world.provider.observe():
            assert seen.presence is not Presence.RUNNING
            assert seen.loss is None

    async def test_dooming_again_or_the_absent_succeeds(self, world: ProviderWorld) -> None:
        """The keeper repeats what it is not sure of; an error here would stop it from doing anything else."""
        await world.provider.scale(Desired({world.model: 1}), frozenset({"never-was"}))
        (one,) = await world.until(ready)
        for _ in range(3):
            await world.provider.scale(Desired({}), frozenset({one.handle, "never-was"}))
        assert not await world.until(lambda seen: not seen)

    async def test_a_doomed_replica_does_not_count(self, world: ProviderWorld) -> None:
        """Replacing a hung engine would wait for its end, and people with it."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        (old,) = await world.until(ready)
        await world.provider.scale(Desired({world.model: 1}), frozenset({old.handle}))
        (new,) = await world.until(lambda seen: ready(seen) and seen[0].handle != old.handle)
        assert new.endpoint != old.endpoint

    async def test_a_second_object_adopts_what_runs(self, world: ProviderWorld) -> None:
        """After a crash of ours the running model must go on serving, not be orphaned and started again."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        (before,) = await world.until(ready)
        second = world.another()
        (after,) = await second.observe()
        assert (after.handle, after.models, after.endpoint) == (before.handle, before.models, before.endpoint)
        await second.scale(Desired({world.model: 1}), frozenset())
        assert len(await second.observe()) == 1
        await second.scale(Desired({}), frozenset({before.handle}))
        assert not await world.until(lambda seen: not seen, second)

    async def test_closing_ends_no_replica(self, world: ProviderWorld) -> None:
        """A restart of Lamplighter would cut answers that go on without it."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        await world.until(ready)
        await world.provider.close()
        assert ready(await world.another().observe())

    async def test_another_installation_is_never_touched(self, world: ProviderWorld) -> None:
        """Two installations on one machine or account would end each other's engines."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        (ours,) = await world.until(ready)
        foreign = world.foreign()
        assert not await foreign.observe()
        await foreign.scale(Desired({}), frozenset({ours.handle}))
        await foreign.renew()
        assert ready(await world.provider.observe())

    async def test_a_crash_is_told_until_doomed_and_does_not_count(self, world: ProviderWorld) -> None:
        """The person must learn why an answer broke off, and the next request must get a new engine."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        (one,) = await world.until(ready)
        await world.crash(one.handle)
        (dead,) = await world.until(lambda seen: bool(seen) and seen[0].presence is Presence.ENDED)
        assert dead.loss is LossReason.CRASHED
        assert dead.endpoint is None
        assert dead.detail
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        both = await world.until(lambda seen: any(other.handle != one.handle and other.endpoint for other in seen))
        assert {other.handle: other.presence for other in both}[one.handle] is Presence.ENDED
        await world.provider.scale(Desired({world.model: 1}), frozenset({one.handle}))
        assert ready(await world.until(lambda seen: one.handle not in {other.handle for other in seen}))

    async def test_what_nobody_renews_ends_itself(self, world: ProviderWorld) -> None:
        """A laptop whose Lamplighter was killed would keep its memory, a cloud machine its price."""
        await world.provider.scale(Desired({world.model: 1}), frozenset())
        await world.until(ready)
        await world.abandon()
        assert all(one.presence is Presence.ENDED for one in await world.another().observe())

"""Waiting for a model, on a clock that tests move."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.config import GatewayConfig
from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.gateway import hold
from lamplighter.gateway.breaker import Outcome
from lamplighter.gateway.lane import ANYBODY, EXCLUDED, Lane, Target
from lamplighter.store.wakes import Stage, Wake
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.lanes import Noted, lane_of, target_of


def settings(**more: Any) -> GatewayConfig:
    return GatewayConfig.model_validate(more)


@pytest.fixture
async def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def lane(clock: VirtualClock) -> Lane:
    return lane_of(clock)


def waking(clock: VirtualClock, **more: Any) -> Wake:
    wake = Wake(
        id="wak_1", pool="cloud", model="big", started_at=clock.time(), ended_at=None, outcome=None, reason=None, detail=None, attempt=1,
        retry_at=None, stages=(Stage("boot", clock.time()), Stage("load")), warm=False, eta_p50=None, eta_p90=None,
    )  # fmt: skip
    return replace(wake, **more)


def set_view(lane: Lane, *targets: Target, wake: Wake | None = None) -> None:
    lane.update(targets=list(targets), replicas=(), wake=wake)


async def test_waiting_ends_when_a_target_is_there(clock: VirtualClock, lane: Lane) -> None:
    """Requests would stay held although the model is awake."""
    waiting = asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=clock.monotonic(), limit=55, on_beat=None))
    await clock.advance(7)
    assert (lane.queued, lane.oldest_queued_at) == (1, clock.time() - 7)
    set_view(lane, target_of(clock))
    one = await waiting
    assert one in lane.targets
    lane.release(one, Outcome.OK)
    assert lane.idle


async def test_the_limit_counts_from_the_arrival(clock: VirtualClock, lane: Lane) -> None:
    """A request that was held twice would be held longer than a proxy allows."""
    await clock.advance(50)
    waiting = asyncio.create_task(
        hold.hold(lane, ANYBODY, settings(), clock, began=clock.monotonic() - 50, limit=55, on_beat=None)
    )
    await clock.advance(4)
    assert not waiting.done()
    await clock.advance(2)
    with pytest.raises(hold.NotReady) as caught:
        await waiting
    assert caught.value.status == 503
    assert lane.idle


async def test_beats_come_when_asked_and_at_changes(clock: VirtualClock, lane: Lane) -> None:
    """Held streams would be silent, or flooded."""
    beats: list[tuple[float, str | None]] = []

    def on_beat(wake: Wake | None) -> float:
        beats.append((clock.monotonic(), hold.stage(wake)))
        return 10.0

    waiting = asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=0, limit=3600, on_beat=on_beat))
    await clock.advance(25)
    set_view(lane, wake=waking(clock))
    await clock.advance(1)
    assert beats == [(0, None), (10, None), (20, None), (25, "boot")]
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert lane.idle


async def test_only_the_first_who_waits_is_urgent(clock: VirtualClock, lane: Lane) -> None:
    """A flood of requests would flood the keeper too."""
    waiting = [
        asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=0, limit=5, on_beat=None)) for _ in range(10)
    ]
    await clock.advance(1)
    reporter = lane._reporter
    assert isinstance(reporter, Noted)
    assert reporter.urgent == 1
    await clock.advance(10)
    assert all(isinstance(result, RequestError) for result in await asyncio.gather(*waiting, return_exceptions=True))
    assert lane.idle


@pytest.mark.parametrize("reason", list(WakeFailure))
@pytest.mark.parametrize("attempt", [1, 3])
async def test_every_failure_is_judged_by_its_verdict(clock: VirtualClock, lane: Lane, reason: WakeFailure, attempt: int) -> None:
    """A new reason would leave clients waiting for nothing, or send them away although help is near."""
    waiting = asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=0, limit=3600, on_beat=None))
    await clock.advance(1)
    failed = waking(clock, outcome="failed", reason=reason, ended_at=clock.time(), attempt=attempt, retry_at=clock.time() + 30)
    set_view(lane, wake=failed)
    await clock.advance(0.1)
    if VERDICTS[reason].retry and attempt < hold.LAST_ATTEMPT:
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    else:
        with pytest.raises(RequestError) as caught:
            await waiting
        assert (caught.value.status, caught.value.code) == (VERDICTS[reason].status, reason.value)
        assert caught.value.retry_after is None or 1 <= caught.value.retry_after <= 60
    assert lane.idle


async def test_an_old_failure_concerns_nobody_new(clock: VirtualClock, lane: Lane) -> None:
    """After one failure nobody could ever wake the model again."""
    set_view(
        lane,
        wake=waking(clock, outcome="failed", reason=WakeFailure.BAD_IMAGE, ended_at=clock.time(), retry_at=clock.time() + 30),
    )
    await clock.advance(10)
    with pytest.raises(RequestError) as caught:
        await hold.hold(lane, ANYBODY, settings(), clock, began=10, limit=55, on_beat=None)
    assert caught.value.retry_after == 20
    await clock.advance(21)
    waiting = asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=31, limit=55, on_beat=None))
    await clock.advance(1)
    assert not waiting.done()
    set_view(lane, target_of(clock))
    await waiting


async def test_a_target_that_refused_is_tried_again(clock: VirtualClock, lane: Lane) -> None:
    """After one refused connection a replica would stay unused for ever."""
    one = target_of(clock)
    set_view(lane, one)
    assert lane.seize(ANYBODY) is one
    lane.release(one, Outcome.CONNECT)
    assert not lane.awake
    waiting = asyncio.create_task(hold.hold(lane, ANYBODY, settings(), clock, began=0, limit=55, on_beat=None))
    await clock.advance(EXCLUDED / 2)
    assert not waiting.done()
    await clock.advance(EXCLUDED)
    await waiting
    assert lane.seize(ANYBODY) is one


@pytest.mark.parametrize(("eta", "elapsed", "expected"), [(None, 0, 10), (90.0, 0, 60), (30.0, 10, 20), (5.0, 60, 1)])
async def test_retry_after_is_what_is_left(
    clock: VirtualClock, lane: Lane, eta: float | None, elapsed: float, expected: int
) -> None:
    """Clients would come back too early, too late, or give up."""
    set_view(lane, wake=waking(clock, eta_p50=eta))
    await clock.advance(elapsed)
    assert hold.retry_after(lane, clock.time()) == expected


async def test_the_less_busy_replica_is_next(clock: VirtualClock, lane: Lane) -> None:
    """Requests would pile up on one replica."""
    targets = [target_of(clock, f"rep_{index}") for index in range(5)]
    set_view(lane, *targets)
    for _ in range(1000):
        assert lane.seize(ANYBODY) is not None
    counts = [item.in_flight for item in targets]
    assert max(counts) - min(counts) < 20
    for item in targets:
        while item.in_flight:
            lane.release(item, Outcome.OK)
    assert lane.idle
    assert not lane.loads


async def test_a_draining_target_is_left_when_its_last_answer_ends(clock: VirtualClock, lane: Lane) -> None:
    """The drain would wait for ever, or the engine be stopped too early."""
    one = target_of(clock)
    set_view(lane, one)
    assert lane.seize(ANYBODY) is lane.seize(ANYBODY) is one
    one.draining_epoch = 4
    reporter = lane._reporter
    assert isinstance(reporter, Noted)
    lane.release(one, Outcome.OK)
    assert not reporter.emptied_targets
    lane.release(one, Outcome.OK)
    assert reporter.emptied_targets == [one]
    assert lane.last_ended_at == clock.time()

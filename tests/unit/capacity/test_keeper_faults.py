"""Stories: engines crash and hang, providers refuse, keepers die; nobody waits in vain and nothing is left behind."""

import asyncio
import itertools

import pytest

from lamplighter.core.errors import ProviderError, StoreFull
from lamplighter.core.reasons import HealthReason, LossReason, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Health, Probe
from lamplighter.store import demand, replicas, wakes
from lamplighter.store.bus import Topic
from lamplighter.store.demand import GatewayDemand
from tests.unit.capacity.doubles import Cloud, FixedServer
from tests.unit.capacity.world import new_keeper, tree, world

CRASH = WakeFailure.ENGINE_CRASHED


async def test_failed_wakes_are_tried_again_with_growing_pauses() -> None:
    """If this fails, a broken engine is started in a hot loop, or never again."""
    async with world(fail_next=[("load", CRASH)] * 4) as w:
        begun: list[float] = []
        await w.ask("m", queued=1)
        for _ in range(200):
            await w.beat(0.2)
            if w.cloud.launches > len(begun):
                begun.append(w.clock.time())
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(begun)]
        assert pauses == [2, 4, 8, 16]
        assert await w.states() == ["ready"]
        assert (await w.wake("m")).attempt == 5


async def test_a_failure_says_why_and_when_it_is_tried_again() -> None:
    """If this fails, those who wait are not told what is wrong."""
    async with world(fail_next=[("pull", WakeFailure.MODEL_CORRUPT)]) as w:
        await w.ask("m", queued=1)
        await w.beat(0.5)
        wake = await w.wake("m")
        assert (wake.outcome, wake.reason, wake.detail, wake.attempt) == (
            "failed",
            WakeFailure.MODEL_CORRUPT,
            "told by the cloud",
            1,
        )
        assert wake.retry_at is not None
        assert wake.retry_at == pytest.approx(w.clock.time() + 2, abs=0.6)
        await w.ask("m", queued=0)  # the gateway told them at once
        await w.beat(60)
        assert w.cloud.launches == 1
        await w.ask("m", queued=1)  # somebody new
        await w.beat(2)
        assert await w.states() == ["ready"]


async def test_an_order_to_wake_does_not_wait_for_the_pause() -> None:
    """If this fails, whoever repaired the cause still has to wait two minutes."""
    async with world(fail_next=[("load", CRASH)] * 6) as w:
        await w.ask("m", queued=1)
        await w.beat(64)
        assert w.cloud.launches == 6  # 0, 2, 6, 14, 30, 62 s
        await w.beat(10)
        await demand.order_wake(w.store, "m", until=w.clock.time() + 60)
        await w.beat(2)
        assert await w.states() == ["ready"]
        assert (await w.wake("m")).attempt == 1


async def test_no_capacity_is_asked_for_again() -> None:
    """If this fails, one full data centre minute makes a request fail for good."""
    async with world() as w:
        w.cloud.refuse = ProviderError("there is no machine", reason=WakeFailure.NO_CAPACITY)
        await w.ask("m", queued=1)
        await w.beat(5)
        wake = await w.wake("m")
        assert (wake.outcome, wake.reason, wake.detail) == ("failed", WakeFailure.NO_CAPACITY, "there is no machine")
        assert await w.states() == []
        w.cloud.refuse = None
        await w.beat(6)
        assert await w.states() == ["ready"]


@pytest.mark.parametrize("stage", ["capacity", "boot", "load"])
async def test_a_crash_in_any_stage_is_a_failure_with_its_reason(stage: str) -> None:
    """If this fails, a wake that died in the middle hangs for ever."""
    async with world(durations={"capacity": 3.0, "boot": 5.0, "load": 2.0}, fail_next=[(stage, CRASH)]) as w:
        await w.ask("m", queued=1)
        await w.beat(9, every=0.5)
        past = await w.wake("m")
        assert (past.attempt, past.outcome) in ((1, "failed"), (2, None))
        await w.beat(16)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 2
        assert len(w.cloud.machines) == 1


async def test_a_wake_has_a_deadline() -> None:
    """If this fails, an engine that never gets ready blocks its pool for ever."""
    config = tree({"cloud": {"boot_deadline": "30s"}}, {"m": "cloud"})
    async with world(config, durations={"load": 1e6}) as w:
        await w.ask("m", queued=1)
        await w.beat(31)
        wake = await w.wake("m")
        assert (wake.outcome, wake.reason) == ("failed", WakeFailure.BOOT_DEADLINE)
        w.cloud.durations["load"] = 1.0
        await w.beat(5)
        assert await w.states() == ["ready"]
        assert len(w.cloud.machines) == 1


async def test_a_crashed_engine_is_replaced_at_once_when_it_is_needed() -> None:
    """If this fails, the request after a crash waits for nothing, or is sent to a corpse."""
    async with world() as w:
        await w.serve("m", 61)
        [row] = await w.replicas()
        w.cloud.crash("m")
        w.store.bus.publish(Topic.SUSPECT, row.id)
        await w.ask("m", queued=1)
        await w.beat(0.5)
        assert await w.states() == ["starting"]
        await w.beat(1)
        assert await w.states() == ["ready"]
        events = [(event.to_state, event.reason) for event in await replicas.history(w.store, row.id)]
        assert ("lost", LossReason.CRASHED.value) in events
        assert events[-1][0] == "gone"


async def test_a_crashed_engine_that_nobody_needs_stays_down() -> None:
    """If this fails, a crash at night burns until the morning."""
    async with world() as w:
        await w.serve("m", 1)
        w.cloud.crash("m")
        await w.beat(10)
        assert await w.states() == []
        assert w.cloud.launches == 1


async def test_a_replica_that_vanishes_is_lost() -> None:
    """If this fails, a machine that the provider took away counts as awake."""
    async with world() as w:
        await w.serve("m", 1)
        [row] = await w.replicas()
        w.cloud.machines.clear()
        await w.beat(3)
        assert await w.states() == []
        assert "vanished" in [event.reason for event in await replicas.history(w.store, row.id)]


async def test_a_hung_engine_is_seen_ended_and_replaced() -> None:
    """If this fails, requests go to a process that lives and never answers."""
    async with world() as w:
        await w.serve("m", 1)
        [row] = await w.replicas()
        w.cloud.machines[row.handle or ""].hung = True
        await w.ask("m", in_flight=1)
        await w.beat(5)
        [row] = await w.replicas()
        assert (row.state, row.reason) == (ReplicaState.UNREACHABLE, HealthReason.NO_ANSWER)
        await w.beat(62)
        assert HealthReason.HUNG.value in [event.reason for event in await replicas.history(w.store, row.id)]
        await w.ask("m", queued=1)
        await w.beat(3)
        assert await w.states() == ["ready"]
        assert (await w.replicas())[0].id != row.id


async def test_an_engine_that_answers_again_serves_again() -> None:
    """If this fails, one slow minute costs a whole restart."""
    async with world() as w:
        await w.serve("m", 1)
        [row] = await w.replicas()
        w.cloud.machines[row.handle or ""].hung = True
        await w.beat(5)
        w.cloud.machines[row.handle or ""].hung = False
        await w.beat(3)
        [again] = await w.replicas()
        assert (again.id, again.state) == (row.id, "ready")


async def test_an_engine_that_says_it_will_never_be_ready_fails_with_its_reason() -> None:
    """If this fails, a person waits fifteen minutes for what is known at once."""
    async with world() as w:
        w.doctor.broken = Probe(Health.FAILED, "too large", WakeFailure.OUT_OF_MEMORY)
        await w.ask("m", queued=1)
        await w.beat(1.5)
        wake = await w.wake("m")
        assert (wake.outcome, wake.reason, wake.detail) == ("failed", WakeFailure.OUT_OF_MEMORY, "too large")


async def test_kill_in_the_middle_of_a_wake_is_adopted() -> None:
    """If this fails, a crash of ours starts the model twice, or forgets those who wait."""
    async with world(durations={"boot": 20.0, "load": 5.0}) as w:
        await w.ask("m", queued=1)
        await w.beat(10)
        first = await w.wake("m")
        await w.restart()
        await w.beat(16)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 1
        wake = await w.wake("m")
        assert (wake.id, wake.outcome) == (first.id, "ready")
        assert wake.seconds == pytest.approx(25, abs=0.5)


async def test_a_wake_that_went_on_while_we_were_away_keeps_its_true_length() -> None:
    """If this fails, one crash of ours makes every later ETA an hour."""
    async with world(durations={"boot": 20.0, "load": 5.0}) as w:
        await w.ask("m", queued=1)
        await w.beat(10)
        await w.kill()
        await w.clock.advance(3600)
        await w.restart()
        await w.beat(1)
        wake = await w.wake("m")
        assert wake.outcome == "ready"
        assert wake.seconds == pytest.approx(25, abs=0.5)


async def test_kill_while_awake_is_adopted_without_an_interruption() -> None:
    """If this fails, every restart of ours cuts the answers and loads the weights again."""
    async with world() as w:
        await w.serve("m", 1)
        [before] = await w.replicas()
        await w.restart()
        await w.beat(10)
        [after] = await w.replicas()
        assert (after.id, after.epoch, after.state) == (before.id, before.epoch, "ready")
        await w.beat(120)
        await w.ack()
        await w.beat(1)
        assert await w.states() == []


async def test_kill_between_the_row_and_the_launch() -> None:
    """If this fails, a row without a machine blocks the pool, or a machine without a row burns for ever."""
    async with world(run=False) as w:
        await w.ask("m", queued=1)
        w.cloud.kill_at_scale = True
        with pytest.raises(asyncio.CancelledError):
            await w.keeper.step()
        assert await w.states() == ["launching"]
        w.cloud.kill_at_scale = False
        await w.restart()
        await w.beat(2)
        assert await w.states() == ["ready"]
        assert w.cloud.launches == 1


async def test_kill_between_the_launch_and_its_handle() -> None:
    """If this fails, a crash of ours in the worst moment starts the model twice."""
    async with world(run=False) as w:
        await w.ask("m", queued=1)
        await w.keeper.step()
        [row] = await w.replicas()
        assert (row.handle, w.cloud.launches) == (None, 1)
        await w.restart()
        await w.beat(2)
        [row] = await w.replicas()
        assert (row.handle, row.state, w.cloud.launches) == ("m0", "ready", 1)


async def test_what_runs_without_a_row_is_adopted_or_ended() -> None:
    """If this fails, a store that was lost leaves machines that nobody ends."""
    async with world(run=False) as w:
        w.cloud.launch("m")
        w.start()
        await w.beat(3)
        assert await w.states() == ["ready"]
        await w.beat(120)
        assert await w.states() == []
        assert w.cloud.machines == {}


async def test_an_empty_store_ends_nothing_it_does_not_know() -> None:
    """If this fails, a restore of an empty database terminates somebody's machines."""
    async with world(run=False) as w:
        w.cloud.launch("forgotten")
        w.start()
        await w.clock.advance(60)
        assert (await w.states(), len(w.cloud.machines)) == ([], 1)
        await w.ask("m", queued=1)  # from now on the store has a history of its own
        await w.beat(5)
        assert await w.states() == ["ready"]
        assert [machine.model for machine in w.cloud.machines.values()] == ["m"]


async def test_a_model_taken_out_of_the_configuration_is_drained() -> None:
    """If this fails, a deleted model runs on."""
    config = tree({"cloud": {"sleep_after": "never", "max_replicas": 2}}, {"m": "cloud", "n": "cloud"})
    async with world(config) as w:
        await w.serve("m", 1)
        await w.serve("n", 1)
        await w.restart(tree({"cloud": {"sleep_after": "never", "max_replicas": 2}}, {"n": "cloud"}))
        await w.beat(3)
        await w.ack()
        await w.beat(2)
        assert [replica.models for replica in await w.replicas()] == [("n",)]


async def test_a_pool_taken_out_of_the_configuration_is_concluded() -> None:
    """If this fails, the status shows for ever what ended long ago."""
    config = tree({"cloud": {}, "other": {}}, {"m": "cloud", "n": "other"})
    async with world(config) as w:
        await w.serve("n", 1)
        del w.providers["other"]
        await w.restart(tree({"cloud": {}}, {"m": "cloud"}))
        await w.beat(3)
        assert await w.states() == ["draining"]
        await w.ack()
        await w.beat(6)
        assert await w.states() == ["stopping"]
        await w.beat(65)
        assert await w.states() == []


async def test_the_second_keeper_waits_and_takes_over() -> None:
    """If this fails, two keepers act at once, or nobody does after the first has died."""
    async with world() as w:
        second = new_keeper(w.config, w.store, w.clock, w.providers, w.doctor, w.metrics, holder="k2")
        task = asyncio.create_task(second.run())
        await w.serve("m", 1)
        assert (w.keeper.term, second.term) == (1, None)
        await w.kill()
        await w.beat(20)
        assert second.term == 2
        assert await w.states() == ["ready"]
        ending = asyncio.create_task(second.shutdown(end=True))
        await w.clock.advance(2)
        assert await ending is True
        await task
        assert w.cloud.machines == {}


async def test_a_keeper_whose_term_is_over_writes_nothing() -> None:
    """If this fails, a keeper that slept through its lease undoes its successor's work."""
    async with world(run=False) as w:
        await w.keeper.step()
        second = new_keeper(w.config, w.store, w.clock, w.providers, w.doctor, w.metrics, holder="k2", force=True)
        await second.step()
        w.start()  # the first one again: it takes the lease only when the second's has run out
        await w.ask("m", queued=1)
        await w.beat(5)
        assert w.cloud.launches == 0
        await w.beat(20)
        assert w.keeper.term == 3
        assert await w.states() == ["ready"]


async def test_one_pool_s_trouble_does_not_touch_another_s() -> None:
    """If this fails, one unreachable cloud puts everything to a standstill."""
    config = tree({"cloud": {}, "other": {}}, {"m": "cloud", "n": "other"})
    async with world(config) as w:
        other = w.providers["other"]
        assert isinstance(other, Cloud)
        other.blind = RuntimeError("a defect of the provider")
        await w.serve("m", 1)
        other.blind, other.hang = None, True
        await w.ask("m", in_flight=1)
        await w.beat(60)
        assert await w.states() == ["ready"]
        other.hang = False
        await w.ask("n", queued=1)
        await w.beat(60)
        assert sorted(await w.states()) == ["ready", "ready"]
        assert other.renewals >= 5  # leases are renewed although the rounds failed or hung


async def test_whoever_waits_is_told_that_the_provider_cannot_be_asked() -> None:
    """If this fails, a request to a pool with wrong credentials is held for an hour."""
    async with world() as w:
        w.cloud.blind = ProviderError("the secret is missing")
        await w.ask("m", queued=1)
        await w.beat(1)
        wake = await w.wake("m")
        assert (wake.outcome, wake.reason, wake.detail) == ("failed", WakeFailure.PROVIDER_ERROR, "the secret is missing")
        w.cloud.blind = None
        await w.beat(10)
        assert await w.states() == ["ready"]


async def test_shutdown_ends_everything_or_leaves_everything() -> None:
    """If this fails, Ctrl-C leaves engines behind, or an upgrade stops them all."""
    async with world() as w:
        await w.serve("m", 1)
        await w.keeper.shutdown(end=False)
        assert len(w.cloud.machines) == 1
        await w.restart()
        await w.ask("m", in_flight=1)
        await w.beat(3)
        ending = asyncio.create_task(w.keeper.shutdown(end=True))
        await w.beat(2)
        assert await ending is True
        assert (await w.states(), w.cloud.machines) == ([], {})
        assert w.task is not None
        assert w.task.done()
        third = new_keeper(w.config, w.store, w.clock, w.providers, w.doctor, w.metrics, holder="k3")
        await third.step()
        assert third.term is not None  # the lease was given back


async def test_shutdown_in_the_middle_of_a_wake_cancels_it() -> None:
    """If this fails, a wake that nobody continues is shown for ever."""
    async with world(durations={"load": 50.0}, ending=3.0) as w:
        await w.ask("m", queued=1)
        await w.beat(5)
        ending = asyncio.create_task(w.keeper.shutdown(end=True))
        await w.beat(5)
        assert await ending is True
        assert (await w.wake("m")).outcome == "cancelled"
        assert w.cloud.machines == {}


async def test_shutdown_does_not_wait_for_ever() -> None:
    """If this fails, Ctrl-C hangs on an engine that does not end."""
    async with world(ending=1e6) as w:
        await w.serve("m", 1)
        ending = asyncio.create_task(w.keeper.shutdown(end=True))
        await w.beat(12)
        assert await ending is False


async def test_a_static_server_is_watched_and_never_touched() -> None:
    """If this fails, an always-on server is shown awake while it is down, or is never asked again."""
    config = tree({"nas": {"kind": "static", "url": "http://static"}}, {"m": "nas", "n": "nas"})
    async with world(config) as w:
        await w.clock.advance(1)
        [row] = await w.replicas()
        assert (row.state, set(row.models), row.handle) == ("ready", {"m", "n"}, "static")
        w.doctor.static = Probe(Health.DOWN, "connection refused")
        await w.beat(6)
        assert await w.states() == ["unreachable"]
        await w.ask("n", queued=1)
        await w.beat(2)
        wake = await w.wake("n", "nas")
        assert (wake.outcome, wake.reason, wake.detail) == ("failed", WakeFailure.UNREACHABLE, "connection refused")
        assert wake.attempt >= 3  # so that those who wait are told at once
        await w.beat(60)
        assert await w.states() == ["unreachable"]
        w.doctor.static = Probe(Health.READY)
        await w.beat(3)
        assert await w.states() == ["ready"]
        await w.beat(60)
        assert await w.states() == ["ready"]
        assert (await w.replicas())[0].id == row.id
        static = w.providers["nas"]
        assert isinstance(static, FixedServer)


async def test_a_static_server_that_is_down_from_the_start() -> None:
    """If this fails, a wrong URL holds requests instead of naming itself."""
    config = tree({"nas": {"kind": "static", "url": "http://static"}}, {"m": "nas"})
    async with world(config, run=False) as w:
        w.doctor.static = Probe(Health.FAILED, "the key is refused", WakeFailure.PROVIDER_ERROR)
        w.start()
        await w.ask("m", queued=1)
        await w.beat(8)
        wake = await w.wake("m", "nas")
        assert (wake.outcome, wake.reason, wake.detail) == ("failed", WakeFailure.PROVIDER_ERROR, "the key is refused")
        assert await w.states() == ["starting"]
        w.doctor.static = Probe(Health.READY)
        await w.beat(5)
        assert await w.states() == ["ready"]


@pytest.mark.parametrize("nights", [5, pytest.param(100, marks=pytest.mark.long)])
async def test_many_nights_leave_nothing(nights: int) -> None:
    """If this fails, something leaks a little with every wake and sleep. Ten models: fifty of them, and in the long run a thousand."""
    models = [f"m{number}" for number in range(10)]
    config = tree({"cloud": {"max_replicas": len(models), "sleep_after": "60s"}}, dict.fromkeys(models, "cloud"))
    async with world(config, durations={"load": 0.0}, ending=0.0, run=False) as w:
        for _ in range(nights):
            now = w.clock.time()
            await demand.report(w.store, "g", [GatewayDemand(model, queued=1, oldest_queued_at=now) for model in models])
            for _ in range(2):
                await w.keeper.step()
            assert await w.states() == ["ready"] * len(models)
            await demand.report(w.store, "g", [GatewayDemand(model, last_ended_at=now) for model in models])
            await w.clock.advance(61)
            for _ in range(3):  # the gateway is dead by now: nobody has to acknowledge
                await w.keeper.step()
        assert (await w.states(), w.cloud.machines, w.clock.waiting) == ([], {}, 0)
        assert await wakes.under_way(w.store) == []
        assert (w.cloud.launches, w.cloud.most) == (nights * len(models), len(models))


@pytest.mark.parametrize("alone", [True, False])
async def test_a_full_disk_does_not_end_what_serves(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk takes the running models down with it, or a keeper that cannot write acts beside its successor."""
    async with world() as w:
        await w.serve("m", 1)
        if alone:
            await w.restart()
            await w.beat(1)
        term, renewals = w.keeper.term, w.cloud.renewals

        def full() -> None:
            raise StoreFull("the store's disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(w.store, "write", full)
            await w.clock.advance(45)
            assert (w.keeper.term == term) is alone
            assert (w.cloud.renewals - renewals > 3) is alone
        await w.beat(3)
        assert w.keeper.term is not None
        assert await w.states() == ["ready"]

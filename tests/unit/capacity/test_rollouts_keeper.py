"""Rollouts through a whole keeper on the virtual clock: machines wake, gateways report, people order, keepers die."""

from typing import Any

import pytest

from lamplighter.capacity import answers
from lamplighter.config import Config
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import Because, Order, Phase, Strategy
from lamplighter.store import outcomes, overlay, rollouts, usage
from lamplighter.store.outcomes import Seen, Where
from lamplighter.store.rollouts import Rollout, Settings
from tests.unit.capacity.world import World, tree, world

P = Phase
SETTINGS = Settings(steps=(1000, 5000), every=30.0, settle=40.0, within=3600.0)


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What the answer check finds, by candidate: nothing wrong unless a test says so."""
    verdicts: dict[str, str | None] = {}

    async def wrong(candidate: answers.Asked, stable: answers.Asked | None, questions: Any) -> str | None:
        return verdicts.get(candidate.name)

    monkeypatch.setattr(answers, "wrong", wrong)
    return verdicts


def config(*, most: int = 2, revision: str | None = None, source: str = "hf:org/m", **pool: Any) -> Config:
    made = tree(
        {"cloud": {"sleep_after": "60s", "max_replicas": most, "boot_deadline": "100s", **pool}}, {"m": "cloud", "other": "cloud"}
    )
    model = made.models["m"].model_copy(update={"source": source, "revision": revision})
    return made.model_copy(update={"models": {**made.models, "m": model}})


async def begin(here: World, candidate: str = "m@r2", settings: Settings = SETTINGS) -> Rollout:
    revision = candidate.partition("@")[2] or None
    basis = rollouts.basis_of(here.config.models["m"])
    return await rollouts.begin(here.store, name="m", candidate=candidate, revision=revision, settings=settings, basis=basis)


async def now(here: World) -> Rollout:
    found = await rollouts.latest(here.store, "m")
    assert found is not None
    return found


async def until(here: World, phase: Phase, step: int | None = None, seconds: float = 300) -> Rollout:
    found = await now(here)
    for _ in range(int(seconds * 2)):
        if found.phase is phase and step in (None, found.step):
            return found
        await here.beat(0.5)
        found = await now(here)
    raise AssertionError(f"it is {found.phase} at step {found.step} ({found.reason}: {found.detail}), not {phase}")


async def models(here: World) -> list[str]:
    return sorted(replica.models[0] for replica in await here.replicas() if replica.state.value == "ready")


async def saw(here: World, one: Rollout, side: outcomes.Side, seen: Seen) -> None:
    """What gateways tell of the current step."""
    await outcomes.add(here.store, {Where(one.id, one.step, side): seen})


async def test_a_canary_wakes_is_checked_grows_and_is_promoted() -> None:
    """If this fails, a model cannot be changed without downtime."""
    async with world(config()) as here:
        await here.serve("m", 1)
        await begin(here)
        assert (await overlay.effective(here.store, here.config))["m@r2"].revision == "r2"
        await until(here, P.SERVING, 0)
        assert await models(here) == ["m", "m@r2"]
        assert (await now(here)).weight == 1000
        for step in (0, 1):
            one = await until(here, P.SERVING, step)
            await saw(here, one, "candidate", Seen(50, 0))
            await saw(here, one, "stable", Seen(50, 0))
        one = await until(here, P.SERVING, 2)
        assert one.weight == 10_000
        await here.beat(30)
        assert await models(here) == ["m", "m@r2"]  # the way back is open
        await here.done("m@r2")
        promoted = await until(here, P.PROMOTED)
        assert promoted.weight == 10_000
        changes = await rollouts.changes(here.store)
        assert changes.stable("m") == "m@r2"
        await here.beat(5)
        await here.ack()
        await here.beat(5)
        assert await models(here) == ["m@r2"]  # the old one did not wait for its idle time
        phases = [event.to_phase for event in await rollouts.history(here.store, one.id)]
        assert phases == [P.WAKING, P.CHECKING, P.SERVING, P.SERVING, P.SERVING, P.PROMOTED]


async def test_both_stay_awake_although_nobody_asks() -> None:
    """If this fails, the candidate falls asleep in the middle of a step, or the old one is gone when it is needed."""
    async with world(config()) as here:
        await here.serve("m", 1)
        await begin(here, settings=Settings(steps=(5000,), every=200.0, settle=200.0))
        await until(here, P.SERVING, 0)
        await here.beat(150)
        assert await models(here) == ["m", "m@r2"]


async def test_a_sleeping_model_is_not_woken_for_its_own_sake() -> None:
    """If this fails, a change at night pays for two machines instead of one."""
    async with world(config()) as here:
        await begin(here)
        await until(here, P.SERVING, 0)
        assert await models(here) == ["m@r2"]
        await until(here, P.PROMOTED)
        assert here.cloud.launches == 1


async def test_errors_roll_back_and_the_candidate_ends() -> None:
    """If this fails, a broken revision serves people, or goes on costing after it was given up."""
    async with world(config()) as here:
        await here.serve("m", 1)
        await begin(here)
        one = await until(here, P.SERVING, 0)
        await saw(here, one, "candidate", Seen(10, 5))
        await saw(here, one, "stable", Seen(100, 0))
        back = await until(here, P.ROLLED_BACK)
        assert (back.reason, back.weight) == (Because.ERRORS, 0)
        await here.beat(3)
        await here.ack()
        await here.beat(5)
        assert await models(here) == ["m"]
        assert "m@r2" not in await overlay.effective(here.store, here.config)
        assert (await rollouts.changes(here.store)).routes() == {}


async def test_the_hour_before_is_what_blue_green_is_compared_with() -> None:
    """If this fails, blue-green has nothing to compare with, and a slow model is kept."""
    async with world(config()) as here:
        await here.serve("m", 1)
        entries = [
            usage.Entry(f"u{n}", here.clock.time() - 1, f"r{n}", "g1", "k", "p", "chat", "m", None, "rep", 200, "ok", 1, 1, False, 1.0, 0.1, None,
                        0.0, 0.0, 1.0, 0, None)
            for n in range(100)
        ]  # fmt: skip
        await usage.write(here.store, entries)
        await begin(here, settings=Settings(strategy=Strategy.BLUE_GREEN, settle=100.0))
        one = await until(here, P.SERVING, 0)
        assert one.weight == 10_000
        slow = Seen()
        for _ in range(50):
            slow.note(first_token=2.0)
        await saw(here, one, "candidate", slow)
        back = await until(here, P.ROLLED_BACK)
        assert back.reason is Because.SLOW
        assert await models(here) == ["m", "m@r2"] or await models(here) == ["m"]


async def test_a_wrong_answer_keeps_everybody_away(checks: dict[str, str | None]) -> None:
    """If this fails, people talk to a model that answers nonsense."""
    checks["m@r2"] = "it answered 'x'"
    async with world(config()) as here:
        await here.serve("m", 1)
        await begin(here)
        back = await until(here, P.ROLLED_BACK)
        assert (back.reason, back.detail, back.step) == (Because.CHECK_FAILED, "it answered 'x'", -1)


@pytest.mark.parametrize("times", [2, 3])
async def test_one_that_cannot_be_asked_is_asked_again(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """If this fails, a machine that dies in the moment of the check ends the change; or one that never answers is asked for ever."""
    asked: list[str] = []

    async def mute(candidate: answers.Asked, stable: answers.Asked | None, questions: Any) -> str | None:
        asked.append(candidate.name)
        if len(asked) <= times:
            raise answers.NoAnswer("nothing answers there")
        return None

    monkeypatch.setattr(answers, "wrong", mute)
    async with world(config()) as here:
        await begin(here)
        if times < 3:
            await until(here, P.SERVING, 0)
            assert len(asked) == times + 1
        else:
            back = await until(here, P.ROLLED_BACK)
            assert (back.reason, back.detail) == (Because.CHECK_FAILED, "nothing answers there")


async def test_a_candidate_that_cannot_wake_is_given_up_with_the_reason() -> None:
    """If this fails, a change whose model does not exist is tried for ever."""
    async with world(config()) as here:
        here.cloud.fail_next = [("pull", WakeFailure.MODEL_NOT_FOUND)] * 3
        await begin(here)
        back = await until(here, P.ROLLED_BACK)
        assert back.reason is Because.WAKE_FAILED
        assert "does not exist" in (back.detail or "")


async def test_a_candidate_that_cannot_be_paid_is_given_up() -> None:
    """If this fails, a change spends what a budget forbids, or waits for money that does not come."""
    settings = config(price="10 USD/hour", budget="0.001 USD/day")
    async with world(settings) as here:
        await begin(here)
        back = await until(here, P.ROLLED_BACK)
        assert back.reason is Because.WAKE_FAILED
        assert "budget" in (back.detail or "")
        assert here.cloud.launches == 0


async def test_blue_green_wakes_as_many_as_there_are() -> None:
    """If this fails, everybody is sent from three machines to one."""
    async with world(config(most=6, target_per_replica=2, scale_up_after="1s")) as here:
        await here.ask("m", in_flight=6)
        await here.beat(20)
        assert await models(here) == ["m"] * 3
        await begin(here, settings=Settings(strategy=Strategy.BLUE_GREEN, settle=500.0))
        await until(here, P.SERVING, 0)
        assert await models(here) == ["m"] * 3 + ["m@r2"] * 3


async def test_where_there_is_no_room_for_all_as_many_as_fit_do() -> None:
    """If this fails, a change waits for ever for replicas that its pool cannot hold."""
    async with world(config(most=4, target_per_replica=2, scale_up_after="1s")) as here:
        await here.ask("m", in_flight=6)
        await here.beat(20)
        one = await begin(here, settings=Settings(strategy=Strategy.BLUE_GREEN, settle=500.0))
        await until(here, P.SERVING, 0)
        assert await models(here) == ["m"] * 3 + ["m@r2"]
        details = [event.detail for event in await rollouts.history(here.store, one.id)]
        assert any("holds at most 4" in (detail or "") for detail in details)


async def test_a_full_pool_is_no_deadlock() -> None:
    """If this fails, a change waits for ever for a place that another model has, and nobody is told."""
    async with world(config(swap_after="1h")) as here:
        await here.ask("other", in_flight=1)
        await here.beat(3)
        await here.ask("m", in_flight=1, gateway="g2")
        await here.beat(3)
        assert await models(here) == ["m", "other"]
        await begin(here)
        back = await until(here, P.ROLLED_BACK)
        assert back.reason is Because.NOT_AWAKE
        assert "is full" in (back.detail or "")
        assert await models(here) == ["m", "other"]


@pytest.mark.parametrize("at", [P.WAKING, P.SERVING, P.PAUSED, P.PROMOTED])
async def test_a_keeper_that_dies_is_followed_in_every_phase(at: Phase) -> None:
    """If this fails, a restart promotes or forgets a change, or begins it anew."""
    async with world(config()) as here:
        await here.serve("m", 1)
        one = await begin(here)
        if at is P.PAUSED:
            await until(here, P.SERVING, 0)
            await rollouts.order(here.store, one.id, Order.PAUSE)
        if at is not P.WAKING:
            await until(here, at)
        before = await now(here)
        await here.restart()
        await here.clock.settle()
        await here.beat(1)
        after = await now(here)
        assert after.id == before.id
        assert after.step in (before.step, before.step + 1)
        if at is P.PAUSED:
            assert after.phase is P.PAUSED
            await rollouts.order(here.store, one.id, Order.RESUME)
        assert (await until(here, P.PROMOTED)).id == one.id
        assert here.cloud.launches == 2


@pytest.mark.parametrize("at", [P.WAKING, P.SERVING, P.PAUSED, P.PROMOTED])
async def test_a_person_takes_it_back_at_any_time(at: Phase) -> None:
    """If this fails, who sees something wrong can only watch."""
    async with world(config()) as here:
        await here.serve("m", 1)
        one = await begin(here)
        if at is P.PAUSED:
            await until(here, P.SERVING, 0)
            await rollouts.order(here.store, one.id, Order.PAUSE)
        if at is not P.WAKING:
            await until(here, at)
        assert await rollouts.order(here.store, one.id, Order.ROLLBACK)
        route = (await rollouts.changes(here.store)).routes().get("m")
        assert route is None or (route.stable, route.weight) == ("m", 0)  # gateways need no keeper for this
        back = await until(here, P.ROLLED_BACK)
        assert back.reason is Because.ASKED
        assert (await rollouts.changes(here.store)).routes() == {}
        assert not await rollouts.order(here.store, one.id, Order.PROMOTE)


async def test_a_person_promotes_at_once() -> None:
    """If this fails, who is sure must wait for every step."""
    async with world(config()) as here:
        one = await begin(here, settings=Settings(every=3000.0))
        await until(here, P.SERVING, 0)
        await rollouts.order(here.store, one.id, Order.PROMOTE)
        assert (await until(here, P.PROMOTED, seconds=3)).reason is Because.ASKED


async def test_the_change_dissolves_when_the_file_says_the_same() -> None:
    """If this fails, a switch outlives the file that says the same, and the next change of the file is ignored."""
    async with world(config()) as here:
        await begin(here)
        await until(here, P.SERVING, 2)
        await here.ask("m@r2", in_flight=1)
        await until(here, P.PROMOTED)
        await here.restart(config(revision="r2"))
        await here.done("m@r2")
        await here.beat(5)
        assert (await rollouts.changes(here.store)).stable("m") == "m@r2"  # what runs is used up first
        await here.beat(70)
        await here.ack()
        await here.beat(5)
        assert (await rollouts.changes(here.store)).switches == {}
        assert "m@r2" not in await overlay.effective(here.store, here.config)


async def test_the_file_wins_when_it_says_something_else() -> None:
    """If this fails, somebody edits the file, restarts, and the old switch is still there."""
    async with world(config()) as here:
        await begin(here)
        await until(here, P.PROMOTED)
        await here.restart(config(source="hf:org/m-v2"))
        await here.beat(3)
        assert (await rollouts.changes(here.store)).switches == {}


async def test_the_file_ends_a_change_under_way() -> None:
    """If this fails, a candidate made of the old file is promoted over the new one."""
    async with world(config()) as here:
        one = await begin(here, settings=Settings(every=3000.0))
        await until(here, P.SERVING, 0)
        await here.restart(config(revision="r3"))
        assert (await until(here, P.ROLLED_BACK)).reason is Because.FILE_CHANGED
        assert (await now(here)).id == one.id


async def test_another_model_takes_the_name_over_and_gives_it_back() -> None:
    """If this fails, a name cannot be moved between configured models, or there is no way back without downtime."""
    async with world(config()) as here:
        await here.serve("m", 1)
        await begin(here, "other")
        await until(here, P.PROMOTED)
        assert (await rollouts.changes(here.store)).stable("m") == "other"
        await begin(here, "m")
        assert (await now(here)).stable == "other"
        await here.beat(2)
        assert await models(here) == ["m"]  # it was on its way to sleep, and is called back
        await until(here, P.PROMOTED)
        assert (await rollouts.changes(here.store)).routes() == {}

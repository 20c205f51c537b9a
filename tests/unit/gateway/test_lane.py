"""One model's lane on a clock that tests move: who is next, where, and what becomes of endpoints that fail."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.gateway.breaker import Outcome, State
from lamplighter.gateway.lane import ANYBODY, EXCLUDED, Asker, Lane, Target
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.lanes import fail, lane_of, show, target_of, waiting


@pytest.fixture
async def clock() -> VirtualClock:
    return VirtualClock()


def seized(lane: Lane, asker: Asker = ANYBODY) -> Target:
    target = lane.seize(asker)
    assert target is not None
    return target


def quiet(lane: Lane) -> None:
    """Everything has returned to zero."""
    assert lane.idle
    assert not lane.loads
    assert not lane.waiting_since
    assert not lane._queue
    assert all(target.in_flight == 0 for target in lane.targets)


# -- balance


async def test_a_prompt_meets_the_same_replica_while_it_has_room(clock: VirtualClock) -> None:
    """Each turn of a conversation would be read anew by another GPU."""
    lane = lane_of(clock)
    show(lane, *(target_of(clock, f"rep_{index}") for index in range(4)))
    for number in range(50):
        asker = Asker(prefix=b"prompt %d" % number)
        homes = set()
        for _ in range(3):
            home = seized(lane, asker)
            homes.add(home)
            lane.release(home, Outcome.OK)
        assert len(homes) == 1
    quiet(lane)


async def test_a_prompt_that_everybody_sends_is_spread(clock: VirtualClock) -> None:
    """One shared system prompt would put all load on one replica."""
    lane = lane_of(clock)
    targets = [target_of(clock, f"rep_{index}") for index in range(8)]
    show(lane, *targets)
    for _ in range(400):
        seized(lane, Asker(prefix=b"shared"))
    assert max(target.in_flight for target in targets) <= 400 / 8 * 1.25 + 1
    for target in targets:
        while target.in_flight:
            lane.release(target, Outcome.OK)
    quiet(lane)


async def test_affinity_keeps_to_weights(clock: VirtualClock) -> None:
    """The small one of two servers would be overloaded by a prompt that belongs there, or the large one stay idle."""
    lane = lane_of(clock)
    small, large = target_of(clock, "small"), target_of(clock, "large", weight=3)
    show(lane, small, large)
    for number in range(8):
        for _ in range(100):
            seized(lane, Asker(prefix=b"prompt %d" % number))
    assert small.in_flight <= 800 / 4 * 1.25 + 1
    assert large.in_flight <= 800 * 3 / 4 * 1.25 + 1
    for target in (small, large):
        while target.in_flight:
            lane.release(target, Outcome.OK)
    quiet(lane)


async def test_affinity_can_be_turned_off(clock: VirtualClock) -> None:
    """Somebody whose engines cache nothing would get uneven load for nothing."""
    lane = lane_of(clock, routing={"affinity": False})
    show(lane, target_of(clock, "a"), target_of(clock, "b"))
    used = set()
    for _ in range(60):
        target = seized(lane, Asker(prefix=b"same"))
        used.add(target)
        lane.release(target, Outcome.OK)
    assert len(used) == 2


async def test_a_session_stays_while_replicas_come_and_go(clock: VirtualClock) -> None:
    """A conversation would change its GPU each time the pool grows or shrinks."""
    lane = lane_of(clock, routing={"slow_start": "0s"})
    targets = [target_of(clock, f"rep_{index}") for index in range(6)]
    show(lane, *targets[:2])
    sessions = [b"session %d" % number for number in range(40)]

    def homes() -> dict[bytes, Target]:
        found = {}
        for session in sessions:
            found[session] = seized(lane, Asker(session=session))
            lane.release(found[session], Outcome.OK)
        return found

    before = homes()
    show(lane, *targets)
    assert homes() == before
    show(lane, *targets[1:])
    after = homes()
    assert all(after[session] is home for session, home in before.items() if home is not targets[0])
    assert all(home is not targets[0] for home in after.values())


async def test_a_session_returns_to_a_home_that_was_away_for_a_moment(clock: VirtualClock) -> None:
    """One refused connection would cost a conversation its cache for good."""
    lane = lane_of(clock)
    show(lane, target_of(clock, "a"), target_of(clock, "b"))
    asker = Asker(session=b"mine")
    home = seized(lane, asker)
    lane.release(home, Outcome.CONNECT)
    other = seized(lane, asker)
    assert other is not home
    lane.release(other, Outcome.OK)
    await clock.advance(EXCLUDED + 0.1)
    assert seized(lane, asker) is home


async def test_weights_share_the_load(clock: VirtualClock) -> None:
    """A server with twice the GPUs would get no more than the others."""
    lane = lane_of(clock)
    small, large = target_of(clock, "small"), target_of(clock, "large", weight=3)
    show(lane, small, large)
    for _ in range(400):
        seized(lane)
    assert 70 <= small.in_flight <= 130
    lane.loads.clear()


async def test_a_fresh_replica_grows_into_its_share(clock: VirtualClock) -> None:
    """A replica whose kernels are not compiled yet would get half of all requests in its first second."""
    lane = lane_of(clock)
    await clock.advance(100)
    old, fresh = target_of(clock, "old"), target_of(clock, "fresh")
    fresh.fresh_at = clock.monotonic()
    show(lane, old, fresh)
    for _ in range(110):
        seized(lane)
    assert fresh.in_flight <= 25
    await clock.advance(11)
    for _ in range(400):
        seized(lane)
    assert abs(old.in_flight - fresh.in_flight) <= 20
    assert lane._steady  # and from now on it costs nothing


async def test_fresh_replicas_alone_take_everything(clock: VirtualClock) -> None:
    """After a wake nobody would be served until the replica has grown."""
    lane = lane_of(clock, places=50)
    await clock.advance(100)
    one = target_of(clock)
    one.fresh_at = clock.monotonic()
    show(lane, one)
    assert all(seized(lane) is one for _ in range(50))


async def test_a_retry_goes_elsewhere(clock: VirtualClock) -> None:
    """Both tries would meet the same broken engine."""
    lane = lane_of(clock)
    one, other = target_of(clock, "a"), target_of(clock, "b")
    show(lane, one, other)
    assert {seized(lane, Asker(avoid=one)) for _ in range(20)} == {other}
    show(lane, one)
    assert seized(lane, Asker(avoid=one)) is one, "unless there is no other"


# -- places and turns


async def test_no_more_than_its_places_go_to_a_replica(clock: VirtualClock) -> None:
    """An engine would queue a thousand requests inside, where nobody can be fair or be told anything."""
    lane = lane_of(clock, places=3)
    one, other = target_of(clock, "a"), target_of(clock, "b")
    show(lane, one, other)
    assert all(lane.seize(ANYBODY) for _ in range(6))
    assert lane.seize(ANYBODY) is None
    assert (one.in_flight, other.in_flight) == (3, 3)
    assert lane.awake, "it is busy, not asleep: no stand-in answers for it"


async def test_a_free_place_goes_to_exactly_one(clock: VirtualClock) -> None:
    """A hundred who wait would all wake up for one place."""
    lane = lane_of(clock, places=1)
    one = target_of(clock)
    show(lane, one)
    assert lane.seize(ANYBODY) is one
    tasks = [waiting(lane, clock, Asker("k")) for _ in range(10)]
    await clock.settle()
    assert (lane.queued, lane.in_flight) == (10, 1)
    for done in range(10):
        assert lane.seize(Asker("late")) is None, "nobody overtakes those who wait"
        lane.release(one, Outcome.OK)
        assert sum(waiter.event.is_set() for waiter in lane.waiting_since) == 0
        await clock.settle()
        assert [task.done() for task in tasks] == [True] * (done + 1) + [False] * (9 - done)
    lane.release(one, Outcome.OK)
    quiet(lane)


async def test_a_noisy_key_does_not_starve_another(clock: VirtualClock) -> None:
    """Somebody's batch job would keep everybody else from the model for an hour."""
    lane = lane_of(clock, places=2)
    one = target_of(clock)
    show(lane, one)
    seized(lane, Asker("noisy"))
    seized(lane, Asker("noisy"))
    noisy = [waiting(lane, clock, Asker("noisy")) for _ in range(50)]
    await clock.settle()
    patient = [waiting(lane, clock, Asker("patient")) for _ in range(5)]
    await clock.settle()
    for _ in range(10):
        lane.release(one, Outcome.OK)
        await clock.settle()
    assert sum(task.done() for task in patient) == 5
    assert sum(task.done() for task in noisy) == 5
    for task in [*noisy, *patient]:
        task.cancel()
    await asyncio.gather(*noisy, *patient, return_exceptions=True)
    while one.in_flight:
        lane.release(one, Outcome.OK)
    quiet(lane)


async def test_turns_are_fair_when_a_model_wakes_too(clock: VirtualClock) -> None:
    """The one who sent a hundred requests to a sleeping model would be served before the one who sent a single one."""
    lane = lane_of(clock, places=4)
    noisy = [waiting(lane, clock, Asker("noisy")) for _ in range(20)]
    await clock.settle()
    patient = [waiting(lane, clock, Asker("patient")) for _ in range(2)]
    await clock.settle()
    show(lane, target_of(clock))
    await clock.settle()
    assert [sum(task.done() for task in tasks) for tasks in (noisy, patient)] == [2, 2]
    for task in noisy:
        task.cancel()
    await asyncio.gather(*noisy, return_exceptions=True)


async def test_a_full_queue_has_room_for_a_key_with_less_than_its_share(clock: VirtualClock) -> None:
    """One key could fill the queue, and everybody else would get 429."""
    lane = lane_of(clock)
    noisy = [waiting(lane, clock, Asker("noisy"), max_held=4) for _ in range(4)]
    await clock.settle()
    patient = [waiting(lane, clock, Asker("patient"), max_held=4) for _ in range(3)]
    await clock.settle()
    assert [task.done() for task in noisy] == [False, False, True, True], "the newest gave their places"
    assert [task.done() for task in patient] == [False, False, True], "up to an equal share"
    for task in (noisy[2], noisy[3], patient[2]):
        error = task.exception()
        assert isinstance(error, RequestError)
        assert (error.status, error.code) == (429, "queue_full")
        assert error.retry_after is not None
    assert "gave its place" in str(noisy[3].exception())
    assert lane.queued == 4
    for task in [*noisy, *patient]:
        task.cancel()
    await asyncio.gather(*noisy, *patient, return_exceptions=True)
    quiet(lane)


async def test_waiting_for_a_place_ends_with_honest_words(clock: VirtualClock) -> None:
    """A client would be told that the model sleeps, or to come back at a time that nobody worked out."""
    lane = lane_of(clock, places=1)
    one = target_of(clock)
    show(lane, one)
    seized(lane)
    tasks = [waiting(lane, clock, Asker("k"), limit=3600) for _ in range(8)]
    await clock.settle()
    for _ in range(6):
        await clock.advance(4)
        lane.release(one, Outcome.OK)  # one place every four seconds
        await clock.settle()
    last = waiting(lane, clock, Asker("k"), limit=3)
    await clock.advance(3.5)
    error = last.exception()
    assert isinstance(error, RequestError)
    assert (error.status, error.code) == (503, "model_busy")
    assert "number 3" in error.message
    assert error.retry_after is not None
    assert 8 <= error.retry_after <= 16
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_was_waited_for_is_told_apart(clock: VirtualClock) -> None:
    """Accounts would call it a slow wake when the model was merely busy."""
    lane = lane_of(clock, places=1)
    asker, one = Asker("k"), target_of(clock)
    task = waiting(lane, clock, asker)
    first = waiting(lane, clock, Asker("k"))
    await clock.advance(5)
    show(lane, one)
    await clock.settle()
    assert await task is one
    await clock.advance(3)
    second = Asker("k")
    queued = waiting(lane, clock, second)
    lane.release(one, Outcome.OK)
    await clock.advance(2)
    assert await first is one
    lane.release(one, Outcome.OK)
    assert await queued is one
    assert (asker.woke, asker.queued) == (5, 0)
    assert (second.woke, second.queued) == (0, 2)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nobody_is_lost_whatever_happens(data: st.DataObject) -> None:
    """Some order of cancellations, failures and replicas that come and go would leave somebody waiting for ever, or a place lost."""

    async def history() -> None:
        clock = VirtualClock()
        lane = lane_of(clock, places=2)
        targets = [target_of(clock, f"rep_{index}", breaker={"failures": 2}) for index in range(3)]
        tasks: list[asyncio.Task[Target]] = []
        held: list[Target] = []
        steps = st.sampled_from(["ask", "ask", "ask", "seize", "cancel", "ok", "ok", "connect", "cancelled", "view", "time"])
        for step in data.draw(st.lists(steps, max_size=60)):
            if step == "ask":
                asker = Asker(data.draw(st.sampled_from("ab")), data.draw(st.sampled_from([b"", b"s"])))
                tasks.append(waiting(lane, clock, asker, limit=1e6, max_held=6))
                if data.draw(st.booleans()):
                    await clock.settle()
            elif step == "seize":
                target = lane.seize(Asker("c", prefix=b"p"))
                held += [target] if target is not None else []
            elif step == "cancel":
                if tasks:
                    tasks[data.draw(st.integers(0, len(tasks) - 1))].cancel()
            elif step == "view":
                show(lane, *data.draw(st.lists(st.sampled_from(targets), unique=True)))
            elif step == "time":
                await clock.advance(data.draw(st.sampled_from([0.1, 1.5, 10.0])))
            elif held:
                target = held.pop(data.draw(st.integers(0, len(held) - 1)))
                lane.release(target, Outcome(step))
            if data.draw(st.booleans()):
                await clock.settle()
                for task in [task for task in tasks if task.done()]:
                    tasks.remove(task)
                    if not task.cancelled() and task.exception() is None:
                        held.append(task.result())
            assert lane.in_flight == sum(lane.loads.values())
            assert all(count <= lane.places for count in lane.loads.values())
        # From here everything is well: everybody who waits is served.
        show(lane, *targets)
        for _ in range(200):
            await clock.advance(61)
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled() and task.exception() is None:
                    held.append(task.result())
            while held:
                lane.release(held.pop(), Outcome.OK)
            if not tasks:
                break
        assert not tasks
        await clock.settle()
        quiet(lane)

    asyncio.run(history())


# -- circuits


async def test_an_endpoint_that_fails_gets_nothing_while_another_is_there(clock: VirtualClock) -> None:
    """Every second request would fail on the dead one of two engines."""
    lane = lane_of(clock)
    dead, well = target_of(clock, "dead"), target_of(clock, "well")
    show(lane, dead, well)
    fail(lane, dead, Outcome.TIMEOUT, 5)
    assert dead.breaker.state is State.OPEN
    assert {seized(lane) for _ in range(50)} == {well}


async def test_only_one_request_at_a_time_tries_an_endpoint_again(clock: VirtualClock) -> None:
    """A hundred requests would fall upon an engine that has just come back, or that has not."""
    lane = lane_of(clock, static=True)
    one = target_of(clock)
    show(lane, one)
    fail(lane, one, Outcome.CONNECT, 5)
    await clock.advance(2.1)
    tasks = [waiting(lane, clock, Asker("k")) for _ in range(10)]
    await clock.settle()
    assert (lane.in_flight, lane.queued) == (1, 9)
    lane.answered(one)  # the head of its answer is there: the others need not wait for its end
    await clock.settle()
    assert (lane.in_flight, lane.queued) == (10, 0)
    assert one.breaker.state is State.CLOSED
    assert all(task.result() is one for task in tasks)


async def test_a_lone_endpoint_fails_fast_and_says_why(clock: VirtualClock) -> None:
    """Each client of a dead server would wait for its own timeout, and be told nothing."""
    lane = lane_of(clock, static=True)
    one = target_of(clock)
    show(lane, one)
    fail(lane, one, Outcome.CONNECT, 5)
    await clock.advance(1)
    with pytest.raises(RequestError) as caught:
        await waiting(lane, clock)
    error = caught.value
    assert (error.status, error.code, error.retry_after) == (503, "circuit_open", 1)
    assert "5 times in a row (no connection)" in error.message
    assert "(1s ago)" in error.message
    quiet(lane)


async def test_those_who_wait_are_told_when_the_trial_fails(clock: VirtualClock) -> None:
    """They would wait on for an endpoint that has just failed again."""
    lane = lane_of(clock, static=True)
    one = target_of(clock)
    show(lane, one)
    fail(lane, one, Outcome.CONNECT, 5)
    await clock.advance(2.1)
    trial = seized(lane)
    tasks = [waiting(lane, clock) for _ in range(3)]
    await clock.settle()
    assert not any(task.done() for task in tasks)
    lane.release(trial, Outcome.CONNECT)
    await clock.settle()
    assert all(getattr(task.exception(), "code", None) == "circuit_open" for task in tasks)
    quiet(lane)


async def test_a_trial_that_hangs_does_not_hold_everybody(clock: VirtualClock) -> None:
    """A frozen engine takes connections and never answers: all would wait for its timeout of ten minutes."""
    lane = lane_of(clock, static=True)
    one = target_of(clock, breaker={"open": "30s"})
    show(lane, one)
    fail(lane, one, Outcome.TIMEOUT, 5)
    await clock.advance(30.1)
    trial = seized(lane)
    task = waiting(lane, clock)
    await clock.advance(16)
    again = waiting(lane, clock)
    await clock.settle()
    assert getattr(again.exception(), "code", None) == "circuit_open"
    await clock.advance(15)
    second = await task  # the trial had its time: the next one may try
    lane.release(trial, Outcome.CANCELLED)
    lane.release(second, Outcome.OK)
    quiet(lane)


async def test_the_keeper_has_time_to_replace_an_engine_that_died(clock: VirtualClock) -> None:
    """Requests that an engine's crash interrupted would be refused a second before the next engine is ready."""
    lane = lane_of(clock)
    one, fresh = target_of(clock, "died"), target_of(clock, "fresh")
    show(lane, one)
    fail(lane, one, Outcome.LOST, 8)
    task = waiting(lane, clock)
    await clock.advance(1)
    assert not task.done()
    show(lane)  # the keeper saw it
    await clock.advance(8)
    show(lane, fresh)
    assert await task is fresh


async def test_an_engine_of_ours_that_stays_broken_fails_fast_too(clock: VirtualClock) -> None:
    """The keeper finds it healthy, and every request fails: nobody would ever be told."""
    lane = lane_of(clock)
    one = target_of(clock, breaker={"open": "60s"})
    show(lane, one)
    fail(lane, one, Outcome.PROTOCOL, 5)
    await clock.advance(11)
    with pytest.raises(RequestError) as caught:
        await waiting(lane, clock)
    assert caught.value.code == "circuit_open"


async def test_an_opened_circuit_is_counted_once(clock: VirtualClock) -> None:
    """The metric would grow with every request that was under way."""
    lane = lane_of(clock)
    one = target_of(clock)
    show(lane, one)
    opened: list[Any] = []
    lane.on_opened = lambda *what: opened.append(what)
    held = [seized(lane) for _ in range(20)]
    for target in held:
        lane.release(target, Outcome.LOST)
    assert opened == [(lane, one)]


async def test_a_client_that_leaves_says_nothing_of_the_endpoint(clock: VirtualClock) -> None:
    """Impatient people would shut an engine out, or close the circuit of a dead one."""
    lane = lane_of(clock)
    one = target_of(clock)
    show(lane, one)
    fail(lane, one, Outcome.CANCELLED, 50)
    assert one.breaker.state.value == "closed"
    fail(lane, one, Outcome.CONNECT, 5)
    await clock.advance(2.1)
    lane.release(seized(lane), Outcome.CANCELLED)
    assert one.breaker.state.value == "half_open"
    assert seized(lane) is one, "and the next one tries"


async def test_two_models_share_the_circuit_of_one_server(clock: VirtualClock) -> None:
    """A dead server would have to fail five times for each of its models; and be waited for after it is back."""
    first, second = lane_of(clock, static=True), lane_of(clock, static=True)
    one = target_of(clock)
    show(first, one)
    show(second, one)
    one.lanes = [first, second]
    fail(first, one, Outcome.CONNECT, 5)
    assert second.tripped() is one
    await clock.advance(2.1)
    trial = seized(first)
    task = waiting(second, clock)
    await clock.settle()
    assert not task.done()
    first.release(trial, Outcome.CANCELLED)
    assert await task is one, "the client left: the next one tries, of whichever model"
    again = waiting(first, clock)
    await clock.settle()
    assert not again.done()
    second.release(one, Outcome.OK)
    assert await again is one


async def test_shares_are_kept_with_random_choices(clock: VirtualClock) -> None:
    """Without affinity some replica would get far more than its part."""
    lane = lane_of(clock)
    targets = [target_of(clock, f"rep_{index}") for index in range(5)]
    show(lane, *targets)
    counts = Counter(seized(lane).replica_id for _ in range(1000))
    assert max(counts.values()) - min(counts.values()) < 20

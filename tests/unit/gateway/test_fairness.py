"""The fair queue, as a whole class of histories: no key starves, nobody is lost, nobody overtakes within a key."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.gateway.fairness import FairQueue, Pace

KEYS = st.sampled_from("abcde")


def filled(lines: dict[str, int]) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for key, count in lines.items():
        for number in range(count):
            queue.push(key, (key, number))
    return queue


@given(st.dictionaries(KEYS, st.integers(1, 40), min_size=1), st.integers(1, 100))
def test_each_backlogged_key_gets_its_share_of_any_number_of_turns(lines: dict[str, int], turns: int) -> None:
    """One noisy key would make everybody else wait until its whole backlog is done."""
    queue = filled(lines)
    turns = min(turns, len(queue))
    served = Counter(queue.pop()[0] for _ in range(turns))
    for key, count in lines.items():
        if served[key] < count:  # it was backlogged the whole time
            assert served[key] >= turns // len(lines) - 1


@given(st.integers(1, 50), st.integers(1, 60))
def test_a_newcomer_waits_for_one_turn_of_each_other_key(backlog: int, served: int) -> None:
    """Somebody who asks for the first time would stand behind all that a noisy key has queued, or had served before."""
    queue = filled({"noisy": backlog + served, "other": backlog + served})
    for _ in range(served):
        queue.pop()
    queue.push("quiet", ("quiet", 0))
    turns = [queue.pop()[0] for _ in range(min(4, len(queue)))]
    assert "quiet" in turns[:3]
    assert turns.count("quiet") == 1


def test_asking_one_at_a_time_is_no_way_around_the_others() -> None:
    """A key that never has more than one waiting would always be first, and the one with a backlog never."""
    queue = filled({"backlog": 50})
    queue.pop()
    turns = []
    queue.push("sly", ("sly", 0))
    for number in range(1, 20):
        key, _ = queue.pop()
        turns.append(key)
        if key == "sly":
            queue.push("sly", ("sly", number))
    assert 8 <= turns.count("backlog") <= 11


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), KEYS),
            st.tuples(st.just("pop"), st.none()),
            st.tuples(st.just("remove"), st.integers(0, 1000)),
            st.tuples(st.just("evict"), KEYS),
        ),
        max_size=200,
    )
)
def test_nobody_is_lost_and_nobody_overtakes_within_a_key(steps: list[tuple[str, object]]) -> None:
    """A request would wait for ever, be answered twice, or later than one of the same key that came after it."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: list[tuple[str, int]] = []
    for number, (step, what) in enumerate(steps):
        if step == "push":
            item = (str(what), number)
            queue.push(item[0], item)
            waiting.append(item)
        elif step == "pop":
            first = queue.first()
            if first is None:
                assert not waiting
                with pytest.raises(IndexError):
                    queue.pop()
                continue
            assert queue.position(first[0], first) == 1
            item = queue.pop()
            assert item == first
            assert item == next(other for other in waiting if other[0] == item[0])
            waiting.remove(item)
        elif step == "remove" and isinstance(what, int) and waiting:
            item = waiting.pop(what % len(waiting))
            assert queue.remove(item[0], item)
            assert not queue.remove(item[0], item)
        elif step == "evict" and queue.waiting(str(what)):
            item = queue.evict(str(what))
            assert item == [other for other in waiting if other[0] == what][-1]
            waiting.remove(item)
        assert len(queue) == len(waiting)
        assert sorted(queue) == sorted(waiting)
    order = [queue.pop() for _ in range(len(queue))]
    assert sorted(order) == sorted(waiting)
    assert not queue._finished
    assert not queue._heap


@given(st.lists(KEYS, min_size=1, max_size=40), st.integers(0, 20))
def test_the_position_is_how_many_turns_it_takes(pushes: list[str], served: int) -> None:
    """People would be told a place in the queue that is not theirs."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, key in enumerate(pushes):
        queue.push(key, (key, number))
        if number % 3 == 2 and served:
            queue.pop()
            served -= 1
    told = {item: queue.position(item[0], item) for item in queue}
    assert {queue.pop(): turn for turn in range(1, len(queue) + 1)} == told


def test_the_crowd_is_the_key_with_most_waiters() -> None:
    """The wrong key would lose its place when the queue is full."""
    queue = filled({"a": 3, "b": 7, "c": 5})
    assert queue.crowd() == ("b", 7)
    assert queue.evict("b") == ("b", 6)
    assert (queue.waiting("b"), queue.waiting("nobody")) == (6, 0)


def test_what_is_remembered_of_past_keys_is_bounded() -> None:
    """Memory would grow with every key that ever waited."""
    queue = filled({"stays": 5000})
    for number in range(2000):
        queue.push(f"key{number}", ("x", number))
        queue.pop()
        queue.pop()
    assert len(queue._finished) <= 200


@pytest.mark.parametrize("gap", [0.05, 1.0, 10.0])
def test_the_pace_tells_how_long_a_turn_is_away(gap: float) -> None:
    """Retry-After would be a guess."""
    pace = Pace()
    pace.begin(0.0)
    assert pace.seconds(1, 0.0) is None
    now = 0.0
    for _ in range(100):
        now += gap
        pace.served(now)
    told = pace.seconds(20, now)
    assert told == pytest.approx(20 * gap, rel=0.2)


def test_the_pace_of_an_earlier_queue_is_forgotten() -> None:
    """Today's estimate would be last night's."""
    pace = Pace()
    pace.begin(0.0)
    for second in range(60):
        pace.served(float(second))
    pace.begin(3600.0)
    assert pace.seconds(1, 3601.0) is None
    pace.served(3602.0)
    told = pace.seconds(1, 3602.0)
    assert told == pytest.approx(2.0, rel=0.2)

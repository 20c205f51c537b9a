"""Which pods end and how many replicas are written, against ReplicaSets and StatefulSets that choose as Kubernetes does."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamplighter.providers.kubernetes.decide import Held, Steps, decide, ordinal


def pod(name: str, **more: object) -> Held:
    """One that serves."""
    return replace(Held(name, f"uid-{name}"), **more)  # type: ignore[arg-type]


def replica_set(pods: list[Held], replicas: int, steps: Steps, *, costs: bool = True) -> list[Held]:
    """What a ReplicaSet makes of it: it may replace what is deleted before it hears of fewer replicas, and ends the cheapest of the least ready."""
    deleted = {one.uid for one in steps.delete}
    left = [one for one in pods if one.uid not in deleted]
    new = 0

    def fill(upto: int) -> None:
        nonlocal new
        while len(left) < upto:
            new += 1
            left.append(Held(f"new-{new}", f"new-{new}", assigned=False, running=False, ready=False))

    fill(replicas)
    cheap, dear = {one.uid for one in steps.cheap}, {one.uid for one in steps.protect}

    def cost(one: Held) -> int:
        return (one.uid in dear) - (one.uid in cheap) if costs else 0

    left.sort(key=lambda one: (*one.rank, cost(one)))
    del left[: max(0, len(left) - steps.replicas)]
    fill(steps.replicas)
    return left


pods = st.lists(
    st.builds(
        lambda doomed, dead, rank: replace(
            Held("", ""), doomed=doomed, dead=dead, assigned=rank > 0, running=rank > 1, ready=rank > 2
        ),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=5,
).map(lambda found: [replace(one, name=f"p{at}", uid=f"u{at}") for at, one in enumerate(found)])


@given(pods, st.integers(0, 2), st.integers(0, 5))
@example([pod("a", doomed=True), pod("b", ready=False)], 0, 1)
@example([pod("a", doomed=True), pod("b", doomed=True)], 0, 1)
@example([pod("a", doomed=True)], 0, 1)
def test_exactly_the_doomed_end_and_what_is_wanted_comes(found: list[Held], missing: int, wanted: int) -> None:
    """The wrong pod ended is an answer cut; a doomed one that stays is a GPU that nobody uses."""
    replicas = len(found) + missing
    steps = decide(found, replicas, wanted)
    after = replica_set(found, replicas, steps)
    names = {one.name for one in after}
    assert not {one.name for one in found if one.doomed} & names
    assert {one.name for one in found if not one.doomed} <= names
    living = len([one for one in after if not one.dead])
    kept = len([one for one in found if not one.doomed and not one.dead]) + missing
    assert living == max(kept, wanted)
    assert len(after) == steps.replicas


@given(pods, st.integers(0, 2), st.integers(0, 5))
def test_old_clusters_without_deletion_costs(found: list[Held], missing: int, wanted: int) -> None:
    """Kubernetes 1.20 does not know which pod is cheap: what is doomed must end there, too, and nothing that serves."""
    replicas = len(found) + missing
    steps = decide(found, replicas, wanted, costs=False)
    assert not steps.cheap
    assert not steps.protect
    after = replica_set(found, replicas, steps, costs=False)
    assert not {one.name for one in found if one.doomed} & {one.name for one in after}
    assert {one.name for one in found if not one.doomed and one.ready} <= {one.name for one in after}


@given(pods, st.integers(0, 3), st.integers(0, 5))
def test_asking_again_changes_nothing(found: list[Held], missing: int, wanted: int) -> None:
    """A keeper that repeats itself would start a machine each time."""
    replicas = len(found) + missing
    steps = decide(found, replicas, wanted)
    after = replica_set(found, replicas, steps)
    again = decide(after, steps.replicas, wanted)
    assert again == Steps(steps.replicas)


@given(pods, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_pods_that_cannot_be_made_are_given_up_when_doomed(found: list[Held], missing: int, forgone: int, wanted: int) -> None:
    """A quota that is used up would be asked for ever."""
    replicas = len(found) + missing
    gone = min(missing, forgone)
    steps, other = decide(found, replicas, wanted, forgone=gone), decide(found, replicas - gone, wanted)
    assert replace(steps, protect=()) == replace(other, protect=())  # to protect more than need be does no harm


def test_sleeping_is_one_write() -> None:
    """The ordinary case must not delete by name and have a replacement made for a moment."""
    assert decide([pod("a", doomed=True)], 1, 0) == Steps(0)
    two = [pod("a"), pod("b", doomed=True)]
    assert decide(two, 2, 1) == Steps(1, cheap=(two[1],))


def test_a_hung_pod_is_replaced_without_touching_the_count() -> None:
    """Writing one replica fewer and then one more would end the wrong one in between."""
    hung = pod("a", doomed=True)
    assert decide([hung], 1, 1) == Steps(1, delete=(hung,))


def stateful_set(pods: list[Held], steps: Steps) -> dict[int, Held | None]:
    """What a StatefulSet makes of it: every place below the count, a deleted pod made anew."""
    deleted = {one.uid for one in steps.delete}
    there = {one.ordinal: one for one in pods if one.uid not in deleted}
    return {place: there.get(place) for place in range(steps.replicas)}


places = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=6).map(
    lambda found: [
        replace(Held(f"x-{at}", f"u{at}"), ordinal=at, doomed=doomed, dead=dead)
        for at, (there, doomed, dead) in enumerate(found)
        if there
    ]
)


@given(places, st.integers(0, 2), st.integers(0, 5))
def test_a_stateful_set_never_ends_what_is_not_doomed(found: list[Held], missing: int, wanted: int) -> None:
    """It always ends the highest place, whoever serves there."""
    replicas = max([one.ordinal or 0 for one in found], default=-1) + 1 + missing
    steps = decide(found, replicas, wanted, ordinals=True)
    after = stateful_set(found, steps)
    kept = {one.name for one in found if not one.doomed}
    assert kept <= {one.name for one in after.values() if one is not None}
    staying = {one.name for one in after.values() if one is not None and one.doomed}
    assert staying == {one.name for one in steps.parked}
    for one in steps.parked:
        assert any(place > (one.ordinal or 0) and (other is None or not other.doomed) for place, other in after.items())
    serving = len([one for one in after.values() if one is None or not (one.dead or one.doomed)])
    assert serving >= wanted


def test_a_place_in_the_middle_waits_for_those_above() -> None:
    """Ending place 0 of two is not possible: the keeper is told that it is ending, and place 1 goes on serving."""
    low, high = pod("x-0", doomed=True, ordinal=0), pod("x-1", ordinal=1)
    assert decide([low, high], 2, 1, ordinals=True) == Steps(2, parked=(low,))
    assert decide([low, high], 2, 2, ordinals=True) == Steps(2, delete=(low,))
    assert decide([replace(low, doomed=True), replace(high, doomed=True)], 2, 0, ordinals=True) == Steps(0)


@pytest.mark.parametrize(("name", "place"), [("lamplighter-gpu-x-12", 12), ("lamplighter-gpu-x-abc12", None), ("x", None)])
def test_the_place_in_a_name(name: str, place: int | None) -> None:
    """Another place would end another pod."""
    assert ordinal(name) == place

"""Choosing among replicas, over many choices: shares follow weights, keys stay at home, nobody is overloaded."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.gateway.balance import Candidate, bounded, digest, grown, least_loaded, ranked

Replica = Candidate[str]


def replicas(*weights: float, load: int = 0) -> list[Replica]:
    return [Candidate(f"rep_{index}", digest(b"rep_%d" % index), load, weight) for index, weight in enumerate(weights)]


@given(st.lists(st.floats(0.5, 4), min_size=1, max_size=8), st.integers(0, 2**32))
def test_load_follows_the_weights(weights: list[float], seed: int) -> None:
    """A GPU twice as large would stand idle half of the time, or a small one be drowned."""
    candidates, chance = replicas(*weights), random.Random(seed).random
    for _ in range(1000):
        chosen = least_loaded(candidates, chance)
        next(candidate for candidate in candidates if candidate.item == chosen).load += 1
    for candidate in candidates:
        share = 1000 * candidate.weight / sum(weights)
        assert abs(candidate.load - share) <= 0.3 * share + 15


@given(st.integers(2, 8), st.integers(0, 7), st.integers(0, 200))
def test_only_the_keys_of_a_replica_that_goes_move(count: int, gone: int, first: int) -> None:
    """Each replica that comes or goes would empty the caches of all others."""
    before = replicas(*[1.0] * count)
    gone %= count
    after = [candidate for index, candidate in enumerate(before) if index != gone]
    for key in range(first, first + 200):
        home = ranked(before, digest(b"%d" % key))[0].item
        if home != before[gone].item:
            assert ranked(after, digest(b"%d" % key))[0].item == home


def test_keys_spread_by_weight() -> None:
    """Affinity would send most conversations to one replica."""
    candidates = replicas(1, 1, 2)
    homes = Counter(ranked(candidates, digest(b"key %d" % key))[0].item for key in range(4000))
    assert homes["rep_0"] == pytest.approx(1000, rel=0.15)
    assert homes["rep_1"] == pytest.approx(1000, rel=0.15)
    assert homes["rep_2"] == pytest.approx(2000, rel=0.15)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.sampled_from([1.0, 1.25, 2.0]), st.integers(1, 300))
def test_one_popular_prompt_overloads_nobody(weights: list[int], factor: float, requests: int) -> None:
    """A prompt that everybody sends would put all its requests on one replica."""
    candidates = replicas(*map(float, weights))
    key = digest(b"the same for all")
    for _ in range(requests):
        chosen = bounded(ranked(candidates, key), factor)
        next(candidate for candidate in candidates if candidate.item == chosen).load += 1
    total = sum(candidate.load for candidate in candidates)
    assert total == requests
    for candidate in candidates:
        assert candidate.load <= math.ceil(factor * total * candidate.weight / sum(weights) + 1e-9)


def test_an_idle_home_is_taken() -> None:
    """Affinity would give way although nobody is busy."""
    candidates = replicas(1, 1, 1, 1)
    for key in range(100):
        ranking = ranked(candidates, digest(b"%d" % key))
        assert bounded(ranking, 1.25) == ranking[0].item


def test_a_fresh_replica_grows_into_its_share() -> None:
    """A replica with a cold cache would get as much as the others in its first second, or nothing ever."""
    assert [grown(2.0, age, 10) for age in (0, 0.5, 5, 10, 99)] == [0.2, 0.2, 1.0, 2.0, 2.0]
    assert grown(1.0, 0, 0) == 1.0


def test_numbers_agree_between_processes() -> None:
    """Two gateways would send one conversation to two replicas."""
    assert digest(b"lamplighter") == 0xA3A822B2310E1E86

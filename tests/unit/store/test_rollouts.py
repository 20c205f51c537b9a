"""Rollouts in the store, on SQLite and PostgreSQL: one at a time for a name, legal moves, one writer, and nothing left over."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from lamplighter.config import Config
from lamplighter.core.errors import IllegalTransition, RequestError, StaleTerm
from lamplighter.core.rollouts import Because, Order, Phase, Strategy
from lamplighter.store import leases, outcomes, overlay, rollouts, usage
from lamplighter.store.bus import Topic
from lamplighter.store.outcomes import Seen, Where, bucket
from lamplighter.store.rollouts import Check, Rollout, Route, Settings
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open

CONFIG = Config.model_validate(
    {
        "pools": {"cloud": {"kind": "fake"}, "nas": {"kind": "static", "url": "http://nas"}},
        "models": {
            "m": {"engine": "fake", "pool": "cloud", "source": "hf:org/m", "aliases": ["gpt"], "price": {"prompt": "1 USD/Mtok"}},
            "n": {"engine": "openai", "pool": "nas"},
        },
    }
)
P = Phase


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(opened: Open, clock: VirtualClock) -> Store:
    return await opened(clock)


async def begin(store: Store, candidate: str = "m@r2", name: str = "m", **settings: Any) -> Rollout:
    return await rollouts.begin(
        store, name=name, candidate=candidate, revision=candidate.partition("@")[2] or None, settings=Settings(**settings),
        basis=rollouts.basis_of(CONFIG.models[name]),
    )  # fmt: skip


async def walk(store: Store, one: Rollout, *phases: Phase) -> Rollout:
    for phase in phases:
        one = await rollouts.advance(store, one.id, phase, term=None, step=one.step + (phase is P.SERVING))
    return one


async def names(store: Store) -> list[str]:
    return sorted(await overlay.effective(store, CONFIG))


async def test_a_rollout_is_stored_as_it_was_begun(store: Store) -> None:
    """If this fails, a keeper that restarts goes on with other steps, or without the check."""
    settings: dict[str, Any] = {
        "strategy": Strategy.BLUE_GREEN,
        "every": 5.0,
        "checks": (Check("what?", "that"),),
        "max_errors": 0.5,
        "steps": (1, 2),
    }
    made = await begin(store, **settings)
    assert (await rollouts.changes(store)).active == {"m": made}
    assert made.settings == Settings(**settings)
    assert (made.phase, made.step, made.weight, made.stable) == (P.WAKING, -1, 0, "m")
    assert rollouts.settings_from({"of": "a newer version", "every": 7.0}).every == 7.0


async def test_another_revision_is_a_model_like_any_other(store: Store) -> None:
    """If this fails, a provider does not know what to start, or the copy takes the model's further names and prices away."""
    await begin(store)
    models = await overlay.effective(store, CONFIG)
    copy, own = models["m@r2"], CONFIG.models["m"]
    assert copy == own.model_copy(update={"revision": "r2", "aliases": []})
    without = Config.model_validate({**CONFIG.model_dump(), "models": {"n": {"engine": "openai", "pool": "nas"}}})
    assert sorted(await overlay.effective(store, without)) == ["n"]  # it rests with its model


async def test_one_at_a_time(store: Store) -> None:
    """If this fails, two changes of one name pull it in two directions."""
    first = await begin(store)
    with pytest.raises(RequestError) as refused:
        await begin(store, "m@r3")
    assert (refused.value.status, refused.value.code) == (409, "switch_under_way")
    await begin(store, "m", name="n")  # another name is another matter
    await walk(store, first, P.ROLLED_BACK)
    assert (await begin(store, "m@r3")).stable == "m"
    with pytest.raises(RequestError) as same:
        await rollouts.begin(store, name="x", candidate="x", revision=None, settings=Settings(), basis={})
    assert same.value.code == "already_serving"


async def test_of_many_at_once_one_begins(opened: Open, clock: VirtualClock) -> None:
    """If this fails, two gateways begin two changes of one name in the same moment."""
    stores = [await opened(clock)]
    if stores[0].shared:
        stores += [await opened(clock) for _ in range(3)]
    found = await asyncio.gather(*(begin(stores[n % len(stores)], f"m@r{n}") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(one, Rollout) for one in found) == 1
    assert sum(isinstance(one, RequestError) for one in found) == 5


async def test_only_legal_moves_are_written(store: Store) -> None:
    """If this fails, a late decision sends people to a candidate that was rolled back."""
    one = await begin(store)
    for phase in (P.WAKING, P.SERVING, P.PROMOTED):
        with pytest.raises(IllegalTransition):
            await walk(store, one, phase)
    await walk(store, one, P.ROLLED_BACK)
    for phase in P:
        with pytest.raises(IllegalTransition):
            await walk(store, one, phase)


async def test_an_old_keeper_writes_nothing(store: Store) -> None:
    """If this fails, a keeper that was replaced promotes what its successor rolled back."""
    assert await leases.acquire(store, leases.KEEPER, "a", ttl=15) == 1
    one = await begin(store)
    await leases.acquire(store, leases.KEEPER, "b", ttl=15, force=True)
    with pytest.raises(StaleTerm):
        await rollouts.advance(store, one.id, P.CHECKING, term=1)
    assert (await rollouts.advance(store, one.id, P.CHECKING, term=2)).phase is P.CHECKING


async def test_a_promotion_is_in_force_until_it_is_taken_back(store: Store) -> None:
    """If this fails, a promoted revision is forgotten, or cannot be taken back."""
    one = await walk(store, await begin(store), P.CHECKING, P.SERVING, P.SERVING, P.SERVING, P.SERVING)
    assert one.weight == 10_000
    assert (await rollouts.changes(store)).routes() == {"m": Route("m", "m", "m@r2", 10_000, one.id, 3)}
    await walk(store, one, P.PROMOTED)
    changes = await rollouts.changes(store)
    assert changes.routes() == {"m": Route("m", "m@r2")}
    assert changes.retired == {"m"}
    assert (changes.switches["m"].revision, changes.switches["m"].basis["source"]) == ("r2", "hf:org/m")
    # The next one begins from there; what is stable stays in the overlay.
    two = await walk(store, await begin(store, "m@r3"), P.CHECKING, P.SERVING, P.PROMOTED)
    assert two.stable == "m@r2"
    assert await names(store) == ["m", "m@r3", "n"]
    assert not await rollouts.order(store, one.id, Order.ROLLBACK)  # it is not the newest any more
    assert await rollouts.order(store, two.id, Order.ROLLBACK)
    assert (await rollouts.changes(store)).routes() == {"m": Route("m", "m@r2")}
    with pytest.raises(RequestError):
        await begin(store, "m@r4")  # while it is being taken back
    await walk(store, two, P.ROLLED_BACK)
    assert await names(store) == ["m", "m@r2", "n"]
    # And back to the configuration's own, which needs no memory.
    await walk(store, await begin(store, "m"), P.CHECKING, P.SERVING, P.PROMOTED)
    assert (await rollouts.changes(store)).routes() == {}
    assert await names(store) == ["m", "n"]


async def test_a_switch_dissolves(store: Store) -> None:
    """If this fails, a switch outlives the file that made it superfluous."""
    term = await leases.acquire(store, leases.KEEPER, "a", ttl=15) or 0
    await walk(store, await begin(store), P.CHECKING, P.SERVING, P.PROMOTED)
    switch = (await rollouts.changes(store)).switches["m"]
    await rollouts.dissolve(store, switch, term=term)
    assert (await rollouts.changes(store)).switches == {}
    assert await names(store) == ["m", "n"]


async def test_every_move_is_remembered_and_told(store: Store) -> None:
    """If this fails, nobody can tell why a model was rolled back last night, or gateways learn of it late."""
    one = await begin(store)
    with store.bus.subscribe(Topic.MODELS) as mailbox:
        await rollouts.advance(store, one.id, P.PAUSED, term=None)
        assert (Topic.MODELS, "m") in await mailbox.wait(5)
    paused = await rollouts.latest(store, "m")
    assert paused is not None
    assert paused.resumes is P.WAKING
    await rollouts.advance(store, one.id, P.ROLLED_BACK, term=None, reason=Because.ERRORS, detail="x" * 5000)
    events = await rollouts.history(store, one.id)
    assert [event.to_phase for event in events] == [P.WAKING, P.PAUSED, P.ROLLED_BACK]
    assert events[-1].reason is Because.ERRORS
    assert len(events[-1].detail or "") == rollouts.MOST_DETAIL


async def test_old_rollouts_are_forgotten_with_all_that_was_seen(store: Store, clock: VirtualClock) -> None:
    """If this fails, the tables grow for ever."""
    for number in range(rollouts.KEPT + 3):
        one = await begin(store, f"m@r{number}")
        await outcomes.add(store, {Where(one.id, 0, "stable"): Seen(1, 0, Counter({1: 1}))})
        await walk(store, one, P.ROLLED_BACK)
        await clock.advance(1)
    first = (await rollouts.past(store, name="m", limit=100))[-1]
    await rollouts.sweep(store)
    kept = await rollouts.past(store, name="m", limit=100)
    assert len(kept) == rollouts.KEPT
    assert first.id not in {one.id for one in kept}
    assert await outcomes.of(store, first.id) == {}
    assert await rollouts.history(store, first.id) == []


async def test_what_gateways_saw_is_added_up(opened: Open, clock: VirtualClock) -> None:
    """If this fails, of several gateways only the last one's word counts."""
    store = await opened(clock)
    others = [await opened(clock), await opened(clock)] if store.shared else [store, store]
    batch = {
        Where("rol_1", 0, "candidate"): Seen(10, 1, Counter({bucket(0.1): 9})),
        Where("rol_1", 0, "stable"): Seen(90, 0, Counter({bucket(0.2): 90})),
        Where("rol_1", 1, "candidate"): Seen(1, 0),
    }
    await asyncio.gather(*(outcomes.add(one, batch) for one in [store, *others] for _ in range(4)))
    seen = await outcomes.of(store, "rol_1")
    assert seen[0, "candidate"] == Seen(120, 12, Counter({bucket(0.1): 108}))
    assert seen[0, "stable"].requests == 1080
    assert seen[1, "candidate"].requests == 12
    await outcomes.add(store, {})
    assert await outcomes.of(store, "rol_2") == {}


async def test_the_hour_before_is_made_of_accounts(store: Store) -> None:
    """If this fails, a candidate is compared with requests that never reached an engine, or with people who left."""
    now = store.clock.time()

    def entry(
        number: int, outcome: str, status: int, *, model: str = "m", replica: str | None = "rep", ago: float = 10
    ) -> usage.Entry:
        return usage.Entry(
            f"u{number}", now - ago, "r", "g", "k", "p", "chat", model, None, replica, status, outcome, 1, 1, False, 1.0, 5.5, None, 0.0, 5.0,
            1.0, 0, None,
        )  # fmt: skip

    await usage.write(
        store,
        [
            entry(1, "ok", 200), entry(2, "lost", 200), entry(3, "failed", 502), entry(4, "cancelled", 499), entry(5, "refused", 400),
            entry(6, "failed", 503, replica=None), entry(7, "ok", 200, model="n"), entry(8, "ok", 200, ago=9999),
        ],
    )  # fmt: skip
    found = await usage.samples(store, "m", since=now - 3600, until=now, limit=10)
    assert sorted(one.failed for one in found) == [False, True, True]
    assert {one.first_token for one in found} == {0.5}  # the wake was nobody's slowness

"""Wakes and their history, leadership by terms, and models added at run time."""

from typing import Any

import pytest

from lamplighter.config import Config
from lamplighter.core.errors import ConfigError, StaleTerm
from lamplighter.core.reasons import WakeFailure
from lamplighter.store import leases, overlay, wakes
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store
from lamplighter.store.wakes import Stage, Wake
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open

CONFIG = Config.model_validate(
    {
        "pools": {
            "here": {"kind": "process"},
            "nas": {"kind": "static", "url": "http://nas"},
            "desk": {"kind": "command", "url": "http://desk", "wake": "wakeonlan", "sleep": ["ssh", "desk"]},
        },
        "models": {"small": {"engine": "llamacpp", "pool": "here", "source": "bundled"}},
    }
)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(opened: Open, clock: VirtualClock) -> Store:
    return await opened(clock)


async def begin(store: Store, model: str = "m", pool: str = "p", **more: int) -> Wake:
    return await wakes.begin(
        store, pool=pool, model=model, stages=["pull", "load"], attempt=1, warm=False, eta_p50=None, eta_p90=None, **more
    )


async def test_a_wake_ends_once(store: Store, clock: VirtualClock) -> None:
    """If this fails, a late failure overwrites a success, or a wake is counted twice."""
    wake = await begin(store)
    assert wake.stages == (Stage("pull"), Stage("load"))
    assert [one.id for one in await wakes.under_way(store)] == [wake.id]
    await clock.advance(3)
    assert await wakes.end(store, wake.id, "ready")
    assert not await wakes.end(store, wake.id, "failed", reason=WakeFailure.QUOTA)
    [done] = (await wakes.latest(store)).values()
    assert (done.outcome, done.reason, done.seconds) == ("ready", None, 3.0)
    await wakes.progress(store, wake.id, [])
    assert (await wakes.latest(store))["p", "m"].stages == wake.stages  # history does not change
    assert await wakes.under_way(store) == []


async def test_the_latest_is_the_one_begun_last(store: Store, clock: VirtualClock) -> None:
    """If this fails, an old failure is shown over a running wake."""
    for pool, model in (("p", "m"), ("p", "n"), ("q", "m")):
        await wakes.end(store, (await begin(store, model, pool)).id, "failed", reason=WakeFailure.QUOTA)
    await clock.advance(1)
    first, second = await begin(store), await begin(store)  # in the same instant
    latest = await wakes.latest(store)
    assert set(latest) == {("p", "m"), ("p", "n"), ("q", "m")}
    assert latest["p", "m"].id == max(first.id, second.id)
    assert set(await wakes.latest(store, pool="p")) == {("p", "m"), ("p", "n")}
    assert [wake.id for wake in await wakes.under_way(store, pool="q")] == []


async def test_only_successes_are_past(store: Store, clock: VirtualClock) -> None:
    """If this fails, ETAs are made of failures."""
    for outcome in ("ready", "failed", "cancelled", "ready"):
        wake = await begin(store)
        await clock.advance(1)
        await wakes.end(store, wake.id, outcome)
    past = await wakes.past(store, pool="p", model="m")
    assert [wake.outcome for wake in past] == ["ready", "ready"]
    assert past[0].started_at > past[1].started_at
    assert len(await wakes.past(store, pool="p", model="m", limit=1)) == 1


async def test_progress_can_correct_the_eta(store: Store) -> None:
    """If this fails, a download is announced as a two-second wake to its end."""
    wake = await begin(store)
    await wakes.progress(store, wake.id, [Stage("pull", 1.0)], warm=True, eta=(4.0, 9.0))
    now = (await wakes.latest(store))["p", "m"]
    assert (now.stages, now.warm, now.eta_p50, now.eta_p90) == ((Stage("pull", 1.0),), True, 4.0, 9.0)


async def test_an_old_term_tells_nothing(store: Store) -> None:
    """If this fails, a keeper that was replaced ends its successor's wakes."""
    assert await leases.acquire(store, leases.KEEPER, "a", ttl=15) == 1
    wake = await begin(store, term=1)
    await leases.acquire(store, leases.KEEPER, "b", ttl=15, force=True)
    for stale in (begin(store, term=1), wakes.progress(store, wake.id, [], term=1), wakes.end(store, wake.id, "ready", term=1)):
        with pytest.raises(StaleTerm):
            await stale
    assert (await wakes.latest(store))["p", "m"].outcome is None


async def test_old_wakes_are_forgotten(store: Store, clock: VirtualClock) -> None:
    """If this fails, the table grows for ever."""
    await wakes.end(store, (await begin(store)).id, "ready")
    running = await begin(store, "n")
    await clock.advance(91 * 86_400)
    await wakes.sweep(store)
    assert [wake.id for wake in (await wakes.latest(store)).values()] == [running.id]


async def test_one_leads_until_its_lease_runs_out(store: Store, clock: VirtualClock) -> None:
    """If this fails, two keepers lead at once, or nobody can follow a dead one."""
    assert await leases.acquire(store, "keeper", "a", ttl=15) == 1
    assert await leases.acquire(store, "keeper", "b", ttl=15) is None
    await clock.advance(10)
    assert await leases.renew(store, "keeper", term=1, ttl=15)
    await clock.advance(14)
    assert await leases.acquire(store, "keeper", "b", ttl=15) is None
    await clock.advance(1)
    assert await leases.acquire(store, "keeper", "b", ttl=15) == 2
    assert not await leases.renew(store, "keeper", term=1, ttl=15)
    await leases.release(store, "keeper", term=1)  # the old one's farewell changes nothing
    assert await leases.acquire(store, "keeper", "a", ttl=15) is None
    await leases.release(store, "keeper", term=2)
    assert await leases.acquire(store, "keeper", "a", ttl=15) == 3
    assert await leases.acquire(store, "keeper", "a", ttl=15) == 4  # the same process again: a new term
    assert await leases.acquire(store, "keeper", "b", ttl=15, force=True) == 5


async def test_a_model_is_added_replaced_and_removed(store: Store) -> None:
    """If this fails, `models pull` and `models remove` do nothing."""
    with store.bus.subscribe(Topic.MODELS) as mailbox:
        added = await overlay.add(store, CONFIG, "new", {"engine": "llamacpp", "pool": "here", "source": "hf:a/b"})
        assert await mailbox.wait(0) == [(Topic.MODELS, "new")]
        assert await overlay.effective(store, CONFIG) == {**CONFIG.models, "new": added}
        await overlay.add(store, CONFIG, "new", {"engine": "openai", "pool": "nas"})
        assert (await overlay.effective(store, CONFIG))["new"].pool == "nas"
        assert await overlay.remove(store, "new")
        assert not await overlay.remove(store, "new")
        assert not await overlay.remove(store, "small")  # the file's
    assert await overlay.effective(store, CONFIG) == CONFIG.models


@pytest.mark.parametrize(
    ("name", "definition", "message"),
    [
        ("small", {"engine": "openai", "pool": "nas"}, "already has a model"),
        ("bad name", {"engine": "openai", "pool": "nas"}, "does not fit"),
        ("x", {"engine": "openai", "pool": "nowhere"}, "there is no pool"),
        ("x", {"engine": "llamacpp", "pool": "nas", "source": "bundled"}, "runs in a pool of kind"),
        ("x", {"engine": "llamacpp", "pool": "here"}, "write bundled"),
        ("x", {"engine": "openai", "pool": "nas", "threads": 99}, "only be set in the configuration file"),
        ("x", {"engine": "openai", "pool": "desk", "wake": "rm -rf /"}, "only be set in the configuration file"),
        ("x", {"engine": "openai", "pool": "desk", "program": "/bin/rm"}, "only be set in the configuration file"),
        ("x", {"engine": "openai", "pool": {"kind": "command", "url": "http://x", "wake": "rm", "sleep": "rm"}}, "does not fit"),
        ("x", {"engine": "nonsense", "pool": "nas"}, "does not fit"),
        ("x", {"engine": "openai", "pool": "nas", "while_waking": "x"}, "cannot stand in for itself"),
    ],
)
async def test_what_does_not_fit_is_refused(store: Store, name: str, definition: dict[str, Any], message: str) -> None:
    """If this fails, a person with a key can start what the configuration does not allow."""
    with pytest.raises(ConfigError, match=message) as caught:
        await overlay.add(store, CONFIG, name, definition)
    assert caught.value.where.startswith("models.")
    assert await overlay.effective(store, CONFIG) == CONFIG.models


async def test_the_file_wins(store: Store) -> None:
    """If this fails, an old overlay changes what the file says, or a removed pool breaks the start."""
    await overlay.add(store, CONFIG, "new", {"engine": "openai", "pool": "nas"})
    named = {"new": {"engine": "llamacpp", "pool": "here", "source": "bundled"}}
    later = Config.model_validate({"pools": {"here": {"kind": "process"}}, "models": named})
    assert await overlay.effective(store, later) == later.models
    without = Config.model_validate({"pools": {"here": {"kind": "process"}}, "models": {}})
    assert await overlay.effective(store, without) == {}

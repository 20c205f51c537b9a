"""Stories: several models in one pool, models that come, change and go at run time, and ETAs that are learned."""

import pytest

from lamplighter.core.reasons import StopReason
from lamplighter.store import demand, overlay, replicas
from lamplighter.store.wakes import Wake
from tests.unit.capacity.world import World, tree, world

PAIR = {"a": "cloud", "b": "cloud"}


def _pool_of_one(**pool: object) -> dict[str, dict[str, object]]:
    return {"cloud": {"max_replicas": 1, "swap_after": "10s", "min_residency": "20s", **pool}}


async def _ready(w: World) -> list[str]:
    return [replica.models[0] for replica in await w.replicas() if replica.state == "ready"]


async def test_two_models_in_a_pool_of_one_both_answer() -> None:
    """If this fails, the second model of a full pool waits for ever, or throws the first out in the middle of its work."""
    async with world(tree(_pool_of_one(), PAIR)) as w:
        await w.serve("a", 1)
        await w.ask("a", in_flight=1)
        await w.ask("b", queued=1)
        await w.beat(60)
        assert await _ready(w) == ["a"]  # it works: it stays
        await w.done("a")
        await w.beat(9)
        assert await _ready(w) == ["a"]
        await w.beat(4)
        [row] = await w.replicas()
        assert (row.state, row.reason) == ("draining", StopReason.SWAP)
        await w.ack()
        await w.beat(3)
        assert await _ready(w) == ["b"]
        assert w.cloud.most == 1


async def test_models_that_take_turns_stay_for_a_while() -> None:
    """If this fails, two models that are asked in turn spend the day loading."""
    async with world(tree(_pool_of_one(min_residency="30s", swap_after="5s"), PAIR)) as w:
        waiting = set[str]()
        for second in range(0, 120, 3):
            waiting.add("ab"[second // 3 % 2])
            for model in sorted(waiting):
                if model in await _ready(w):
                    waiting.discard(model)
                    await w.done(model)
                else:
                    await w.ask(model, queued=1)
            await w.beat(3)
            await w.ack()
        assert 2 <= w.cloud.launches <= 4
        assert w.cloud.most == 1


async def test_keeping_warm_does_not_keep_out_who_waits() -> None:
    """If this fails, one `wake --keep 8h` blocks every other model of the pool for a day."""
    async with world(tree(_pool_of_one(), PAIR)) as w:
        await demand.order_wake(w.store, "a", until=w.clock.time() + 36_000)
        await w.beat(3)
        await w.ask("b", queued=1)
        await w.beat(5)
        assert await _ready(w) == ["a"]  # its residency is not over
        for _ in range(10):
            await w.beat(2)
            await w.ack()
        assert await _ready(w) == ["b"]
        await w.done("b")
        await w.beat(5)
        assert await _ready(w) == ["b"]  # and it is not thrown out at once again


async def test_a_swap_goes_on_although_its_victim_is_asked_for_again() -> None:
    """If this fails, a model that waited longest is overtaken again and again."""
    async with world(tree(_pool_of_one(), PAIR)) as w:
        await w.serve("a", 25)
        await w.ask("b", queued=1)
        await w.beat(11)
        assert await w.states() == ["draining"]
        await w.ask("a", queued=1)
        await w.beat(2)
        assert await w.states() == ["draining"]
        await w.ack()
        await w.beat(3)
        assert await _ready(w) == ["b"]


async def test_a_swap_nobody_waits_for_any_more_is_called_off() -> None:
    """If this fails, a client that gave up costs the next one a whole wake."""
    async with world(tree(_pool_of_one(), PAIR)) as w:
        await w.serve("a", 25)
        await w.ask("b", queued=1)
        await w.beat(11)
        assert await w.states() == ["draining"]
        await w.ask("b")
        await w.ask("a", queued=1)
        await w.beat(1)
        assert await _ready(w) == ["a"]
        assert w.cloud.launches == 1


async def test_a_second_place_is_given_up_for_a_model_that_has_none() -> None:
    """If this fails, one busy model takes the whole pool for itself."""
    config = tree({"cloud": {"max_replicas": 2, "target_per_replica": 1, "swap_after": "10s", "min_residency": "20s"}}, PAIR)
    async with world(config) as w:
        await w.ask("a", queued=2)
        await w.beat(6)
        assert await _ready(w) == ["a", "a"]
        await w.ask("a", in_flight=8)
        await w.ask("b", queued=1)
        await w.beat(25)
        await w.ack()
        await w.beat(3)
        assert sorted(await _ready(w)) == ["a", "b"]


async def test_a_model_added_at_run_time_wakes_and_one_taken_away_ends() -> None:
    """If this fails, `models pull` needs a restart."""
    async with world() as w:
        await overlay.add(w.store, w.config, "new", {"engine": "fake", "pool": "cloud"})
        await w.serve("new", 1)
        assert await _ready(w) == ["new"]
        assert await overlay.remove(w.store, "new")
        await w.beat(1)
        [row] = await w.replicas()
        assert (row.state, row.reason) == ("draining", StopReason.UNOWNED)
        await w.ack()
        await w.beat(1)
        assert await w.states() == []


async def test_changed_settings_ask_for_a_new_replica() -> None:
    """If this fails, a model answers with its old weights until somebody restarts it."""
    async with world() as w:
        await overlay.add(w.store, w.config, "new", {"engine": "fake", "pool": "cloud", "source": "one"})
        await w.serve("new", 1)
        [old] = await w.replicas()
        await overlay.add(w.store, w.config, "new", {"engine": "fake", "pool": "cloud", "source": "one", "while_waking": "m"})
        await w.beat(3)
        assert [row.id for row in await w.replicas()] == [old.id]  # nothing that the engine knows of
        await overlay.add(w.store, w.config, "new", {"engine": "fake", "pool": "cloud", "source": "two"})
        await w.ask("new", queued=1)
        await w.beat(1)
        await w.ack()
        await w.beat(3)
        [fresh] = await w.replicas()
        assert fresh.id != old.id
        assert fresh.state == "ready"


async def test_the_eta_is_learned_and_published_at_once() -> None:
    """If this fails, the page cannot say how long a wake takes."""
    config = tree({"cloud": {"sleep_after": "5s"}}, {"m": "cloud"})
    async with world(config, durations={"pull": 20.0, "load": 4.0}) as w:
        seen: list[Wake] = []
        for pull in (20.0, 0.0, 0.0, 12.0):
            w.cloud.durations["pull"] = pull
            await w.ask("m", queued=1)
            await w.beat(3)
            seen.append(await w.wake("m"))
            await w.beat(26)
            await w.done("m")
            await w.beat(8)
            await w.ack()
            await w.beat(2)
            assert await w.states() == []
        cold, first_warm, warm, cold_again = seen
        assert cold.eta_p50 is None
        assert first_warm.eta_p50 == pytest.approx(4, abs=0.3)  # the cold one, less its pull
        assert warm.eta_p50 == pytest.approx(4, abs=0.3)
        assert (warm.warm, cold_again.warm) == (True, False)  # seen while it pulls: the ETA is told anew
        assert cold_again.eta_p50 == pytest.approx(24, abs=0.3)


async def test_stages_are_published_as_they_happen() -> None:
    """If this fails, a person who waits sees nothing move."""
    async with world(durations={"pull": 10.0, "load": 5.0}) as w:
        await w.ask("m", queued=1)
        await w.beat(5.2)
        wake = await w.wake("m")
        assert [stage.name for stage in wake.stages] == ["pull", "load"]
        pull, load = wake.stages
        assert pull.progress == pytest.approx(0.5, abs=0.1)
        assert (pull.ended_at, load.started_at) == (None, None)
        assert (await w.replicas())[0].stage == "pull"
        await w.beat(6)
        pull, load = (await w.wake("m")).stages
        assert pull.ended_at is not None
        assert load.started_at == pull.ended_at
        await w.beat(5)
        wake = await w.wake("m")
        assert wake.outcome == "ready"
        assert all(stage.ended_at is not None for stage in wake.stages)
        assert (await replicas.living(w.store))[0].stage is None

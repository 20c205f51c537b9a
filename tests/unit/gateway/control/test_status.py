"""What people are told of each model, for every situation it can be in."""

from dataclasses import replace
from typing import Any

from lamplighter.config import Config
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.gateway.control.status import Statuses
from lamplighter.gateway.view import Snapshot
from lamplighter.store.demand import Demand
from lamplighter.store.ledger import Entry, PoolCost
from lamplighter.store.replicas import Replica
from lamplighter.store.wakes import Stage, Wake
from lamplighter.testing.provider import FakeEngineKind

CONFIG = Config.model_validate(
    {
        "models": {
            "small": {"engine": "llamacpp", "pool": "here", "source": "bundled", "context": 2048},
            "big": {"engine": "llamacpp", "pool": "kept", "source": "hf:a/b", "while_waking": "small"},
            "remote": {"engine": "openai", "pool": "nas"},
        },
        "pools": {
            "here": {"kind": "process", "sleep_after": "10m"},
            "kept": {"kind": "process", "sleep_after": "10m", "min_replicas": 1, "max_replicas": 2},
            "nas": {"kind": "static", "url": "http://nas.lan:1234"},
        },
    }
)
ENGINES = {"llamacpp": FakeEngineKind(), "openai": FakeEngineKind()}


def replica(
    state: ReplicaState, *, model: str = "small", pool: str = "here", ready_at: float | None = 100.0, **more: Any
) -> Replica:
    one = Replica(
        id=f"rep_{model}_{state}", pool=pool, handle=None, models=(model,), state=state, since=50.0, reason=None, detail=None,
        stage=None, endpoint=None, context=None, epoch=1, created_at=50.0, ready_at=ready_at, wake_id=None,
    )  # fmt: skip
    return replace(one, **more)


def wake(outcome: str | None = None, *, model: str = "small", pool: str = "here", **more: Any) -> Wake:
    ended = 60.0 if outcome else None
    stages = (Stage("start", 50.0, 51.0), Stage("load", 51.0), Stage("warm"))
    one = Wake("wak_1", pool, model, 50.0, ended, outcome, None, None, 1, None, stages, True, 1.0, 2.5)
    return replace(one, **more)


def told(
    *replicas: Replica,
    wakes: tuple[Wake, ...] = (),
    demand: Demand | None = None,
    model: str = "small",
    statuses: Statuses | None = None,
) -> dict[str, Any]:
    snapshot = Snapshot(
        models=CONFIG.models,
        replicas=replicas,
        wakes={(one.pool, one.model): one for one in wakes},
        demand={demand.model: demand} if demand else {},
    )
    found = (statuses or Statuses(CONFIG, ENGINES)).model(snapshot, model)
    assert found is not None
    return found


def test_asleep() -> None:
    """If this fails, a sleeping model looks broken."""
    one = told()
    assert (one["state"], one["sleeping_at"], one["wake"], one["failure"], one["last_wake"]) == ("asleep", None, None, None, None)
    assert (one["engine"], one["pool_kind"], one["source"], one["context"], one["always_on"]) == (
        "llamacpp", "process", "bundled", 2048, False,
    )  # fmt: skip
    assert {"chat", "completions", "embeddings"} <= set(one["capabilities"])


def test_waking_shows_every_stage_and_the_eta() -> None:
    """If this fails, the wake card has nothing to show."""
    one = told(replica(ReplicaState.STARTING, ready_at=None), wakes=(wake(),), demand=Demand("small", queued=3))
    assert (one["state"], one["queued"], one["sleeping_at"]) == ("waking", 3, None)
    assert [stage["name"] for stage in one["wake"]["stages"]] == ["start", "load", "warm"]
    assert one["wake"]["stages"][2]["started_at"] is None
    assert one["wake"]["eta"] == {"p50": 1.0, "p90": 2.5}
    first = told(replica(ReplicaState.LAUNCHING), wakes=(wake(eta_p50=None, eta_p90=None),))
    assert first["wake"]["eta"] is None


def test_awake_says_when_it_sleeps() -> None:
    """If this fails, the page's countdown lies."""
    ready = replica(ReplicaState.READY)
    assert told(ready)["sleeping_at"] == 700.0
    assert told(ready, demand=Demand("small", last_ended_at=400.0))["sleeping_at"] == 1000.0
    assert told(ready, demand=Demand("small", wanted_until=5_000.0))["sleeping_at"] == 5_000.0
    assert told(ready, demand=Demand("small", in_flight=1, last_ended_at=400.0))["sleeping_at"] is None
    assert told(ready, demand=Demand("small", queued=1))["sleeping_at"] is None
    assert told(replica(ReplicaState.UNREACHABLE))["state"] == "awake"


def test_what_never_sleeps_says_so() -> None:
    """If this fails, a kept or always-on model shows a countdown to nothing."""
    kept = replica(ReplicaState.READY, model="big", pool="kept")
    assert told(kept, model="big")["sleeping_at"] is None
    second = replica(ReplicaState.READY, model="big", pool="kept", id="rep_2")
    assert told(kept, second, model="big")["sleeping_at"] == 700.0
    static = told(replica(ReplicaState.READY, model="remote", pool="nas"), model="remote")
    assert (static["sleeping_at"], static["always_on"], static["source"], static["context"]) == (None, True, "remote", None)
    assert told(model="big")["while_waking"] == "small"


def test_a_failure_is_explained() -> None:
    """If this fails, a person sees `failed` and nothing to do about it."""
    failed = wake("failed", reason=WakeFailure.OUT_OF_MEMORY, detail="It needs 9 GB.", retry_at=70.0)
    one = told(wakes=(failed,))
    assert one["state"] == "failed"
    assert one["failure"] == {
        "reason": "out_of_memory",
        "message": "The model does not fit into memory. It needs 9 GB.",
        "next_step": "Use a smaller model, fewer slots or a shorter context, or a larger machine.",
        "retry_at": None,
    }
    again = told(wakes=(replace(failed, reason=WakeFailure.NO_CAPACITY),))
    assert again["failure"]["retry_at"] == 70.0
    assert told(replica(ReplicaState.STARTING), wakes=(failed,))["failure"] is None


def test_the_last_good_wake_is_remembered_through_the_next() -> None:
    """If this fails, the page forgets how long a wake takes just when the next one begins."""
    statuses = Statuses(CONFIG, ENGINES)
    assert told(wakes=(wake("ready"),), statuses=statuses)["last_wake"] == {"seconds": 10.0, "at": 60.0}
    assert told(wakes=(wake(id="wak_2"),), statuses=statuses)["last_wake"] == {"seconds": 10.0, "at": 60.0}


def test_draining_and_learned_context() -> None:
    """If this fails, a model on its way to sleep looks awake."""
    assert told(replica(ReplicaState.DRAINING))["state"] == "draining"
    assert told(replica(ReplicaState.READY, context=1024))["context"] == 1024


def test_pools_and_unknown_models() -> None:
    """If this fails, `lamplighter status` cannot say what runs where."""
    snapshot = Snapshot(
        models=CONFIG.models,
        replicas=(replica(ReplicaState.READY, reason=WakeFailure.UNREACHABLE, detail="?"),),
        demand={"small": Demand("small", in_flight=2, loads={"rep_small_ready": 2})},
    )
    statuses = Statuses(CONFIG, ENGINES, note=lambda model: "weak" if model.source == "bundled" else None)
    whole = statuses.whole(snapshot, now=5.0, started_at=1.0, installation="ins_1")
    assert (whole["now"], whole["started_at"], whole["installation"]) == (5.0, 1.0, "ins_1")
    assert [(pool["name"], pool["state"], pool["max_replicas"]) for pool in whole["pools"]] == [
        ("here", "awake", 1), ("kept", "asleep", 2), ("nas", "asleep", 1),
    ]  # fmt: skip
    [shown] = whole["pools"][0]["replicas"]
    assert (shown["model"], shown["state"], shown["reason"], shown["in_flight"]) == ("small", "ready", "unreachable", 2)
    assert [model["note"] for model in whole["models"]] == ["weak", None, None]
    assert statuses.model(snapshot, "nobody") is None


def priced(**more: Any) -> dict[str, Any]:
    """The same pool with a budget, a quote and a machine that costs something."""
    pools = {**CONFIG.model_dump(mode="json")["pools"], "here": {"kind": "process", "budget": "60 USD/month"}}
    models = {"small": {"engine": "llamacpp", "pool": "here", "source": "bundled"}}
    config = Config.model_validate({"models": models, "pools": pools})
    one = replica(ReplicaState.READY)
    entry = Entry("led_1", "here", "small", one.id, "i-1", "spot g4dn.xlarge", 210_400_000, "USD", 100.0, None)
    cost = PoolCost("here", "USD", 12_310_000_000, 0.0, 210_400_000, 50_000_000, "spot g4dn.xlarge", "AWS", 90.0)
    snapshot = Snapshot(models=config.models, replicas=(one,), costs={"here": replace(cost, **more)}, entries={one.id: entry})
    return Statuses(config, ENGINES).whole(snapshot, now=200.0, started_at=0.0, installation="ins")


def test_money_is_told_exactly() -> None:
    """If this fails, a person wakes a machine without knowing what it costs, or sees a budget with rounding errors."""
    told = priced()
    assert told["models"][0]["quote"] == {
        "hourly": "0.2104", "least": "0.05", "currency": "USD", "basis": "spot g4dn.xlarge", "source": "AWS", "at": 90.0
    }  # fmt: skip
    pool = told["pools"][0]
    assert pool["budget"] == {
        "limit": "60", "period": "month", "spent": "12.31", "left": "47.69", "currency": "USD", "since": 0.0
    }  # fmt: skip
    assert pool["spent"] == {"amount": "12.31", "currency": "USD", "since": 0.0}
    assert pool["replicas"][0]["cost"] == {"hourly": "0.2104", "currency": "USD", "basis": "spot g4dn.xlarge", "since": 100.0}


def test_a_budget_that_is_overdrawn_has_nothing_left() -> None:
    """If this fails, a person reads of money that is owed as if it could be spent."""
    assert priced(spent=61 * 10**9)["pools"][0]["budget"]["left"] == "0"


def test_what_costs_nothing_says_nothing() -> None:
    """If this fails, a laptop's model is shown with a price of zero."""
    one = told()
    assert one["quote"] is None

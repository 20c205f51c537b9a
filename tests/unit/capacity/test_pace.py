"""How fast the count of replicas follows the demand: up after a moment, a batch at a time, down late; for every history, not for a few."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.capacity.pace import Pace, Trough, Window
from lamplighter.capacity.plan import Kind, Policy, PoolView, ReplicaView, needed, plan
from lamplighter.core.states import ReplicaState
from lamplighter.store.demand import Demand

S = ReplicaState
histories = st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 20)), min_size=1, max_size=30)


@given(histories, st.floats(0.5, 30))
def test_a_window_and_a_trough_are_the_most_and_the_least_of_their_time(history: list[tuple[float, int]], span: float) -> None:
    """A wrong window adds machines for a blip, or takes them away between two waves."""
    now, window, trough, past = 0.0, Window(), Trough(((0.0, 0),)), [(0.0, 0)]
    for pause, count in history:
        now += pause
        window, trough = window.note(count, now, span), trough.note(count, now, span)
        past.append((now, count))
        inside = [value for at, value in past if at > now - span]
        in_force = [value for at, value in past if at <= now - span][-1:]
        assert window.most == max(inside)
        assert trough.least == min(inside + in_force or [0])


@given(histories, st.floats(0, 10))
def test_no_batch_sooner_than_a_step_after_the_last(history: list[tuple[float, int]], step: float) -> None:
    """A ramp of requests would start a machine at every look, long after there are enough."""
    policy = Policy(scale_up_after=step, scale_down_after=60.0)
    now, present, pace, last = 0.0, 1, Pace.begin(1, 0.0, policy), 0.0
    for pause, count in history:
        now += pause
        pace = pace.note(count, now, policy)
        if pace.low.least > present:
            assert now - last >= step
            present, last = pace.low.least, now
            pace = pace.launched(present, now)


def pool_of(present: int, **settings: object) -> PoolView:
    replicas = tuple(ReplicaView(f"r{index}", "m", S.READY, 0.0, 0.0, ready_at=0.0) for index in range(present))
    return PoolView(models=("m",), replicas=replicas, **settings)  # type: ignore[arg-type]


def after(view: PoolView, demand: Demand, policy: Policy) -> int:
    """How many replicas there will be once the plan is done."""
    actions = plan(view, {"m": demand}, policy, 1000.0)
    launched = sum(action.kind is Kind.LAUNCH for action in actions)
    return len(view.replicas) + launched - sum(action.kind in (Kind.DRAIN, Kind.STOP) for action in actions)


counts = st.integers(0, 12)


@settings(max_examples=300)
@given(st.integers(0, 3), st.integers(1, 8), st.integers(1, 4), counts, counts, counts, st.integers(0, 8))
def test_more_demand_never_means_fewer_replicas(
    low: int, high: int, target: int, present: int, one: int, more: int, ceiling: int
) -> None:
    """Somebody's request would take a machine away from those who wait."""
    policy = Policy(min_replicas=min(low, high), max_replicas=high, target_per_replica=target, sleep_after=float("inf"))
    view = pool_of(min(present, high), ceilings={"m": ceiling})
    few, many = Demand("m", queued=one, oldest_queued_at=1.0), Demand("m", queued=one + more, oldest_queued_at=1.0)
    assert after(view, few, policy) <= after(view, many, policy)


@settings(max_examples=300)
@given(
    st.integers(0, 3), st.integers(1, 8), st.integers(1, 4), counts, st.integers(0, 200), st.integers(0, 12), st.integers(0, 12)
)
def test_always_within_the_pools_limits(
    low: int, high: int, target: int, present: int, queued: int, floor: int, ceiling: int
) -> None:
    """A pool of two would bill for three, or one that must stay awake would sleep."""
    policy = Policy(min_replicas=min(low, high), max_replicas=high, target_per_replica=target, sleep_after=float("inf"))
    demand = Demand("m", queued=queued, oldest_queued_at=1.0 if queued else None)
    count = after(pool_of(present, floors={"m": floor}, ceilings={"m": ceiling}), demand, policy)
    assert min(low, high) <= count <= high
    if queued:
        assert count >= 1


def test_the_first_comes_at_once_and_the_rest_after_a_moment() -> None:
    """A person alone would wait for a stabilisation that is meant for machines."""
    policy = Policy(max_replicas=8, target_per_replica=2)
    burst = Demand("m", queued=20, oldest_queued_at=1.0)
    assert after(pool_of(0, ceilings={"m": 0}), burst, policy) == 1
    assert after(pool_of(1, ceilings={"m": 1}), burst, policy) == 1
    assert after(pool_of(1, ceilings={"m": 10}), burst, policy) == 8


def test_what_is_not_ready_yet_goes_first() -> None:
    """A machine that answers would be drained while one that still boots is kept."""
    policy = Policy(max_replicas=4, target_per_replica=1)
    ready = ReplicaView("ready", "m", S.READY, 0.0, 0.0, ready_at=0.0)
    boots = ReplicaView("boots", "m", S.STARTING, 500.0, 500.0)
    view = PoolView(("m",), (ready, boots), waking=frozenset({"m"}), floors={"m": 1})
    [action] = plan(view, {"m": Demand("m", in_flight=1)}, policy, 1000.0)
    assert (action.kind, action.replica) == (Kind.STOP, "boots")


def test_more_join_a_wake_unless_one_of_it_failed() -> None:
    """A burst would wait for the first machine's boot before a second is begun; or a cloud without machines be asked at every look."""
    policy = Policy(max_replicas=4, target_per_replica=1)
    boots = ReplicaView("boots", "m", S.STARTING, 999.0, 999.0)
    demand = {"m": Demand("m", queued=4, oldest_queued_at=1.0)}
    view = PoolView(("m",), (boots,), waking=frozenset({"m"}))
    assert [action.kind for action in plan(view, demand, policy, 1000.0)] == [Kind.LAUNCH] * 3
    halted = PoolView(("m",), (boots,), waking=frozenset({"m"}), halted=frozenset({"m"}))
    assert plan(halted, demand, policy, 1000.0) == []


def test_a_server_holds_a_model_once() -> None:
    """The same model would be loaded twice into one server, or be unloaded because it has too few replicas."""
    policy = Policy(max_replicas=3, per_model=1, target_per_replica=1)
    view = PoolView(("m", "n"), (ReplicaView("r", "m", S.READY, 0.0, 0.0, ready_at=0.0),))
    demand = {"m": Demand("m", queued=50, oldest_queued_at=1.0), "n": Demand("n", queued=1, oldest_queued_at=2.0)}
    assert [(action.kind, action.model) for action in plan(view, demand, policy, 1000.0)] == [(Kind.LAUNCH, "n")]


def test_an_engine_that_sleeps_is_replaced_only_when_somebody_waits() -> None:
    """A person who put vLLM to sleep would see it killed; or one who asks would wait for ever."""
    policy = Policy(hung_after=60.0, sleep_after=float("inf"))
    view = PoolView(("m",), (ReplicaView("r", "m", S.PARKED, 0.0, 0.0, ready_at=0.0),))
    assert plan(view, {}, policy, 1000.0) == []
    [action] = plan(view, {"m": Demand("m", queued=1, oldest_queued_at=1.0)}, policy, 1000.0)
    assert action.kind is Kind.STOP


@given(st.integers(0, 100), st.integers(1, 10))
def test_needed_is_what_the_target_says(requests: int, target: int) -> None:
    """Replicas would be over- or underused for ever."""
    count = needed(Demand("m", queued=requests), Policy(target_per_replica=target), 0.0)
    assert (count - 1) * target < requests <= count * target or (requests == 0 and count == 0)

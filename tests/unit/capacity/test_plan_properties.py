"""Whatever clients do, the plan keeps its promises: tried on thousands of invented histories of a simulated pool."""

from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lamplighter.capacity.pace import Window
from lamplighter.capacity.plan import BROKE_DRAIN, CONVERSATION, Action, Kind, Policy, PoolView, ReplicaView, needed, plan
from lamplighter.core.reasons import StopReason
from lamplighter.core.states import ReplicaState, legal
from lamplighter.store.demand import Demand

S = ReplicaState
MODELS = ("a", "b", "c")


@dataclass
class Pool:
    """A pool that does what it is told: launches take `boot` seconds, ends take `ending`, answers take as long as the history says."""

    policy: Policy
    models: tuple[str, ...] = MODELS
    boot: float = 5.0
    ending: float = 2.0
    now: float = 1000.0
    replicas: dict[str, ReplicaView] = field(default_factory=dict)
    demand: dict[str, Demand] = field(default_factory=dict)
    windows: dict[str, Window] = field(default_factory=dict)
    running: dict[str, tuple[str, int]] = field(default_factory=dict)
    swaps: int = 0
    serial: int = 0

    def view(self) -> PoolView:
        loads = self._loads()
        for model in self.models:
            count = max(needed(self.demand.get(model), self.policy, self.now), self.policy.min_replicas)
            self.windows[model] = self.windows.get(model, Window()).note(count, self.now, self.policy.scale_down_after)
        return PoolView(
            models=self.models,
            replicas=tuple(
                replace(r, load=loads.get(r.id, 0), drained=r.state is S.DRAINING and not loads.get(r.id))
                for r in self.replicas.values()
            ),
            waking=frozenset(r.model for r in self.replicas.values() if r.state in (S.LAUNCHING, S.STARTING)),
            floors={model: window.most for model, window in self.windows.items()},
        )

    def _loads(self) -> dict[str, int]:
        loads: dict[str, int] = {}
        for replica, count in self.running.values():
            loads[replica] = loads.get(replica, 0) + count
        return loads

    def decide(self) -> list[Action]:
        return plan(self.view(), self.demand, self.policy, self.now)

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            if action.kind is Kind.LAUNCH:
                self.serial += 1
                identity = f"r{self.serial}"
                self.replicas[identity] = ReplicaView(identity, action.model, S.LAUNCHING, self.now, self.now)
                continue
            old = self.replicas[action.replica]
            to = {Kind.DRAIN: S.DRAINING, Kind.UNDRAIN: S.READY, Kind.STOP: S.STOPPING}[action.kind]
            assert legal(old.state, to), f"{old.state} -> {to}"
            self.swaps += action.reason is StopReason.SWAP and action.kind is Kind.DRAIN
            self.replicas[action.replica] = replace(old, state=to, since=self.now, reason=action.reason)

    def advance(self, seconds: float) -> None:
        """Time passes; launches become ready, what was stopped is gone."""
        self.now += seconds
        for identity, r in list(self.replicas.items()):
            if r.state is S.LAUNCHING and self.now - r.since >= self.boot:
                self.replicas[identity] = replace(r, state=S.READY, since=self.now, ready_at=self.now)
            elif r.state is S.STOPPING and self.now - r.since >= self.ending:
                del self.replicas[identity]

    def ask(self, model: str, count: int) -> None:
        old = self.demand.get(model, Demand(model))
        oldest = old.oldest_queued_at if old.queued else self.now
        self.demand[model] = replace(old, queued=old.queued + count, oldest_queued_at=oldest)

    def route(self) -> None:
        """The gateway: what waits goes to the least loaded ready replica."""
        for model in self.models:
            old = self.demand.get(model, Demand(model))
            ready = [r for r in self.replicas.values() if r.model == model and r.state is S.READY]
            if old.queued and ready:
                loads = self._loads()
                target = min(ready, key=lambda r: loads.get(r.id, 0))
                self.serial += 1
                self.running[f"q{self.serial}"] = (target.id, old.queued)
                self.demand[model] = replace(old, queued=0, oldest_queued_at=None, in_flight=old.in_flight + old.queued)

    def finish(self, model: str) -> None:
        """All running answers of `model` end."""
        old = self.demand.get(model, Demand(model))
        mine = {r.id for r in self.replicas.values() if r.model == model}
        ended = {key: value for key, value in self.running.items() if value[0] in mine}
        if ended:
            self.running = {key: value for key, value in self.running.items() if key not in ended}
            self.demand[model] = replace(old, in_flight=0, last_ended_at=self.now)


policies = st.builds(
    lambda low, high, sleep, swap, residency, target, down: Policy(
        sleep_after=sleep,
        min_replicas=min(low, high),
        max_replicas=high,
        swap_after=swap,
        min_residency=residency,
        target_per_replica=target,
        scale_down_after=down,
    ),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.integers(1, 4),
    st.sampled_from([10.0, 60.0, float("inf")]),
    st.sampled_from([5.0, 30.0]),
    st.sampled_from([5.0, 60.0]),
    st.integers(1, 4),
    st.sampled_from([5.0, 60.0]),
)
models = st.sampled_from(MODELS)
events = st.one_of(
    st.tuples(st.just("ask"), models, st.integers(1, 6)),
    st.tuples(st.just("finish"), models, st.just(0)),
    st.tuples(st.just("want"), models, st.integers(1, 60)),
    st.tuples(st.just("sleep"), models, st.just(0)),
    st.tuples(st.just("leave"), models, st.just(0)),
    st.tuples(st.just("pass"), models, st.sampled_from([1, 3, 10, 45, 130])),
    st.tuples(st.just("crash"), models, st.just(0)),
    st.tuples(st.just("warn"), models, st.just(0)),
    st.tuples(st.just("reclaim"), models, st.just(0)),
)


def play(pool: Pool, event: tuple[str, str, int]) -> None:
    kind, model, number = event
    old = pool.demand.get(model, Demand(model))
    if kind == "ask":
        pool.ask(model, number)
    elif kind == "finish":
        pool.finish(model)
    elif kind == "want":
        pool.demand[model] = replace(old, wanted_until=pool.now + number, sleep_asked_at=None)
    elif kind == "sleep":
        pool.demand[model] = replace(old, wanted_until=None, sleep_asked_at=pool.now)
    elif kind == "leave":
        pool.demand[model] = replace(old, queued=0, oldest_queued_at=None)
    elif kind == "crash":
        victim = next((r for r in pool.replicas.values() if r.model == model and r.state is S.READY), None)
        if victim is not None:
            pool.replicas[victim.id] = replace(victim, state=S.LOST, since=pool.now)
            pool.running = {key: value for key, value in pool.running.items() if value[0] != victim.id}
            left = sum(count for replica, count in pool.running.values() if pool.replicas[replica].model == model)
            pool.demand[model] = replace(old, in_flight=left, last_ended_at=pool.now)
    elif kind in ("warn", "reclaim"):
        taken = next((r for r in pool.replicas.values() if r.model == model and r.state is S.READY and not r.leaving), None)
        if taken is not None and kind == "warn":
            pool.replicas[taken.id] = replace(taken, leaving=True)
        elif taken is not None:
            pool.replicas[taken.id] = replace(taken, state=S.DRAINING, since=pool.now, reason=StopReason.RECLAIMED)
    elif kind == "pass":
        for _ in range(number):
            pool.apply(check(pool))
            pool.advance(1.0)
            pool.route()


def check(pool: Pool) -> list[Action]:
    """What the plan decides now, after every promise was checked."""
    view, actions = pool.view(), pool.decide()
    by_id = {r.id: r for r in view.replicas}
    launches = [a for a in actions if a.kind is Kind.LAUNCH]
    touched = [a.replica for a in actions if a.kind is not Kind.LAUNCH]
    assert len(touched) == len(set(touched)), "a replica is in two actions"
    taken = {r.model for r in by_id.values() if r.leaving or r.reason is StopReason.RECLAIMED}
    if launches:
        assert len(by_id) + len(launches) <= pool.policy.max_replicas + bool(taken), "more than the pool may hold"
    for launch in launches:
        demand = pool.demand.get(launch.model)
        asked = needed(demand, pool.policy, pool.now) > 0
        talking = launch.model in taken and demand is not None and pool.now - (demand.last_ended_at or 0.0) < CONVERSATION
        assert asked or talking or pool.policy.min_replicas, "a launch that nobody asked for"
    for action in actions:
        if action.kind is Kind.STOP and by_id[action.replica].load:
            state = by_id[action.replica].state
            assert state in (S.LOST, S.FAILED) or action.reason is StopReason.DEADLINE, "an answer was cut"
        if action.kind is Kind.DRAIN and by_id[action.replica].load:
            # A drain cuts nothing; still, what works is left alone but for orders and for places that others need.
            assert action.reason in (
                StopReason.ASKED, StopReason.UNOWNED, StopReason.SCALE_DOWN, StopReason.SWAP, StopReason.RECLAIMED
            )  # fmt: skip
            if action.reason is StopReason.SWAP:
                others = [r for r in view.replicas if r.model == action.model and r.id != action.replica and r.state is S.READY]
                assert others, "the last busy replica of a model was taken"
    return actions


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, st.lists(events, max_size=25))
@example(
    Policy(max_replicas=3, target_per_replica=1, swap_after=5.0, min_residency=5.0),
    [("ask", "a", 1), ("pass", "a", 10), ("sleep", "a", 0)],
)
def test_promises_hold_in_every_history(policy: Policy, history: list[tuple[str, str, int]]) -> None:
    """If this fails, some pattern of requests launches too much, launches for nobody, or cuts an answer."""
    pool = Pool(policy)
    for event in history:
        play(pool, event)
        for _ in range(3):  # a drain of what has no work is done at once: drain, then stop
            pool.apply(check(pool))
        assert check(pool) == [], "the plan does not come to rest"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, st.lists(events, max_size=20))
def test_whoever_waits_is_served_in_the_end(policy: Policy, history: list[tuple[str, str, int]]) -> None:
    """If this fails, a request can wait for ever although the answers before it ended."""
    pool = Pool(policy)
    for event in history:
        play(pool, event)
    for _ in range(400):  # everything asked is answered within a second, and nobody asks anew
        pool.apply(check(pool))
        pool.advance(1.0)
        pool.route()
        for model in MODELS:
            pool.finish(model)
    assert not any(d.requests for d in pool.demand.values())


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(models, min_size=1, max_size=200), st.sampled_from([20.0, 60.0]))
def test_models_that_compete_do_not_thrash(asks: list[str], residency: float) -> None:
    """If this fails, two models in a pool of one spend their time loading."""
    pool = Pool(Policy(max_replicas=1, swap_after=5.0, min_residency=residency, sleep_after=600.0))
    begin = pool.now
    for model in asks:
        pool.ask(model, 1)
        for _ in range(3):
            pool.apply(check(pool))
            pool.advance(1.0)
            pool.route()
            for other in MODELS:
                pool.finish(other)
    assert pool.swaps <= (pool.now - begin) / residency + 1


@settings(max_examples=25, deadline=None)
@given(policies)
def test_nothing_runs_when_the_money_is_spent(policy: Policy) -> None:
    """If this fails, a pool goes on costing what its budget does not have."""
    pool = Pool(policy)
    for model in MODELS:
        pool.ask(model, 3)
    for _ in range(20):
        pool.apply(check(pool))
        pool.advance(1.0)
        pool.route()
    for _ in range(int(BROKE_DRAIN) + 10):
        decided = plan(replace(pool.view(), broke=True), pool.demand, pool.policy, pool.now)
        pool.apply([action for action in decided if action.kind is not Kind.LAUNCH])  # whoever pays refuses those
        pool.advance(1.0)
    assert pool.replicas == {}


@settings(max_examples=25, deadline=None)
@given(policies)
def test_nothing_runs_when_nobody_asks(policy: Policy) -> None:
    """If this fails, a GPU burns for nobody."""
    pool = Pool(replace(policy, min_replicas=0, sleep_after=60.0))
    for model in MODELS:
        pool.ask(model, 3)
    for _ in range(600):
        pool.apply(check(pool))
        pool.advance(1.0)
        pool.route()
        for model in MODELS:
            pool.finish(model)
    assert pool.replicas == {}


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9)), min_size=1, max_size=60), st.floats(1, 100))
def test_a_window_knows_the_most_of_its_span(samples: list[tuple[float, int]], span: float) -> None:
    """If this fails, replicas are drained between two waves of requests."""
    now, window, seen = 0.0, Window(), list[tuple[float, int]]()
    for gap, count in samples:
        now += gap
        window = window.note(count, now, span)
        seen.append((now, count))
        assert window.most == max(value for at, value in seen if at > now - span or at == now)
        assert len(window.samples) <= 10

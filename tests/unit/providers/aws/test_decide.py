"""What follows from a picture: over arbitrary pictures, and over arbitrary lives of a pool on an AWS that is late, refuses and takes back."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.decide import (
    FAILED_FOR,
    SURPLUS_AFTER,
    Action,
    Assign,
    Drop,
    End,
    Put,
    SetDesired,
    Terms,
    decide,
    excess,
    open_orders,
    owners,
    place,
    surplus,
)
from lamplighter.providers.aws.picture import Activity, Group, Machine, Order, Picture

NOW = 1_790_000_000.0
GROUPS = {"spot": "s-gpu-spot", "on-demand": "s-gpu-on-demand"}
TERMS = Terms(maximum=3, fall_back=True, on_demand="g4dn.xlarge for 0.526 USD/h")


def group(market: str = "spot", *, desired: int = 0, orders: tuple[Order, ...] = (), **members: bool) -> Group:
    return Group(GROUPS[market], market, desired, 3, orders, {name.replace("_", "-"): counts for name, counts in members.items()})


def machine(
    id: str, market: str = "spot", *, state: str = "running", replica: str = "", age: float = 60.0, model: str = "m"
) -> Machine:
    at = NOW - age
    return Machine(
        id, state, "g4dn.xlarge", "eu-central-1a", market, at, GROUPS.get(market), replica, model if replica else "", at
    )


def order(id: str = "aws_1", *, age: float = 5.0, model: str = "m", **more: object) -> Order:
    return replace(Order(id, model, NOW - age, NOW - age), **more)  # type: ignore[arg-type] # fields of the dataclass


def picture(*groups: Group, machines: tuple[Machine, ...] = (), failures: tuple[Activity, ...] = ()) -> Picture:
    have = {one.market for one in groups}
    rest = tuple(group(market) for market in GROUPS if market not in have)
    return Picture(NOW, (*groups, *rest), machines, failures)


def decided(seen: Picture, terms: Terms = TERMS, doomed: frozenset[str] = frozenset(), **since: float) -> list[Action]:
    return decide(seen, doomed, terms, NOW, {name.replace("_", "-"): at for name, at in since.items()})


# --- single stories -----------------------------------------------------------------------------------------------------------------------


def test_an_order_raises_its_group() -> None:
    """Nothing would ever be launched."""
    assert decided(picture(group(orders=(order(),)))) == [SetDesired(GROUPS["spot"], 1, raises=True)]


def test_an_instance_gets_its_order_and_nothing_else_changes() -> None:
    """A wake would launch a second machine when the first appears."""
    seen = picture(group(desired=1, orders=(order(),), i_1=True), machines=(machine("i-1", age=1),))
    assert decided(seen) == [Assign("i-1", order(), GROUPS["spot"])]


def test_an_instance_that_only_one_of_two_answers_shows_changes_nothing() -> None:
    """AWS's answers agree only after a while; meanwhile a machine would be ended, or a second one bought."""
    only_listed = picture(group(desired=1, orders=(order(),), i_1=True))
    assert decided(only_listed) == []
    only_described = picture(group(desired=1), machines=(machine("i-1", replica="aws_1", age=1),))
    assert decided(only_described) == []


def test_no_spot_capacity_moves_the_order_and_says_what_it_costs() -> None:
    """The person would wait for a spot machine that does not come, or be surprised by the price."""
    failed = Activity(
        GROUPS["spot"], NOW - 2, "Could not launch Spot Instances. InsufficientInstanceCapacity - There is no Spot capacity."
    )
    seen = picture(group(desired=1, orders=(order(),)), failures=(failed,))
    put, drop, lower, higher = decided(seen)
    assert isinstance(put, Put)
    assert put.group == GROUPS["on-demand"]
    assert put.order.note == "no spot capacity; taking an on-demand g4dn.xlarge for 0.526 USD/h"
    assert put.order.at == order().at
    assert drop == Drop("aws_1", GROUPS["spot"])
    assert (lower, higher) == (SetDesired(GROUPS["spot"], 0, raises=False), SetDesired(GROUPS["on-demand"], 1, raises=True))


def test_patience_ends_without_any_word_of_aws() -> None:
    """A request for spot can stay open for ever, and the person with it."""
    (first, *_) = decided(picture(group(desired=1, orders=(order(age=61),))))
    assert isinstance(first, Put)
    assert first.group == GROUPS["on-demand"]


def test_without_fallback_the_order_fails_with_its_reason() -> None:
    """Somebody who allowed spot only would be billed on-demand prices, or never told why nothing comes."""
    failed = Activity(
        GROUPS["spot"],
        NOW - 2,
        "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
    )
    put, lower = decided(picture(group(desired=1, orders=(order(),)), failures=(failed,)), Terms(maximum=3))
    assert isinstance(put, Put)
    assert put.order.failure is WakeFailure.QUOTA
    assert lower == SetDesired(GROUPS["spot"], 0, raises=False)


def test_a_price_limit_holds_for_the_fallback_too() -> None:
    """max_price would be a limit only as long as there is spot capacity."""
    terms = replace(
        TERMS, dear="the cheapest on-demand machine costs 0.526 USD/h, more than the pool's max_price of 0.3 USD/hour"
    )
    (put, _) = decided(picture(group(desired=1, orders=(order(age=61),))), terms)
    assert isinstance(put, Put)
    assert put.order.failure is WakeFailure.NO_CAPACITY
    assert "max_price" in put.order.note


def test_an_image_that_cannot_be_used_is_not_tried_on_demand() -> None:
    """The same image fails there too, at a higher price."""
    failed = Activity(GROUPS["spot"], NOW - 2, "The image id '[ami-1]' does not exist. Launching EC2 instance failed.")
    (put, _) = decided(picture(group(desired=1, orders=(order(),)), failures=(failed,)))
    assert isinstance(put, Put)
    assert put.order.failure is WakeFailure.BAD_IMAGE


def test_a_failure_from_before_the_order_is_not_its() -> None:
    """Yesterday's refusal would fail today's wake."""
    old = Activity(GROUPS["spot"], NOW - 100, "InsufficientInstanceCapacity")
    assert decided(picture(group(desired=1, orders=(order(),)), failures=(old,))) == []


def test_a_dead_instance_is_taken_out_by_name() -> None:
    """The group would launch another in its place, for nobody."""
    seen = picture(group(desired=1, i_1=True), machines=(machine("i-1", state="terminated", replica="aws_1"),))
    assert decided(seen) == [End("i-1", GROUPS["spot"], "it is dead, and must not be replaced")]


def test_an_instance_without_an_order_is_ended_after_a_while() -> None:
    """A machine that nobody asked for would bill until somebody looks."""
    seen = picture(group(desired=1, i_1=True), machines=(machine("i-1"),))
    assert surplus(seen) == {"i-1"}
    assert decided(seen) == []
    assert decided(seen, i_1=NOW - SURPLUS_AFTER) == [End("i-1", GROUPS["spot"], "no order stands for it")]


def test_a_late_spot_machine_takes_the_order_that_moved_on() -> None:
    """It would be ended, and the dearer one paid."""
    moved = order(since=NOW - 1)
    seen = picture(group(desired=1, i_1=True), group("on-demand", desired=1, orders=(moved,)), machines=(machine("i-1", age=1),))
    assert decided(seen) == [Assign("i-1", moved, GROUPS["on-demand"]), SetDesired(GROUPS["on-demand"], 0, raises=False)]


def test_a_crash_in_the_middle_of_a_move_is_finished() -> None:
    """The order would stand in both groups, and two machines would come for it."""
    moved = order(since=NOW - 1)
    seen = picture(group(desired=1, orders=(order(),)), group("on-demand", orders=(moved,)))
    assert Drop("aws_1", GROUPS["spot"]) in decided(seen)
    assert SetDesired(GROUPS["spot"], 0, raises=False) in decided(seen)
    assert SetDesired(GROUPS["on-demand"], 1, raises=True) in decided(seen)


def test_a_doomed_order_is_withdrawn() -> None:
    """A machine would come for a request that left long ago."""
    seen = picture(group(desired=1, orders=(order(),)))
    assert decided(seen, doomed=frozenset({"aws_1"})) == [
        Drop("aws_1", GROUPS["spot"]),
        SetDesired(GROUPS["spot"], 0, raises=False),
    ]


def test_a_failed_order_that_nobody_asks_about_is_forgotten() -> None:
    """Tags of a group are few: fifty."""
    old = order(since=NOW - FAILED_FOR, failure=WakeFailure.NO_CAPACITY)
    assert decided(picture(group(orders=(old,)))) == [Drop("aws_1", GROUPS["spot"])]


def test_two_keepers_that_ordered_at_once_keep_one_order() -> None:
    """One request would buy two machines."""
    seen = picture(group(orders=(order("aws_1"), order("aws_2"))))
    assert excess(seen, {"m": 1}, (), ["aws_2"]) == ["aws_2"]
    assert excess(seen, {"m": 2}, (), ["aws_2"]) == []
    assert excess(seen, {"m": 1}, ["aws_1"], ["aws_2"]) == []


def test_what_failed_or_is_doomed_does_not_count_as_living() -> None:
    """Replacing a broken node would wait for its end."""
    seen = picture(group(desired=1, i_1=True), machines=(machine("i-1", replica="aws_1"),))
    assert place(seen, {"m": 1}, (), TERMS) == []
    assert place(seen, {"m": 1}, {"aws_1"}, TERMS) == ["m"]
    assert place(seen, {"m": 1}, (), TERMS, {"aws_1"}) == ["m"]


# --- arbitrary pictures -------------------------------------------------------------------------------------------------------------------

MARKETS = st.sampled_from(list(GROUPS))
IDS = st.sampled_from([f"i-{n}" for n in range(6)])
HANDLES = st.sampled_from([f"aws_{n}" for n in range(5)])
STATES = st.sampled_from(["pending", "running", "shutting-down", "terminated", "stopped"])


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Anything that AWS may answer, however strange, foreign instances included."""
    machines = {}
    for name in draw(st.sets(IDS)):
        market = draw(MARKETS)
        one = machine(name, market, state=draw(STATES), replica=draw(st.just("") | HANDLES), age=draw(st.floats(0, 4000)))
        machines[name] = replace(one, group=draw(st.sampled_from([GROUPS[market], "other", None])))
    groups = []
    for market, group_name in GROUPS.items():
        members = {
            one: draw(st.booleans()) for one in draw(st.sets(IDS)) if one not in machines or machines[one].group == group_name
        }
        orders = tuple(
            order(
                handle,
                age=draw(st.floats(0, 5000)),
                failure=draw(st.none() | st.just(WakeFailure.NO_CAPACITY)),
            )
            for handle in sorted(draw(st.sets(HANDLES)))
        )
        groups.append(Group(group_name, market, draw(st.integers(0, 4)), draw(st.integers(0, 4)), orders, members))
    failures = tuple(
        Activity(
            GROUPS[draw(MARKETS)], NOW - draw(st.floats(0, 100)), draw(st.sampled_from(["InsufficientInstanceCapacity", "?"]))
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    return Picture(NOW, tuple(groups), tuple(machines.values()), failures)


@settings(max_examples=200, deadline=None)
@given(pictures(), st.sets(HANDLES), st.integers(0, 4), st.booleans(), st.dictionaries(IDS, st.floats(NOW - 100, NOW)))
def test_any_picture(seen: Picture, doomed: set[str], maximum: int, fall_back: bool, since: dict[str, float]) -> None:
    """Whatever AWS answers: never above the maximum, never below what runs, one instance an order, nothing foreign, and no order forgotten."""
    terms = Terms(maximum=maximum, fall_back=fall_back)
    actions = decide(seen, doomed, terms, NOW, since)
    groups = {one.name: one for one in seen.groups}
    raised = {one.group: one.count for one in actions if isinstance(one, SetDesired)}
    ended = [one for one in actions if isinstance(one, End)]
    for name, count in raised.items():
        have = len(groups[name].counted) - sum(one.group == name for one in ended)
        assert count >= have, "AWS would choose which instance ends"
        if count > groups[name].desired:
            assert count <= groups[name].maximum or count <= have + sum(m.group == name for m in seen.machines)
    if any(one.raises for one in actions if isinstance(one, SetDesired)):
        total = sum(raised.get(name, one.desired) for name, one in groups.items())
        held = [
            max(one.desired, len(one.counted | {m.id for m in seen.machines if m.living and m.group == one.name}))
            for one in seen.groups
        ]
        assert total <= max(maximum, sum(held)), "more than is allowed, and more than was there before"
    assigned = [one for one in actions if isinstance(one, Assign)]
    assert len({one.order.id for one in assigned}) == len(assigned) == len({one.machine for one in assigned})
    assert not {one.order.id for one in assigned} & owners(seen.machines).keys()
    mine = {m.id for m in seen.machines if m.group in groups}
    assert {one.machine for one in assigned} <= mine
    assert {one.machine for one in ended} <= {name for one in seen.groups for name in one.counted}
    for handle, (one, where) in open_orders(seen).items():
        if one.failure is None and handle not in doomed and NOW - one.since >= terms.patience[where.market]:
            told = [
                a
                for a in actions
                if (isinstance(a, Assign) and a.order.id == handle) or (isinstance(a, Put) and a.order.id == handle)
            ]
            assert told, "an order outlived its limit"


@settings(max_examples=100, deadline=None)
@given(pictures(), st.dictionaries(st.just("m"), st.integers(0, 6)), st.sets(HANDLES), st.integers(0, 4))
def test_placing_never_exceeds_the_maximum(seen: Picture, desired: dict[str, int], doomed: set[str], maximum: int) -> None:
    """A request storm would empty somebody's account."""
    placed = place(seen, desired, doomed, Terms(maximum=maximum))
    ours = {one.name for one in seen.groups}
    living = sum(m.living and m.group in ours for m in seen.machines)
    assert len(placed) <= max(0, maximum)
    assert not placed or len(placed) + living <= maximum


# --- arbitrary lives ----------------------------------------------------------------------------------------------------------------------


class Cloud:
    """Two groups on an AWS that launches late, sometimes refuses, takes back, and replaces what dies."""

    def __init__(self) -> None:
        self.now = NOW
        self.orders: dict[str, dict[str, Order]] = {name: {} for name in GROUPS.values()}
        self.desired = dict.fromkeys(GROUPS.values(), 0)
        self.machines: dict[str, Machine] = {}
        self.members: dict[str, dict[str, bool]] = {name: {} for name in GROUPS.values()}
        self.failures: list[Activity] = []
        self.peak = 0
        self.count = 0

    def see(self) -> Picture:
        groups = tuple(
            Group(name, market, self.desired[name], 3, tuple(self.orders[name].values()), dict(self.members[name]))
            for market, name in GROUPS.items()
        )
        return Picture(self.now, groups, tuple(self.machines.values()), tuple(self.failures))

    def launch(self, market: str) -> None:
        name = GROUPS[market]
        if sum(self.members[name].values()) < self.desired[name]:
            self.count += 1
            new = f"i-{self.count:04}"
            self.machines[new] = replace(machine(new, market), launched_at=self.now)
            self.members[name][new] = True
            self.peak = max(self.peak, sum(m.living for m in self.machines.values()))

    def refuse(self, market: str) -> None:
        name = GROUPS[market]
        if sum(self.members[name].values()) < self.desired[name]:
            self.failures.append(Activity(name, self.now, "InsufficientInstanceCapacity"))

    def kill(self, index: int) -> None:
        living = [m for m in self.machines.values() if m.living]
        if living:
            one = living[index % len(living)]
            self.machines[one.id] = replace(one, state="terminated")

    def do(self, action: Action) -> None:
        match action:
            case Put(one, name):
                self.orders[name][one.id] = one
            case Drop(id, name):
                self.orders[name].pop(id, None)
            case Assign(id, one, name):
                self.machines[id] = replace(self.machines[id], replica=one.id, model=one.model, ordered_at=one.at)
                self.orders[name].pop(one.id, None)
            case SetDesired(name, count, _):
                assert count >= sum(self.members[name].values()), "AWS would choose which one ends"
                self.desired[name] = count
            case End(id, name, _):
                self.members[name].pop(id)
                self.desired[name] = max(0, self.desired[name] - 1)
                self.machines[id] = replace(self.machines[id], state="terminated")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["launch", "refuse", "kill", "want", "wait", "half"]), st.integers(0, 3), MARKETS), max_size=40
    )
)
def test_any_life_stays_within_the_maximum_and_comes_to_rest(steps: list[tuple[str, int, str]]) -> None:
    """A keeper killed between any two calls, on an AWS in any mood: never more machines than allowed, and no order is left in the air."""
    cloud, wanted, since, serial = Cloud(), 0, dict[str, float](), 0
    terms = Terms(maximum=3, fall_back=True)

    def act(limit: int | None = None) -> None:
        for action in decide(cloud.see(), (), terms, cloud.now, since)[:limit]:
            cloud.do(action)
        fresh = surplus(cloud.see())
        for old in set(since) - fresh:
            del since[old]
        since.update({one: since.get(one, cloud.now) for one in fresh})

    for what, number, market in steps:
        cloud.now += 1
        match what:
            case "launch":
                cloud.launch(market)
            case "refuse":
                cloud.refuse(market)
            case "kill":
                cloud.kill(number)
            case "wait":
                cloud.now += 40
            case "half":
                act(number)  # killed after some of its calls
                continue
            case "want":
                wanted = number
                for model in place(cloud.see(), {"m": wanted}, (), terms):
                    serial += 1
                    cloud.do(Put(Order(f"aws_{serial:03}", model, cloud.now, cloud.now), GROUPS["spot"]))
        act()
    assert cloud.peak <= terms.maximum
    for _ in range(12):  # nobody launches any more
        cloud.now += 40
        act()
    seen = cloud.see()
    assert all(one.failure is not None for one, _ in open_orders(seen).values()), "an order was left without an end"
    assert not surplus(seen)
    assert all(one.desired == len(one.counted) for one in seen.groups)
    assert decide(seen, (), terms, cloud.now, since) == []

"""What follows from a picture: which order gets which instance, what every group's desired capacity must be, what has failed, what is ended.

Pure: no I/O, no clock, no chance. Everything here may be asked again with its outcome and then gives nothing new. The promises, each tested
over arbitrary pictures: desired capacity never above the maximum, never two instances for one order, nothing of another installation
touched, and every order ends as an instance or a failure within its limit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.aws.manifest import ON_DEMAND, SPOT
from lamplighter.providers.aws.picture import Activity, Group, Machine, Order, Picture
from lamplighter.providers.aws.refusals import Refusal, refusal

FAILED_FOR = 3600.0
"""Seconds for which an order that failed is told about when nobody dooms it."""
SURPLUS_AFTER = 30.0
"""Seconds for which an instance without an order is left alone: what we know of it may be older than what was written."""
NEW = 120.0
"""Seconds for which a living instance counts for its group although the group does not list it: AWS's answers agree only after a while."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pool allows. `patience`: seconds that an order may wait in a market's group. `fall_back`: from spot to on-demand.

    `on_demand`: which machine that would probably be and what it costs, for people. `dear`: why it is not done although it is allowed.
    """

    maximum: int
    patience: Mapping[str, float] = field(default_factory=lambda: {SPOT: 60.0, ON_DEMAND: 120.0})
    fall_back: bool = False
    on_demand: str = "machine"
    dear: str = ""


@dataclass(frozen=True, slots=True)
class Assign:
    """Write down that `machine` was made for `order`, which stood in `group`."""

    machine: str
    order: Order
    group: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write the order into the group's tags: a new one, one that moves here, or one that failed."""

    order: Order
    group: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove the order from the group's tags."""

    order: str
    group: str


@dataclass(frozen=True, slots=True)
class SetDesired:
    """Set a group's desired capacity."""

    group: str
    count: int
    raises: bool


@dataclass(frozen=True, slots=True)
class End:
    """Terminate an instance and lower its group's desired capacity with it. `why`: for the log."""

    machine: str
    group: str
    why: str


Action = Assign | Put | Drop | SetDesired | End


def decide(
    picture: Picture, doomed: Collection[str], terms: Terms, now: float, surplus_since: Mapping[str, float]
) -> list[Action]:
    """The actions that are due, in the order in which they must be done.

    `doomed`: handles whose end was asked for; their instances are ended elsewhere, after their agents were told. `surplus_since`: since when
    an instance has been seen without an order (Unix seconds).
    """
    return _Decision(picture, frozenset(doomed), terms, now, surplus_since).run()


def surplus(picture: Picture) -> frozenset[str]:
    """Living instances of our groups for which there is no order."""
    owned = owners(picture.machines)
    taken = _match(picture, owned)
    return frozenset(m.id for m in _free(picture, owned) if m.id not in taken)


def _free(picture: Picture, owned: Mapping[str, str]) -> list[Machine]:
    """Living instances of our groups that have no order, and that their group is not ending; oldest first."""
    members = {group.name: group.members or {} for group in picture.groups}
    return sorted(
        (
            m
            for m in picture.machines
            if m.living and m.group in members and members[m.group].get(m.id, True) and m.id not in owned.values()
        ),
        key=lambda m: (m.launched_at, m.id),
    )


def owners(machines: Sequence[Machine]) -> dict[str, str]:
    """By order, the one instance that has it: the oldest that carries its id. What is gone has no more claim than nothing at all."""
    found: dict[str, str] = {}
    for machine in sorted(machines, key=lambda m: (not m.living, m.launched_at, m.id)):
        if machine.replica:
            found.setdefault(machine.replica, machine.id)
    return found


def open_orders(picture: Picture) -> dict[str, tuple[Order, Group]]:
    """By id, each order that still waits for an instance, and its group: the one to which it was given last."""
    owned = owners(picture.machines)
    found: dict[str, tuple[Order, Group]] = {}
    for group in picture.groups:
        for order in group.orders:
            if order.id in owned:
                continue
            other = found.get(order.id)
            if other is None or (order.since, group.market == ON_DEMAND) > (other[0].since, other[1].market == ON_DEMAND):
                found[order.id] = (order, group)
    return found


def _match(picture: Picture, owned: Mapping[str, str]) -> dict[str, tuple[Order, Group]]:
    """By instance, the open order that it gets: the oldest of its own group, else of the other (a spot machine that came late after all)."""
    waiting = sorted(
        (one for one in open_orders(picture).values() if one[0].failure is None), key=lambda one: (one[0].at, one[0].id)
    )
    free = _free(picture, owned)
    matched: dict[str, tuple[Order, Group]] = {}
    for own in (True, False):
        for machine in free:
            if machine.id in matched:
                continue
            found = next((one for one in waiting if not own or one[1].name == machine.group), None)
            if found is not None:
                waiting.remove(found)
                matched[machine.id] = found
    return matched


class _Decision:
    """The working state of one call of `decide`."""

    def __init__(
        self, picture: Picture, doomed: frozenset[str], terms: Terms, now: float, surplus_since: Mapping[str, float]
    ) -> None:
        self.picture = picture
        self.doomed = doomed
        self.terms = terms
        self.now = now
        self.surplus_since = surplus_since
        self.owned = owners(picture.machines)
        self.matched = _match(picture, self.owned)
        self.actions: list[Action] = []
        self.waiting: dict[str, int] = {group.name: 0 for group in picture.groups}
        """How many orders of each group still want an instance, once the actions are done."""
        self.ending: set[str] = set()

    def run(self) -> list[Action]:
        for machine, (order, group) in self.matched.items():
            if order.id not in self.doomed:
                self.actions.append(Assign(machine, order, group.name))
        self._orders()
        self._leftovers()
        self._machines()
        self._desired()
        return self.actions

    # --- orders -------------------------------------------------------------------------------------------------------------------------

    def _orders(self) -> None:
        """Each open order: doomed, failed, moved to the other market, or waiting on."""
        current = open_orders(self.picture)
        taken = {order.id for order, _ in self.matched.values()}
        for order, group in sorted(current.values(), key=lambda one: (one[0].at, one[0].id)):
            if order.id in self.doomed:
                self.actions.append(Drop(order.id, group.name))
            elif order.id in taken:
                continue
            elif order.failure is not None:
                if self.now - order.since >= FAILED_FOR:
                    self.actions.append(Drop(order.id, group.name))
            elif (refused := self._refused(order, group)) is not None:
                self._refuse(order, group, refused)
            else:
                self.waiting[group.name] += 1

    def _refused(self, order: Order, group: Group) -> Refusal | None:
        """Why the group will not fulfil the order; None: it still may."""
        failures = [one for one in self.picture.failures if one.group == group.name and one.at >= order.since - 1.0]
        if failures:
            return refusal(max(failures, key=_when).message, group.market)
        if self.now - order.since >= self.terms.patience[group.market]:
            waited = f"no {group.market} machine came within {self.terms.patience[group.market]:.0f} s"
            return Refusal(WakeFailure.NO_CAPACITY, waited)
        return None

    def _refuse(self, order: Order, group: Group, refused: Refusal) -> None:
        """Let the order move to on-demand machines if it may, else let it fail."""
        other = self.picture.group(ON_DEMAND)
        if refused.elsewhere and self.terms.fall_back and group.market == SPOT and other is not None:
            if not self.terms.dear:
                note = f"{refused.sentence}; taking an on-demand {self.terms.on_demand}"
                self.actions.append(Put(replace(order, since=self.now, note=note), other.name))
                self.actions.append(Drop(order.id, group.name))
                self.waiting[other.name] += 1
                return
            refused = Refusal(refused.reason, f"{refused.sentence}; {self.terms.dear}")
        note = f"{order.note.partition(';')[0]}, and then: {refused.sentence}" if order.note else refused.sentence
        self.actions.append(Put(replace(order, since=self.now, note=note, failure=refused.reason), group.name))

    def _leftovers(self) -> None:
        """Tags of orders that have their instance already, or that moved on to the other group."""
        current = open_orders(self.picture)
        for group in self.picture.groups:
            for order in group.orders:
                elsewhere = order.id in current and current[order.id][1].name != group.name
                if order.id in self.owned or elsewhere:
                    self.actions.append(Drop(order.id, group.name))

    # --- instances ----------------------------------------------------------------------------------------------------------------------

    def _machines(self) -> None:
        """End what no order stands for, and what is dead while its group still counts it: the group would replace it."""
        for group in self.picture.groups:
            for instance in sorted(group.counted):
                machine = self.picture.machine(instance)
                if machine is None:
                    continue  # so new that one of AWS's two answers does not know it yet
                if not machine.living:
                    self._end(machine, group, "it is dead, and must not be replaced")
                elif instance not in self.owned.values() and instance not in self.matched:
                    since = self.surplus_since.get(instance)
                    if since is not None and self.now - since >= SURPLUS_AFTER:
                        self._end(machine, group, "no order stands for it")

    def _end(self, machine: Machine, group: Group, why: str) -> None:
        self.actions.append(End(machine.id, group.name, why))
        self.ending.add(machine.id)

    # --- desired capacity ---------------------------------------------------------------------------------------------------------------

    def _desired(self) -> None:
        """What every group has and waits for, all groups together never above the maximum.

        A group that has an instance is never set below it: AWS would choose which one ends. Instances end one by one, by name.
        """
        has = {group.name: len(group.counted) + self._unlisted(group) for group in self.picture.groups}
        # Whoever ends an instance lowers the capacity with it, and it may fail: until it is seen, capacity is only raised.
        stays = {one.name: max(0, one.desired - has[one.name]) if self.ending & one.counted else 0 for one in self.picture.groups}
        room = max(0, self.terms.maximum - sum(has.values()) - sum(stays.values()))
        found: list[SetDesired] = []
        for group in sorted(self.picture.groups, key=lambda one: one.market != SPOT):
            # What the group lists and EC2 does not show yet is what somebody waits for.
            coming = sum(self.picture.machine(instance) is None for instance in group.counted)
            free = room + stays[group.name]
            more = min(max(0, self.waiting[group.name] - coming), free, max(0, group.maximum - has[group.name]))
            room -= max(0, more - stays[group.name])
            count = has[group.name] + more
            if count > group.desired or (count < group.desired and not self.ending & group.counted):
                found.append(SetDesired(group.name, count, raises=count > group.desired))
        self.actions += [one for one in found if not one.raises] + [one for one in found if one.raises]

    def _unlisted(self, group: Group) -> int:
        """Living instances of the group that it does not list yet."""
        listed = group.members or {}
        return sum(
            m.living and m.group == group.name and m.id not in listed and self.now - m.launched_at < NEW
            for m in self.picture.machines
        )


def _when(activity: Activity) -> float:
    return activity.at


def place(
    picture: Picture, desired: Mapping[str, int], doomed: Collection[str], terms: Terms, ready_elsewhere: Collection[str] = ()
) -> list[str]:
    """The models for which an order must be given now, one entry for each, so that `desired` is met; never above the maximum.

    `ready_elsewhere`: handles that do not count as living, such as nodes that failed.
    """
    not_counted = {*doomed, *ready_elsewhere}
    owned = owners(picture.machines)
    living: dict[str, int] = {}
    for order, _ in open_orders(picture).values():
        if order.failure is None and order.id not in not_counted:
            living[order.model] = living.get(order.model, 0) + 1
    for machine in picture.machines:
        if machine.living and owned.get(machine.replica) == machine.id and machine.replica not in not_counted:
            living[machine.model] = living.get(machine.model, 0) + 1
    groups = {group.name for group in picture.groups}
    taken = {order.id for order, _ in _match(picture, owned).values()}
    occupied = sum(m.living and m.group in groups for m in picture.machines)
    occupied += sum(
        order.failure is None and order.id not in taken and order.id not in doomed for order, _ in open_orders(picture).values()
    )
    room = max(0, terms.maximum - occupied)
    wanted = [model for model, count in desired.items() for _ in range(count - living.get(model, 0))]
    return wanted[:room]


def excess(picture: Picture, desired: Mapping[str, int], not_counted: Collection[str], mine: Collection[str]) -> list[str]:
    """Which of `mine`, orders that were just given, another keeper gave at the same time: the newest, as many as are too many."""
    owned = owners(picture.machines)
    living: dict[str, list[str]] = {}
    for order, _ in open_orders(picture).values():
        if order.failure is None and order.id not in not_counted:
            living.setdefault(order.model, []).append(order.id)
    for machine in picture.machines:
        if machine.living and owned.get(machine.replica) == machine.id and machine.replica not in not_counted:
            living.setdefault(machine.model, []).append(machine.replica)
    dropped: list[str] = []
    for model, handles in living.items():
        more = len(handles) - desired.get(model, 0)
        dropped += sorted((handle for handle in handles if handle in mine), reverse=True)[: max(0, more)]
    return dropped

"""Who owns what runs and costs: the verdict on each thing in the account, from the configuration, the store's beliefs and the time. Pure.

The keeper ends what it owns; this is for a person who wants to be sure, also while no keeper runs. Not responsible for ending anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lamplighter.config import AwsPool, Config
from lamplighter.operations.cloud.beliefs import Beliefs
from lamplighter.operations.cloud.stacks import stacks
from lamplighter.providers.aws.inventory import UNTIL, Group, Inventory, Item, is_builder

_JUST_MADE = 120.0
"""Seconds for which a machine may lack its replica's name: the keeper writes it down at its next look."""
_SLACK = 120.0
"""Seconds by which AWS and we may differ about the time of a dead-man."""


class Standing(StrEnum):
    """What a thing is to this installation."""

    OWNED = "owned"
    """A replica of the store, or what belongs to one."""
    STANDING = "standing"
    """Part of a stack of the configuration: it is there, and may cost, while everything sleeps."""
    UNOWNED = "unowned"
    """It carries our tags and nobody wants it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One thing with its verdict and the reason, for people."""

    item: Item
    standing: Standing
    why: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something about a group that makes forgetting dangerous."""

    group: Group
    why: str


def judge(config: Config, beliefs: Beliefs, found: Inventory, now: float) -> list[Judged]:
    """Every item of the inventory with its verdict. `now`: Unix seconds."""
    pools = {name: pool for name, pool in config.pools.items() if isinstance(pool, AwsPool)}
    known = {stack.name for stack in stacks(config) if stack.region == found.region}
    machines = {one.id: _machine(one, pools, known, beliefs, now) for one in found.items if one.kind == "instance"}
    return [machines[one.id] if one.kind == "instance" else _thing(one, pools, known, machines) for one in found.items]


def _machine(item: Item, pools: Mapping[str, AwsPool], known: set[str], beliefs: Beliefs, now: float) -> Judged:
    if item.state == "shutting-down":
        return Judged(item, Standing.OWNED, "is ending")
    if is_builder(item):
        until = _number(item.tags.get(UNTIL))
        if until > now:
            return Judged(item, Standing.OWNED, f"bakes an image, for {(until - now) / 60:.0f} more minutes at the most")
        return Judged(item, Standing.UNOWNED, "was to bake an image and should have ended")
    if item.stack not in known:
        return Judged(item, Standing.UNOWNED, f"no pool of the configuration names the stack {item.stack!r}")
    if item.pool is None:
        return Judged(item, Standing.STANDING, "part of the stack (the lighthouse)")
    pool = pools.get(item.pool)
    if pool is None:
        return Judged(item, Standing.UNOWNED, f"the configuration has no pool {item.pool!r}")
    if not beliefs.kept(now):
        return Judged(
            item, Standing.UNOWNED, f"no keeper runs, so nobody renews it: it ends itself within {pool.lease} and {pool.drain}"
        )
    if (replica := beliefs.replica(item.replica)) is not None:
        return Judged(item, Standing.OWNED, f"replica {replica.id} of pool {item.pool}, {replica.state}")
    age = now - item.since if item.since is not None else 0.0
    if item.replica is None and age < _JUST_MADE:
        return Judged(item, Standing.OWNED, f"of pool {item.pool}, just made")
    return Judged(item, Standing.UNOWNED, f"the store knows no replica {item.replica or 'for it'}")


def _thing(item: Item, pools: Mapping[str, AwsPool], known: set[str], machines: Mapping[str, Judged]) -> Judged:
    if item.stack not in known:
        return Judged(item, Standing.UNOWNED, f"no pool of the configuration names the stack {item.stack!r}")
    if item.kind == "volume":
        holder = next((machine for machine in machines.values() if machine.item.id in item.detail), None)
        if holder is not None:
            return Judged(item, Standing.OWNED, f"of {holder.item.id}, and goes with it")
        pool = pools.get(item.pool or "")
        if item.state == "in-use" or (pool is not None and pool.model_storage.kind == "volume"):
            return Judged(item, Standing.STANDING, "keeps weights")
        return Judged(item, Standing.UNOWNED, "is attached to nothing, and no pool keeps weights on it")
    if item.kind == "address" and item.state == "unused":
        return Judged(item, Standing.UNOWNED, "is used by nothing")
    if item.kind in ("image", "snapshot") and item.pool is not None and item.pool not in pools:
        return Judged(item, Standing.UNOWNED, f"the configuration has no pool {item.pool!r}")
    return Judged(item, Standing.STANDING, "part of the stack")


def alarms(config: Config, groups: Iterable[Group], now: float) -> list[Alarm]:
    """Groups that nothing inside AWS would set to zero in time."""
    found = []
    pools = {name: pool for name, pool in config.pools.items() if isinstance(pool, AwsPool)}
    for group in groups:
        pool = next((pools[name] for name in pools if group.name in _names(pools[name], name)), None)
        if group.dead_man is None:
            found.append(Alarm(group, "has no dead-man action: nothing inside AWS ends what is forgotten in it"))
        elif pool is not None and group.dead_man - now > (limit := longest(pool) + float(config.cloud.dead_man_every)) + _SLACK:
            found.append(
                Alarm(group, f"its dead-man waits {group.dead_man - now:.0f} s, more than the {limit:.0f} s that the pool allows")
            )
        if pool is not None and group.desired > group.maximum:
            found.append(Alarm(group, f"wants {group.desired} machines, more than its maximum of {group.maximum}"))
    return found


def longest(pool: AwsPool) -> float:
    """Seconds for which a forgotten machine of the pool may bill: `max(boot_deadline, lease) + drain`."""
    return max(float(pool.boot_deadline), float(pool.lease)) + float(pool.drain)


def _names(pool: AwsPool, name: str) -> tuple[str, str]:
    return f"{pool.stack}-{name}-spot", f"{pool.stack}-{name}-on-demand"


def unowned(judged: Sequence[Judged]) -> list[Judged]:
    """What bills, or would, although nobody wants it. What costs nothing by itself is no reason to alarm anybody."""
    return [one for one in judged if one.standing is Standing.UNOWNED and one.item.hourly != 0]


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


__all__ = ["Alarm", "Judged", "Standing", "alarms", "judge", "longest", "unowned"]

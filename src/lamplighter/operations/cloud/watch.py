"""Looks at everything of this installation in every region in use, and ends what nobody owns. Reads the store beside whoever uses it.

Not responsible for the verdicts (`owners`), nor for showing them (`cli.cloud_watch`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from lamplighter.config import Config
from lamplighter.core.errors import ProviderError
from lamplighter.operations.cloud import owners
from lamplighter.operations.cloud.beliefs import Beliefs
from lamplighter.operations.cloud.errors import CloudError, StillRunning
from lamplighter.operations.cloud.owners import Alarm, Judged
from lamplighter.operations.cloud.rates import rates_of
from lamplighter.operations.cloud.stacks import stacks
from lamplighter.providers.aws import account, inventory
from lamplighter.providers.aws.account import BudgetState, Identity
from lamplighter.providers.aws.inventory import Group
from lamplighter.providers.aws.watcher import Finding, read_findings

_SETTLE = 3.0


@dataclass(frozen=True, slots=True)
class Region:
    """One region's picture. `unread`: what AWS did not let us see."""

    name: str
    judged: tuple[Judged, ...]
    groups: tuple[Group, ...]
    alarms: tuple[Alarm, ...]
    unread: tuple[str, ...]

    @property
    def unowned(self) -> list[Judged]:
        """What bills although nobody wants it."""
        return owners.unowned(self.judged)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything. `at`: Unix seconds. `missing`: living replicas of the store for which AWS shows no machine."""

    at: float
    identity: Identity
    regions: tuple[Region, ...]
    budgets: tuple[BudgetState, ...]
    missing: tuple[str, ...]
    kept: bool
    told: tuple[Finding, ...] = ()
    """What the keeper's own watcher last found or ended."""

    @property
    def unowned(self) -> list[Judged]:
        """What bills although nobody wants it, in all regions."""
        return [one for region in self.regions for one in region.unowned]

    @property
    def hourly(self) -> Decimal:
        """USD an hour of all that runs or stands and has a known price."""
        return sum(
            (one.item.hourly for region in self.regions for one in region.judged if one.item.hourly is not None), Decimal(0)
        )

    @property
    def well(self) -> bool:
        """Nothing bills that nobody owns, nothing lacks its dead-man, and all was seen."""
        return not self.unowned and not any(region.alarms or region.unread for region in self.regions)


def look(
    config: Config, data: Path, beliefs: Beliefs, *, regions: Sequence[str] | None = None, now: Callable[[], float] = time.time
) -> Picture:
    """Ask AWS about everything. `regions`: others than those in use. Raises CloudError, ProviderError."""
    if beliefs.installation is None:
        raise CloudError(
            "nothing was ever started or built from this data folder, so nothing in AWS can be its own",
            next_step="Name the folder of the installation with --data.",
        )
    asked = list(dict.fromkeys(regions or in_use(config, data)))
    if not asked:
        raise CloudError("no region is in use: no pool of kind aws, and nothing was built", next_step="Name one with --region.")
    who, moment = account.identity(asked[0]), now()
    found = tuple(_region(config, beliefs, beliefs.installation, name, moment) for name in asked)
    shown = {one.item.replica for region in found for one in region.judged if one.item.kind == "instance"}
    cloudy = {pool for stack in stacks(config) for pool in stack.pools}
    missing = tuple(
        one.id for one in beliefs.replicas
        if one.pool in cloudy and one.state in ("ready", "parked", "draining", "unreachable") and one.handle not in shown
    )  # fmt: skip
    told = tuple(one for pool in sorted(cloudy) for one in read_findings(data, pool))
    return Picture(moment, who, found, tuple(_budgets(config, who)), missing, beliefs.kept(moment), told)


def in_use(config: Config, data: Path) -> list[str]:
    """The regions of the configuration's pools, and those where something was ever built from this data folder."""
    built = sorted(path.name for path in (data / "cloud").glob("*/*") if (path / "main.tf.json").exists())
    return list(dict.fromkeys([*(stack.region for stack in stacks(config)), *built]))


def _region(config: Config, beliefs: Beliefs, installation: str, name: str, now: float) -> Region:
    found = inventory.take(name, installation, rates=rates_of(name))
    judged = owners.judge(config, beliefs, found, now)
    return Region(name, tuple(judged), found.groups, tuple(owners.alarms(config, found.groups, now)), found.unread)


def _budgets(config: Config, who: Identity) -> Iterable[BudgetState]:
    """Budgets are a courtesy here: without the right to read them, status still says what runs."""
    every = stacks(config)
    try:
        return [one for stack in every for one in account.budgets(stack.region, who.account, stack.name)]
    except ProviderError:
        return []


@dataclass(frozen=True, slots=True)
class Ended:
    """What `end` did. `untouched`: what only a `destroy` takes down, or nobody may."""

    done: tuple[str, ...]
    untouched: tuple[Judged, ...]


def end(
    found: Sequence[Judged],
    installation: str,
    *,
    limit: float,
    told: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Ended:
    """End what nobody owns, machines first, and prove that they are gone. Raises StillRunning, ProviderError."""
    done, untouched = [], []
    machines: dict[str, list[str]] = {}
    for one in found:
        if one.item.kind == "instance":
            machines.setdefault(one.item.region, []).append(one.item.id)
    for region, ids in machines.items():
        account.terminate(region, ids)
        told(f"Ending {', '.join(ids)} in {region}.")
        _gone(region, installation, set(ids), limit=limit, pause=pause, now=now)
        done += ids
    for one in found:
        item = one.item
        if item.kind == "volume" and item.state == "available":
            account.delete_volume(item.region, item.id)
        elif item.kind == "snapshot":
            account.delete_snapshot(item.region, item.id)
        elif item.kind == "image":
            account.deregister(item.region, item.id)
        elif item.kind == "address" and item.state == "unused":
            account.release_address(item.region, item.id)
        elif item.kind == "instance":
            continue
        else:
            untouched.append(one)
            continue
        told(f"Deleted {item.kind} {item.id} in {item.region}.")
        done.append(item.id)
    return Ended(tuple(done), tuple(untouched))


def _gone(
    region: str, installation: str, ids: set[str], *, limit: float, pause: Callable[[float], None], now: Callable[[], float]
) -> None:
    deadline = now() + limit
    while left := ids & {one.id for one in inventory.running(region, installation)}:
        if now() >= deadline:
            raise StillRunning(
                f"after {limit:.0f} s AWS still shows {', '.join(sorted(left))}",
                next_step="They are told to end; `lamplighter cloud status` shows when they are gone.",
            )
        pause(_SETTLE)


__all__ = ["Ended", "Picture", "Region", "end", "in_use", "look"]

"""Plan, apply and destroy of one stack, in the order that never leaves something running or lost: look, say, ask, do, prove.

Not responsible for asking or showing (`cli.cloud`): a caller reads the `Outlook` and decides. Everything here may be run again.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from lamplighter.config import Config
from lamplighter.operations.cloud import changes as plans
from lamplighter.operations.cloud import lighthouse
from lamplighter.operations.cloud.changes import Change
from lamplighter.operations.cloud.engine import Driver, Engine
from lamplighter.operations.cloud.errors import CloudError, StillRunning
from lamplighter.operations.cloud.stacks import Stack, variables
from lamplighter.operations.cloud.workspace import Workspace
from lamplighter.providers.aws import account, inventory
from lamplighter.providers.aws.account import Identity
from lamplighter.providers.aws.inventory import Inventory, Item
from lamplighter.providers.aws.standing import Standing, reckon

_BUCKET = (
    "aws_s3_bucket", "aws_s3_bucket_public_access_block", "aws_s3_bucket_ownership_controls", "aws_s3_bucket_policy",
    "aws_s3_bucket_server_side_encryption_configuration", "aws_s3_bucket_versioning", "aws_s3_bucket_lifecycle_configuration",
)  # fmt: skip
_SETTLE = 5.0
"""Seconds between two looks at what is ending."""
_INDEX_PATIENCE = 60.0
"""Seconds for which AWS's index of tags may still name what is gone."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where and for whom is built. `show`: takes each line of Terraform. `module`: another module than the one that is shipped."""

    config: Config
    data: Path
    installation: str
    show: Callable[[str], None]
    module: Path | None = None
    pause: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a command would do to one stack. `losses`: what would be gone for good. `notes`: what a person should know besides."""

    stack: Stack
    identity: Identity
    changes: tuple[Change, ...]
    standing: Standing
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """One line for each kind of change."""
        return plans.words(self.changes)

    @property
    def losses(self) -> list[str]:
        """What would be lost or interrupted."""
        return plans.losses(self.changes)


@dataclass
class Session:
    """One stack under its lock, with Terraform ready. Make one with `opened`."""

    site: Site
    stack: Stack
    space: Workspace
    identity: Identity
    _driver: Driver
    _notes: tuple[str, ...] = ()

    def outlook(self, *, destroy: bool = False) -> Outlook:
        """Make the plan and say what it means. Raises EngineFailed."""
        plan = self._driver.plan(destroy=destroy)
        standing = reckon(self.stack.region, [] if destroy else plans.planned(plan))
        return Outlook(self.stack, self.identity, tuple(plans.read(plan)), standing, self._notes)

    def apply(self) -> None:
        """Do what the last outlook said. Raises EngineFailed, KeyboardInterrupt."""
        self._driver.apply()

    def verify(self) -> Mapping[str, Any]:
        """The manifest, as the keeper will read it; a lighthouse gets what it reads.

        Raises CloudError when it is not there or lacks a pool.
        """
        found = account.manifest(self.stack.region, self.stack.name)
        if found is None:
            raise CloudError(
                f"the stack {self.stack.title} is built, but its manifest cannot be found",
                next_step="Run `lamplighter cloud apply` again; it only makes what is missing.",
            )
        missing = [pool for pool in self.stack.pools if pool not in (found.get("pools") or {})]
        if missing:
            raise CloudError(f"the manifest of {self.stack.title} lacks {', '.join(missing)}", next_step="Apply it again.")
        tags = {inventory.INSTALLATION: self.site.installation, inventory.STACK: self.stack.name}
        lighthouse.hand_over(self.site.config, self.stack, self.site.data, found, tags)
        return found

    def state(self) -> Mapping[str, Any]:
        """What Terraform's state holds. Raises EngineFailed."""
        return self._driver.current()

    def keep_bucket(self) -> list[str]:
        """Let the bucket live on without Terraform; the addresses that were released."""
        found = plans.addresses(self._driver.current(), _BUCKET)
        if found:
            self._driver.release(found)
        return found


@contextlib.contextmanager
def opened(site: Site, stack: Stack, *, destroying: bool = False) -> Iterator[Session]:
    """One stack, locked, its files written and Terraform initialised.

    `destroying`: the module is told of no baked image and no certificate, which may be gone already; a destroy that stopped half-way can be
    run again then. Raises CloudError, ProviderError, NoEngine, StackBusy."""
    program = Engine.find(site.config.cloud.engine)
    who = account.identity(stack.region)
    refuse_strangers(site, stack)
    images = {} if destroying else baked(stack)
    light = "" if destroying else lighthouse.script(site.config, stack, site.data)
    space = Workspace.of(site.data, stack.name, stack.region)
    with space.locked():
        told = variables(site.config, stack, site.installation, images=images, lighthouse_data=light)
        space.prepare(told, module=site.module)
        driver = Driver(program, space, site.show)
        driver.init()
        try:
            yield Session(site, stack, space, who, driver, tuple(_notes(site, stack, images, space)))
        finally:
            space.plan.unlink(missing_ok=True)


def refuse_strangers(site: Site, stack: Stack) -> None:
    """A stack of another installation is never touched. Raises CloudError, ProviderError."""
    found = account.manifest(stack.region, stack.name)
    last = Workspace.of(site.data, stack.name, stack.region).last_variables().get("installation")
    for owner in (found.get("installation") if found else None, last):
        if owner is not None and owner != site.installation:
            raise CloudError(
                f"the stack {stack.title} belongs to another installation ({owner}; this one is {site.installation})",
                next_step="Give the pools a `stack` name of their own; or use the data folder or the store with which it was built.",
            )


def baked(stack: Stack) -> dict[str, str]:
    """The newest image of each pool that wants a baked one and has it. Raises ProviderError."""
    wanted = [name for name, pool in stack.pools.items() if pool.image == "baked"]
    found = ((name, account.parameter(stack.region, f"/{stack.name}/ami/{name}")) for name in wanted)
    return {name: image for name, image in found if image is not None}


def _notes(site: Site, stack: Stack, images: Mapping[str, str], space: Workspace) -> Iterator[str]:
    for name, pool in stack.pools.items():
        if pool.image == "baked" and name not in images:
            yield f"Pool {name}: nothing was baked yet, so its machines start from AWS's stock image until `lamplighter cloud bake {name}`."
    if not any(space.root.glob("*override.tf*")):
        yield (
            f"What is built is remembered in {space.state} and copies of it in backups/ beside it: keep them. "
            "An S3 backend of your own goes into backend_override.tf there."
        )
    if not site.config.cloud.alerts:
        yield "cloud.alerts names no e-mail address: AWS's own budget warnings reach nobody."


@dataclass(frozen=True, slots=True)
class Doomed:
    """What a destroy takes along beside Terraform's own: machines that run, images that were baked, what is in the bucket."""

    running: tuple[Item, ...] = ()
    images: tuple[Item, ...] = ()
    snapshots: tuple[Item, ...] = ()
    bucket: str | None = None
    objects: Mapping[str, int] = field(default_factory=dict)
    size: int = 0


def doomed(site: Site, stack: Stack) -> Doomed:
    """Look before a destroy. Raises ProviderError."""
    found = only(inventory.take(stack.region, site.installation), stack)
    manifest = account.manifest(stack.region, stack.name)
    bucket = str(manifest["bucket"]) if manifest else next((one.id for one in found.items if one.kind == "bucket"), None)
    objects, size = account.bucket_size(stack.region, bucket) if bucket is not None else ({}, 0)
    by_kind = {kind: tuple(one for one in found.items if one.kind == kind) for kind in ("image", "snapshot")}
    nodes = tuple(one for one in found.running if one.pool is not None or inventory.is_builder(one))
    return Doomed(nodes, by_kind["image"], by_kind["snapshot"], bucket, objects, size)


def only(found: Inventory, stack: Stack) -> Inventory:
    """What belongs to one stack."""
    return replace(
        found,
        items=tuple(one for one in found.items if one.stack == stack.name),
        groups=tuple(one for one in found.groups if one.tags.get(inventory.STACK) == stack.name),
    )


def stop_everything(site: Site, stack: Stack, *, limit: float, told: Callable[[str], None]) -> None:
    """No machine of a pool runs any more, proven by AWS itself. Raises StillRunning, ProviderError."""
    closed = account.close_groups(stack.region, stack.groups)
    if closed:
        told(f"{len(closed)} groups are set to zero; nothing can be launched in them.")
    deadline, said = site.now() + limit, ""
    while True:
        left = [
            one for one in inventory.running(stack.region, site.installation)
            if one.stack == stack.name and (one.pool is not None or inventory.is_builder(one))
        ]  # fmt: skip
        if not left:
            told("No machine of this stack runs (AWS says so).")
            return
        account.terminate(stack.region, [one.id for one in left if one.runs])
        text = ", ".join(f"{one.id} ({one.state})" for one in left)
        if text != said:
            told(f"Ending: {text}")
            said = text
        if site.now() >= deadline:
            raise StillRunning(
                f"after {limit:.0f} s AWS still shows {text}",
                next_step="Nothing was destroyed. Run the same command again; the machines are already told to end.",
            )
        site.pause(min(_SETTLE, limit))


def clear(stack: Stack, found: Doomed, *, keep_backups: bool, told: Callable[[str], None]) -> None:
    """Delete what Terraform does not know or would refuse to delete: images, their snapshots, the bucket's contents. Raises ProviderError."""
    for image in found.images:
        account.deregister(stack.region, image.id)
    for snapshot in found.snapshots:
        account.delete_snapshot(stack.region, snapshot.id)
    if found.images or found.snapshots:
        told(f"Deleted {len(found.images)} images and {len(found.snapshots)} snapshots.")
    for pool in stack.pools:
        account.delete_parameter(stack.region, f"/{stack.name}/ami/{pool}")
    lighthouse.forget(stack)
    account.empty_repository(stack.region, f"{stack.name}/engine")
    if found.bucket is not None and not keep_backups:
        gone = account.empty_bucket(stack.region, found.bucket)
        told(f"Deleted {gone} objects of the bucket {found.bucket}.")


def leftovers(site: Site, stack: Stack) -> tuple[Inventory, Decimal]:
    """What still carries the stack's tags once it is destroyed, and what that costs a month. Waits for AWS's index of tags. Raises ProviderError."""
    deadline = site.now() + _INDEX_PATIENCE
    while True:
        found = only(inventory.take(stack.region, site.installation), stack)
        lagging = any(one.kind == "other" for one in found.items)
        if not lagging or site.now() >= deadline:
            return found, monthly(found.items)
        site.pause(_SETTLE)


def monthly(items: Sequence[Item]) -> Decimal:
    """USD a month of everything whose price is known."""
    return sum((one.hourly for one in items if one.hourly is not None), Decimal(0)) * 730


__all__ = [
    "Doomed", "Outlook", "Session", "Site", "baked", "clear", "doomed", "leftovers", "monthly", "only", "opened",
    "refuse_strangers", "stop_everything",
]  # fmt: skip

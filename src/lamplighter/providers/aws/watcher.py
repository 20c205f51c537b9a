"""Once a minute: does AWS run anything of ours that nothing stands for? What is certainly a forgotten node is ended; the rest is told.

Ours is what carries our installation, stack and pool. A machine with a purpose of its own (one that bakes an image) is only told, and when more
look forgotten than a pool can have, none is ended: then it is more likely that we are wrong. `lamplighter cloud status` reads what is told.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from lamplighter.core.clock import Clock, cancellable
from lamplighter.core.errors import ProviderError
from lamplighter.engines.state import replace_file
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.manifest import Manifest, Manifests, PoolManifest
from lamplighter.providers.aws.picture import TAG_INSTALLATION, TAG_POOL, TAG_STACK, Picture
from lamplighter.providers.aws.poller import Poller
from lamplighter.providers.aws.reading import tags_of

_log = structlog.get_logger(__name__)

EVERY = 60.0
THINGS_EVERY = 600.0
"""Seconds between looks for volumes and addresses."""
ORPHAN_AFTER = 300.0
"""Age in seconds below which no instance is called forgotten."""
UNUSED_AFTER = 3600.0
"""Age in seconds below which no volume is called unused."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something of ours that nothing stands for. `kind`: instance, volume or address. `ended`: whether it was; else it is only told."""

    kind: str
    id: str
    detail: str
    at: float
    ended: bool = False


def orphans(picture: Picture, maximum: int, now: float, *, age: float = ORPHAN_AFTER) -> tuple[list[str], list[Finding]]:
    """The instances to be ended, and what is told of all that nothing stands for. Pure."""
    groups = {group.name for group in picture.groups}
    found, doomed = [], []
    for machine in picture.machines:
        if machine.gone or machine.group in groups or now - machine.launched_at < age:
            continue
        if machine.state == "shutting-down":
            continue
        what = f"a {machine.kind} in {machine.zone}, {machine.state}, in no group of its pool"
        if machine.purpose:
            found.append(
                Finding("instance", machine.id, f"{what}; its purpose is {machine.purpose!r}: end it if that is over", now)
            )
        else:
            doomed.append((machine.id, what))
    if len(doomed) > maximum:
        refused = [
            Finding("instance", instance, f"{what}; there are so many that none is ended", now) for instance, what in doomed
        ]
        return [], found + refused
    return [instance for instance, _ in doomed], found + [
        Finding("instance", instance, what, now, ended=True) for instance, what in doomed
    ]


def unused(
    volumes: Sequence[Mapping[str, Any]], addresses: Sequence[Mapping[str, Any]], part: PoolManifest, pool: str, now: float
) -> list[Finding]:
    """Volumes that no machine has and addresses that no machine uses: they cost money while they stand, and may hold data. Pure."""
    found = []
    for volume in volumes:
        name, size = str(volume["VolumeId"]), volume.get("Size")
        young = now - volume["CreateTime"].timestamp() < UNUSED_AFTER
        mine = tags_of(volume.get("Tags")).get(TAG_POOL) == pool
        if mine and volume.get("State") == "available" and name != part.volume and not young:
            found.append(Finding("volume", name, f"{size} GB that no machine has", now))
    found.extend(
        Finding("address", str(address.get("AllocationId")), f"{address.get('PublicIp')} that no machine uses", now)
        for address in addresses
        if not address.get("AssociationId") and tags_of(address.get("Tags")).get(TAG_POOL) in (None, pool)
    )
    return found


class Watcher:
    """Of one pool. `age`: below which no instance is called forgotten."""

    def __init__(
        self,
        poller: Poller,
        aws: Aws,
        manifests: Manifests,
        groups: Groups,
        data: Path,
        clock: Clock,
        *,
        age: float = ORPHAN_AFTER,
    ) -> None:
        self.age = age
        self.every = EVERY
        self.findings: list[Finding] = []
        self._poller = poller
        self._aws = aws
        self._manifests = manifests
        self._groups = groups
        self._file = findings_file(data, poller.name)
        self._clock = clock
        self._suspects: set[str] = set()
        self._things: list[Finding] = []
        self._things_at = float("-inf")
        self._log = _log.bind(pool=poller.name)

    async def run(self) -> None:
        """Look every minute for as long as the pool is used."""
        while self._poller.used:
            await self._clock.sleep(self.every)
            try:
                await self.look()
            except ProviderError as error:
                self._log.warning("what runs in AWS could not be compared", error=error.message)

    async def look(self) -> None:
        """Compare once. An instance is ended when two looks in a row find it forgotten. Raises ProviderError."""
        picture = self._poller.picture
        if picture is None or not self._poller.used:
            return
        manifest, part = await self._manifests.pool(self._poller.name)
        now = self._clock.time()
        ended, found = orphans(picture, part.maximum, now, age=self.age)
        certain = [instance for instance in ended if instance in self._suspects]
        self._suspects = set(ended)
        found = [one for one in found if not one.ended or one.id in certain]
        for instance in certain:
            self._log.warning("a forgotten machine is ended", instance=instance)
            await self._groups.end(instance, None)
        if self._clock.monotonic() - self._things_at >= THINGS_EVERY:
            self._things = await self._look_for_things(manifest, part, now)
            self._things_at = self._clock.monotonic()
        self._tell([*found, *self._things])

    async def _look_for_things(self, manifest: Manifest, part: PoolManifest, now: float) -> list[Finding]:
        filters = [
            {"Name": f"tag:{TAG_INSTALLATION}", "Values": [manifest.installation]},
            {"Name": f"tag:{TAG_STACK}", "Values": [manifest.stack]},
        ]
        volumes, addresses = await cancellable(
            asyncio.gather(
                self._aws.pages("ec2", "describe_volumes", "Volumes", Filters=filters),
                self._aws.call("ec2", "describe_addresses", Filters=filters),
            )
        )
        return unused(volumes, addresses.get("Addresses") or (), part, self._poller.name, now)

    def _tell(self, found: list[Finding]) -> None:
        known = {(one.kind, one.id, one.ended) for one in self.findings}
        for one in found:
            if (one.kind, one.id, one.ended) not in known:
                self._log.warning(
                    "something of ours that nothing stands for", what=one.kind, id=one.id, detail=one.detail, ended=one.ended
                )
        self.findings = found
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._file, json.dumps([asdict(one) for one in found]))
        except OSError as error:
            self._log.warning("what was found could not be written", error=error.strerror or str(error))


def findings_file(data: Path, pool: str) -> Path:
    """Where a pool's findings are written."""
    return data / "aws" / f"found-{pool}.json"


def read_findings(data: Path, pool: str) -> list[Finding]:
    """What the keeper found last; nothing when it never looked."""
    try:
        return [Finding(**one) for one in json.loads(findings_file(data, pool).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []

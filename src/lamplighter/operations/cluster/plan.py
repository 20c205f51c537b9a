"""Decides what is to be done with each part: pure, by what is on the cluster, what Helm knows and what a person wants.

A part is ours when its release carries our label. One that runs without that is the user's own: it is used, and never touched.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lamplighter.operations.cluster.helm import PART, Release
from lamplighter.operations.cluster.parts import PARTS, Part
from lamplighter.operations.cluster.sight import MONITORS, Seen, Workload

_BEGUN = frozenset({"pending-install", "pending-upgrade", "pending-rollback", "uninstalling"})


class Action(StrEnum):
    """What happens to a part."""

    INSTALL = "install"
    CHANGE = "change"
    MEND = "mend"
    """An installation or upgrade was interrupted, or failed: it is brought to its end."""
    KEEP = "keep"
    OWN = "own"
    """The user's: used, never touched."""
    LEAVE = "leave"
    """Not asked for, or not there."""
    REMOVE = "remove"

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return self in (Action.INSTALL, Action.CHANGE, Action.MEND, Action.REMOVE)


@dataclass(frozen=True, slots=True)
class Step:
    """One part's fate. `why`: for a person. `version`: what is there now; None: nothing."""

    part: Part
    action: Action
    why: str
    version: str | None = None
    release: Release | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


def install(
    seen: Seen,
    releases: Sequence[Release],
    wanted: Collection[str],
    values: Mapping[str, Mapping[str, Any]],
    *,
    add: bool = True,
    needless: Mapping[str, str] | None = None,
    parts: Sequence[Part] = PARTS,
) -> Sequence[Step]:
    """A step for each part, in their order. `values`: complete, by part. `add`: False only changes what is there (an upgrade).

    `needless`: parts that make no sense here, with the reason; they are left out unless they are there already. `parts`: all of them, where the
    configuration wants another version of one.
    """
    senseless = needless or {}
    return [_install(part, seen, releases, wanted, values.get(part.name, {}), add, senseless.get(part.name)) for part in parts]


def uninstall(seen: Seen, releases: Sequence[Release], wanted: Collection[str]) -> Sequence[Step]:
    """A step for each part, the last first."""
    steps = []
    for part in reversed(PARTS):
        ours = _ours(part, releases)
        if part.name not in wanted:
            steps.append(Step(part, Action.LEAVE, "not asked for", ours.version if ours else None, ours))
        elif ours is not None:
            steps.append(Step(part, Action.REMOVE, f"release {ours.namespace}/{ours.name}", ours.version, ours))
        elif found := foreign(part, seen, releases):
            steps.append(Step(part, Action.OWN, f"your own: {found}"))
        elif seen.namespaces.get(part.namespace, {}).get(PART) == part.name:
            steps.append(Step(part, Action.REMOVE, f"only its namespace {part.namespace} is left"))
        else:
            steps.append(Step(part, Action.LEAVE, "not there"))
    return steps


def foreign(part: Part, seen: Seen, releases: Sequence[Release]) -> str | None:
    """By what a part that is not ours is known to be there, in words; None: it is not."""
    for release in releases:
        if (release.namespace, release.name) == (part.namespace, part.release) and release.part is None:
            return f"the Helm release {release.namespace}/{release.name} ({release.chart} {release.version})"
    mine = {(release.namespace, release.name) for release in releases if release.part is not None}
    for workload in seen.workloads:
        if workload.release not in mine and _runs(part, workload):
            return workload.title
    if part.name == "ingress":
        for name, release_of in sorted(seen.classes.items()):
            if release_of not in mine:
                return f"the IngressClass {name}"
    if part.name == "device-plugin" and seen.gpus and _ours(part, releases) is None:
        return f"nodes that offer {seen.gpus} GPUs"
    return None


def digest(version: str, values: Mapping[str, Any]) -> str:
    """Of what a release is made of: whether anything would change is seen by it."""
    text = json.dumps([version, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_monitors(steps: Sequence[Step], seen: Seen) -> bool:
    """Whether something can ask to be watched by Prometheus's operator: it is defined there, or will be once these steps are done."""
    (monitoring,) = [step for step in steps if step.part.name == "monitoring"]
    return monitoring.action.changes or MONITORS in seen.definitions


def newer(one: str, other: str) -> bool:
    """Whether version `one` is newer than `other`; what cannot be compared is not."""
    left, right = _numbers(one), _numbers(other)
    return bool(left and right) and left > right


def _install(
    part: Part,
    seen: Seen,
    releases: Sequence[Release],
    wanted: Collection[str],
    values: Mapping[str, Any],
    add: bool,
    needless: str | None,
) -> Step:
    ours = _ours(part, releases)
    made_of = digest(part.chart.version, values)

    def step(action: Action, why: str) -> Step:
        return Step(part, action, why, ours.version if ours else None, ours, values, made_of)

    if part.name not in wanted:
        return step(Action.LEAVE, "not asked for")
    if ours is not None:
        if ours.status in _BEGUN:
            return step(Action.MEND, f"it was interrupted: {ours.status}")
        if ours.status != "deployed":
            return step(Action.MEND, f"it is {ours.status}")
        if newer(ours.version, part.chart.version):
            return step(Action.KEEP, f"{ours.version} is newer than the {part.chart.version} of this Lamplighter")
        if ours.version != part.chart.version:
            return step(Action.CHANGE, f"from {ours.version} to {part.chart.version}")
        if ours.digest != made_of:
            return step(Action.CHANGE, "its values changed")
        return step(Action.KEEP, "as it should be")
    if found := foreign(part, seen, releases):
        return step(Action.OWN, f"your own: {found}")
    if needless is not None:
        return step(Action.LEAVE, needless)
    return step(Action.INSTALL, f"{part.chart.name} {part.chart.version}") if add else step(Action.LEAVE, "not there")


def _ours(part: Part, releases: Sequence[Release]) -> Release | None:
    return next((release for release in releases if release.part == part.name), None)


def _runs(part: Part, workload: Workload) -> bool:
    return any(program in image for program in part.programs for image in workload.images)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)$", version)
    return tuple(map(int, found.groups())) if found else ()

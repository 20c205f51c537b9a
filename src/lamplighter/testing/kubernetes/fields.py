"""Who owns which field of an object: sets of fields, their form in `metadata.managedFields`, and how writes move them between managers.

Not responsible for merging or for conflicts; that is `apply`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.shapes import Path, is_atomic, key_of, list_keys
from lamplighter.testing.kubernetes.times import now_text

FieldSet = dict[Path, Any]
"""Fields by their path with their value. A part of a path is `f:name`, `k:{"name":"engine"}` or `v:"x"`; what ends so is owned itself."""
_MISSING = object()
_SYSTEM = {
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
}


@dataclass(frozen=True, slots=True)
class Owner:
    """One entry of managedFields."""

    manager: str
    operation: str
    subresource: str = ""

    def told(self, api_version: str) -> str:
        """As a conflict names it."""
        sub = f' with subresource "{self.subresource}"' if self.subresource else ""
        return f'"{self.manager}"{sub} using {api_version}'


def fields_of(kind: Kind, found: Any, subresource: str = "") -> FieldSet:
    """All fields of an object that can be owned. What `/status` owns is another's on the main resource."""
    result: FieldSet = {}
    for name, value in found.items():
        if name in ("apiVersion", "kind") or (name == "status" and kind.status and subresource != "status"):
            continue
        owned = {key: one for key, one in value.items() if key not in _SYSTEM} if name == "metadata" else value
        if owned or name != "metadata":
            result.update(_walk(kind, owned, (f"f:{name}",), (name,)))
    return result


def _walk(kind: Kind, value: Any, path: Path, names: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value and not is_atomic(kind, names):
        for key, one in value.items():
            yield from _walk(kind, one, (*path, f"f:{key}"), (*names, key))
        return
    keys = list_keys(kind, names) if isinstance(value, list) else None
    if keys is None:
        yield path, value
        return
    for item in value:
        if keys:
            told = dict(zip(keys, key_of(item, keys), strict=True))
            here = (*path, "k:" + json.dumps(told, separators=(",", ":"), sort_keys=True))
            yield here, _MISSING  # the element itself; its value is its fields'
            for key, one in item.items():
                yield from _walk(kind, one, (*here, f"f:{key}"), (*names, key))
        else:
            yield (*path, "v:" + json.dumps(item)), item


def differs(old: FieldSet, new: FieldSet) -> set[Path]:
    """The fields of `new` that are not so in `old`."""
    return {path for path, value in new.items() if path not in old or old[path] != value}


def to_v1(paths: set[Path]) -> dict[str, Any]:
    """As `fieldsV1` has them."""
    root: dict[str, Any] = {}
    for path in sorted(paths):
        at = root
        for part in path:
            at = at.setdefault(part, {})
        if path[-1].startswith("k:"):
            at["."] = {}
    return root


def from_v1(tree: dict[str, Any], path: Path = ()) -> set[Path]:
    """The fields that `fieldsV1` lists."""
    found: set[Path] = set()
    for part, below in tree.items():
        if part == ".":
            if path and path[-1].startswith("k:"):
                found.add(path)
            continue
        here = (*path, part)
        found |= from_v1(below, here) if below else {here}
    return found


def readable(path: Path) -> str:
    """As a message names a field: `.spec.containers[name="engine"].image`."""
    text = ""
    for part in path:
        if part.startswith("f:"):
            text += f".{part[2:]}"
        elif part.startswith("k:"):
            told = json.loads(part[2:])
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in told.items()) + "]"
        else:
            text += f"[={part[2:]}]"
    return text


class Managed:
    """The owners of one object's fields, read from it and written back."""

    def __init__(self, found: dict[str, Any] | None) -> None:
        self.owned: dict[Owner, set[Path]] = {}
        self._times: dict[Owner, str] = {}
        for entry in (found or {}).get("metadata", {}).get("managedFields") or []:
            owner = Owner(entry["manager"], entry["operation"], entry.get("subresource", ""))
            self.owned[owner] = from_v1(entry.get("fieldsV1") or {})
            self._times[owner] = entry.get("time", now_text())

    def others(self, owner: Owner, path: Path) -> list[Owner]:
        """Who else owns a field."""
        return [one for one, paths in self.owned.items() if one != owner and path in paths]

    def wrote(self, owner: Owner, changed: set[Path], removed: set[Path]) -> None:
        """A plain write by `owner` set `changed` and took `removed` away: what changed is its own now, and nobody else's."""
        for one in self.owned:
            self.owned[one] -= removed if one == owner else removed | changed
        if changed:
            self.owned[owner] = self.owned.get(owner, set()) | changed
            self._times[owner] = now_text()

    def applied(self, owner: Owner, paths: set[Path], taken: set[Path]) -> None:
        """An apply by `owner`: it owns exactly `paths`; `taken` it took from others by force."""
        for one in self.owned:
            if one != owner:
                self.owned[one] -= taken
        if self.owned.get(owner) != paths:
            self._times[owner] = now_text()
        self.owned[owner] = paths

    def entries(self, api_version: str) -> list[dict[str, Any]]:
        """As `metadata.managedFields` has them."""
        return [
            {
                "manager": owner.manager, "operation": owner.operation, "apiVersion": api_version, "time": self._times.get(owner, now_text()),
                "fieldsType": "FieldsV1", "fieldsV1": to_v1(paths), **({"subresource": owner.subresource} if owner.subresource else {}),
            }
            for owner, paths in self.owned.items() if paths
        ]  # fmt: skip


__all__ = ["FieldSet", "Managed", "Owner", "differs", "fields_of", "readable"]

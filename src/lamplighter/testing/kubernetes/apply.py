"""Server-side apply: an object as a manager wants it, merged into the object as it is. Refuses to change what others own, unless forced.

Source: "Server-Side Apply" in Kubernetes' reference. Pure. Not responsible for defaults or for writing.
"""

import copy
import json
from typing import Any

from lamplighter.testing.kubernetes.errors import apply_conflict
from lamplighter.testing.kubernetes.fields import Managed, Owner, fields_of, readable
from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.shapes import Path, is_atomic, key_of, list_keys


def apply(
    kind: Kind, live: dict[str, Any] | None, wanted: dict[str, Any], owner: Owner, *, force: bool
) -> tuple[dict[str, Any], Managed]:
    """The object after the apply and who owns its fields then. Raises ApiRefusal (409) naming every field and its owner."""
    managed = Managed(live)
    before = fields_of(kind, live, owner.subresource) if live else {}
    asked = fields_of(kind, wanted, owner.subresource)
    disputed = {path for path, value in asked.items() if path in before and before[path] != value}
    owned = [(path, other) for path in sorted(disputed) for other in managed.others(owner, path)]
    if owned and not force:
        raise apply_conflict([(other.told(kind.api_version), readable(path)) for path, other in owned])
    result = _merge(kind, copy.deepcopy(live) if live else {}, wanted, ())
    gone = managed.owned.get(owner, set()) - set(asked)
    others = {path for one, paths in managed.owned.items() if one != owner for path in paths}
    for path in sorted(
        gone, key=lambda one: (len(one), one)
    ):  # elements of lists before their fields: a key that is gone finds nothing
        if path not in others and not any(_below(path, kept) for kept in (*asked, *others)):
            _drop(result, path)
    managed.applied(owner, set(asked), {path for path, _ in owned})
    return result, managed


def _below(path: Path, other: Path) -> bool:
    return len(other) > len(path) and other[: len(path)] == path


def _merge(kind: Kind, live: Any, wanted: Any, names: Path) -> Any:
    if isinstance(wanted, dict) and isinstance(live, dict) and not (names and is_atomic(kind, names)):
        for key, value in wanted.items():
            here = (*names, key)
            live[key] = _merge(kind, live[key], value, here) if key in live else copy.deepcopy(value)
        return live
    keys = list_keys(kind, names) if isinstance(wanted, list) and isinstance(live, list) else None
    if keys is None:
        return copy.deepcopy(wanted)
    for item in wanted:
        at = next((index for index, one in enumerate(live) if key_of(one, keys) == key_of(item, keys)), None)
        if at is None:
            live.append(copy.deepcopy(item))
        elif keys:
            live[at] = _merge(kind, live[at], item, names)
    return live


def _drop(document: Any, path: Path) -> None:
    """Take a field away, and the map that it leaves empty."""
    parents: list[tuple[Any, Any]] = []
    at = document
    for part in path:
        key = _locate(at, part)
        if key is None:
            return
        parents.append((at, key))
        at = at[key]
    parent, key = parents[-1]
    del parent[key]
    for holder, name in reversed(parents[:-1]):
        if holder[name] == {} or holder[name] == []:
            del holder[name]
        else:
            return


def _locate(at: Any, part: str) -> Any:
    """The key or index that a part of a path means; None when it is not there."""
    kind, text = part[:2], part[2:]
    if kind == "f:":
        return text if isinstance(at, dict) and text in at else None
    if not isinstance(at, list):
        return None
    wanted = json.loads(text)
    for index, item in enumerate(at):
        if kind == "v:" and item == wanted:
            return index
        if kind == "k:" and key_of(item, tuple(wanted)) == tuple(wanted.values()):
            return index
    return None


__all__ = ["apply"]

"""JSON patch, merge patch and strategic merge patch of an object. Pure; server-side apply is `apply`'s.

Strategic: `$patch: delete|replace` and merge keys; `$setElementOrder` and `$retainKeys` are taken and mean nothing here.
"""

import copy
from typing import Any

from lamplighter.testing.kubernetes.errors import bad_request
from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.shapes import Path, key_of, list_keys


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(kind: Kind, target: Any, patch: Any, path: Path = ()) -> Any:
    """A merge patch that merges lists by their keys."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        here = (*path, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and (keys := list_keys(kind, here, strategic=True)) is not None:
            result[key] = _merge_list(kind, list(result.get(key) or []), value, keys, here)
        else:
            result[key] = strategic(kind, result.get(key), value, here)
    return result


def _merge_list(kind: Kind, target: list[Any], patch: list[Any], keys: tuple[str, ...], path: Path) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    for item in patch:
        at = next((index for index, one in enumerate(target) if key_of(one, keys) == key_of(item, keys)), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if at is not None:
                del target[at]
        elif at is None:
            target.append(strategic(kind, {}, item, path) if isinstance(item, dict) else item)
        elif isinstance(item, dict):
            target[at] = strategic(kind, target[at], item, path)
    return target


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises ApiRefusal (400, or 422 for a test that fails)."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    for one in operations:
        result = _operate(result, one)
    return result


def _operate(document: Any, one: dict[str, Any]) -> Any:
    verb, path = one.get("op"), _pointer(one.get("path", ""))
    if verb == "test":
        if _get(document, path) != one.get("value"):
            raise bad_request(f"testing value {one.get('path')} failed: test failed")
        return document
    if verb == "add":
        return _add(document, path, copy.deepcopy(one.get("value")))
    if verb == "replace":
        _get(document, path)
        return _add(_remove(document, path), path, copy.deepcopy(one.get("value"))) if path else copy.deepcopy(one.get("value"))
    if verb == "remove":
        return _remove(document, path)
    if verb in ("copy", "move"):
        source = _pointer(one.get("from", ""))
        value = copy.deepcopy(_get(document, source))
        return _add(_remove(document, source) if verb == "move" else document, path, value)
    raise bad_request(f"unexpected kind of operation: {verb}")


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _step(at: Any, part: str) -> Any:
    try:
        return at[int(part)] if isinstance(at, list) else at[part]
    except (KeyError, IndexError, ValueError, TypeError):
        raise bad_request(f"the server rejected our request due to an error in our request: no such path: {part}") from None


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = _step(document, part)
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else int(path[-1]), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise bad_request(f"no such path: {'/'.join(path)}")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    parent = _get(document, path[:-1])
    _step(parent, path[-1])
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
    return document


__all__ = ["json_patch", "merge", "strategic"]

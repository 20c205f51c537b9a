"""Label and field selectors, as they stand in a request's query and in objects. Not responsible for which objects they are asked of."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lamplighter.testing.kubernetes.errors import bad_request
from lamplighter.testing.kubernetes.kinds import Kind

Match = Callable[[Mapping[str, Any]], bool]
_IN = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^)]*)\)$")
_SPLIT = re.compile(r",(?![^(]*\))")
_FIELDS: dict[tuple[str, str], set[str]] = {
    ("", "pods"): {
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    },
    ("", "events"): {
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
        "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
    },
    ("", "secrets"): {"type"},
    ("", "nodes"): {"spec.unschedulable"},
    ("", "namespaces"): {"status.phase"},
    ("apps", "replicasets"): {"status.replicas"},
    ("batch", "jobs"): {"status.successful"},
}  # fmt: skip
"""What a kind lets its lists be selected by, beside its name and namespace."""


def labels(text: str) -> Callable[[Mapping[str, str]], bool]:
    """The condition on an object's labels that `text` is. Raises ApiRefusal (400) when it is none."""
    checks = [_requirement(part.strip()) for part in _SPLIT.split(text) if part.strip()]
    return lambda found: all(check(found) for check in checks)


def _requirement(part: str) -> Callable[[Mapping[str, str]], bool]:
    if listed := _IN.match(part):
        key, verb, values = listed[1], listed[2], {value.strip() for value in listed[3].split(",")}
        if verb == "in":
            return lambda found: found.get(key) in values
        return lambda found: found.get(key) not in values
    if "!=" in part:
        key, _, value = (one.strip() for one in part.partition("!="))
        return lambda found: found.get(key) != value
    if "=" in part:
        key, _, value = (one.strip() for one in part.replace("==", "=").partition("="))
        return lambda found: found.get(key) == value
    if " " in part:
        raise bad_request(f"unable to parse requirement: found '{part}'")
    if part.startswith("!"):
        return lambda found: part[1:].strip() not in found
    return lambda found: part in found


def of_object(selector: Mapping[str, Any] | None) -> Callable[[Mapping[str, str]], bool]:
    """The condition of a LabelSelector object; nothing matches None, everything matches {}."""
    if selector is None:
        return lambda _: False
    return labels(text(selector))


def text(selector: Mapping[str, Any]) -> str:
    """A LabelSelector object as a query has it; what `status.selector` of a Scale shows."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values") or [])
        parts.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}[one["operator"]])  # fmt: skip
    return ",".join(parts)


def fields(kind: Kind, text: str) -> Match:
    """The condition on an object that a field selector is. Raises ApiRefusal (400) for a field that the kind is not selected by."""
    known = {"metadata.name", *(("metadata.namespace",) if kind.namespaced else ()), *_FIELDS.get(kind.key, ())}
    checks: list[tuple[tuple[str, ...], str, bool]] = []
    for part in (one.strip() for one in text.split(",") if one.strip()):
        equal = "!=" not in part
        key, _, value = part.replace("==", "=").partition("=") if equal else part.partition("!=")
        if key not in known:
            if kind.key in _FIELDS:
                raise bad_request(f"field label not supported: {key}")
            raise bad_request(f'"{key}" is not a known field selector: only "metadata.name", "metadata.namespace"')
        checks.append((tuple(key.split(".")), value, equal))
    return lambda found: all((_at(found, path) == value) is equal for path, value, equal in checks)


def _at(found: Any, path: tuple[str, ...]) -> str:
    if path == ("source",):
        path = ("source", "component")
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool):
        return str(found).lower()
    if found is None:
        return "false" if path[-1] in ("unschedulable", "hostNetwork") else ""
    return str(found)


def matching(kind: Kind, label_text: str | None, field_text: str | None) -> Match | None:
    """Both conditions in one; None when there is none."""
    if not label_text and not field_text:
        return None
    by_label, by_field = labels(label_text or ""), fields(kind, field_text or "")
    return lambda found: by_label(found["metadata"].get("labels") or {}) and by_field(found)


__all__ = ["Match", "fields", "labels", "matching", "of_object", "text"]

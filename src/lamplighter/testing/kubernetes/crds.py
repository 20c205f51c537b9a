"""CustomResourceDefinitions: the kinds that they add, and their schemas as far as we need them: types, required fields, enums, unknown fields.

For built-in kinds, whether a server-side apply names fields that do not exist. Not responsible for versions' conversion, defaults or CEL rules.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lamplighter.testing.kubernetes import schemas
from lamplighter.testing.kubernetes.errors import ApiRefusal, invalid
from lamplighter.testing.kubernetes.kinds import Kind, Kinds, Scale
from lamplighter.testing.kubernetes.store import Object
from lamplighter.testing.kubernetes.times import now_text

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_ALWAYS = ("apiVersion", "kind", "metadata")


def accept(crd: Object, kinds: Kinds) -> None:
    """Serve the kinds of a definition, and say so in its status. Raises ApiRefusal (422) when it contradicts itself."""
    spec, name = crd["spec"], crd["metadata"]["name"]
    names = spec["names"]
    if name != f"{names['plural']}.{spec['group']}":
        definition = kinds.by_key(("apiextensions.k8s.io", "customresourcedefinitions"))
        assert definition is not None
        raise invalid(definition, name, [("metadata.name", f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group')])
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        sub = version.get("subresources") or {}
        scale = sub.get("scale")
        kinds.add(
            Kind(
                spec["group"], version["name"], names["kind"], names["plural"],
                namespaced=spec.get("scope", "Namespaced") == "Namespaced", status="status" in sub,
                scale=scale and Scale(_path(scale["specReplicasPath"]), _path(scale["statusReplicasPath"]), _path(scale.get("labelSelectorPath", ""))),
                custom=True, singular=names.get("singular", ""), short=tuple(names.get("shortNames") or ()),
                schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            )
        )  # fmt: skip
    accepted = {
        **names,
        "singular": names.get("singular") or names["kind"].lower(),
        "listKind": names.get("listKind") or f"{names['kind']}List",
    }
    conditions = [{"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now_text()} for kind, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"), ("Established", "InitialNamesAccepted", "the initial names have been accepted"))]  # fmt: skip
    stored = [version["name"] for version in spec["versions"] if version.get("storage")]
    crd["status"] = {"acceptedNames": accepted, "conditions": conditions, "storedVersions": stored}


def _path(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(".") if part)


def definition(
    group: str, version: str, kind: str, plural: str, *, namespaced: bool = True, status: bool = True, scale: bool = False,
    schema: Mapping[str, Any] | None = None,
) -> Object:  # fmt: skip
    """A CustomResourceDefinition; without `schema` one that takes every field."""
    sub: dict[str, Any] = {"status": {}} if status else {}
    if scale:
        sub["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.hpaPodSelector",
        }
    told = schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": told}, "subresources": sub}],
        },
    }  # fmt: skip


def prune(kind: Kind, found: Object) -> None:
    """Drop what a custom kind's schema does not know, without a word, as the real server does. In place."""
    if kind.custom and kind.schema is not None:
        for name in [name for name in found if name not in _ALWAYS and not _knows(kind.schema, name)]:
            del found[name]
        for name, below in (kind.schema.get("properties") or {}).items():
            if name not in _ALWAYS and name in found:
                _prune(below, found[name])


def _knows(schema: Mapping[str, Any], name: str) -> bool:
    return bool(
        name in (schema.get("properties") or {})
        or schema.get("x-kubernetes-preserve-unknown-fields")
        or schema.get("additionalProperties")
    )


def _prune(schema: Mapping[str, Any], found: Any) -> None:
    if isinstance(found, list) and isinstance(schema.get("items"), Mapping):
        for item in found:
            _prune(schema["items"], item)
    if not isinstance(found, dict) or schema.get("x-kubernetes-embedded-resource"):
        return
    for name in [name for name in found if not _knows(schema, name)]:
        del found[name]
    more = schema.get("additionalProperties")
    for name, value in found.items():
        below = (schema.get("properties") or {}).get(name, more)
        if isinstance(below, Mapping):
            _prune(below, value)


def validate(kind: Kind, found: Object) -> None:
    """Raises ApiRefusal (422) for a custom object that its schema refuses."""
    if kind.custom and kind.schema is not None:
        causes = list(_wrong(kind.schema, found, ""))
        if causes:
            raise invalid(kind, found["metadata"]["name"], causes)


def _wrong(schema: Mapping[str, Any], found: Any, path: str) -> Iterator[tuple[str, str]]:
    told = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        told = None
    if found is None and schema.get("nullable"):
        return
    if told in _TYPES and (not isinstance(found, _TYPES[told]) or (isinstance(found, bool) and told != "boolean")):
        yield path.lstrip("."), f'Invalid value: "{type(found).__name__}": must be of type {told}'
        return
    if "enum" in schema and found not in schema["enum"]:
        known = ", ".join(f'"{one}"' for one in schema["enum"])
        yield path.lstrip("."), f'Unsupported value: "{found}": supported values: {known}'
    if isinstance(found, dict):
        for name in schema.get("required") or ():
            if name not in found:
                yield f"{path}.{name}".lstrip("."), "Required value"
        for name, value in found.items():
            below = (schema.get("properties") or {}).get(name, schema.get("additionalProperties"))
            if isinstance(below, Mapping) and not (path == "" and name in _ALWAYS):
                yield from _wrong(below, value, f"{path}.{name}")
    if isinstance(found, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(found):
            yield from _wrong(schema["items"], item, f"{path}[{index}]")


def check_fields(kind: Kind, wanted: Object) -> None:
    """Raises ApiRefusal (500, as the real server) for an apply that names a field which does not exist."""
    if kind.custom:
        return
    unknown = schemas.unknown_fields(kind, wanted)
    if unknown:
        name = wanted.get("metadata", {}).get("name", "")
        space = wanted.get("metadata", {}).get("namespace", "")
        told = f"{space}/{name}" if space else name
        raise ApiRefusal(
            500,
            "",
            f"failed to create typed patch object ({told}; {kind.api_version}, Kind={kind.kind}): {unknown[0]}: field not declared in schema",
        )


__all__ = ["accept", "check_fields", "definition", "prune", "validate"]

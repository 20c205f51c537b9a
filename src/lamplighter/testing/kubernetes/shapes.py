"""How lists and maps of Kubernetes' objects are merged: by which keys, or as a whole. Sources: the API's `patchMergeKey` and `listMapKey` markers.

A table by the names of fields, enough for what Lamplighter writes; not the API's full schema. Lists of custom resources are whole, as without a schema.
"""

from collections.abc import Mapping
from typing import Any

from lamplighter.testing.kubernetes.kinds import Kind

Path = tuple[str, ...]
_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",), "initContainers": ("name",), "volumes": ("name",), "env": ("name",), "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",), "volumeDevices": ("devicePath",), "hostAliases": ("ip",), "conditions": ("type",), "ownerReferences": ("uid",),
    "addresses": ("type",), "podIPs": ("ip",), "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"), "secrets": ("name",),
}  # fmt: skip
_STRATEGIC_ONLY: dict[str, tuple[str, ...]] = {"taints": ("key",)}
_ATOMIC = {
    "selector",
    "nodeSelector",
    "labelSelector",
    "fieldRef",
    "secretKeyRef",
    "configMapKeyRef",
    "resourceFieldRef",
    "podSelector",
    "namespaceSelector",
}
_SETS = {"finalizers"}


def list_keys(kind: Kind, path: Path, *, strategic: bool = False) -> tuple[str, ...] | None:
    """The fields by which elements of the list at `path` are told apart; () for a set of plain values; None for a list that is one value."""
    name = path[-1]
    if name in _SETS and path[:1] == ("metadata",):
        return ()
    if name == "ownerReferences" and path[:1] == ("metadata",):
        return _KEYS[name]
    if kind.custom:
        return _custom_keys(kind, path)
    if name == "ports":
        if kind.kind == "Service":
            return ("port",) if strategic else ("port", "protocol")
        if "containers" in path or "initContainers" in path:
            return ("containerPort",) if strategic else ("containerPort", "protocol")
        return None
    if strategic and name in _STRATEGIC_ONLY:
        return _STRATEGIC_ONLY[name]
    keys = _KEYS.get(name)
    if keys is not None and strategic:
        return keys[:1]
    return keys


def _custom_keys(kind: Kind, path: Path) -> tuple[str, ...] | None:
    """What the CustomResourceDefinition says of the list: x-kubernetes-list-type."""
    schema: Any = kind.schema
    for part in path:
        if not isinstance(schema, Mapping):
            return None
        if "items" in schema:
            schema = schema["items"]
        schema = (schema.get("properties") or {}).get(part)
    if not isinstance(schema, Mapping):
        return None
    listed = schema.get("x-kubernetes-list-type")
    if listed == "map":
        return tuple(schema.get("x-kubernetes-list-map-keys") or ())
    return () if listed == "set" else None


def is_atomic(kind: Kind, path: Path) -> bool:
    """Whether the map at `path` is one value, owned and replaced as a whole."""
    return not kind.custom and path[-1] in _ATOMIC and path[0] != "metadata"


def key_of(item: Any, keys: tuple[str, ...]) -> tuple[Any, ...]:
    """What tells an element of a list apart; the protocol of a port defaults to TCP."""
    if not keys:
        return (item,)
    return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in keys)


__all__ = ["Path", "is_atomic", "key_of", "list_keys"]

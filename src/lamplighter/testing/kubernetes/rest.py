"""The verbs of the API on one store: create, get, list, update, patch, delete, with Kubernetes' rules for versions, subresources and deletion.

Not responsible for HTTP, permissions or watches. Methods raise ApiRefusal; what they return must not be altered.
"""

import base64
import copy
import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lamplighter.testing.kubernetes import admission, crds, patches, selectors, strategy
from lamplighter.testing.kubernetes.apply import apply
from lamplighter.testing.kubernetes.errors import ApiRefusal, already_exists, bad_request, conflict, expired, invalid, not_found
from lamplighter.testing.kubernetes.fields import Managed, Owner, differs, fields_of
from lamplighter.testing.kubernetes.garbage import Garbage
from lamplighter.testing.kubernetes.kinds import Kind, Kinds
from lamplighter.testing.kubernetes.store import Object, Store
from lamplighter.testing.kubernetes.times import now_text

MERGE, STRATEGIC, JSON_PATCH, APPLY = (
    "application/merge-patch+json", "application/strategic-merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml",
)  # fmt: skip
UNKNOWN_FORMAT = "the body of the request was in an unknown format - accepted media types include: "
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_KEPT = (
    "uid",
    "creationTimestamp",
    "namespace",
    "name",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
)


@dataclass(frozen=True, slots=True)
class Write:
    """How a write was asked for."""

    manager: str = "unknown"
    subresource: str = ""
    force: bool = False
    dry: bool = False


class Rest:
    """The API without HTTP; use it directly to look and to arrange, from any thread."""

    def __init__(self, store: Store, kinds: Kinds) -> None:
        self.store = store
        self.kinds = kinds
        self.garbage = Garbage(store, kinds)
        self._addresses = strategy.Addresses()
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    # ---- reading

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object."""
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise not_found(kind, name)
        return found

    def select(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None,
        limit: int = 0, token: str | None = None,
    ) -> tuple[list[Object], int, str | None, int]:  # fmt: skip
        """Objects, the version they are of, a token for the rest of them, and how many those are."""
        with self.store.lock:
            if token:
                version, found = self._page(token)
            else:
                match = selectors.matching(kind, labels, fields)
                found = [one for one in self.store.all(kind, namespace) if match is None or match(one)]
                version = self.store.version
            if not limit or len(found) <= limit:
                return found, version, None, 0
            following = base64.b64encode(
                json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": secrets.token_hex(8)}).encode()
            )
            self._pages[following.decode()] = (version, found[limit:])
            return found[:limit], version, following.decode(), len(found) - limit

    def _page(self, token: str) -> tuple[int, list[Object]]:
        if token not in self._pages:
            raise bad_request("continue key is not valid: it was not made by this server")
        version, found = self._pages[token]
        if version < self.store.compacted:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
                "the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
            )
        return version, found

    # ---- writing

    def create(self, kind: Kind, namespace: str, sent: Object, write: Write | None = None) -> Object:
        """A new object."""
        write = write or Write()
        new = copy.deepcopy(sent)
        managed = Managed(None)
        self._prepare_new(kind, namespace, new)
        managed.wrote(Owner(write.manager, "Update", write.subresource), set(fields_of(kind, new)), set())
        return self._keep_new(kind, namespace, new, managed, write)

    def _prepare_new(self, kind: Kind, namespace: str, new: Object) -> None:
        meta = new.setdefault("metadata", {})
        if meta.get("namespace", namespace) != namespace and kind.namespaced:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not meta.get("name"):
            if not meta.get("generateName"):
                raise invalid(kind, "", [("metadata.name", "Required value: name or generateName is required")])
            meta["name"] = meta["generateName"] + "".join(secrets.choice(_LETTERS) for _ in range(5))
        new["apiVersion"], new["kind"] = kind.api_version, kind.kind
        if kind.status and kind.key != ("", "nodes"):
            new.pop("status", None)
            if not kind.custom:
                new["status"] = {}
        if kind.key == ("", "pods"):
            new["status"] = {"phase": "Pending"}
        for name in (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
            "selfLink",
        ):
            meta.pop(name, None)
        crds.prune(kind, new)
        strategy.default(kind, new, self._addresses)

    def _keep_new(self, kind: Kind, namespace: str, new: Object, managed: Managed, write: Write) -> Object:
        meta = new["metadata"]
        with self.store.lock:
            self._check_namespace(kind, namespace, meta["name"])
            if self.store.get(kind, namespace, meta["name"]) is not None:
                raise already_exists(kind, meta["name"])
            strategy.validate(kind, new, None)
            crds.validate(kind, new)
            admission.admit(self.store, self.kinds, kind, new, namespace)
            meta["uid"], meta["creationTimestamp"] = str(uuid.uuid4()), now_text()
            if kind.namespaced:
                meta["namespace"] = namespace
            if kind.generation or kind.custom:
                meta["generation"] = 1
            if kind.key == ("", "namespaces"):
                new["status"] = {"phase": "Active"}
                meta["labels"] = {"kubernetes.io/metadata.name": meta["name"], **(meta.get("labels") or {})}
            if kind.kind == "CustomResourceDefinition":
                crds.accept(new, self.kinds)
            meta["managedFields"] = managed.entries(kind.api_version)
            if write.dry:
                return new
            made = self.store.put(kind, namespace, meta["name"], new)
            self.garbage.appeared(kind, made)
            return made

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.namespaced:
            return
        spaces = self.kinds.by_key(("", "namespaces"))
        assert spaces is not None
        space = self.store.get(spaces, "", namespace)
        if space is None:
            raise not_found(spaces, namespace)
        if space["metadata"].get("deletionTimestamp"):
            ended = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise ApiRefusal(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', {"causes": [ended]})

    def update(self, kind: Kind, namespace: str, name: str, sent: Object, write: Write | None = None) -> Object:
        """Replace an object, or its status. A resourceVersion in it must be the newest."""
        if sent.get("metadata", {}).get("name", name) != name:
            raise bad_request(f"the name of the object ({sent['metadata']['name']}) does not match the name on the URL ({name})")
        with self.store.lock:
            return self._replace(kind, self.get(kind, namespace, name), copy.deepcopy(sent), write or Write())

    def patch(self, kind: Kind, namespace: str, name: str, content_type: str, patch: Any, write: Write | None = None) -> Object:
        """Change an object, or its status, by a patch of one of the four types."""
        write = write or Write()
        with self.store.lock:
            if content_type == APPLY:
                return self._apply(kind, namespace, name, patch, write)
            live = self.get(kind, namespace, name)
            return self._replace(kind, live, self._patched(kind, live, content_type, patch), write)

    def _patched(self, kind: Kind, live: Object, content_type: str, patch: Any) -> Object:
        if content_type == JSON_PATCH:
            result = patches.json_patch(live, patch)
        elif not isinstance(patch, dict):
            raise bad_request("a patch of this type is an object")
        elif content_type == MERGE:
            result = patches.merge(live, patch)
        elif content_type == STRATEGIC and not kind.custom:
            result = patches.strategic(kind, copy.deepcopy(live), patch)
        else:
            known = ", ".join((JSON_PATCH, MERGE, APPLY, *(() if kind.custom else (STRATEGIC,))))
            raise ApiRefusal(415, "UnsupportedMediaType", UNKNOWN_FORMAT + known)
        return copy.deepcopy(dict(result))

    def _apply(self, kind: Kind, namespace: str, name: str, wanted: Any, write: Write) -> Object:
        if not isinstance(wanted, dict) or (wanted.get("apiVersion"), wanted.get("kind")) != (kind.api_version, kind.kind):
            raise bad_request("an apply needs the object's apiVersion and kind, and those of the URL")
        if wanted.get("metadata", {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        live = self.store.get(kind, namespace, name)
        owner = Owner(write.manager, "Apply", write.subresource)
        crds.check_fields(kind, wanted)
        if live is None:
            if write.subresource:
                raise not_found(kind, name)
            new, managed = apply(kind, None, wanted, owner, force=write.force)
            new.setdefault("metadata", {}).setdefault("name", name)
            self._prepare_new(kind, namespace, new)
            return self._keep_new(kind, namespace, new, managed, write)
        self._check_version(kind, live, wanted)
        new, managed = apply(kind, live, wanted, owner, force=write.force)
        return self._replace(kind, live, new, write, managed)

    @staticmethod
    def _check_version(kind: Kind, live: Object, sent: Object) -> None:
        meta = sent.get("metadata") or {}
        if meta.get("resourceVersion") and meta["resourceVersion"] != live["metadata"]["resourceVersion"]:
            raise conflict(kind, live["metadata"]["name"])
        if meta.get("uid") and meta["uid"] != live["metadata"]["uid"]:
            raise conflict(
                kind,
                live["metadata"]["name"],
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {live['metadata']['uid']}",
            )

    def _replace(self, kind: Kind, live: Object, new: Object, write: Write, managed: Managed | None = None) -> Object:
        self._check_version(kind, live, new)
        if (new.get("apiVersion", kind.api_version), new.get("kind", kind.kind)) != (kind.api_version, kind.kind):
            raise bad_request(f"the API version or kind in the data does not match the URL ({kind.api_version}, {kind.kind})")
        old_meta, name = live["metadata"], live["metadata"]["name"]
        if write.subresource == "status":
            new = {**live, "metadata": {**old_meta}, "status": new.get("status", {})}
        else:
            meta = new.setdefault("metadata", {})
            meta.update({key: old_meta[key] for key in _KEPT if key in old_meta})
            for key in [key for key in _KEPT if key in meta and key not in old_meta]:
                del meta[key]
            if kind.status:
                new.pop("status", None)
                if "status" in live:
                    new["status"] = live["status"]
            new["apiVersion"], new["kind"] = kind.api_version, kind.kind
            crds.prune(kind, new)
            if kind.key == ("", "services") and not (new.get("spec") or {}).get("clusterIP"):
                new.setdefault("spec", {})["clusterIP"] = live["spec"].get("clusterIP")
            strategy.default(kind, new, self._addresses)
            strategy.validate(kind, new, live)
        crds.validate(kind, new)
        if managed is None:
            managed = Managed(live)
            before, after = fields_of(kind, live, write.subresource), fields_of(kind, new, write.subresource)
            managed.wrote(Owner(write.manager, "Update", write.subresource), differs(before, after), set(before) - set(after))
        return self._keep(kind, live, new, managed, name, write)

    def _keep(self, kind: Kind, live: Object, new: Object, managed: Managed, name: str, write: Write) -> Object:
        meta, namespace = new["metadata"], live["metadata"].get("namespace", "")
        meta["managedFields"] = managed.entries(kind.api_version)
        outside = ("metadata", "status") if kind.status else ("metadata",)
        annotated = kind.key == ("apps", "deployments") and meta.get("annotations") != live["metadata"].get("annotations")
        changed = any(new.get(key) != live.get(key) for key in {*new, *live} if key not in outside)
        if (kind.generation or kind.custom) and (changed or annotated):
            meta["generation"] = int(live["metadata"].get("generation", 1)) + 1
        if _same(live, new):
            return live
        if write.dry:
            return new
        if kind.kind == "CustomResourceDefinition" and not write.subresource:
            crds.accept(new, self.kinds)
        kept = self.store.put(kind, namespace, name, new)
        self.garbage.changed(kind, kept)
        return self.store.get(kind, namespace, name) or kept

    # ---- scale

    def scale(self, kind: Kind, namespace: str, name: str) -> Object:
        """The Scale object of one."""
        return _scale_of(kind, self.get(kind, namespace, name))

    def set_scale(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], write: Write) -> Object:
        """Write `spec.replicas` of a Scale. `change`: from the Scale as it is to the Scale that was sent."""
        assert kind.scale is not None
        with self.store.lock:
            live = self.get(kind, namespace, name)
            sent = change(_scale_of(kind, live))
            wanted = (sent.get("spec") or {}).get("replicas", 0)
            if not isinstance(wanted, int) or wanted < 0:
                raise invalid(kind, name, [("spec.replicas", f"Invalid value: {wanted}: must be greater than or equal to 0")])
            self._check_version(kind, live, sent)
            new = copy.deepcopy(live)
            at = new
            for part in kind.scale.replicas[:-1]:
                at = at.setdefault(part, {})
            at[kind.scale.replicas[-1]] = wanted
            managed = Managed(live)
            managed.wrote(Owner(write.manager, "Update", "scale"), differs(fields_of(kind, live), fields_of(kind, new)), set())
            return _scale_of(kind, self._keep(kind, live, new, managed, name, write))

    # ---- deleting

    def delete(self, kind: Kind, namespace: str, name: str, options: Object | None = None, *, dry: bool = False) -> Object | None:
        """Begin the end of an object; None when it is gone already, else the object that still ends."""
        options = options or {}
        with self.store.lock:
            live = self.get(kind, namespace, name)
            for field, label, fate in (
                ("uid", "UID", "deleted and then recreated"),
                ("resourceVersion", "ResourceVersion", "modified"),
            ):
                wanted, there = (options.get("preconditions") or {}).get(field), live["metadata"][field]
                if wanted and wanted != there:
                    # The real one names the kind here, not the resource.
                    why = f"the {label} in the precondition ({wanted}) does not match the {label} in record ({there}). The object might have been {fate}"
                    raise ApiRefusal(409, "Conflict", f'Operation cannot be fulfilled on {kind.kind} "{name}": {why}')
            return live if dry else self.garbage.delete(kind, live, options)

    def delete_all(
        self, kind: Kind, namespace: str | None, labels: str | None, fields: str | None, options: Object
    ) -> list[Object]:
        """Delete every object that matches."""
        with self.store.lock:
            found = self.select(kind, namespace, labels=labels, fields=fields)[0]
            for one in found:
                if self.store.get(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"]) is not None:
                    self.delete(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"], options)
            return found


def _same(live: Object, new: Object) -> bool:
    """Whether a write changes nothing; then the version stays, as with etcd. The time of a manager's last write is no change."""

    def bare(found: Object) -> Object:
        meta = {key: value for key, value in found["metadata"].items() if key not in ("managedFields", "resourceVersion")}
        owners = [{**entry, "time": ""} for entry in found["metadata"].get("managedFields") or []]
        return {**found, "metadata": {**meta, "owners": owners}}

    return bare(live) == bare(new)


def _scale_of(kind: Kind, found: Object) -> Object:
    assert kind.scale is not None
    meta = {
        key: found["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in found["metadata"]
    }
    where = kind.scale.selector
    selector = _at(found, where) if where is not None else selectors.text((found.get("spec") or {}).get("selector") or {})
    replicas, current = _at(found, kind.scale.replicas), _at(found, kind.scale.status)
    status = {"replicas": current or 0, **({"selector": selector} if selector else {})}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def _at(found: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found


__all__ = ["APPLY", "JSON_PATCH", "MERGE", "STRATEGIC", "UNKNOWN_FORMAT", "Rest", "Write"]

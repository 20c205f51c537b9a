"""The end of objects: grace, finalizers, owners whose end takes their dependents along, and namespaces.

What the real garbage collector does seconds later happens here at once. Not responsible for preconditions.
"""

import copy

from lamplighter.testing.kubernetes.kinds import Kind, Kinds
from lamplighter.testing.kubernetes.store import Object, Store
from lamplighter.testing.kubernetes.times import now_text

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


class Garbage:
    """Of one store."""

    def __init__(self, store: Store, kinds: Kinds) -> None:
        self._store = store
        self._kinds = kinds

    def delete(self, kind: Kind, live: Object, options: Object) -> Object | None:
        """Mark it, and remove it when nothing holds it. None: it is gone."""
        meta = live["metadata"]
        grace = self._grace(kind, live, options)
        finalizers = list(meta.get("finalizers") or [])
        policy = options.get("propagationPolicy") or ("Orphan" if options.get("orphanDependents") else "Background")
        if policy == "Foreground" and FOREGROUND not in finalizers:
            finalizers.append(FOREGROUND)
        if kind.key == ("", "namespaces"):
            return self._end_namespace(kind, live)
        if policy == "Orphan":
            self._orphan(meta["uid"])
        new = copy.deepcopy(live)
        new["metadata"]["finalizers"] = finalizers
        if not finalizers:
            del new["metadata"]["finalizers"]
        if not meta.get("deletionTimestamp") or grace < int(meta.get("deletionGracePeriodSeconds", 0)):
            new["metadata"]["deletionTimestamp"] = meta.get("deletionTimestamp") or now_text()
            new["metadata"]["deletionGracePeriodSeconds"] = grace
            if kind.generation or kind.custom:
                new["metadata"]["generation"] = int(meta.get("generation", 1)) + 1
        if not finalizers and grace == 0:
            self._remove(kind, live)
            return None
        if new["metadata"] != meta:
            self._store.put(kind, meta.get("namespace", ""), meta["name"], new)
        if FOREGROUND in finalizers:
            self._end_dependents(meta["uid"])
            self._settle(kind, meta.get("namespace", ""), meta["name"])
        return self._store.get(kind, meta.get("namespace", ""), meta["name"])

    @staticmethod
    def _grace(kind: Kind, live: Object, options: Object) -> int:
        """Only pods on a node end with grace: their kubelet deletes them for good."""
        if (
            kind.key != ("", "pods")
            or not live["spec"].get("nodeName")
            or live.get("status", {}).get("phase") in ("Succeeded", "Failed")
        ):
            return 0
        asked = options.get("gracePeriodSeconds")
        return int(asked if asked is not None else live["spec"].get("terminationGracePeriodSeconds", 30))

    def changed(self, kind: Kind, found: Object) -> None:
        """After a write: what was marked and is held by nothing any more goes."""
        meta = found["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds"):
            self._remove(kind, found)

    def appeared(self, kind: Kind, made: Object) -> None:
        """After a creation: what names only owners that are gone does not stay."""
        owners = made["metadata"].get("ownerReferences") or []
        if owners and not any(self._find(one["uid"]) for one in owners):
            self.delete(kind, made, {})

    def _remove(self, kind: Kind, live: Object) -> None:
        meta = live["metadata"]
        self._store.remove(kind, meta.get("namespace", ""), meta["name"])
        if kind.kind == "CustomResourceDefinition":
            self._end_kind(live)
        self._end_dependents(meta["uid"])
        self._settle_namespace(meta.get("namespace", ""))
        for owner in meta.get("ownerReferences") or []:
            found = self._find(owner["uid"])
            if found is not None:
                self._settle(found[0], found[1]["metadata"].get("namespace", ""), found[1]["metadata"]["name"])

    def _settle(self, kind: Kind, namespace: str, name: str) -> None:
        """Let go of an owner that waited for its dependents, once they are gone."""
        live = self._store.get(kind, namespace, name)
        if live is None or FOREGROUND not in (live["metadata"].get("finalizers") or []):
            return
        if any(ref["uid"] == live["metadata"]["uid"] and ref.get("blockOwnerDeletion")
               for _, one in self._store.everything() for ref in one["metadata"].get("ownerReferences") or []):  # fmt: skip
            return
        new = copy.deepcopy(live)
        new["metadata"]["finalizers"] = [one for one in new["metadata"]["finalizers"] if one != FOREGROUND]
        self.changed(kind, self._store.put(kind, namespace, name, new))

    def _end_dependents(self, uid: str) -> None:
        for key, one in list(self._store.everything()):
            owners = one["metadata"].get("ownerReferences") or []
            kind = self._kinds.by_key(key)
            if kind is None or all(owner["uid"] != uid for owner in owners):
                continue
            others = [owner for owner in owners if owner["uid"] != uid and self._find(owner["uid"])]
            meta = one["metadata"]
            if self._store.get(kind, meta.get("namespace", ""), meta["name"]) is None:
                continue
            if others:
                new = copy.deepcopy(one)
                new["metadata"]["ownerReferences"] = others
                self._store.put(kind, meta.get("namespace", ""), meta["name"], new)
            elif not meta.get("deletionTimestamp"):
                self.delete(kind, one, {})

    def _orphan(self, uid: str) -> None:
        for key, one in list(self._store.everything()):
            owners = one["metadata"].get("ownerReferences") or []
            kind = self._kinds.by_key(key)
            if kind is not None and any(owner["uid"] == uid for owner in owners):
                new = copy.deepcopy(one)
                new["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
                self._store.put(kind, one["metadata"].get("namespace", ""), one["metadata"]["name"], new)

    def _find(self, uid: str) -> tuple[Kind, Object] | None:
        for key, one in self._store.everything():
            kind = self._kinds.by_key(key)
            if one["metadata"].get("uid") == uid and kind is not None:
                return kind, one
        return None

    def _end_namespace(self, kind: Kind, live: Object) -> Object | None:
        name = live["metadata"]["name"]
        if not live["metadata"].get("deletionTimestamp"):
            new = copy.deepcopy(live)
            new["metadata"]["deletionTimestamp"] = now_text()
            new["status"] = {"phase": "Terminating"}
            self._store.put(kind, "", name, new)
        for key, one in list(self._store.everything()):
            inner = self._kinds.by_key(key)
            if (
                inner is not None
                and one["metadata"].get("namespace") == name
                and self._store.get(inner, name, one["metadata"]["name"])
            ):
                self.delete(inner, one, {"gracePeriodSeconds": 0})
        self._settle_namespace(name)
        return self._store.get(kind, "", name)  # something's finalizer may hold it: it goes with the last of them

    def _settle_namespace(self, name: str) -> None:
        """Let a namespace go that ends and has nothing left in it."""
        kind = self._kinds.by_key(("", "namespaces"))
        space = self._store.get(kind, "", name) if kind is not None else None
        if kind is None or space is None or not space["metadata"].get("deletionTimestamp"):
            return
        if not any(one["metadata"].get("namespace") == name for _, one in self._store.everything()):
            self._store.remove(kind, "", name)

    def _end_kind(self, crd: Object) -> None:
        """The objects of a kind go with its definition."""
        spec = crd["spec"]
        kind = self._kinds.by_key((spec["group"], spec["names"]["plural"]))
        if kind is not None:
            for one in self._store.all(kind):
                self.delete(kind, one, {})
        self._kinds.remove(spec["group"], spec["names"]["plural"])


__all__ = ["Garbage"]

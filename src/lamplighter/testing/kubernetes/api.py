"""How `Controllers` and `Kubelet` speak to an API server, pretended or real: our own client under a name of theirs, and caches that follow a kind."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Access, Cluster, Seen
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes.times import now_text

NODE_LEASES = "kube-node-lease"


class Api:
    """One client with a name that managedFields and events show."""

    def __init__(self, access: Access, name: str) -> None:
        self.cluster = Cluster.connect(access)
        self.name = name
        self._events: dict[tuple[str, str, str], tuple[str, int]] = {}

    async def close(self) -> None:
        """Close its connections."""
        await self.cluster.close()

    async def create(self, kind: Kind, namespace: str | None, found: Manifest) -> Manifest:
        """Make an object. Raises KubernetesError."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **found}
        return await self.cluster.call("POST", kind.path(namespace), params={"fieldManager": self.name}, body=body)

    async def merge(
        self, kind: Kind, namespace: str | None, name: str, patch: Mapping[str, Any], subresource: str | None = None
    ) -> Manifest | None:
        """A merge patch; None when the object is gone or was changed meanwhile."""
        with contextlib.suppress(_Gone):
            return await self._quiet(
                "PATCH", kind.path(namespace, name, subresource), patch, content_type="application/merge-patch+json"
            )
        return None

    async def delete(self, kind: Kind, found: Manifest, grace: int | None = None) -> None:
        """Delete this very object; one that is gone is no error."""
        meta = found["metadata"]
        body: Manifest = {"preconditions": {"uid": meta["uid"]}, "propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        with contextlib.suppress(_Gone):
            await self._quiet("DELETE", kind.path(meta.get("namespace"), meta["name"]), body)

    async def _quiet(self, method: str, path: str, body: Any, content_type: str = "application/json") -> Manifest:
        try:
            return await self.cluster.call(method, path, params={"fieldManager": self.name}, body=body, content_type=content_type)
        except KubernetesError as error:
            if error.status in (404, 409):
                raise _Gone from error
            raise

    async def event(self, about: Manifest, reason: str, message: str, *, warning: bool = False) -> None:
        """Tell what happened to an object; the same again counts the first up, as the real components do."""
        meta = about["metadata"]
        key = (meta["uid"], reason, message)
        space = meta.get("namespace") or "default"
        if key in self._events:
            name, count = self._events[key]
            self._events[key] = (name, count + 1)
            await self.merge(known.EVENT, space, name, {"count": count + 1, "lastTimestamp": now_text()})
            return
        name = f"{meta['name']}.{uuid.uuid4().hex[:16]}"
        self._events[key] = (name, 1)
        involved = {
            "kind": about.get("kind"), "apiVersion": about.get("apiVersion"), "name": meta["name"], "namespace": meta.get("namespace"),
            "uid": meta["uid"], "resourceVersion": meta.get("resourceVersion"),
        }  # fmt: skip
        found = {
            "metadata": {"name": name, "namespace": space}, "involvedObject": involved, "reason": reason, "message": message,
            "type": "Warning" if warning else "Normal", "source": {"component": self.name}, "count": 1,
            "firstTimestamp": now_text(), "lastTimestamp": now_text(),
        }  # fmt: skip
        with contextlib.suppress(KubernetesError):  # an event that cannot be told stops nobody
            await self.create(known.EVENT, space, found)


class _Gone(Exception):
    """The object is not there any more, or not as it was."""


class Cache:
    """The objects of one kind as last heard, by uid. `changed` is called after each change."""

    def __init__(self, api: Api, kind: Kind, changed: Callable[[], None], fields: Mapping[str, str | None] | None = None) -> None:
        self.api = api
        self.kind = kind
        self.listed = asyncio.Event()
        self._fields = fields
        self._changed = changed
        self._objects: dict[str, Manifest] = {}

    def all(self) -> list[Manifest]:
        """Every object, oldest first."""
        return sorted(
            self._objects.values(), key=lambda one: (one["metadata"].get("creationTimestamp", ""), one["metadata"]["name"])
        )

    def owned_by(self, uid: str) -> list[Manifest]:
        """Those whose controller is that object."""
        return [one for one in self.all() if any(ref["uid"] == uid for ref in one["metadata"].get("ownerReferences") or [])]

    def heard(self, found: Manifest | None) -> None:
        """Take in what a write of ours returned, before the watch tells it: else the next look would do the write again."""
        if found is not None:
            uid = found["metadata"]["uid"]
            if uid not in self._objects or _version(found) >= _version(self._objects[uid]):
                self._objects[uid] = {"apiVersion": self.kind.api_version, "kind": self.kind.kind, **found}

    def gone(self, found: Manifest) -> None:
        """Take in that we deleted it."""
        self._objects.pop(found["metadata"]["uid"], None)

    async def follow(self) -> None:
        """Keep up until cancelled."""
        space = ALL_NAMESPACES if self.kind.namespaced else None
        async for change in self.api.cluster.watch(self.kind, space, fields=self._fields):
            if change.seen is Seen.LISTED:
                self._objects = {one["metadata"]["uid"]: one for one in change.items}
                self.listed.set()
            elif change.seen in (Seen.ADDED, Seen.MODIFIED):
                self.heard(change.object)
            elif change.seen is Seen.DELETED:
                self.gone(change.object)
            else:
                continue
            self._changed()


def _version(found: Manifest) -> int:
    return int(found["metadata"].get("resourceVersion") or 0)


@contextlib.asynccontextmanager
async def following(*caches: Cache) -> AsyncIterator[None]:
    """Keep caches up to date; begins once each has listed."""
    tasks = [asyncio.create_task(cache.follow()) for cache in caches]
    try:
        for cache in caches:
            await cache.listed.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ready(pod: Manifest) -> bool:
    """Whether a pod is Ready."""
    return condition(pod, "Ready") == "True"


def condition(found: Manifest, kind: str) -> str | None:
    """The status of a condition."""
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((one["status"] for one in conditions if one["type"] == kind), None)


def active(pod: Manifest) -> bool:
    """Whether a pod counts: it neither ends nor has ended."""
    return not pod["metadata"].get("deletionTimestamp") and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")


__all__ = ["NODE_LEASES", "Api", "Cache", "active", "condition", "following", "ready"]

"""A cluster to read and to write, each write only when it changes something; and how a wanted object is compared with what is there.

Not responsible for what is written.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.federation import names
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import KNOWN, POD, Kind, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, status

_SAID = 300
_LIQO = {(kind.api_version, kind.kind): kind for kind in names.ALL}
T = TypeVar("T")


class Unheard(Exception):
    """A call failed. `reach`: to which of the clusters."""

    def __init__(self, reach: "Reach", error: KubernetesError) -> None:
        super().__init__(error.message)
        self.reach = reach
        self.error = error


class Reach:
    """`name` is how people know the cluster; `namespace` is where what has none is. Every method raises Unheard."""

    def __init__(self, cluster: Cluster, name: str, namespace: str, clock: Clock | None = None) -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self._clock = clock or SystemClock()

    def now(self) -> float:
        """Unix seconds."""
        return self._clock.time()

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """One object, of `namespace` unless told otherwise; None when there is none."""
        found = await self._of(self.cluster.get_or_none(kind, name, namespace or self.namespace))
        return None if found is None else {"apiVersion": kind.api_version, "kind": kind.kind, **found}

    async def list(
        self, kind: Kind, namespace: str = ALL_NAMESPACES, selected: Mapping[str, str | None] | None = None
    ) -> Sequence[Manifest]:
        """Objects by labels; none when nobody installed their kind."""
        try:
            return await self._of(self.cluster.list(kind, namespace, labels=selected))
        except Unheard as unheard:
            if unheard.error.status == 404:
                return ()
            raise

    async def pods_on(self, node: str) -> Sequence[Manifest]:
        """The pods of a node, of all namespaces."""
        found = await self._of(self.cluster.list(POD, ALL_NAMESPACES, fields={"spec.nodeName": node}))
        return [one for one in found if (one.get("spec") or {}).get("nodeName") == node]

    async def ensure(self, manifest: Manifest) -> Manifest:
        """As it is on the server once it says what `manifest` says: written only when it does not."""
        kind, meta = _kind(manifest), manifest["metadata"]
        there = await self._of(self.cluster.get_or_none(kind, meta["name"], meta.get("namespace")))
        if there is None or not (covers(there, manifest) or deleting(there)):
            there = await self._of(
                self.cluster.call(
                    "PATCH",
                    kind.path(meta.get("namespace"), meta["name"]),
                    params={"fieldManager": names.MANAGER, "force": "false"},
                    body=manifest,
                    content_type="application/apply-patch+yaml",
                )
            )
        return {"apiVersion": kind.api_version, "kind": kind.kind, **there}

    async def patch(self, kind: Kind, name: str, body: Manifest, namespace: str | None = None) -> None:
        """Merge `body` into an object; nothing when it is gone."""
        try:
            await self._of(self.cluster.patch(kind, name, body, namespace or self.namespace))
        except Unheard as unheard:
            if unheard.error.status != 404:
                raise

    async def delete(self, kind: Kind, thing: Manifest, *, grace: float | None = None) -> None:
        """Begin to delete this very object, not one that took its name meanwhile; nothing when it is gone or going."""
        meta = thing["metadata"]
        if deleting(thing) and grace is None:
            return
        try:
            await self._of(self.cluster.delete(kind, meta["name"], meta.get("namespace"), grace=grace, uid=meta.get("uid")))
        except Unheard as unheard:
            if unheard.error.status not in (404, 409):
                raise

    async def _of(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except KubernetesError as error:
            raise Unheard(self, error) from error


def covers(there: Any, wanted: Any) -> bool:
    """Whether `there` says everything that `wanted` says; what else it says is others' business. Empty and missing are the same."""
    if isinstance(wanted, Mapping):
        if not isinstance(there, Mapping):
            return not any(wanted.values())
        return all(covers(there.get(key), value) for key, value in wanted.items() if key not in ("apiVersion", "kind"))
    if isinstance(wanted, list):
        if not wanted or not isinstance(there, list):
            return not wanted and not there
        return len(there) == len(wanted) and all(map(covers, there, wanted))
    return bool(there == wanted or (there is None and wanted in ("", 0, False)))


def waiting(pod: Mapping[str, Any]) -> str:
    """What the kubelet says of a pod that is not ready; empty when it is, or nothing is said."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status(pod).get(kind) or ():
            state = container.get("state") or {}
            for held in (state.get("waiting"), state.get("terminated")):
                if held and held.get("reason") not in (None, "PodInitializing", "ContainerCreating", "Completed"):
                    return f"{held['reason']}: {' '.join(str(held.get('message', '')).split())[:_SAID]}".rstrip(": ")
    unscheduled = condition(pod, "PodScheduled")
    if unscheduled.get("status") == "False":
        return f"{unscheduled.get('reason', 'Unschedulable')}: {unscheduled.get('message', '')}".rstrip(": ")
    return ""


def _kind(manifest: Mapping[str, Any]) -> Kind:
    key = (str(manifest["apiVersion"]), str(manifest["kind"]))
    return KNOWN.get(key) or _LIQO[key]

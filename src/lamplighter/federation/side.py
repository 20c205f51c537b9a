"""One of the two clusters of a peering, as the other one's counterpart: what is read, and what is written only when it differs.

Not responsible for what a peering consists of.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.federation import names, objects
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, KNOWN, NAMESPACE, POD, Kind, Manifest

_SAID = 300
T = TypeVar("T")


class Unheard(Exception):
    """A call to one of the two failed. `side`: which one."""

    def __init__(self, side: "Side", error: KubernetesError) -> None:
        super().__init__(error.message)
        self.side = side
        self.error = error


@dataclass(frozen=True, slots=True)
class Facts:
    """What a cluster's Liqo says of itself. `version` may be empty when nothing tells it."""

    cluster_id: str
    version: str
    pods: tuple[str, ...]
    external: str


class Side:
    """`name` is how people know it; `peer` the other cluster's id."""

    def __init__(
        self, cluster: Cluster, name: str, own_id: str, peer: str, liqo: str = names.NAMESPACE, clock: Clock | None = None
    ) -> None:
        self.cluster = cluster
        self._clock = clock or SystemClock()
        self.name = name
        self.id = own_id
        self.peer = peer
        self.liqo = liqo
        self.tenant = names.tenant_namespace(peer)

    def now(self) -> float:
        """Unix seconds."""
        return self._clock.time()

    async def facts(self) -> Facts | None:
        """None: Liqo is not installed. Empty networks: it has only just been, and has not said them yet."""
        identity, manager, networks = await asyncio.gather(
            self.get(CONFIG_MAP, f"{names.NAMESPACE}-clusterid-configmap", self.liqo),
            self.get(DEPLOYMENT, f"{names.NAMESPACE}-controller-manager", self.liqo),
            self.list(names.NETWORK, self.liqo),
        )
        if identity is None:
            return None
        of = {
            kind: [one for one in networks if labels(one).get(names.NETWORK_TYPE) == kind]
            for kind in ("pod-cidr", "external-cidr")
        }
        return Facts(
            cluster_id=str((identity.get("data") or {}).get("CLUSTER_ID", "")),
            version=version_of(manager),
            pods=tuple(sorted(filter(None, map(_given, of["pod-cidr"])))),
            external=next(filter(None, map(_given, of["external-cidr"])), ""),
        )

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """One object, of the peering's own namespace unless told otherwise; None when there is none."""
        found = await self._of(self.cluster.get_or_none(kind, name, namespace or self.tenant))
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

    async def of_peer(self, kind: Kind, namespace: str = ALL_NAMESPACES) -> Sequence[Manifest]:
        """What of this kind belongs to the peering, by Liqo's own label."""
        return await self.list(kind, namespace, {names.REMOTE_ID: self.peer})

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
            await self._of(self.cluster.patch(kind, name, body, namespace or self.tenant))
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

    async def find_tenant(self) -> Manifest | None:
        """The peering's namespace, whatever it is called; its name is kept in `tenant`."""
        found = await self.list(NAMESPACE, selected={names.REMOTE_ID: self.peer, names.TENANT_NAMESPACE: None})
        if not found:
            return None
        one = next((one for one in found if name_of(one) == names.tenant_namespace(self.peer)), found[0])
        self.tenant = name_of(one)
        return one

    async def ensure_tenant(self) -> Manifest:
        """The peering's namespace, made when there is none."""
        return await self.find_tenant() or await self.ensure(objects.tenant_namespace(self.peer))

    async def trouble(self, gateway: str) -> str:
        """Why a gateway's pod does not run, in the kubelet's or the controller's words; empty when nothing says so."""
        prefix = names.gateway_workload(gateway)
        for pod in await self.list(POD, self.tenant):
            if name_of(pod).startswith(prefix) and (said := waiting(pod)):
                return said
        return await self.warning(prefix)

    async def warning(self, about: str) -> str:
        """The last warning about an object of the peering's namespace (by the beginning of its name); empty when there is none."""
        found = [
            one
            for one in await self.list(EVENT, self.tenant)
            if one.get("type") == "Warning" and str((one.get("involvedObject") or {}).get("name", "")).startswith(about)
        ]
        if not found:
            return ""
        last = max(found, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
        return f"{last.get('reason')}: {' '.join(str(last.get('message', '')).split())[:_SAID]}"

    async def _of(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except KubernetesError as error:
            raise Unheard(self, error) from error


def name_of(thing: Mapping[str, Any]) -> str:
    """An object's name."""
    return str((thing.get("metadata") or {}).get("name", ""))


def labels(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """An object's labels."""
    return (thing.get("metadata") or {}).get("labels") or {}


def deleting(thing: Mapping[str, Any]) -> bool:
    """Whether its deletion has begun."""
    return bool((thing.get("metadata") or {}).get("deletionTimestamp"))


def status(thing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """An object's status, empty when it has none."""
    return ((thing or {}).get("status")) or {}


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One of its conditions; empty when it has none of the kind."""
    return next((one for one in status(thing).get("conditions") or () if one.get("type") == kind), {})


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


def version_of(manager: Mapping[str, Any] | None) -> str:
    """Liqo's version by its controller's label, or its image's tag; empty when neither tells."""
    if manager is None:
        return ""
    told = labels(manager).get("app.kubernetes.io/version")
    if told:
        return told
    template = ((manager.get("spec") or {}).get("template") or {}).get("spec") or {}
    images = [str(container.get("image", "")) for container in template.get("containers") or ()]
    tag = images[0].rpartition(":")[2] if images else ""
    return tag if tag.startswith("v") else ""


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


def _given(network: Mapping[str, Any]) -> str:
    return str(status(network).get("cidr") or "")


def _kind(manifest: Mapping[str, Any]) -> Kind:
    key = (str(manifest["apiVersion"]), str(manifest["kind"]))
    return KNOWN.get(key) or _LIQO[key]


_LIQO = {(kind.api_version, kind.kind): kind for kind in names.ALL}

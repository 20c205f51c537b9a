"""One of the two clusters of a peering, as the other one's counterpart: its Liqo's own facts, and the namespace of the peering.

Not responsible for what a peering consists of.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamplighter.core.clock import Clock
from lamplighter.federation import names, objects
from lamplighter.federation.reach import Reach, waiting
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, NAMESPACE, POD, Kind, Manifest
from lamplighter.providers.kubernetes.reading import labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

_SAID = 300


@dataclass(frozen=True, slots=True)
class Facts:
    """What a cluster's Liqo says of itself. `version` may be empty when nothing tells it."""

    cluster_id: str
    version: str
    pods: tuple[str, ...]
    external: str


class Side(Reach):
    """`peer`: the other cluster's id. `namespace`: the peering's, Liqo's own name for it until `find_tenant` has looked."""

    def __init__(
        self, cluster: Cluster, name: str, own_id: str, peer: str, liqo: str = names.NAMESPACE, clock: Clock | None = None
    ) -> None:
        super().__init__(cluster, name, names.tenant_namespace(peer), clock)
        self.id = own_id
        self.peer = peer
        self.liqo = liqo

    @property
    def tenant(self) -> str:
        """The peering's namespace."""
        return self.namespace

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

    async def of_peer(self, kind: Kind, namespace: str = ALL_NAMESPACES) -> Sequence[Manifest]:
        """What of this kind belongs to the peering, by Liqo's own label."""
        return await self.list(kind, namespace, {names.REMOTE_ID: self.peer})

    async def find_tenant(self) -> Manifest | None:
        """The peering's namespace, whatever it is called; its name is kept in `tenant`."""
        found = await self.list(NAMESPACE, selected={names.REMOTE_ID: self.peer, names.TENANT_NAMESPACE: None})
        if not found:
            return None
        one = next((one for one in found if name_of(one) == names.tenant_namespace(self.peer)), found[0])
        self.namespace = name_of(one)
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


def _given(network: Mapping[str, Any]) -> str:
    return str(status(network).get("cidr") or "")

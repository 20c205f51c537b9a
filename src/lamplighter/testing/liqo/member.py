"""One cluster of the pretended federation: what Liqo's chart would have put there, and calls that mind their own business.

Not responsible for what the controllers do.
"""

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lamplighter.federation import names
from lamplighter.federation.handshake import KEYS
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import CONFIG_MAP, DEFINITION, DEPLOYMENT, NAMESPACE, SECRET, Kind, Manifest
from lamplighter.providers.kubernetes.reading import deleting, labels
from lamplighter.providers.kubernetes.reading import name as name_of
from lamplighter.testing.liqo.definitions import definitions

_MANAGER = "liqo-controller-manager"
_PASSING = (404, 409)
"""An object that went, came or changed meanwhile: the next round sees it."""


@dataclass
class Member:
    """`client` belongs to Liqo in this cluster. `lost`: the machine is gone; nothing of it runs or answers any more."""

    client: Cluster
    id: str
    pods: str = "10.42.0.0/16"
    external: str = "10.70.0.0/16"
    version: str = "v1.2.0"
    api_server: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that the cluster tells of itself (`discovery.config.clusterLabels`): its virtual node elsewhere gets them."""
    reserved: tuple[str, ...] = ()
    faults: set[str] = field(default_factory=set)
    lost: bool = False
    down: bool = False
    """Liqo's own controllers do not run, although the cluster does."""
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    _known: dict[Kind, Sequence[Manifest]] = field(default_factory=dict)

    async def install(self) -> None:
        """What Liqo's chart installs, as far as anybody reads it. May be done again."""
        for definition in definitions():
            if await self.client.get_or_none(DEFINITION, name_of(definition)) is None:
                with suppress_passing():
                    await self.client.create(definition)
        await self.make(NAMESPACE, {"metadata": {"name": names.NAMESPACE}})
        data = {"CLUSTER_ID": self.id}
        await self.make(CONFIG_MAP, {"metadata": {"name": "liqo-clusterid-configmap"}, "data": data}, names.NAMESPACE)
        await self._manager()
        for name, kind, cidr in (("pod-cidr", "pod-cidr", self.pods), ("external-cidr", "external-cidr", self.external)):
            network = {"metadata": {"name": name, "labels": {names.NETWORK_TYPE: kind}}, "spec": {"cidr": cidr}}
            await self.make(names.NETWORK, network, names.NAMESPACE)
            await self.tell(names.NETWORK, name, {"cidr": cidr}, names.NAMESPACE)
        await self.make(SECRET, {"metadata": {"name": KEYS}, "data": self._keys()}, names.NAMESPACE)

    async def uninstall_facts(self) -> None:
        """Take away what says that Liqo is there."""
        await self.client.delete(CONFIG_MAP, "liqo-clusterid-configmap", names.NAMESPACE)

    async def make(self, kind: Kind, manifest: Manifest, namespace: str | None = None) -> None:
        """Create it; one that is there stays."""
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **manifest}
        with suppress_passing():
            await self.client.call("POST", kind.path(namespace), params={"fieldManager": _MANAGER}, body=full)

    async def tell(self, kind: Kind, name: str, status: Mapping[str, Any], namespace: str | None = None) -> None:
        """Write an object's status."""
        with suppress_passing():
            await self._merge(kind.path(namespace, name, "status"), {"status": dict(status)})

    async def change(self, kind: Kind, thing: Manifest, body: Mapping[str, Any]) -> None:
        """Merge into an object."""
        with suppress_passing():
            await self._merge(kind.path(thing["metadata"].get("namespace"), name_of(thing)), dict(body))

    async def hold(self, kind: Kind, thing: Manifest, finalizer: str) -> None:
        """Keep it until `release`."""
        held = thing["metadata"].get("finalizers") or []
        if not deleting(thing) and finalizer not in held:
            await self.change(kind, thing, {"metadata": {"finalizers": [*held, finalizer]}})

    async def release(self, kind: Kind, thing: Manifest, *finalizers: str) -> None:
        """Let it go."""
        held = thing["metadata"].get("finalizers") or []
        if any(one in held for one in finalizers):
            await self.change(kind, thing, {"metadata": {"finalizers": [one for one in held if one not in finalizers] or None}})

    async def delete(self, kind: Kind, thing: Manifest, *, grace: float | None = None) -> None:
        """Begin to delete it."""
        if not deleting(thing) or grace is not None:
            with suppress_passing():
                meta = thing["metadata"]
                await self.client.delete(kind, meta["name"], meta.get("namespace"), grace=grace, uid=meta.get("uid"))

    def refresh(self) -> None:
        """Forget what was listed: controllers work on what they knew at the beginning of a round."""
        self._known.clear()

    async def all(
        self, kind: Kind, namespace: str = ALL_NAMESPACES, selected: Mapping[str, str | None] | None = None
    ) -> Sequence[Manifest]:
        """Objects as this round knows them, with their apiVersion and kind."""
        if kind not in self._known:
            self._known[kind] = await self.client.list(kind, ALL_NAMESPACES)
        return [
            one
            for one in self._known[kind]
            if namespace in (ALL_NAMESPACES, one["metadata"].get("namespace"))
            and all(key in labels(one) and value in (None, labels(one)[key]) for key, value in (selected or {}).items())
        ]

    async def tenant(self, peer: str) -> str | None:
        """The namespace of the peering with `peer`, unless it is going."""
        found = await self.all(NAMESPACE, selected={names.REMOTE_ID: peer, names.TENANT_NAMESPACE: None})
        return next((name_of(one) for one in found if not deleting(one)), None)

    def remapped(self, address: str, mapped: str) -> str:
        """An address of a pod of this cluster as a peer sees it that knows the pods' network as `mapped`. Others stay as they are."""
        own, seen = ip_network(self.pods), ip_network(mapped)
        try:
            if ip_address(address) not in own:
                return address
        except ValueError:
            return address
        return str(seen.network_address + (int(ip_address(address)) - int(own.network_address)))

    async def _merge(self, path: str, body: Manifest) -> None:
        params = {"fieldManager": _MANAGER}
        await self.client.call("PATCH", path, params=params, body=body, content_type="application/merge-patch+json")

    async def _manager(self) -> None:
        told = {"app.kubernetes.io/name": "controller-manager", "app.kubernetes.io/version": self.version}
        container = {"name": "controller-manager", "image": f"ghcr.io/liqotech/liqo-controller-manager:{self.version}"}
        deployment = {
            "metadata": {"name": "liqo-controller-manager", "labels": told},
            "spec": {
                "replicas": 0,  # what it would do is done here
                "selector": {"matchLabels": {"app": "liqo"}},
                "template": {"metadata": {"labels": {"app": "liqo"}}, "spec": {"containers": [container]}},
            },
        }
        await self.make(DEPLOYMENT, deployment, names.NAMESPACE)

    def _keys(self) -> dict[str, str]:
        private = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {"privateKey": base64.b64encode(private).decode(), "publicKey": base64.b64encode(public).decode()}


class suppress_passing(suppress):  # noqa: N801 - used as contextlib.suppress is
    """Swallow what the next round mends: the object went, came or changed meanwhile."""

    def __init__(self) -> None:
        super().__init__(KubernetesError)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return isinstance(error, KubernetesError) and error.status in _PASSING


def owned_by(thing: Manifest) -> list[Manifest]:
    """The owner reference by which what is made of `thing` goes with it."""
    meta = thing["metadata"]
    return [
        {
            "apiVersion": thing["apiVersion"],
            "kind": thing["kind"],
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def peer_of(thing: Manifest) -> str:
    """The cluster that an object is about."""
    return labels(thing).get(names.REMOTE_ID, "")

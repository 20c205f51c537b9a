"""The manifests of a peering, as Liqo's own client makes them. Pure.

Not responsible for when they are written, nor for what Liqo answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lamplighter.federation import names
from lamplighter.providers.kubernetes.kinds import Kind, Manifest

_PRIVILEGED = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}


def tenant_namespace(peer: str) -> Manifest:
    """The namespace of a peering. Liqo's gateway runs in it and needs the kernel's network: PodSecurity must allow that."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": names.tenant_namespace(peer),
            "labels": {
                **_PRIVILEGED,
                names.REMOTE_ID: peer,
                names.TENANT_NAMESPACE: "true",
                names.OURS: names.OURS_VALUE,
            },
        },
    }


def configuration(peer: str, namespace: str, pods: Sequence[str], external: str) -> Manifest:
    """Tells a cluster the networks of its peer: of its pods, and the external one."""
    spec = {"remote": {"cidr": {"pod": list(pods), "external": [external]}}}
    return _object(names.CONFIGURATION, peer, namespace, peer, spec)


def gateway_server(peer: str, namespace: str, *, port: int, mtu: int, liqo: str) -> Manifest:
    """Liqo's end of the tunnel where GPUs are. A NodePort: it is reached by the node's address in the mesh."""
    template = _reference("WgGatewayServerTemplate", names.SERVER_TEMPLATE, liqo)
    endpoint = {"port": names.GATEWAY_SERVICE_PORT, "serviceType": "NodePort", "nodePort": port}
    spec = {"endpoint": endpoint, "mtu": mtu, "serverTemplateRef": template}
    return _object(names.GATEWAY_SERVER, peer, namespace, peer, spec)


def gateway_client(peer: str, namespace: str, *, address: str, port: int, mtu: int, liqo: str) -> Manifest:
    """Home's end of the tunnel. It dials: home needs no open port."""
    template = _reference("WgGatewayClientTemplate", names.CLIENT_TEMPLATE, liqo)
    endpoint = {"addresses": [address], "port": port, "protocol": "UDP"}
    spec = {"endpoint": endpoint, "mtu": mtu, "clientTemplateRef": template}
    return _object(names.GATEWAY_CLIENT, peer, namespace, peer, spec)


def public_key(peer: str, namespace: str, key: str, gateway: Manifest) -> Manifest:
    """The peer's WireGuard key, base64. It goes with the gateway that uses it."""
    made = _object(names.PUBLIC_KEY, peer, namespace, peer, {"publicKey": key})
    made["metadata"]["labels"][names.GATEWAY_RESOURCE] = "true"
    made["metadata"]["ownerReferences"] = [
        {
            "apiVersion": gateway["apiVersion"],
            "kind": gateway["kind"],
            "name": gateway["metadata"]["name"],
            "uid": gateway["metadata"]["uid"],
        }
    ]
    return made


def nonce(consumer: str, namespace: str) -> Manifest:
    """Asks the provider's Liqo for a nonce that the consumer must sign."""
    return _secret("liqo-nonce", namespace, {names.NONCE: "true", names.REMOTE_ID: consumer}, {})


def signed_nonce(provider: str, namespace: str, value: str) -> Manifest:
    """Asks the consumer's Liqo to sign the provider's nonce. `value`: base64, as the other secret holds it."""
    return _secret("liqo-signed-nonce", namespace, {names.SIGNED_NONCE: "true", names.REMOTE_ID: provider}, {"nonce": value})


def tenant(consumer: str, namespace: str, *, public_key: str, request: str, signature: str) -> Manifest:
    """The consumer, as the provider lets it in. All three in base64: the key's PEM, the certificate request's PEM, the raw signature."""
    spec = {
        "clusterID": consumer,
        "publicKey": public_key,
        "csr": request,
        "signature": signature,
        "authzPolicy": "KeysExchange",
        "tenantCondition": "Active",
    }
    return _object(names.TENANT, consumer, namespace, consumer, spec)


def identity(provider: str, namespace: str, parameters: Mapping[str, Any], their_namespace: str) -> Manifest:
    """The provider's answer to a tenant, for the consumer's Liqo: address, authority, signed certificate."""
    spec = {"clusterID": provider, "type": "ControlPlane", "authParams": dict(parameters), "namespace": their_namespace}
    return _object(names.IDENTITY, names.identity_name(provider), namespace, provider, spec)


def resource_slice(provider: str, namespace: str, resources: Mapping[str, str]) -> Manifest:
    """What the consumer asks of the provider; it becomes a virtual node of the same name. No resources: the provider's own defaults."""
    spec: dict[str, Any] = {"class": "default", "providerClusterID": provider}
    if resources:
        spec["resources"] = dict(resources)
    made = _object(names.RESOURCE_SLICE, provider, namespace, provider, spec)
    made["metadata"]["labels"] |= {names.REPLICATE: "true", names.REPLICATE_TO: provider}
    made["metadata"]["annotations"] = {names.CREATE_NODE: "true"}
    return made


def namespace_offloading(namespace: str) -> Manifest:
    """Opens a namespace: its pods run elsewhere only, in a namespace of the same name."""
    return {
        "apiVersion": names.NAMESPACE_OFFLOADING.api_version,
        "kind": names.NAMESPACE_OFFLOADING.kind,
        "metadata": {"name": names.OFFLOADING, "namespace": namespace, "labels": {names.OURS: names.OURS_VALUE}},
        "spec": {
            "podOffloadingStrategy": "Remote",
            "namespaceMappingStrategy": "EnforceSameName",
            "clusterSelector": {"nodeSelectorTerms": []},
        },
    }


def _object(kind: Kind, name: str, namespace: str, peer: str, spec: Mapping[str, Any]) -> Manifest:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {names.REMOTE_ID: peer, names.OURS: names.OURS_VALUE}},
        "spec": dict(spec),
    }


def _secret(name: str, namespace: str, labels: Mapping[str, str], data: Mapping[str, str]) -> Manifest:
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {**labels, names.OURS: names.OURS_VALUE}},
        "type": "Opaque",
    }
    if data:
        made["data"] = dict(data)
    return made


def _reference(kind: str, name: str, namespace: str) -> Manifest:
    return {"apiVersion": names.GATEWAY_SERVER.api_version, "kind": kind, "name": name, "namespace": namespace}

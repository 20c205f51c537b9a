"""What Liqo calls its objects: kinds, labels, annotations, names. Read from its own source and definitions, version 1.2.0. Pure.

Not responsible for what is written under these names: that is `objects`.
"""

from lamplighter.providers.kubernetes.kinds import Kind

NAMESPACE = "liqo"
"""Where Liqo is installed."""
OFFLOADING = "offloading"
"""The only name that a NamespaceOffloading may have."""
MANAGER = "lamplighter-keeper"

TENANT = Kind("authentication.liqo.io", "v1beta1", "tenants", "Tenant")
IDENTITY = Kind("authentication.liqo.io", "v1beta1", "identities", "Identity")
RESOURCE_SLICE = Kind("authentication.liqo.io", "v1beta1", "resourceslices", "ResourceSlice")
FOREIGN_CLUSTER = Kind("core.liqo.io", "v1beta1", "foreignclusters", "ForeignCluster", namespaced=False)
CONFIGURATION = Kind("networking.liqo.io", "v1beta1", "configurations", "Configuration")
CONNECTION = Kind("networking.liqo.io", "v1beta1", "connections", "Connection")
GATEWAY_CLIENT = Kind("networking.liqo.io", "v1beta1", "gatewayclients", "GatewayClient")
GATEWAY_SERVER = Kind("networking.liqo.io", "v1beta1", "gatewayservers", "GatewayServer")
PUBLIC_KEY = Kind("networking.liqo.io", "v1beta1", "publickeies", "PublicKey")
NETWORK = Kind("ipam.liqo.io", "v1alpha1", "networks", "Network")
NAMESPACE_MAP = Kind("offloading.liqo.io", "v1beta1", "namespacemaps", "NamespaceMap")
NAMESPACE_OFFLOADING = Kind("offloading.liqo.io", "v1beta1", "namespaceoffloadings", "NamespaceOffloading")
QUOTA = Kind("offloading.liqo.io", "v1beta1", "quotas", "Quota")
VIRTUAL_NODE = Kind("offloading.liqo.io", "v1beta1", "virtualnodes", "VirtualNode")

ALL = (
    TENANT, IDENTITY, RESOURCE_SLICE, FOREIGN_CLUSTER, CONFIGURATION, CONNECTION, GATEWAY_CLIENT, GATEWAY_SERVER, PUBLIC_KEY, NETWORK,
    NAMESPACE_MAP, NAMESPACE_OFFLOADING, QUOTA, VIRTUAL_NODE,
)  # fmt: skip
"""Every kind of Liqo's that is read or written here."""

REMOTE_ID = "liqo.io/remote-cluster-id"
"""Label of everything that belongs to the peering with one cluster, nodes included."""
TENANT_NAMESPACE = "liqo.io/tenant-namespace"
NONCE = "liqo.io/nonce"
SIGNED_NONCE = "liqo.io/signed-nonce"
REPLICATE = "liqo.io/replication"
REPLICATE_TO = "liqo.io/remoteID"
REPLICATED_FROM = "liqo.io/originID"
REPLICATED = "liqo.io/replicated"
GATEWAY_RESOURCE = "networking.liqo.io/gateway-resource"
NODE_TYPE = "liqo.io/type"
VIRTUAL = "virtual-node"
NOT_ALLOWED = "virtual-node.liqo.io/not-allowed"
"""Taint of virtual nodes, and the toleration that Liqo's webhook gives to the pods of offloaded namespaces."""
SCHEDULING = "liqo.io/scheduling-enabled"
"""Label of a namespace whose pods go through Liqo's webhook."""
OFFLOADED_POD = "liqo.io/shadowPod"
"""Label that the virtual kubelet gives to pods that it runs elsewhere."""
ORIGINAL_NAMESPACE = "liqo.io/original-name"
"""Annotation of a twin namespace."""
NETWORK_TYPE = "ipam.liqo.io/network-type"
CREATE_NODE = "liqo.io/create-virtual-node"
"""Annotation of a slice that is to become a virtual node."""
LOST = "liqo.io/foreign-cluster-permanently-unreachable"
"""Annotation of a ForeignCluster that never comes back: Liqo then stops asking it for leave to delete. (`liqoctl force unpeer` sets it.)"""
RUNTIME_CLASS = "liqo.io/remote-runtime-class-name"
"""Annotation of a pod: its runtime class on the other side."""

OURS = "app.kubernetes.io/managed-by"
OURS_VALUE = "lamplighter"
NODE_LABEL = ("node-type", "gpu")
"""What virtual nodes of GPU clusters are labelled, beside what the peering asks for."""

SERVER_TEMPLATE = "wireguard-server"
CLIENT_TEMPLATE = "wireguard-client"
GATEWAY_SERVICE_PORT = 51840


def tenant_namespace(cluster_id: str) -> str:
    """The namespace for what belongs to the peering with `cluster_id`, as Liqo itself would call it."""
    return f"liqo-tenant-{cluster_id}"


def gateway_workload(name: str) -> str:
    """The Deployment and Service that Liqo makes of a gateway called `name`."""
    return f"gw-{name}"


def identity_name(provider_id: str) -> str:
    """The Identity by which a consumer reaches the control plane of `provider_id`."""
    return f"controlplane-{provider_id}"

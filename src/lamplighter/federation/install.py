"""Liqo's chart with the settings that these clusters need, and what must be there before it: pure, but for asking a cluster about itself.

Not responsible for running Helm: that is `operations.cluster`, or the user's own GitOps. What is set, and why, is beside each value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any, Literal

import yaml

from lamplighter.core.errors import LamplighterError
from lamplighter.federation import names
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.kinds import NODE, POD, Manifest
from lamplighter.providers.kubernetes.reading import labels, status

Kind = Literal["talos", "k3s", "generic"]
REPOSITORY = "https://helm.liqo.io/"
CHART = "liqo"
VERSION = "v1.2.0"
_PODS = {"k3s": "10.42.0.0/16", "talos": "10.244.0.0/16"}
_SERVICES = {"k3s": "10.43.0.0/16", "talos": "10.96.0.0/12"}
_PRIVILEGED = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}


@dataclass(frozen=True, slots=True)
class Release:
    """What Helm is told. `values` as the chart takes them."""

    values: Mapping[str, Any]
    version: str = VERSION
    name: str = "liqo"
    chart: str = CHART
    repository: str = REPOSITORY
    namespace: str = names.NAMESPACE


@dataclass(frozen=True, slots=True)
class Networks:
    """A cluster's networks. `guessed`: those are only the defaults of its kind; nothing there contradicts them."""

    pods: IPv4Network
    services: IPv4Network
    guessed: bool = False
    problems: Sequence[str] = field(default=())


def values(
    kind: Kind,
    *,
    cluster_id: str,
    api_server: str,
    pod_cidr: str | IPv4Network,
    service_cidr: str | IPv4Network,
    reserved: Iterable[str | IPv4Network] = (),
    version: str = VERSION,
    cluster_labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The chart's values for one cluster. `reserved`: networks that Liqo must not map anything into; the mesh's is one.

    `api_server`: as the other side reaches it over the mesh. `cluster_labels`: what its virtual node is labelled elsewhere. Raises
    LamplighterError when the networks overlap.
    """
    pods, services = ip_network(str(pod_cidr)), ip_network(str(service_cidr))
    kept = sorted({str(ip_network(str(one))) for one in reserved})
    _apart(
        {"the pods' network": pods, "the services' network": services, **{f"the reserved {one}": ip_network(one) for one in kept}}
    )
    told: dict[str, Any] = {
        "tag": version,
        "apiServer": {"address": api_server},
        "discovery": {"config": {"clusterID": cluster_id, "clusterLabels": {"liqo.io/provider": kind, **(cluster_labels or {})}}},
        "ipam": {"podCIDRs": [str(pods)], "serviceCIDR": str(services), "reservedSubnets": kept},
        # out of band: API servers are reached over the mesh itself, so no proxy is needed for them
        "proxy": {"enabled": False},
        # offloaded pods do not call the home cluster's API, and no token of it leaves home
        "virtualKubelet": {"extra": {"args": ["--enable-apiserver-support=false"]}},
        # an aggregated API whose pod is gone holds up the deletion of every namespace
        "metricAgent": {"enabled": False},
        "telemetry": {"enabled": False},
        # segments of TCP are cut to what the tunnel carries, whatever a pod's interface promises
        "networking": {"gateway": {"mssclamp": {"enabled": True}}, "fabric": {"config": {"nftablesMonitor": False}}},
        "offloading": {"runtimeClass": {"name": "liqo"}},
    }
    return told


def release(told: Mapping[str, Any], version: str = VERSION) -> Release:
    """The release of these values. Liqo's chart has the version of Liqo."""
    return Release(told, version)


def namespace() -> Manifest:
    """Liqo's namespace, to be there before the chart: its fabric needs the node's network, which PodSecurity must allow (Talos enforces it)."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.NAMESPACE, "labels": dict(_PRIVILEGED)}}


def values_text(one: Release) -> str:
    """The values as a file for Helm."""
    return yaml.safe_dump(dict(one.values), sort_keys=False)


def commands(one: Release, values_file: str = "liqo-values.yaml") -> Sequence[str]:
    """The same by hand. `liqo-namespace.yaml` is `namespace()`."""
    helm = f"helm upgrade --install {one.name} {one.chart} --repo {one.repository} --version {one.version}"
    rest = f"--namespace {one.namespace} --values {values_file} --wait --timeout 10m"
    return ("kubectl apply -f liqo-namespace.yaml", f"{helm} {rest}")


def kind_of(nodes: Iterable[Mapping[str, Any]]) -> Kind:
    """What a cluster is, by what its nodes say of themselves. Virtual nodes are not asked."""
    for node in nodes:
        if labels(node).get(names.NODE_TYPE) == names.VIRTUAL:
            continue
        info = status(node).get("nodeInfo") or {}
        if str(info.get("osImage", "")).startswith("Talos"):
            return "talos"
        if "+k3s" in str(info.get("kubeletVersion", "")):
            return "k3s"
    return "generic"


async def examine(cluster: Cluster) -> tuple[Kind, Networks | None]:
    """What a cluster is and its networks, as far as it tells; None: they must be configured. Raises KubernetesError."""
    nodes = await cluster.list(NODE)
    kind = kind_of(nodes)
    managers = await cluster.list(POD, "kube-system")
    pods, services = _told(managers)
    guessed = pods is None or services is None
    pods = pods or _network(_PODS.get(kind))
    services = services or _network(_SERVICES.get(kind))
    if pods is None or services is None:
        return kind, None
    return kind, Networks(pods, services, guessed, tuple(await _contradictions(cluster, pods)))


def _told(managers: Iterable[Mapping[str, Any]]) -> tuple[IPv4Network | None, IPv4Network | None]:
    """By the arguments of the controller manager's (or API server's) pod, where the control plane is made of pods."""
    pods = services = None
    for pod in managers:
        if labels(pod).get("k8s-app", labels(pod).get("component")) not in ("kube-controller-manager", "kube-apiserver"):
            continue
        for container in (pod.get("spec") or {}).get("containers") or ():
            for argument in (*(container.get("command") or ()), *(container.get("args") or ())):
                name, _, value = str(argument).partition("=")
                first = value.partition(",")[0]
                if name == "--cluster-cidr":
                    pods = pods or _network(first)
                elif name == "--service-cluster-ip-range":
                    services = services or _network(first)
    return pods, services


def _network(text: str | None) -> IPv4Network | None:
    try:
        found = ip_network(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, IPv4Network) else None


async def _contradictions(cluster: Cluster, pods: IPv4Network) -> Sequence[str]:
    """Pods whose address is not in the network: then the network is wrong. As Liqo's own installer asks."""
    found = []
    for pod in await cluster.list(POD, ALL_NAMESPACES):
        address = status(pod).get("podIP")
        own = not (pod.get("spec") or {}).get("hostNetwork") and not labels(pod).get(names.OFFLOADED_POD)
        if address and own and ip_address(str(address)) not in pods:
            found.append(f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']} has {address}, which is not in {pods}")
    return found


def _apart(networks: Mapping[str, Any]) -> None:
    listed = list(networks.items())
    for index, (name, one) in enumerate(listed):
        for other_name, other in listed[index + 1 :]:
            if one.overlaps(other):
                raise LamplighterError(
                    f"{name} ({one}) overlaps {other_name} ({other}): Liqo would route one into the other",
                    code="cidr_overlap",
                    next_step="Correct `federation.pod_cidr`, `federation.service_cidr` or `mesh.network`.",
                )

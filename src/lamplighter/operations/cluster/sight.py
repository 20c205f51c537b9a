"""What is on a cluster already, as far as a plan needs it: workloads by their images, ingress classes, nodes, our namespaces. Changes nothing."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import (
    DAEMON_SET,
    DEFINITION,
    DEPLOYMENT,
    NAMESPACE,
    NODE,
    STATEFUL_SET,
    Kind,
    Manifest,
)

_INGRESS_CLASS = Kind("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False)
_RELEASE, _SPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
MONITORS = "servicemonitors.monitoring.coreos.com"
"""The definition without which nothing can ask to be watched by Prometheus."""
GPU = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that runs, or shall. `release`: (namespace, name) of the Helm release that it is of; None: of none."""

    kind: str
    namespace: str
    name: str
    images: tuple[str, ...]
    release: tuple[str, str] | None = None
    ready: bool = True

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a cluster. `classes`: ingress classes, with the release that they are of. `gpus`: GPUs that its own nodes offer."""

    server: str
    version: str
    workloads: Sequence[Workload] = ()
    classes: Mapping[str, tuple[str, str] | None] = field(default_factory=dict)
    definitions: frozenset[str] = frozenset()
    gpus: int = 0
    virtual_nodes: tuple[str, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


async def look(cluster: Cluster) -> Seen:
    """Ask for everything at once. Raises KubernetesError with the right that is missing."""
    version = await cluster.version()
    kinds = (DEPLOYMENT, DAEMON_SET, STATEFUL_SET, _INGRESS_CLASS, DEFINITION, NODE, NAMESPACE)
    listed = await asyncio.gather(*(_list(cluster, kind) for kind in kinds))
    deployments, daemons, sets, classes, definitions, nodes, spaces = listed
    workloads = [
        *(_workload("Deployment", one) for one in deployments),
        *(_workload("DaemonSet", one) for one in daemons),
        *(_workload("StatefulSet", one) for one in sets),
    ]
    own = [node for node in nodes if _labels(node).get("liqo.io/type") != "virtual-node"]
    return Seen(
        server=cluster.server,
        version=version,
        workloads=workloads,
        classes={str(one["metadata"]["name"]): _release(one) for one in classes},
        definitions=frozenset(str(one["metadata"]["name"]) for one in definitions),
        gpus=sum(int(((node.get("status") or {}).get("capacity") or {}).get(GPU, 0)) for node in own),
        virtual_nodes=tuple(str(node["metadata"]["name"]) for node in nodes if node not in own),
        namespaces={str(space["metadata"]["name"]): _labels(space) for space in spaces},
    )


async def _list(cluster: Cluster, kind: Kind) -> Sequence[Manifest]:
    """All objects of a kind; none where an old cluster does not know it."""
    try:
        return await cluster.list(kind, ALL_NAMESPACES)
    except KubernetesError as error:
        if error.status == 404:
            return ()
        raise


def _workload(kind: str, told: Mapping[str, Any]) -> Workload:
    meta, spec, status = told["metadata"], told.get("spec") or {}, told.get("status") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    if kind == "DaemonSet":
        ready = int(status.get("numberReady", 0)) >= int(status.get("desiredNumberScheduled", 0))
    else:
        ready = int(status.get("readyReplicas", 0)) >= int(spec.get("replicas", 1))
    return Workload(kind, str(meta.get("namespace", "")), str(meta["name"]), tuple(_images(pod)), _release(told), ready)


def _images(pod: Mapping[str, Any]) -> Iterable[str]:
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        yield str(container.get("image", ""))


def _release(told: Mapping[str, Any]) -> tuple[str, str] | None:
    annotations = told["metadata"].get("annotations") or {}
    name = annotations.get(_RELEASE)
    return None if name is None else (str(annotations.get(_SPACE, "")), str(name))


def _labels(told: Mapping[str, Any]) -> Mapping[str, str]:
    return told["metadata"].get("labels") or {}

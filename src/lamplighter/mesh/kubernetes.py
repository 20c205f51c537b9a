"""Nebula and the pods' masquerading as DaemonSets, for home clusters that are not Talos.

On Talos take the system extension (`talos`): a mesh inside of Kubernetes dies with Kubernetes. The files of a node lie in a Secret; what runs
has one capability and no shell. Not responsible for the node's certificate: one Secret is one node.
"""

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import snat
from lamplighter.mesh.container import CONFIG
from lamplighter.mesh.releases import IMAGE

NAMESPACE = "lamplighter-mesh"
FILES = ("config.yml", "ca.crt", "node.crt", "node.key")
PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
NFT_IMAGE = "registry.k8s.io/kube-proxy:v1.34.1"
"""Carries `nft`, for kube-proxy's own mode of that name, and lies on most clusters' nodes already. Take your cluster's own version."""

_LEAST: dict[str, Any] = {
    "privileged": False,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    # Kubernetes gives added capabilities to root alone; this root can do nothing but change the network.
    "runAsUser": 0,
}
_NOTHING: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def daemon_set(name: str, node: str, files: Mapping[str, str], *, image: str = IMAGE) -> list[dict[str, Any]]:
    """Namespace, Secret and DaemonSet that make the Kubernetes node `node` the mesh's node `name`.

    `files` by name, with /config as their folder; it holds the private key, and so does what is returned. Raises KeyError when one is missing.
    """
    content = {file: files[file] for file in FILES}
    digest = hashlib.sha256("\0".join(content.values()).encode()).hexdigest()
    volumes = [
        {"name": "config", "secret": {"secretName": f"nebula-{name}", "defaultMode": 0o400}},
        {"name": "tun", "hostPath": {"path": "/dev/net/tun", "type": "CharDevice"}},
    ]
    container = {
        "name": "nebula",
        "image": image,
        "args": ["-config", f"{CONFIG}/config.yml"],
        "securityContext": _LEAST,
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "tun", "mountPath": "/dev/net/tun"},
        ],
    }
    # Nebula reads its files again on a signal only, and its image has no shell that could send one: a changed Secret restarts it.
    annotations = {"lamplighter.dev/files": digest}
    return [
        _namespace(),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _metadata(f"nebula-{name}"),
            "type": "Opaque",
            "stringData": content,
        },
        _daemon_set(f"nebula-{name}", [container], volumes, annotations=annotations, node=node),
    ]


def snat_daemon_set(
    config: MeshConfig, pods: Sequence[IPv4Network] = (snat.POD_NETWORK,), *, image: str = NFT_IMAGE
) -> list[dict[str, Any]]:
    """Namespace, ConfigMap and DaemonSet that load `snat.rules` on every node that has the mesh's interface, as a start of a pod."""
    text = snat.rules(config, pods)
    load = {
        "name": "load",
        "image": image,
        "command": ["nft", "-f", f"/rules/{snat.RULES}"],
        "securityContext": _LEAST,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": "rules", "mountPath": "/rules", "readOnly": True}],
    }
    wait = {
        "name": "wait",
        "image": PAUSE_IMAGE,
        "securityContext": _NOTHING,
        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "16Mi"}},
    }
    annotations = {"lamplighter.dev/files": hashlib.sha256(text.encode()).hexdigest()}
    volumes = [{"name": "rules", "configMap": {"name": "mesh-snat"}}]
    return [
        _namespace(),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata("mesh-snat"), "data": {snat.RULES: text}},
        _daemon_set("mesh-snat", [wait], volumes, annotations=annotations, first=[load]),
    ]


def to_yaml(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents as one file for `kubectl apply`."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=160, explicit_start=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: they are legal and surprise whoever reads the file."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _namespace() -> dict[str, Any]:
    # The host's network and NET_ADMIN are beyond the baseline; a namespace of its own keeps the exception small.
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _metadata(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "lamplighter"},
    }


def _daemon_set(
    name: str,
    containers: list[dict[str, Any]],
    volumes: list[dict[str, Any]],
    *,
    annotations: dict[str, str],
    node: str | None = None,
    first: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    pod: dict[str, Any] = {
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "priorityClassName": "system-node-critical",
        "terminationGracePeriodSeconds": 5,
        # The mesh must come up on a node that is not ready yet: others may be waiting for it.
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/os": "linux"} | ({"kubernetes.io/hostname": node} if node else {}),
    }
    if first:
        pod["initContainers"] = list(first)
    pod |= {"containers": containers, "volumes": volumes}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(name),
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
        },
    }


__all__ = ["FILES", "NAMESPACE", "NFT_IMAGE", "daemon_set", "snat_daemon_set", "to_yaml"]

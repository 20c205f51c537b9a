"""Liqo's chart: values that are wrong are only noticed when tokens hang."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamplighter.core.errors import LamplighterError
from lamplighter.federation import install
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes import FakeCluster

KEYS = json.loads((Path(__file__).parent / "liqo_values.json").read_text())
"""Every key of the chart's own values.yaml, version 1.2.0, as dotted paths."""


def made(kind: install.Kind = "k3s", **changed: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "cluster_id": "gpu-1", "api_server": "https://10.77.0.20:6443", "pod_cidr": "10.42.0.0/16", "service_cidr": "10.43.0.0/16",
        "reserved": ["10.77.0.0/16"],
    }  # fmt: skip
    return install.values(kind, **{**base, **changed})


@pytest.mark.parametrize("kind", ["talos", "k3s", "generic"])
def test_every_key_is_the_charts(kind: install.Kind) -> None:
    """A key that the chart does not know is silently ignored by Helm: the setting would be believed and not be there."""

    def paths(value: Any, prefix: str = "") -> list[str]:
        if isinstance(value, dict) and prefix not in KEYS["open"]:
            return [path for key, inner in value.items() for path in paths(inner, f"{prefix}.{key}" if prefix else key)]
        return [prefix]

    unknown = [path for path in paths(made(kind)) if path not in KEYS["known"] and path not in KEYS["open"]]
    assert unknown == []


def test_what_matters() -> None:
    """The id, the address in the mesh, the networks: what cannot be changed afterwards."""
    told = made(cluster_labels={"node-type": "gpu"})
    assert told["discovery"]["config"] == {"clusterID": "gpu-1", "clusterLabels": {"liqo.io/provider": "k3s", "node-type": "gpu"}}
    assert told["apiServer"]["address"] == "https://10.77.0.20:6443"
    assert told["ipam"] == {"podCIDRs": ["10.42.0.0/16"], "serviceCIDR": "10.43.0.0/16", "reservedSubnets": ["10.77.0.0/16"]}
    assert "--enable-apiserver-support=false" in told["virtualKubelet"]["extra"]["args"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pod_cidr": "10.77.0.0/20"}, "the reserved 10.77.0.0/16"),
        ({"service_cidr": "10.42.128.0/17"}, "the services' network"),
    ],
)
def test_overlaps_are_refused(changed: dict[str, Any], words: str) -> None:
    """Networks that overlap: Liqo would route the mesh into the pods."""
    with pytest.raises(LamplighterError) as caught:
        made(**changed)
    assert caught.value.code == "cidr_overlap"
    assert words in caught.value.message


def test_namespace_admits_its_pods() -> None:
    """Talos enforces PodSecurity baseline: without these labels no pod of Liqo's fabric is ever made there."""
    assert install.namespace()["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_printed_for_gitops() -> None:
    """`--print`: what is printed must be what would be done."""
    one = install.release(made(), "v1.2.1")
    assert yaml.safe_load(install.values_text(one)) == one.values
    command = install.commands(one)[1]
    assert "helm upgrade --install liqo liqo --repo https://helm.liqo.io/ --version v1.2.1 --namespace liqo" in command


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({"osImage": "Talos (v1.12.0)", "kubeletVersion": "v1.34.1"}, "talos"),
        ({"osImage": "Ubuntu 22.04", "kubeletVersion": "v1.34.1+k3s1"}, "k3s"),
        ({"osImage": "Debian", "kubeletVersion": "v1.34.1"}, "generic"),
    ],
)
def test_kind_is_seen(info: dict[str, str], kind: str) -> None:
    """A home cluster that is taken for another kind gets another kind's networks."""
    virtual = {
        "metadata": {"labels": {"liqo.io/type": "virtual-node"}},
        "status": {"nodeInfo": {"kubeletVersion": "v1.1.1+k3s1"}},
    }
    assert install.kind_of([virtual, {"metadata": {}, "status": {"nodeInfo": info}}]) == kind


async def test_networks_are_asked_of_the_cluster() -> None:
    """The networks that its controller manager was started with, not the defaults, and pods that contradict them are named."""
    with FakeCluster() as cluster:
        cluster.create(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"nodeInfo": {"osImage": "Talos (v1.12)"}}}
        )
        arguments = ["kube-controller-manager", "--cluster-cidr=10.200.0.0/16", "--service-cluster-ip-range=10.201.0.0/16"]
        _pod(cluster, "manager", {"k8s-app": "kube-controller-manager"}, arguments, "10.200.0.3")
        _pod(cluster, "odd", {}, [], "192.168.7.7")
        client = Cluster.connect(cluster.access())
        kind, networks = await install.examine(client)
        await client.close()
    assert kind == "talos"
    assert networks is not None
    assert (str(networks.pods), str(networks.services), networks.guessed) == ("10.200.0.0/16", "10.201.0.0/16", False)
    assert networks.problems == ("pod kube-system/odd has 192.168.7.7, which is not in 10.200.0.0/16",)


async def test_networks_that_nobody_tells() -> None:
    """A managed cluster shows no control plane: then they must be configured, not guessed."""
    with FakeCluster() as cluster:
        client = Cluster.connect(cluster.access())
        assert await install.examine(client) == ("generic", None)
        await client.close()


def _pod(cluster: FakeCluster, name: str, labels: dict[str, str], command: list[str], address: str) -> None:
    container = {"name": "c", "image": "i", "command": command}
    meta = {"name": name, "namespace": "kube-system", "labels": labels}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}})
    cluster.merge("Pod", name, {"status": {"podIP": address}}, "kube-system", status=True)

"""A pretended cluster with controllers; nodes as the test adds them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Kubelet

_PATIENCE = 20.0


@dataclass
class Lab:
    """The cluster and its nodes."""

    cluster: FakeCluster
    kubelets: list[Kubelet] = field(default_factory=list)

    def node(self, name: str = "n1", **options: Any) -> Kubelet:
        """Another node."""
        self.kubelets.append(Kubelet(self.cluster.access(), name, heartbeat=0.1, **options).start())
        return self.kubelets[-1]

    def deploy(
        self, name: str = "m", *, replicas: int = 1, image: str = "example.org/vllm:1", kind: str = "Deployment", **pod: Any
    ) -> None:
        """A workload whose pods have one container that serves."""
        container = {
            "name": "engine",
            "image": image,
            "ports": [{"name": "engine", "containerPort": 8000}],
            **pod.pop("container", {}),
        }
        template = {
            "metadata": {"labels": {"app": name}, "annotations": {"lamplighter.dev/model-name": name}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 2, **pod},
        }
        spec: Manifest = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        if kind == "StatefulSet":
            spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
        self.cluster.apply({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})

    def pods(self, name: str = "m") -> list[Manifest]:
        """Its pods, ending or not."""
        return self.cluster.all("Pod", "default", f"app={name}")

    def ready(self, name: str = "m") -> list[str]:
        """The names of those that are Ready and do not end."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(name)
            if not pod["metadata"].get("deletionTimestamp")
            and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or [])
        ]

    def state(self, name: str = "m") -> Manifest:
        """The state of the container of its only pod."""
        pods = self.pods(name)
        if len(pods) != 1 or not pods[0]["status"].get("containerStatuses"):
            return {}
        return dict(pods[0]["status"]["containerStatuses"][0])

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """The first truthy result."""
        end = time.monotonic() + _PATIENCE
        while not (found := look()):
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.cluster.dump()[-6000:]}"
            time.sleep(0.01)
        return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    """No node yet."""
    with FakeCluster() as cluster, Controllers(cluster.access(), node_grace=0.5, evict_after=0.2):
        made = Lab(cluster)
        try:
            yield made
        finally:
            for one in made.kubelets:
                one.stop()

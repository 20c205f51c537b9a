"""Controllers and scheduler of the pretended cluster: what a provider's tests take for granted of them."""

from typing import Any

import pytest

from lamplighter.testing.kubernetes import Kubelet, Outcome
from lamplighter.testing.kubernetes.scheduler import quantity
from tests.unit.testing.kubernetes.conftest import Lab


def test_a_new_template_replaces_pods_one_by_one(lab: Lab) -> None:
    """A rollout that takes the old pod before the new one is ready would be an outage in tests alone, or hide a real one."""
    lab.node()
    lab.deploy()
    (old,) = lab.until(lab.ready, "a pod is ready")
    lab.kubelets[0].outcomes["vllm:2"] = Outcome(load=0.3)
    lab.deploy(image="example.org/vllm:2")
    lab.until(lambda: len(lab.pods()) == 2, "a second pod beside the first")
    assert lab.ready() == [old]
    (new,) = lab.until(lambda: [name for name in lab.ready() if name != old], "the new pod is ready")
    lab.until(lambda: [pod["metadata"]["name"] for pod in lab.pods()] == [new], "the old pod is gone")


def test_recreate_ends_the_old_pod_first(lab: Lab) -> None:
    """With one GPU there is no room for two."""
    lab.node()
    lab.deploy()
    lab.cluster.merge("Deployment", "m", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}})
    (old,) = lab.until(lab.ready, "a pod is ready")
    lab.deploy(image="example.org/vllm:2")
    lab.until(lambda: lab.ready() and lab.ready() != [old], "another pod is ready")
    assert len(lab.pods()) == 1


def test_the_cheapest_pod_goes_first(lab: Lab) -> None:
    """Which replica ends is chosen by its deletion cost."""
    lab.node()
    lab.deploy(replicas=3)
    names = lab.until(lambda: len(lab.ready()) == 3 and lab.ready(), "three pods are ready")
    for name, cost in zip(names, ("10", "-5", "10"), strict=True):
        lab.cluster.merge("Pod", name, {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}})
    lab.cluster.scale("Deployment", "m", 2)
    lab.until(lambda: len(lab.pods()) == 2, "one pod went")
    assert sorted(lab.ready()) == sorted((names[0], names[2]))


def test_stateful_pods_keep_their_names(lab: Lab) -> None:
    """A StatefulSet's pod comes back under its name, and the highest number goes first."""
    lab.node()
    lab.deploy(replicas=2, kind="StatefulSet")
    lab.until(lambda: lab.ready() == ["m-0", "m-1"], "both are ready")
    uid = lab.cluster.get("Pod", "m-0")["metadata"]["uid"]
    lab.cluster.delete("Pod", "m-0")
    lab.until(lambda: lab.ready() == ["m-0", "m-1"] and lab.cluster.get("Pod", "m-0")["metadata"]["uid"] != uid, "another m-0")
    lab.cluster.scale("StatefulSet", "m", 1)
    lab.until(lambda: [pod["metadata"]["name"] for pod in lab.pods()] == ["m-0"], "m-1 went")


@pytest.mark.parametrize(
    ("node", "pod", "told"),
    [
        ({"gpus": 1}, {"container": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}}, "1 Insufficient nvidia.com/gpu"),
        ({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}, {}, "1 node(s) had untolerated taint {gpu: yes}"),
        ({}, {"nodeSelector": {"zone": "b"}}, "1 node(s) didn't match Pod's node affinity/selector"),
        ({"memory": "1Gi"}, {"container": {"resources": {"requests": {"memory": "2Gi"}}}}, "1 Insufficient memory"),
        (
            {},
            {"volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": "weights"}}]},
            'persistentvolumeclaim "weights" not found',
        ),
    ],
)
def test_why_a_pod_gets_no_node(lab: Lab, node: dict[str, Any], pod: dict[str, Any], told: str) -> None:
    """The words of the real scheduler, which the keeper reads to people."""
    lab.node(**node)
    lab.deploy(**pod)

    def why() -> str:
        conditions = [one for found in lab.pods() for one in found["status"].get("conditions") or []]
        return next((one["message"] for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"), "")

    assert told in lab.until(why, "the pod has no node")
    assert why().startswith("0/1 nodes are available: ")


def test_what_lets_a_pod_in(lab: Lab) -> None:
    """Tolerations and affinity choose a node, as for pods that a federation pins to one."""
    lab.node("plain")
    lab.node(
        "virtual",
        taints=[{"key": "virtual-node.liqo.io/not-allowed", "value": "true", "effect": "NoExecute"}],
        labels={"remote": "edge"},
    )
    term = {"matchExpressions": [{"key": "remote", "operator": "In", "values": ["edge"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    lab.deploy(affinity=affinity, tolerations=[{"key": "virtual-node.liqo.io/not-allowed", "operator": "Exists"}])
    lab.until(lab.ready, "the pod is ready")
    assert lab.pods()[0]["spec"]["nodeName"] == "virtual"


def test_a_node_that_falls_silent(lab: Lab) -> None:
    """Its pods are not ready, then deleted, and others take their place elsewhere."""
    first: Kubelet = lab.node("first")
    lab.deploy()
    (lost,) = lab.until(lab.ready, "a pod is ready")
    lab.node("second")
    first.die()
    lab.until(lambda: lab.ready() and lab.ready() != [lost], "another pod is ready")
    node = lab.cluster.get("Node", "first")
    assert {"type": "Ready", "status": "Unknown"}.items() <= next(
        one for one in node["status"]["conditions"] if one["type"] == "Ready"
    ).items()


def test_groups_of_pods(lab: Lab) -> None:
    """A replica on several machines is a leader and workers that know its address."""
    lab.cluster.define("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets", scale=True)
    from lamplighter.testing.kubernetes import Controllers

    lab.node()
    with Controllers(lab.cluster.access(), scheduling=False):  # those of the lab began before the kind was there
        template = {"metadata": {"labels": {"app": "m"}}, "spec": {"containers": [{"name": "engine", "image": "x"}]}}
        spec = {"replicas": 0, "leaderWorkerTemplate": {"size": 2, "leaderTemplate": template, "workerTemplate": template}}
        lab.cluster.create(
            {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "m"}, "spec": spec}
        )
        lab.cluster.scale("LeaderWorkerSet", "m", 1)
        lab.until(lambda: sorted(lab.ready()) == ["m-0", "m-0-1"], "leader and worker are ready")
        (worker,) = (pod for pod in lab.pods() if pod["metadata"]["name"] == "m-0-1")
        variables = {one["name"]: one["value"] for one in worker["spec"]["containers"][0]["env"]}
        assert variables == {"LWS_LEADER_ADDRESS": "m-0.m.default", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}
        lab.until(
            lambda: (lab.cluster.get("LeaderWorkerSet", "m").get("status") or {}).get("readyReplicas") == 1, "the set is ready"
        )
        lab.cluster.scale("LeaderWorkerSet", "m", 0)
        lab.until(lambda: not lab.pods(), "all are gone")


def test_quantities() -> None:
    """`500m` and `1Gi` are numbers to a scheduler."""
    assert [quantity(told) for told in ("500m", "2", "1Gi", "1k", "0.5")] == [0.5, 2.0, 2.0**30, 1000.0, 0.5]
    with pytest.raises(ValueError, match="not a quantity"):
        quantity("much")

"""From replicas to pods: what controllers, scheduler and a (pretended) kubelet tell of a wake, pretended and, but for the kubelet, real (`long`)."""

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes import Fault, Kubelet, Outcome
from tests.contract.kubernetes_bench import Bench


def _on(gpu_node: Kubelet, made: Manifest, **resources: str) -> Manifest:
    """The Deployment with pods that go to the test's own node."""
    spec = made["spec"]["template"]["spec"]
    spec["nodeSelector"] = {"test": gpu_node.node}
    spec["terminationGracePeriodSeconds"] = 1
    spec["containers"][0]["resources"] = {"limits": resources}
    return made


async def _pods(bench: Bench, name: str = "engine") -> list[Manifest]:
    return list(await bench.client.list(known.POD, bench.space, labels={"app": name}))


async def test_replicas_become_ready_pods_and_vanish(bench: Bench, gpu_node: Kubelet) -> None:
    """The whole way of a wake and of a sleep, by the controllers' own status."""
    await bench.client.create(_on(gpu_node, bench.deployment(replicas=0)))
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1)

    async def ready() -> bool:
        found = await bench.get(known.DEPLOYMENT, "engine")
        return bool(
            found["status"].get("readyReplicas") == 1 and found["status"]["observedGeneration"] == found["metadata"]["generation"]
        )

    await bench.until(ready, "one replica is ready")
    (pod,) = await _pods(bench)
    assert pod["spec"]["nodeName"] == gpu_node.node
    assert pod["status"]["podIP"].startswith("10.88.")
    assert {one["type"]: one["status"] for one in pod["status"]["conditions"]} | {"Ready": "True", "PodScheduled": "True"} == {
        one["type"]: one["status"] for one in pod["status"]["conditions"]
    }
    reasons = {
        one["reason"]
        for one in await bench.client.list(known.EVENT, bench.space, fields={"involvedObject.name": pod["metadata"]["name"]})
    }
    assert {"Pulling", "Pulled", "Created", "Started"} <= reasons
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 0)

    async def gone() -> bool:
        return not await _pods(bench)

    await bench.until(gone, "the pod is gone")


async def test_why_no_node_takes_a_pod(bench: Bench, gpu_node: Kubelet) -> None:
    """`no GPU is free` is what the person who waits must read."""
    await bench.client.create(_on(gpu_node, bench.deployment(replicas=1), **{"nvidia.com/gpu": "2"}))

    async def told() -> str | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("conditions") or []:
                if one["type"] == "PodScheduled" and one["status"] == "False":
                    assert one["reason"] == "Unschedulable"
                    return str(one["message"])
        return None

    assert "Insufficient nvidia.com/gpu" in await bench.until(told, "the pod is unschedulable")


async def test_why_an_image_is_not_pulled(bench: Bench, gpu_node: Kubelet) -> None:
    """The registry's words, not just ImagePullBackOff."""
    gpu_node.outcomes["gated"] = Outcome(Fault.IMAGE_PULL, message="unexpected status from HEAD request: 403 Forbidden")
    await bench.client.create(_on(gpu_node, bench.deployment(image="example.org/gated:1", replicas=1)))

    async def told() -> str | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("containerStatuses") or []:
                waiting = one["state"].get("waiting") or {}
                if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff"):
                    return str(waiting["message"])
        return None

    assert "403 Forbidden" in await bench.until(told, "the image is not pulled")


async def test_the_last_words_of_a_container(bench: Bench, gpu_node: Kubelet) -> None:
    """A crash is explained by the lines before it; the API server fetches them from the node."""
    lines = [f"line {number}" for number in range(30)]
    gpu_node.outcomes["crashing"] = Outcome(Fault.CRASH, logs=lines, exit=3)
    await bench.client.create(_on(gpu_node, bench.deployment(image="example.org/crashing:1", replicas=1)))

    async def crashed() -> Manifest | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("containerStatuses") or []:
                if (one.get("lastState") or {}).get("terminated"):
                    return pod
        return None

    pod = await bench.until(crashed, "the container crashed")
    status = pod["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert status["restartCount"] >= 1
    name = pod["metadata"]["name"]
    assert (await bench.client.logs(name, bench.space, container="engine", tail=2, previous=True)).split("\n")[:2] == lines[-2:]
    error = await bench.refused(bench.client.logs(name, bench.space, container="nobody"))
    assert error.status == 400
    assert "container nobody is not valid for pod" in error.said


async def test_a_pod_that_cannot_be_made(bench: Bench, gpu_node: Kubelet) -> None:
    """A missing account is told by the Deployment alone: there is no pod that could."""
    made = _on(gpu_node, bench.deployment(replicas=1))
    made["spec"]["template"]["spec"]["serviceAccountName"] = "nobody"
    await bench.client.create(made)

    async def told() -> str | None:
        found = await bench.get(known.DEPLOYMENT, "engine")
        failures = [one for one in found["status"].get("conditions") or [] if one["type"] == "ReplicaFailure"]
        return str(failures[0]["message"]) if failures else None

    assert 'serviceaccount "nobody" not found' in await bench.until(told, "the deployment tells why")

"""The open namespace: in the right order, in a twin of the same name, and pods that came too early are named."""

import asyncio

import pytest

from lamplighter.federation import offload
from lamplighter.providers.kubernetes.kinds import Manifest
from tests.unit.federation.harness import Pair

SPACE = "llm-inference"


def pod(name: str, owner: str = "") -> Manifest:
    """`owner`: the uid of the ReplicaSet that makes it again."""
    meta: Manifest = {"name": name, "namespace": SPACE}
    if owner:
        meta["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": owner, "controller": True}
        ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "c", "image": "i"}]}}


async def opened(pair: Pair) -> offload.OffloadStatus:
    for _ in range(4):
        await offload.ensure(pair.home, SPACE)
        await pair.liqo.step()
    return await offload.ensure(pair.home, SPACE)


async def test_label_before_offloading(pair: Pair) -> None:
    """The other way round, pods made in between would never be seen by Liqo's webhook."""
    pair.at_home.fail("patch", "namespaceoffloadings", 503)
    with pytest.raises(Exception, match="503"):
        await offload.ensure(pair.home, SPACE)
    assert pair.at_home.get("Namespace", SPACE)["metadata"]["labels"]["liqo.io/scheduling-enabled"] == "true"
    assert pair.at_home.all("NamespaceOffloading") == []
    await offload.ensure(pair.home, SPACE)
    spec = pair.at_home.get("NamespaceOffloading", "offloading", SPACE)["spec"]
    assert (spec["podOffloadingStrategy"], spec["namespaceMappingStrategy"]) == ("Remote", "EnforceSameName")


async def test_open_without_a_cluster(pair: Pair) -> None:
    """Nothing joined yet is the usual state at night: not an error."""
    status = await opened(pair)
    assert (status.ready, status.phase, status.reason) == (True, "NoClusterSelected", None)


async def test_twin(pair: Pair) -> None:
    """The twin is made there under the same name, and both sides say so."""
    await pair.join()
    status = await opened(pair)
    assert (status.ready, status.phase, dict(status.twins)) == (True, "Ready", {"gpu-1": ""})
    assert await offload.twin(pair.gpu, SPACE) == ""


async def test_twin_of_somebody_else(pair: Pair) -> None:
    """A namespace of that name was there before: Liqo refuses, and every pod would wait without a word."""
    pair.at_gpu.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    await pair.join()
    status = await opened(pair)
    assert (status.ready, status.reason) == (False, "twin_failed")
    assert "gpu-1" in str(status.detail)
    assert "delete it in the other cluster" in status.next_step
    assert "Liqo did not make it" in await offload.twin(pair.gpu, SPACE)


async def test_opened_in_another_way(pair: Pair) -> None:
    """Somebody opened it as LocalAndRemote: models could land on home's own nodes. Liqo does not let that be changed, so it is said."""
    pair.at_home.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    pair.at_home.create(
        {
            "apiVersion": "offloading.liqo.io/v1beta1", "kind": "NamespaceOffloading", "metadata": {"name": "offloading", "namespace": SPACE},
            "spec": {"podOffloadingStrategy": "LocalAndRemote", "namespaceMappingStrategy": "DefaultName"},
        }
    )  # fmt: skip
    status = await offload.ensure(pair.home, SPACE)
    assert (status.ready, status.reason) == (False, "opened_otherwise")
    assert "volumes included" in status.next_step
    assert pair.at_home.get("NamespaceOffloading", "offloading", SPACE)["spec"]["podOffloadingStrategy"] == "LocalAndRemote"


async def test_early_pods(pair: Pair) -> None:
    """Pods from before stay Pending for ever: they are named, and those that something makes again are made again."""
    await pair.join()
    pair.at_home.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    made = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set", "namespace": SPACE}, "spec": spec}
    for one in (pod("owned", pair.at_home.create(made)["metadata"]["uid"]), pod("alone")):
        pair.at_home.create(one)
    await asyncio.sleep(1.05)  # timestamps of objects are whole seconds
    status = await opened(pair)
    assert status.reason == "early_pods"
    assert status.early == ("alone", "owned")
    assert "--recreate" in status.next_step
    assert pair.at_home.get("Pod", "owned", SPACE)["spec"].get("nodeName") is None
    assert await offload.recreate(pair.home, SPACE) == ("owned",)
    assert (await opened(pair)).early == ("alone",)


async def test_later_pods_are_not_early(pair: Pair) -> None:
    """A pod that waits for a GPU must not be called lost, and be deleted."""
    await opened(pair)
    await asyncio.sleep(1.05)
    pair.at_home.create(pod("later"))
    await pair.liqo.step()
    assert (await opened(pair)).early == ()


async def test_look_changes_nothing(pair: Pair) -> None:
    """`federation status` only looks."""
    before = pair.at_home.store.version
    status = await offload.look(pair.home, SPACE)
    assert (status.ready, status.reason) == (False, "closed")
    assert pair.at_home.store.version == before


async def test_without_liqo(pair: Pair) -> None:
    """No Liqo at home: the message says what is missing, not "404"."""
    pair.at_home.fail("get", "namespaceoffloadings", 404, None)
    pair.at_home.fail("patch", "namespaceoffloadings", 404, None)
    status = await offload.ensure(pair.home, SPACE)
    assert status.reason == "liqo_missing"


def test_placement() -> None:
    """Pinned to one cluster's node, tolerates its taint, and is evicted soon when that cluster is gone."""
    placed = offload.pod_placement("gpu-1")
    assert placed["nodeSelector"] == {"kubernetes.io/hostname": "gpu-1"}
    seconds = {one["key"]: one.get("tolerationSeconds") for one in placed["tolerations"]}
    assert seconds == {
        "virtual-node.liqo.io/not-allowed": None,
        "node.kubernetes.io/unreachable": 30,
        "node.kubernetes.io/not-ready": 30,
    }
    assert offload.pod_annotations("nvidia") == {"liqo.io/remote-runtime-class-name": "nvidia"}
    assert offload.pod_annotations(None) == {}

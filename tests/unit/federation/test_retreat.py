"""Parting: planned and abrupt, with nothing left and nothing of others touched."""

import asyncio

import pytest

from lamplighter.federation import names, offload
from lamplighter.federation.peering import PeerSpec, advance, retreat
from lamplighter.federation.status import look
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes import FakeCluster
from tests.unit.federation.harness import Fate, Killed, Pair, dying

SPACE = "llm-inference"


def model_pod(name: str, node: str = "gpu-1") -> Manifest:
    """A pod as the keeper makes it, on the node of one cluster."""
    container = {"name": "engine", "image": "vllm/vllm-openai:v0.11.0", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 30, **offload.pod_placement(node)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


async def run_there(pair: Pair, name: str = "model", at: FakeCluster | None = None, node: str = "gpu-1") -> None:
    """Until the pod runs in the other cluster and is seen at home."""
    for _ in range(3):
        await offload.ensure(pair.home, SPACE)
        await pair.liqo.step()
    pair.at_home.create(model_pod(name, node))
    there = at or pair.at_gpu
    for _ in range(4):
        await pair.liqo.step()
    ready = [{"type": "Ready", "status": "True"}]
    there.merge("Pod", name, {"status": {"phase": "Running", "podIP": "10.42.0.7", "conditions": ready}}, SPACE, status=True)
    await pair.liqo.step()
    assert pair.at_home.get("Pod", name, SPACE)["status"]["phase"] == "Running"


async def test_planned(pair: Pair) -> None:
    """A node that is put to sleep: its pods end in their own time, then everything of it goes, on both sides."""
    await pair.join()
    await run_there(pair)
    first = await pair.retreat()
    assert any(f"pod {SPACE}/model" in one for one in first.remains), first
    assert pair.at_home.get("Node", "gpu-1")["spec"]["unschedulable"] is True
    for _ in range(6):  # the kubelet there ends it
        await pair.liqo.step()
        if (found := pair.at_gpu.find("Pod", "model", SPACE)) is not None and found["metadata"].get("deletionTimestamp"):
            pair.at_gpu.delete("Pod", "model", SPACE, gracePeriodSeconds=0)
        await pair.retreat()
    assert (await pair.part()).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.leftovers(pair.at_gpu, "home") == []
    assert pair.at_home.all("Pod", SPACE) == []


async def test_planned_again_is_nothing(pair: Pair) -> None:
    """Parting from what was never joined, or twice: done, not an error."""
    assert (await pair.retreat()).done
    await pair.join()
    await pair.part()
    assert (await pair.retreat()).done


async def test_planned_half_joined(pair: Pair) -> None:
    """A wake that is cancelled in the middle of the handshake."""
    await pair.join(4)
    assert (await pair.part()).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.leftovers(pair.at_gpu, "home") == []


async def test_planned_waits_for_a_silent_cluster(pair: Pair) -> None:
    """A remote API server that does not answer: it is said, and nothing is forced."""
    await pair.join()
    pair.at_gpu.stop()
    done = await pair.retreat()
    assert not done.done
    assert "does not answer" in done.remains[0]
    assert pair.at_home.get("Node", "gpu-1")


async def lose(pair: Pair) -> None:
    """The machine is gone, and home has noticed."""
    pair.liqo.lose("gpu-1")
    pair.at_gpu.stop()
    for _ in range(3):
        await pair.liqo.step()


async def test_abrupt_loss(pair: Pair) -> None:
    """A spot instance that vanishes: pods hang Terminating and a NotReady node stays, for ever, unless somebody clears it."""
    await pair.join()
    await run_there(pair)
    await lose(pair)
    assert _ready(pair.at_home, "gpu-1") == "Unknown"
    pair.at_home.delete("Pod", "model", SPACE)
    await pair.liqo.settle(3)
    assert pair.at_home.get("Pod", "model", SPACE)["metadata"]["deletionTimestamp"], "the fake is too kind: it must hang"
    done = await pair.part(planned=False, remote=False)
    assert done.done, done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.at_home.all("Pod", SPACE) == []


async def test_abrupt_spares_others(pair: Pair) -> None:
    """Clearing after one lost cluster must not touch the pods, the node or any object of another one."""
    with FakeCluster(name="gpu-2") as second:
        theirs, ours = Cluster.connect(second.access()), Cluster.connect(second.access())
        await pair.liqo.add("gpu-2", theirs, pods="10.43.0.0/16", api_server="https://10.77.0.21:6443")
        spec = PeerSpec("gpu-2", gateway_address="10.77.0.21", cpu="3", memory="8Gi", gpus=1)
        await pair.join()
        for _ in range(12):
            await advance(pair.home, ours, spec)
            await pair.liqo.step()
        await run_there(pair, "lost")
        await run_there(pair, "safe", second, "gpu-2")
        before = _everything(pair, "gpu-2")
        await lose(pair)
        assert (await pair.part(planned=False, remote=False)).done
        await pair.liqo.step()
        assert [pod["metadata"]["name"] for pod in pair.at_home.all("Pod", SPACE)] == ["safe"]
        assert _everything(pair, "gpu-2") == before
        assert _ready(pair.at_home, "gpu-2") == "True"
        for client in (theirs, ours):
            await client.close()


async def test_abrupt_only_of_what_is_gone(pair: Pair) -> None:
    """`--force` by mistake, while the cluster is well: nothing may be forced, and the running model goes on."""
    await pair.join()
    await run_there(pair)
    done = await pair.retreat(planned=False, remote=False)
    assert not done.done
    assert "still answers" in done.remains[0]
    assert pair.at_home.get("Pod", "model", SPACE)["status"]["phase"] == "Running"
    assert _ready(pair.at_home, "gpu-1") == "True"


async def test_abrupt_killed_after_each_write(pair: Pair) -> None:
    """The keeper dies again and again while it clears after a loss: the next one must finish, and leave nothing."""
    await pair.join()
    await run_there(pair)
    await lose(pair)
    deaths, done = 0, None
    home, gpu = dying(pair, Fate(1))
    for _ in range(80):
        home.mortal = gpu.mortal = Fate(1)
        try:
            done = await retreat(home, None, "gpu-1", planned=False)
        except Killed:
            deaths += 1
            continue
        if done.done:
            break
        await pair.liqo.step()
    assert deaths >= 5, "the test killed nobody"
    assert done is not None
    assert done.done, done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.at_home.all("Pod", SPACE) == []


async def test_abrupt_both_ways(pair: Pair) -> None:
    """A lost cluster that could use home too: its tenant at home must go, or whoever has its key still could."""
    await pair.join(bidirectional=True)
    assert [tenant["metadata"]["name"] for tenant in pair.at_home.all("Tenant")] == ["gpu-1"]
    await lose(pair)
    assert (await pair.part(planned=False, remote=False)).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []


async def test_abrupt_with_a_stale_word(pair: Pair) -> None:
    """Liqo at home died with the machine, and its last word of it was "Established": Kubernetes' own word of the node counts too."""
    await pair.join()
    await run_there(pair)
    await lose(pair)
    pair.liqo.members["home"].down = True
    pair.at_home.merge(
        "ForeignCluster", "gpu-1", {"status": {"conditions": [{"type": "APIServerStatus", "status": "Established"}]}}, status=True
    )
    first = await pair.retreat(planned=False, remote=False)
    assert "still answers" not in " ".join(first.remains)
    pair.clock.seconds = 120
    for _ in range(8):
        first = await pair.retreat(planned=False, remote=False)
    assert first.done, first


async def test_abrupt_with_liqo_down(pair: Pair) -> None:
    """Home's own Liqo does not run either: its finalizers are taken off after a while, and only those of this peering."""
    await pair.join()
    await run_there(pair)
    pair.liqo.lose("gpu-1")
    pair.at_gpu.stop()
    for _ in range(2):
        await pair.liqo.step()
    pair.liqo.members["home"].down = True
    foreign = {"finalizers": ["somebody.example/keeps"]}
    pair.at_home.create(
        {
            "apiVersion": "networking.liqo.io/v1beta1", "kind": "PublicKey", "spec": {},
            "metadata": {"name": "other", "namespace": "default", "labels": {names.REMOTE_ID: "gpu-9"}, **foreign},
        }
    )  # fmt: skip
    first = await pair.retreat(planned=False, remote=False)
    assert not first.done
    assert any("held by" in one for one in first.remains)
    pair.clock.seconds = 120
    for _ in range(8):
        first = await pair.retreat(planned=False, remote=False)
        if first.done:
            break
        await asyncio.sleep(0.05)
    assert first.done, first
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.at_home.get("PublicKey", "other")["metadata"]["finalizers"] == ["somebody.example/keeps"]


async def test_status_names_what_is_stale(pair: Pair) -> None:
    """After a loss a person must read what is wrong and what to do, not find it out."""
    await pair.join()
    await run_there(pair)
    assert (await look(pair.home, SPACE, mtu=1240)).well
    await lose(pair)
    pair.at_home.delete("Pod", "model", SPACE)
    pair.clock.seconds = 200
    seen = await look(pair.home, SPACE, mtu=1240, clock=pair.clock)
    assert not seen.well
    said = " ".join(finding.text for finding in seen.findings)
    for words in (
        "API server does not answer",
        "tunnel is broken",
        "not ready for",
        f"Pods hang while they are deleted: {SPACE}/model",
    ):
        assert words in said, said
    assert all(
        "unpeer --force" in one.next_step or "mesh check" in one.next_step for one in seen.findings if one.level == "wrong"
    )


async def test_lost_again_and_back(pair: Pair) -> None:
    """A new instance under a new id after a loss: the old one's ghosts must not disturb it."""
    await pair.join()
    await lose(pair)
    assert (await pair.part(planned=False, remote=False)).done
    pair.liqo.remove("gpu-1")
    with FakeCluster(name="fresh") as fresh:
        theirs, ours = Cluster.connect(fresh.access()), Cluster.connect(fresh.access())
        await pair.liqo.add("gpu-2", theirs, api_server="https://10.77.0.22:6443")
        spec = PeerSpec("gpu-2", gateway_address="10.77.0.22", cpu="3", memory="8Gi", gpus=1)
        status = await advance(pair.home, ours, spec)
        for _ in range(15):
            if status.ready:
                break
            await pair.liqo.step()
            status = await advance(pair.home, ours, spec)
        assert status.ready, status
        for client in (theirs, ours):
            await client.close()


@pytest.mark.parametrize("planned", [True, False])
async def test_unknown_cluster(pair: Pair, planned: bool) -> None:
    """Nothing is there of it: done at once."""
    assert (await retreat(pair.home, None, "nobody", planned)).done


def _ready(cluster: FakeCluster, node: str) -> str:
    conditions = cluster.get("Node", node)["status"]["conditions"]
    return next(str(one["status"]) for one in conditions if one["type"] == "Ready")


def _everything(pair: Pair, peer: str) -> list[tuple[str, str]]:
    """Each object of a peering, with its uid: the same ones, not ones made anew."""
    return sorted(
        (kind.kind, str(one["metadata"]["uid"]))
        for kind in names.ALL
        for one in pair.at_home.all(kind.plural)
        if (one["metadata"].get("labels") or {}).get(names.REMOTE_ID) == peer
    )

"""The status from home: it must say what is wrong and what to do, and nothing when all is well."""

from lamplighter.federation import offload
from lamplighter.federation.status import look
from tests.unit.federation.harness import Pair

SPACE = "llm-inference"


async def test_not_installed(pair: Pair) -> None:
    """No Liqo: one sentence, one next step."""
    await pair.liqo.members["home"].uninstall_facts()
    seen = await look(pair.home, SPACE)
    assert not seen.well
    assert seen.findings[0].text == "Liqo is not installed."


async def test_nothing_joined(pair: Pair) -> None:
    """The usual night: no peers, not an error."""
    seen = await look(pair.home, SPACE)
    assert seen.well
    assert seen.peers == ()


async def test_all_is_well(pair: Pair) -> None:
    """A joined cluster with what it grants and what runs there."""
    await pair.join()
    for _ in range(3):
        await offload.ensure(pair.home, SPACE)
        await pair.liqo.step()
    seen = await look(pair.home, SPACE, mtu=1240, version="v1.2.0")
    assert seen.well, seen.findings
    (peer,) = seen.peers
    assert (peer.cluster_id, peer.node, peer.tunnel, peer.mtu, peer.role) == ("gpu-1", "gpu-1", "Connected", 1240, "Provider")
    assert peer.granted["nvidia.com/gpu"] == "1"


async def test_other_mtu_and_version_than_configured(pair: Pair) -> None:
    """The configuration was changed and nothing followed: it is told before tokens hang."""
    await pair.join(mtu=1340)
    seen = await look(pair.home, SPACE, mtu=1240, version="v1.3.0")
    said = " ".join(one.text for one in seen.findings)
    assert "MTU 1340, configured is 1240; full packets are lost" in said
    assert "v1.2.0 at home, configured is v1.3.0" in said


async def test_other_id_than_configured(pair: Pair) -> None:
    """Liqo's id cannot be changed afterwards: the configuration must follow."""
    seen = await look(pair.home, SPACE, home_id="house")
    assert "'home', configured is 'house'" in seen.findings[0].text


async def test_stale_node(pair: Pair) -> None:
    """A virtual node behind which nothing stands: the scheduler still counts on it."""
    pair.at_home.create(
        {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "gpu-0", "labels": {"liqo.io/type": "virtual-node", "liqo.io/remote-cluster-id": "gpu-0"}},
        }
    )  # fmt: skip
    seen = await look(pair.home, SPACE)
    (wrong,) = [one for one in seen.findings if one.about == "gpu-0"]
    assert "stale" in wrong.text
    assert "unpeer --force" in wrong.next_step


async def test_liqos_own_pods(pair: Pair) -> None:
    """Liqo's controller does not run: everything else would only be late."""
    pair.at_home.create(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "liqo-ipam-1", "namespace": "liqo"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }
    )  # fmt: skip
    waiting = {
        "name": "c",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}},
    }
    pair.at_home.merge("Pod", "liqo-ipam-1", {"status": {"containerStatuses": [waiting]}}, "liqo", status=True)
    seen = await look(pair.home, SPACE)
    assert "liqo-ipam-1 does not run: CrashLoopBackOff" in seen.findings[0].text


async def test_refused_slice(pair: Pair) -> None:
    """The other side refuses: said from home, without asking there."""
    pair.liqo.members["gpu-1"].faults.add("slice-denied")
    await pair.join()
    seen = await look(pair.home, SPACE)
    assert any("refuses what is asked of it (resources)" in one.text for one in seen.findings)

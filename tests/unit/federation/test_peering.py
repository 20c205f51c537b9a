"""Joining: every state that a person may see, in words, and that it ends well whatever happens in between."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from lamplighter.federation import names
from lamplighter.federation.peering import Why, advance, retreat
from lamplighter.providers.kubernetes.errors import KubernetesError
from tests.unit.federation.harness import NODE, Fate, Killed, Luck, Pair, dying


async def test_join(pair: Pair) -> None:
    """A peering that does not end in a virtual node with the GPU: no model would ever be placed there."""
    status = await pair.join()
    assert (status.state, status.ready, status.node) == ("ready", True, "gpu-1"), status
    node = pair.at_home.get("Node", "gpu-1")
    assert node["metadata"]["labels"]["node-type"] == "gpu"
    assert node["status"]["allocatable"] == {
        "cpu": "3528m", "memory": "12231Mi", "pods": "99", "nvidia.com/gpu": "1", "ephemeral-storage": "20Gi",
    }  # fmt: skip
    client = pair.at_home.get("GatewayClient", "gpu-1", "liqo-tenant-gpu-1")["spec"]
    server = pair.at_gpu.get("GatewayServer", "home", "liqo-tenant-home")["spec"]
    assert client["endpoint"] == {"addresses": [NODE], "port": 30742, "protocol": "UDP"}
    assert server["endpoint"] == {"port": 51840, "serviceType": "NodePort", "nodePort": 30742}
    assert (client["mtu"], server["mtu"]) == (1240, 1240)


async def test_join_again_writes_nothing(pair: Pair) -> None:
    """A ready peering that is written again every few seconds: Liqo's controllers would work all day, and etcd with them."""
    await pair.join()
    await pair.liqo.settle(3)
    before = [cluster.store.version for cluster in (pair.at_home, pair.at_gpu)]
    for _ in range(3):
        assert (await pair.advance()).ready
    assert [cluster.store.version for cluster in (pair.at_home, pair.at_gpu)] == before


async def test_one_way(pair: Pair) -> None:
    """A cloud node that may use the home cluster although nobody said so: whoever gets into it could run pods at home."""
    await pair.join()
    assert pair.at_home.all("Tenant") == []
    assert [one["metadata"]["name"] for one in pair.at_gpu.all("Tenant")] == ["home"]
    assert pair.at_gpu.all("Node") == []


async def test_both_ways(pair: Pair) -> None:
    """`bidirectional` that makes only one direction."""
    status = await pair.join(bidirectional=True)
    assert status.ready, status
    assert [node["metadata"]["name"] for node in pair.at_gpu.all("Node")] == ["home"]
    assert len(pair.at_gpu.all("GatewayServer")) == 1, "one tunnel carries both directions"
    assert (await pair.part()).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.leftovers(pair.at_gpu, "home") == []


async def test_overlapping_pods_are_mapped(pair: Pair) -> None:
    """Two k3s clusters have the same network of pods: Liqo maps it, and that must not be called a failure."""
    pair.liqo.members["home"].pods = "10.42.0.0/16"
    pair.at_home.edit("Network", "pod-cidr", lambda one: one["spec"].update(cidr="10.42.0.0/16"), "liqo")
    pair.at_home.edit("Network", "pod-cidr", lambda one: one["status"].update(cidr="10.42.0.0/16"), "liqo", status=True)
    assert (await pair.join()).ready
    seen = pair.at_home.get("Configuration", "gpu-1", "liqo-tenant-gpu-1")["status"]["remote"]["cidr"]
    assert seen["pod"] != ["10.42.0.0/16"]


@pytest.mark.parametrize(
    ("where", "fault", "state", "reason", "words"),
    [
        ("gpu-1", "configuring", "network", Why.CONFIGURING, "maps the networks"),
        ("gpu-1", "gateway-pod", "network", Why.GATEWAY_NOT_READY, "ImagePullBackOff"),
        ("home", "gateway-pod", "network", Why.GATEWAY_NOT_READY, "the home cluster"),
        ("gpu-1", "nonce-missing", "authentication", Why.NONCE_MISSING, "has not made a nonce"),
        ("home", "nonce-unsigned", "authentication", Why.NONCE_UNSIGNED, "has not signed the nonce"),
        ("home", "identity-pending", "authentication", Why.IDENTITY_PENDING, "makes its credentials"),
        ("gpu-1", "slice-unanswered", "resources", Why.SLICE_UNANSWERED, "has not answered the slice"),
        ("gpu-1", "slice-denied", "failed", Why.SLICE_REFUSED, "the class of slices refuses it"),
        ("gpu-1", "slice-reduced", "failed", Why.SLICE_REDUCED, "nvidia.com/gpu 0 of 1"),
        ("home", "node-pending", "virtual-node", Why.NODE_PENDING, "makes the virtual node"),
        ("home", "node-not-ready", "virtual-node", Why.NODE_NOT_READY, "is not ready for"),
    ],
)
async def test_what_is_wrong_is_told(pair: Pair, where: str, fault: str, state: str, reason: Why, words: str) -> None:
    """A peering that stands still without saying why: a person would read Liqo's logs in two clusters."""
    pair.liqo.members[where].faults.add(fault)
    await pair.join(12)
    pair.clock.seconds = 90
    status = await pair.advance()
    assert (status.state, status.reason) == (state, reason), status
    assert words in str(status.detail), status
    assert status.next_step, "no next step"
    if state != "failed":  # what was only waited for goes on by itself
        pair.liqo.members[where].faults.clear()
        for pod in pair.at_gpu.all("Pod") + pair.at_home.all("Pod"):
            for cluster in (pair.at_gpu, pair.at_home):
                cluster.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
        assert (await pair.join()).ready


async def test_gateway_unreachable(pair: Pair) -> None:
    """UDP 30742 closed on the way: the most usual mistake, and Liqo itself only says "Connecting"."""
    pair.liqo.cut("home", "gpu-1")
    first = await pair.join(8)
    assert (first.state, first.reason) == ("network", Why.CONNECTING)
    pair.clock.seconds = 75
    status = await pair.advance()
    assert (status.state, status.reason) == ("network", Why.GATEWAY_UNREACHABLE)
    assert f"{NODE}:30742 (UDP)" in str(status.detail)
    assert "lamplighter mesh check" in status.next_step
    pair.liqo.mend("home", "gpu-1")
    assert (await pair.join()).ready


async def test_wrong_mtu_of_others(pair: Pair) -> None:
    """A gateway that `liqoctl` made with Liqo's own MTU: pings would pass and tokens hang, with everything shown as connected."""
    await pair.join(2)
    pair.at_gpu.delete("GatewayServer", "home", "liqo-tenant-home")
    pair.at_gpu.create(
        {
            "apiVersion": "networking.liqo.io/v1beta1", "kind": "GatewayServer",
            "metadata": {"name": "home", "namespace": "liqo-tenant-home", "labels": {names.REMOTE_ID: "home"}},
            "spec": {"mtu": 1340, "endpoint": {"port": 51840, "serviceType": "NodePort", "nodePort": 30742}},
        }
    )  # fmt: skip
    status = await pair.advance()
    assert (status.state, status.reason) == ("failed", Why.WRONG_MTU)
    assert "1340, not 1240" in str(status.detail)
    assert "pings pass" in str(status.detail)
    assert pair.at_gpu.get("GatewayServer", "home", "liqo-tenant-home")["spec"]["mtu"] == 1340, "others' object was changed"


async def test_our_mtu_follows_the_configuration(pair: Pair) -> None:
    """A new `federation.mtu` that reaches only one end."""
    await pair.join()
    assert (await pair.join(mtu=1200)).ready
    assert pair.at_home.get("GatewayClient", "gpu-1", "liqo-tenant-gpu-1")["spec"]["mtu"] == 1200
    assert pair.at_gpu.get("GatewayServer", "home", "liqo-tenant-home")["spec"]["mtu"] == 1200


async def test_versions_must_fit(pair: Pair) -> None:
    """Two minor versions of Liqo: nothing of it would say so, it would only not work."""

    def older(one: dict[str, dict[str, dict[str, str]]]) -> None:
        one["metadata"]["labels"]["app.kubernetes.io/version"] = "v1.1.2"

    pair.at_gpu.edit("Deployment", "liqo-controller-manager", older, "liqo")
    status = await pair.advance()
    assert (status.state, status.reason) == ("failed", Why.VERSION_MISMATCH)
    assert "v1.2.0 in the home cluster and v1.1.2 in cluster gpu-1" in str(status.detail)


async def test_wrong_cluster(pair: Pair) -> None:
    """A kubeconfig that leads to another cluster than was meant: pods would run there."""
    status = await pair.advance(cluster_id="gpu-2")
    assert (status.state, status.reason) == ("failed", Why.WRONG_CLUSTER)
    assert pair.at_gpu.all("Configuration") == []


async def test_liqo_missing(pair: Pair) -> None:
    """A node whose Liqo is still starting: waited for, not failed."""
    await pair.liqo.members["gpu-1"].uninstall_facts()
    status = await pair.advance()
    assert (status.state, status.reason) == ("network", Why.LIQO_MISSING)
    await pair.liqo.members["gpu-1"].install()
    assert (await pair.join()).ready


async def test_pods_network_over_the_mesh(pair: Pair) -> None:
    """Pods' network that covers the gateway's address: the tunnel would swallow its own packets."""
    status = await pair.advance(gateway_address="10.42.3.4")
    assert (status.state, status.reason) == ("failed", Why.CIDR_OVERLAP)
    assert "10.42.0.0/16" in str(status.detail)


@pytest.mark.parametrize("url", ["https://127.0.0.1:6443", "https://localhost:6443", "https://0.0.0.0:6443"])
async def test_address_that_leads_nowhere(pair: Pair, url: str) -> None:
    """k3s says 127.0.0.1 of itself: home's Liqo would ask its own pod for ever."""
    pair.liqo.members["gpu-1"].api_server = url
    status = await pair.join()
    assert (status.state, status.reason) == ("failed", Why.API_ADDRESS)
    assert url in str(status.detail)


async def test_refused_signature_is_told(pair: Pair) -> None:
    """A tenant that the other side does not believe: the event says why, and nobody looks for it there."""
    await pair.join(2)
    for secret in pair.at_gpu.all("Secret", "liqo-tenant-home"):
        if names.NONCE in secret["metadata"]["labels"]:
            pair.at_gpu.merge("Secret", secret["metadata"]["name"], {"data": {"nonce": "b3RoZXI="}}, "liqo-tenant-home")
    for secret in pair.at_home.all("Secret", "liqo-tenant-gpu-1"):
        if names.SIGNED_NONCE in secret["metadata"]["labels"]:
            data = {"nonce": "b3RoZXI=", "signedNonce": "d3Jvbmc="}
            pair.at_home.merge("Secret", secret["metadata"]["name"], {"data": data}, "liqo-tenant-gpu-1")
    await pair.advance()
    await pair.liqo.step()
    status = await pair.advance()
    assert (status.state, status.reason) == ("authentication", Why.TENANT_REFUSED), status
    assert "SignatureVerificationFailed" in str(status.detail)


async def test_nonce_of_an_earlier_handshake(pair: Pair) -> None:
    """A node that came back under its name with a new Liqo: home's old signature would be refused for ever."""
    await pair.join(3)
    for secret in pair.at_gpu.all("Secret", "liqo-tenant-home"):
        if names.NONCE in secret["metadata"]["labels"]:
            pair.at_gpu.delete("Secret", secret["metadata"]["name"], "liqo-tenant-home")
    pair.at_gpu.delete("Tenant", "home", "liqo-tenant-home")
    assert (await pair.join()).ready


async def test_closed_tenant(pair: Pair) -> None:
    """A provider that has cordoned its tenant: asking on would look like a fault of the network."""
    await pair.join()
    pair.at_gpu.merge("Tenant", "home", {"spec": {"tenantCondition": "Cordoned"}}, "liqo-tenant-home")
    status = await pair.advance()
    assert (status.state, status.reason) == ("failed", Why.TENANT_CLOSED)


async def test_forbidden_is_told(pair: Pair) -> None:
    """Missing rights: the message must name what to grant, and in which of the two clusters."""
    pair.at_gpu.fail(
        "patch", "configurations", 403, None, message='configurations.networking.liqo.io is forbidden: User "x" cannot patch'
    )
    status = await pair.advance()
    assert status.reason == Why.FORBIDDEN
    assert "cluster gpu-1" in str(status.detail)
    pair.at_gpu.heal()
    assert (await pair.join()).ready


async def test_remote_away_is_a_status_home_away_an_error(pair: Pair) -> None:
    """A GPU cluster that boots is silence, and waited for. When home itself is silent, nothing is known: that must not look like a loss."""
    await pair.join()
    pair.at_gpu.stop()
    status = await pair.advance()
    assert (status.state, status.reason) == ("network", Why.UNREACHABLE)
    pair.at_gpu.start()
    pair.at_home.stop()
    with pytest.raises(KubernetesError):
        await pair.advance()


async def test_killed_after_each_write(pair: Pair) -> None:
    """A keeper that dies after any single write: the next one must go on from there, and nothing be made twice."""
    deaths = 0
    home, gpu = dying(pair, Fate(1))
    for _ in range(120):
        home.mortal = gpu.mortal = Fate(1)
        try:
            status = await advance(home, gpu, pair.spec)
        except Killed:
            deaths += 1
            continue
        if status.ready:
            break
        await pair.liqo.step()
    assert deaths >= 10, "the test killed nobody"
    assert (await pair.advance()).ready
    assert (await pair.part()).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.leftovers(pair.at_gpu, "home") == []


@pytest.mark.parametrize("seed", range(2))
async def test_any_death_and_any_refusal(pair: Pair, seed: int) -> None:
    """Deaths, refusals and rounds of Liqo in any order: it must still join, still part, and leave nothing."""
    dice = random.Random(seed)
    home, gpu = dying(pair, Luck(dice, 0.03))

    async def trouble(step: Callable[[], Awaitable[object]]) -> None:
        for cluster in (pair.at_home, pair.at_gpu):
            if dice.random() < 0.3:
                verb, status = dice.choice(("get", "list", "patch", "delete", "create")), dice.choice((409, 500, 503))
                cluster.fail(verb, "*", status, dice.randint(1, 2))
        with suppress(Killed, KubernetesError):
            await step()
        pair.at_home.heal()
        pair.at_gpu.heal()
        if dice.random() < 0.7:
            await pair.liqo.step()

    for _ in range(18):
        await trouble(lambda: advance(home, gpu, pair.spec))
    assert (await pair.join()).ready
    for _ in range(12):
        await trouble(lambda: retreat(home, gpu, "gpu-1", planned=True))
    assert (await pair.part()).done
    assert pair.leftovers(pair.at_home, "gpu-1") == []
    assert pair.leftovers(pair.at_gpu, "home") == []

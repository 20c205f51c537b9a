"""The federation on a real API server, with its real garbage collector, namespace controller and scheduler; Liqo's controllers are played.

The other cluster is pretended. A failure that the unit tests do not show is a wrong belief about Kubernetes, in `federation` or in
`lamplighter.testing`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from lamplighter.federation import names, offload
from lamplighter.federation.peering import PeerSpec, PeerStatus, Retreat, advance, retreat, slice_for
from lamplighter.federation.status import look
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import DEFINITION, NAMESPACE, NODE, POD, Manifest
from lamplighter.testing.kubernetes import FakeCluster
from lamplighter.testing.liqo import FakeLiqo, definitions

pytestmark = pytest.mark.long
ADDRESS = "10.77.0.20"
SPACE = "llm-federated"
PATIENCE = 90.0


@dataclass
class Two:
    """A real cluster and a pretended one. `home` and `gpu`: our clients."""

    home: Cluster
    gpu: Cluster
    pretended: FakeCluster
    liqo: FakeLiqo
    spec: PeerSpec

    async def join(self) -> PeerStatus:
        async with asyncio.timeout(PATIENCE):
            while True:
                status = await advance(self.home, self.gpu, self.spec)
                if status.ready or status.state == "failed":
                    return status
                await asyncio.sleep(0.2)

    async def part(self, *, planned: bool, remote: bool) -> Retreat:
        done = Retreat(False)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not done.done:
                    done = await retreat(self.home, self.gpu if remote else None, "gpu-1", planned)
                    await asyncio.sleep(0.2)
        return done

    async def leftovers(self, cluster: Cluster, peer: str) -> list[str]:
        found = []
        for kind in (*names.ALL, NODE, NAMESPACE):
            found += [
                f"{kind.kind} {one['metadata']['name']}"
                for one in await cluster.list(kind, ALL_NAMESPACES, labels={names.REMOTE_ID: peer})
            ]
        return found


@pytest.fixture
async def two(real_cluster: Any) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        pretended = stack.enter_context(FakeCluster(name="gpu"))
        clients = [Cluster.connect(one.access()) for one in (real_cluster, pretended, real_cluster, pretended)]
        for client in clients:
            stack.push_async_callback(client.close)
        home, gpu, of_liqo, of_liqo_there = clients
        liqo = FakeLiqo(schedules=False, not_ready_after=0.0)
        await liqo.add("home", of_liqo, pods="10.244.0.0/16", reserved=("10.77.0.0/16",))
        await liqo.add("gpu-1", of_liqo_there, api_server=f"https://{ADDRESS}:6443")
        async with liqo.running(0.1):
            yield Two(home, gpu, pretended, liqo, PeerSpec("gpu-1", gateway_address=ADDRESS).with_slice(slice_for("g5.xlarge")))
            await _clean(home)


async def _clean(home: Cluster) -> None:
    for space in (SPACE, names.NAMESPACE):
        await home.delete(NAMESPACE, space)
    async with asyncio.timeout(PATIENCE):
        while [one for one in (SPACE, names.NAMESPACE) if await home.get_or_none(NAMESPACE, one)]:  # noqa: ASYNC110 - a server's state
            await asyncio.sleep(0.2)
    for definition in definitions():
        await home.delete(DEFINITION, definition["metadata"]["name"])


async def place(two: Two) -> None:
    """A pod for the GPU, placed by the real scheduler, run by a pretended kubelet's words, seen at home."""
    await offload.ensure(two.home, SPACE)
    await _until(lambda: _phase(two, "Ready"))
    placed = {**offload.pod_placement("gpu-1")}
    container = {"name": "engine", "image": "example.org/engine:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    await two.home.create(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model", "namespace": SPACE},
            "spec": {"containers": [container], "automountServiceAccountToken": False, **placed},
        }
    )  # fmt: skip
    await _until(lambda: _copied(two))
    told = {"phase": "Running", "podIP": "10.42.0.7", "conditions": [{"type": "Ready", "status": "True"}]}
    two.pretended.merge("Pod", "model", {"status": told}, SPACE, status=True)

    async def seen() -> bool:
        pod = await two.home.get(POD, "model", SPACE)
        return bool(pod["spec"].get("nodeName") == "gpu-1" and pod["status"].get("podIP") == "10.42.0.7")

    await _until(seen)


async def _phase(two: Two, wanted: str) -> bool:
    return (await offload.ensure(two.home, SPACE)).phase == wanted


async def _copied(two: Two) -> bool:
    return two.pretended.find("Pod", "model", SPACE) is not None


async def _until(true: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110 - a server's state
            await asyncio.sleep(0.1)


async def test_planned(two: Two) -> None:
    """Join, place, part: nothing left, with the real garbage collector and namespace controller."""
    status = await two.join()
    assert status.ready, status
    await place(two)
    assert (await look(two.home, SPACE)).well

    async def ended() -> None:
        while True:  # the kubelet there
            found = two.pretended.find("Pod", "model", SPACE)
            if found is not None and found["metadata"].get("deletionTimestamp"):
                two.pretended.delete("Pod", "model", SPACE, gracePeriodSeconds=0)
            await asyncio.sleep(0.1)

    kubelet = asyncio.create_task(ended())
    try:
        done = await two.part(planned=True, remote=True)
    finally:
        kubelet.cancel()
    assert done.done, done
    assert await two.leftovers(two.home, "gpu-1") == []
    assert await two.leftovers(two.gpu, "home") == []
    assert await two.home.list(POD, SPACE) == []


async def test_abrupt(two: Two) -> None:
    """The machine is gone: the pod hangs on a real API server, as in reality, and one command clears it."""
    await two.join()
    await place(two)
    two.liqo.lose("gpu-1")
    two.pretended.stop()

    async def noticed() -> bool:
        return not (await look(two.home, SPACE)).well

    await _until(noticed)
    await two.home.delete(POD, "model", SPACE)
    await asyncio.sleep(1.0)
    hanging: Manifest = await two.home.get(POD, "model", SPACE)
    assert hanging["metadata"]["deletionTimestamp"]
    done = await two.part(planned=False, remote=False)
    assert done.done, done
    assert await two.leftovers(two.home, "gpu-1") == []
    assert await two.home.list(POD, SPACE) == []


async def test_wrong_object_is_refused(two: Two) -> None:
    """The definitions' schemas are really checked: what our code writes passes them, and nonsense does not."""
    with pytest.raises(KubernetesError) as caught:
        await two.home.create(
            {
                "apiVersion": "authentication.liqo.io/v1beta1", "kind": "Tenant",
                "metadata": {"name": "x", "namespace": "liqo"}, "spec": {"tenantCondition": "Asleep"},
            }
        )  # fmt: skip
    assert caught.value.status == 422
    assert "tenantCondition" in caught.value.said

"""The canary: what it proves, what it finds out, and that it never stays."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lamplighter.federation import canary, offload
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from tests.unit.federation.harness import Pair

SPACE = "llm-inference"


async def ready(pair: Pair) -> None:
    await pair.join()
    for _ in range(4):
        await offload.ensure(pair.home, SPACE)
        await pair.liqo.step()


async def answers(_pod: Manifest, path: str) -> int:
    return canary.LONG if path.startswith("data") else 1


async def flown(
    pair: Pair, ask: Callable[[Manifest, str], Awaitable[int]] = answers, *, runs: bool = True, **named: Any
) -> canary.CanaryResult:
    """A flight, with a kubelet in the other cluster that lets the pod run."""
    flight = asyncio.create_task(canary.run(pair.home, SPACE, "gpu-1", ask=ask, **named))
    told = {"phase": "Running", "podIP": "10.42.0.9", "conditions": [{"type": "Ready", "status": "True"}]}
    while not flight.done():
        await pair.liqo.step()
        for one in pair.at_gpu.all("Pod", SPACE):
            if one["metadata"].get("deletionTimestamp"):
                pair.at_gpu.delete("Pod", one["metadata"]["name"], SPACE, gracePeriodSeconds=0)
            elif runs and not one.get("status", {}).get("podIP"):
                pair.at_gpu.merge("Pod", one["metadata"]["name"], {"status": told}, SPACE, status=True)
        await asyncio.sleep(0.05)
    await pair.liqo.settle(4)
    return flight.result()


async def test_flies_and_is_removed(pair: Pair) -> None:
    """Placed, started, heard twice, gone: then a model's pod will be too."""
    await ready(pair)
    result = await flown(pair)
    assert result.ok, result
    assert (result.node, result.address) == ("gpu-1", "10.42.0.9")
    assert list(result.seconds) == ["placed", "address", "ready", "answered", "long answer"]
    assert pair.at_home.all("Pod", SPACE) == []
    assert pair.at_gpu.all("Pod", SPACE) == []


async def test_mtu_trap(pair: Pair) -> None:
    """Short answers come, long ones do not: the trap that looks like a working network until the first token stream."""

    async def short_only(_pod: Manifest, path: str) -> int:
        if path.startswith("data"):
            raise TimeoutError
        return 1

    await ready(pair)
    result = await flown(pair, short_only)
    assert (result.ok, result.reason) == (False, "mtu")
    assert "federation.mtu" in result.next_step


async def test_unheard(pair: Pair) -> None:
    """It runs and nobody reaches it: a NetworkPolicy, or the tunnel."""

    async def silence(_pod: Manifest, _path: str) -> int:
        raise KubernetesError("error trying to reach service: dial tcp 10.42.0.9:8080: i/o timeout", status=503)

    await ready(pair)
    result = await flown(pair, silence)
    assert (result.ok, result.reason) == (False, "unheard")
    assert "dial tcp" in str(result.detail)
    assert pair.at_home.all("Pod", SPACE) == []


async def test_not_placed(pair: Pair) -> None:
    """No node takes it: the scheduler's own words."""
    await ready(pair)
    pair.at_home.merge("Node", "gpu-1", {"spec": {"unschedulable": True}})
    result = await flown(pair, limit=2.5)
    assert (result.ok, result.reason) == (False, "not_placed")
    assert "unschedulable" in str(result.detail)
    assert pair.at_home.all("Pod", SPACE) == []


async def test_not_started(pair: Pair) -> None:
    """Placed and never ready within the limit."""
    await ready(pair)
    result = await flown(pair, runs=False, limit=2.5)
    assert (result.ok, result.reason, result.node) == (False, "not_started", "gpu-1")
    assert pair.at_home.all("Pod", SPACE) == []


async def test_closed_namespace(pair: Pair) -> None:
    """A canary in a namespace that is not open would only wait: it is not sent."""
    result = await canary.run(pair.home, SPACE)
    assert (result.ok, result.reason) == (False, "closed")
    assert pair.at_home.all("Pod") == []


async def test_removed_when_interrupted(pair: Pair) -> None:
    """Ctrl-C in the middle: the pod must not stay. And what a killed one left goes with the next."""
    await ready(pair)
    flight = asyncio.create_task(canary.run(pair.home, SPACE, "nowhere", ask=answers))
    while not pair.at_home.all("Pod", SPACE):  # noqa: ASYNC110 - see below
        await asyncio.sleep(0.02)  # the API server has a thread of its own
    flight.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flight
    assert pair.at_home.all("Pod", SPACE) == []
    pair.at_home.create(canary.pod("left", SPACE, "nowhere"))
    assert await canary.remove(pair.home, SPACE) == 1
    assert pair.at_home.all("Pod", SPACE) == []


def test_pod_is_restricted() -> None:
    """Home's namespace enforces PodSecurity restricted; and a pod that nobody removes must end itself."""
    spec = canary.pod("c", SPACE, "gpu-1")["spec"]
    assert spec["activeDeadlineSeconds"] > canary.LIMIT
    assert spec["automountServiceAccountToken"] is False
    container = spec["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "limits" in container["resources"]

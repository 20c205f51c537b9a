"""Pretended nodes: they must speak as the agent does, and fail in every way that a node can."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from lamplighter.testing.aws import Emulator, Fault, Machine, NodeFactory, NodePlan, PoolSeed, assignment_of
from lamplighter.testing.aws.factory import own_overlay

OVERLAY = own_overlay()
AUTH = {"authorization": "Bearer agent-token"}


@pytest.fixture
def stack(aws: Emulator) -> dict[str, Any]:
    return aws.seed_stack(pools={"spot": PoolSeed(boot_deadline=30, lease=5, drain=0.1)}, dead_man=None)


@pytest.fixture
def nodes(aws: Emulator, stack: dict[str, Any]) -> Iterator[NodeFactory]:
    with NodeFactory(aws, stack) as factory:
        yield factory
    assert factory.errors == []


def until(look: Callable[[], Any], timeout: float = 10) -> Any:
    end = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)
    return found


def wake(aws: Emulator, nodes: NodeFactory) -> Machine:
    before = {machine.id for machine in aws.instances()}  # the last test's machine may still be ending
    aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName="lamplighter-spot-spot", DesiredCapacity=1)
    aws.advance(1)
    machine: Machine = until(lambda: next((one for one in aws.instances(live=True) if one.id not in before), None))
    until(lambda: machine.id in nodes.nodes)
    return machine


def status(overlay: str) -> dict[str, Any]:
    return dict(httpx.get(f"http://{overlay}:7443/status", headers=AUTH).raise_for_status().json())


def said(aws: Emulator, stack: dict[str, Any]) -> list[dict[str, Any]]:
    answer = aws.client("sqs").receive_message(QueueUrl=stack["nodes_queue_url"], MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def test_a_node_serves_and_ends_when_asked(aws: Emulator, stack: dict[str, Any], nodes: NodeFactory) -> None:
    """The provider's tests stand on this."""
    machine = wake(aws, nodes)
    hello = until(lambda: [one for one in said(aws, stack) if one["kind"] == "hello"])[0]
    assert hello["instance"] == machine.id
    assert "NEBULA X25519 PUBLIC KEY" in hello["public_key"]
    assignment_of(aws, stack, machine)
    until(nodes.serving)
    assert httpx.get(f"http://{OVERLAY}:7443/health").json() == {"ok": True}
    assert httpx.get(f"http://{OVERLAY}:7443/status").status_code == 401
    assert [stage["name"] for stage in status(OVERLAY)["stages"]] == ["boot", "mesh", "pull", "load"]
    answer = httpx.post(
        f"http://{OVERLAY}:8000/v1/chat/completions",
        headers={"authorization": "Bearer engine-key"},
        json={"model": "m", "messages": []},
    )
    assert answer.status_code == 200
    assert httpx.post(f"http://{OVERLAY}:7443/end", headers=AUTH, json={"reason": "asked"}).status_code == 202
    until(lambda: nodes.node(machine.id).ended)
    until(lambda: any(one["kind"] == "end" for one in said(aws, stack)))
    until(lambda: aws.instance(machine.id).state == "shutting-down")
    aws.advance(1)
    assert aws.instances(live=True) == []


def test_a_lease_that_runs_out_ends_it(aws: Emulator, stack: dict[str, Any], nodes: NodeFactory) -> None:
    """A pretended node that lives for ever hides a keeper that forgets to renew."""
    machine = wake(aws, nodes)
    assignment_of(aws, stack, machine)
    until(nodes.serving)
    httpx.post(f"http://{OVERLAY}:7443/lease", headers=AUTH, json={"seconds": 0.2}).raise_for_status()
    until(lambda: nodes.node(machine.id).ended == "lease")


@pytest.mark.parametrize(
    ("fault", "stage", "reason"), [(Fault.BAD_IMAGE, "pull", "bad_image"), (Fault.OUT_OF_MEMORY, "load", "out_of_memory")]
)
def test_a_failed_boot_has_a_reason(
    aws: Emulator, stack: dict[str, Any], nodes: NodeFactory, fault: Fault, stage: str, reason: str
) -> None:
    """The wake card would show a guess."""
    nodes.plan = NodePlan(fault=fault)
    machine = wake(aws, nodes)
    assignment_of(aws, stack, machine)
    until(lambda: nodes.node(machine.id).failure)
    failure = status(OVERLAY)["failure"]
    assert (failure["stage"], failure["reason"]) == (stage, reason)


def test_a_silent_node_ends_by_its_boot_deadline(aws: Emulator, nodes: NodeFactory) -> None:
    """One that is never assigned must not stay."""
    nodes.plan = NodePlan(fault=Fault.SILENT)
    machine = wake(aws, nodes)
    nodes.node(machine.id).settings["boot_deadline"] = 0.2
    until(lambda: nodes.node(machine.id).ended == "boot_deadline")


def test_a_machine_that_never_boots_stays(aws: Emulator, nodes: NodeFactory) -> None:
    """Only the keeper and AWS itself can end that one."""
    nodes.plan = NodePlan(fault=Fault.NEVER_BOOTS)
    machine = wake(aws, nodes)
    time.sleep(0.1)
    assert nodes.node(machine.id).stages == []
    assert aws.instance(machine.id).state == "running"


def test_a_dead_agent_leaves_its_engine(aws: Emulator, stack: dict[str, Any], nodes: NodeFactory) -> None:
    """A node without its agent serves on, unseen: the keeper must find it."""
    nodes.plan = NodePlan(fault=Fault.AGENT_DEAD)
    machine = wake(aws, nodes)
    assignment_of(aws, stack, machine)
    until(nodes.serving)

    def dead() -> bool:
        try:
            status(OVERLAY)
        except httpx.TransportError:
            return True
        return False

    until(dead)
    assert httpx.get(f"http://{OVERLAY}:8000/health").status_code == 200


async def test_a_vanished_machine_takes_everything_with_it(aws: Emulator, stack: dict[str, Any], nodes: NodeFactory) -> None:
    """A reclaimed machine's engine would go on answering."""
    machine = wake(aws, nodes)
    assignment_of(aws, stack, machine)
    await asyncio.to_thread(until, nodes.serving)
    aws.reclaim(machine.id, 0, announced=False)
    aws.advance(0.1)

    def gone() -> bool:
        try:
            httpx.get(f"http://{OVERLAY}:8000/health", timeout=1)
        except httpx.TransportError:
            return True
        return False

    await asyncio.to_thread(until, gone)

"""Gives each instance that appears in the emulator something that lives on it: a pretended node, or whatever a test hands in; ends it with the instance."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from lamplighter.testing.aws.emulator import Emulator, Machine
from lamplighter.testing.aws.node import Clusters, FakeNode, NodePlan
from lamplighter.testing.aws.stack import node_settings

_PATIENCE = 10.0
Plan = NodePlan | Callable[[Machine], NodePlan]


class NodeFactory:
    """`with NodeFactory(aws, manifest) as nodes`: every instance of the stack becomes a FakeNode. `plan`: how they behave, or a function of the instance.
    `clusters`: what those become that are not to run an engine themselves (`testing.chain`).

    Nodes run in a loop of their own, in a thread: a test may block, or have its own loop. Change `plan` at any time for those that come.
    """

    def __init__(
        self, aws: Emulator, manifest: Mapping[str, Any], plan: Plan | None = None, *, clusters: Clusters | None = None
    ) -> None:
        self.aws = aws
        self.clusters = clusters
        self.manifest = manifest
        self.plan: Plan = plan or NodePlan()
        self.nodes: dict[str, FakeNode] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="pretended-nodes")
        self.errors: list[str] = []
        """What went wrong inside of a node itself; tests want it empty."""

    def __enter__(self) -> "NodeFactory":
        self._thread.start()
        self.aws.on_instance(self._appeared)
        self.aws.on_end(self._gone)
        return self

    def __exit__(self, *_: object) -> None:
        self.aws.forget(self._appeared, self._gone)
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def node(self, instance_id: str) -> FakeNode:
        """The node on an instance. Raises KeyError."""
        return self.nodes[instance_id]

    def serving(self) -> list[FakeNode]:
        """Nodes whose engine answers."""
        return [node for node in list(self.nodes.values()) if node.engine is not None and node.id in self._tasks]

    def run(self, call: Callable[[], Any]) -> Any:
        """The result of `call()`, a coroutine, in the nodes' loop."""
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_PATIENCE)

    def _appeared(self, instance_id: str) -> None:
        self._loop.call_soon_threadsafe(self._start, instance_id)

    def _start(self, instance_id: str) -> None:
        machine = self.aws.instance(instance_id)
        if machine.pool not in self.manifest["pools"]:
            return
        plan = self.plan if isinstance(self.plan, NodePlan) else self.plan(machine)
        node = FakeNode(self.aws, instance_id, node_settings(self.manifest, str(machine.pool)), plan, self.clusters)
        self.nodes[instance_id] = node
        task = self._loop.create_task(node.run())
        self._tasks[instance_id] = task
        task.add_done_callback(lambda done: self._done(instance_id, done))

    def _done(self, instance_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(instance_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(f"{instance_id}: {error!r}")

    def _gone(self, instance_id: str) -> None:
        def cancel() -> None:
            if task := self._tasks.get(instance_id):
                task.cancel()

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(cancel)

    async def _end_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def own_overlay() -> str:
    """A loopback address of the mesh that no other test process of this machine uses."""
    process = os.getpid()
    return f"127.77.{128 + process % 120}.{1 + process // 120 % 250}"


def assignment_of(aws: Emulator, manifest: Mapping[str, Any], machine: Machine, **changes: Any) -> dict[str, Any]:
    """Write an assignment for a node, as the keeper does; what was written. For tests without a keeper."""
    pool = manifest["pools"][str(machine.pool)]
    assignment: dict[str, Any] = {
        "version": 1, "instance": machine.id, "replica": "aws-test", "model": "m", "overlay": own_overlay(),
        "nebula": {"config.yml": "pki: {}\n", "ca.crt": "", "node.crt": ""}, "agent_token": "agent-token",
        "engine": {
            "kind": "vllm", "image": "vllm/vllm-openai", "arguments": [], "environment": {}, "key": "engine-key", "secrets": {},
            "port": 8000, "weights": "/models", "health": "/health", "prepare": [],
        },
        "hub_token_secret": None, "lease": pool["lease"], "boot_deadline": pool["boot_deadline"], "drain": pool["drain"],
    } | changes  # fmt: skip
    key = f"nodes/{machine.sender}/assignment.json"
    aws.client("s3", manifest["region"]).put_object(Bucket=manifest["bucket"], Key=key, Body=json.dumps(assignment).encode())
    return assignment


__all__ = ["NodeFactory", "assignment_of", "own_overlay"]

"""A pretended node: what runs on a real instance, inside of the test's process and on a loopback address of the mesh. It follows the protocol of the agent.

It makes a real key, sends its hello with its instance's credentials, reads its assignment, answers as the agent does and serves a pretended engine. Without
mesh, docker and bootstrap: those have their own tests, and the journeys use the real ones. With `mesh.network: 127.77.0.0/16` overlay addresses are loopback's.
"""

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.http import Exchange, HttpServer

if TYPE_CHECKING:
    from lamplighter.testing.aws.emulator import Emulator

AGENT_PORT = 7443
_POLL = 0.05
_HELLO = 15.0
"""Seconds between two hellos, as the agent has it."""


class Fault(StrEnum):
    """What goes wrong with a node."""

    NEVER_BOOTS = "never_boots"
    """The instance runs; nothing of ours ever does."""
    SILENT = "silent"
    """The agent runs and keeps its deadlines, but its hello never arrives."""
    MESH_TIMEOUT = "mesh_timeout"
    """It gets its certificate, and is never reached over the mesh."""
    BAD_IMAGE = "bad_image"
    """The container's image does not exist."""
    OUT_OF_MEMORY = "out_of_memory"
    """The model does not fit."""
    ENGINE_CRASH = "engine_crash"
    """The engine ends some time after it was ready."""
    CLUSTER = "cluster"
    """What would make it a cluster cannot be downloaded."""
    AGENT_DEAD = "agent_dead"
    """Once the engine is ready the agent dies: it neither answers nor ends the node."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """How a node behaves. Seconds of each step; `engine`: the pretended engine's behaviour (`testing.engine.Behaviour`)."""

    boot: float = 0.02
    mesh: float = 0.02
    cluster: float = 0.05
    pull: float = 0.05
    load: float = 0.05
    crash_after: float = 0.3
    fault: Fault | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Stage:
    """One stage as the agent reports it."""

    name: str
    started_at: float
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None


class Clusters(Protocol):
    """What nodes become whose assignment says `cluster` (`testing.chain.Chain`). Both may block for a moment."""

    def open(self, given: Mapping[str, Any]) -> str:
        """Become it; its kubeconfig."""
        ...

    def lose(self, given: Mapping[str, Any]) -> None:
        """The machine is gone."""
        ...


class FakeNode:
    """One node. `settings`: its node.json. `clusters`: what it becomes when it is not to run an engine itself."""

    def __init__(
        self, aws: "Emulator", instance_id: str, settings: Mapping[str, Any], plan: NodePlan, clusters: Clusters | None = None
    ) -> None:
        self._clusters = clusters
        self._kubeconfig: str | None = None
        self.aws = aws
        self.id = instance_id
        self.settings = dict(settings)
        self.plan = plan
        self.assignment: dict[str, Any] | None = None
        self.files: dict[str, str] = {}
        """Nebula's files, as assigned and as renewed."""
        self.engine: FakeEngine | None = None
        self.stages: list[Stage] = []
        self.failure: dict[str, Any] | None = None
        self.ended: str | None = None
        """The reason for which it ended itself."""
        self._state: dict[str, Any] = {"state": "waiting", "detail": None, "exit": None}
        self._boot_id = str(uuid.uuid4())
        self._born = time.monotonic()
        self._lease: float | None = None
        self._agent: HttpServer | None = None
        self._key = X25519PrivateKey.generate()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def public_key(self) -> str:
        """In Nebula's PEM."""
        raw = b64encode(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
        return f"-----BEGIN NEBULA X25519 PUBLIC KEY-----\n{raw}\n-----END NEBULA X25519 PUBLIC KEY-----\n"

    @property
    def overlay(self) -> str | None:
        """Its address in the mesh, once it has one."""
        return None if self.assignment is None else str(self.assignment["overlay"])

    # ---- its life

    async def run(self) -> None:
        """Live until cancelled, which is the end of the instance."""
        if self.plan.fault is Fault.NEVER_BOOTS:
            await asyncio.Event().wait()
        watching = asyncio.create_task(self._watch())
        self._tasks.append(watching)
        try:
            await self._work()
            await asyncio.Event().wait()
        finally:
            watching.cancel()
            for task in self._tasks:
                task.cancel()
            if self._agent is not None:
                await self._agent.stop()
            if self.engine is not None:
                await self.engine.stop()
            if self._clusters is not None and self.assignment is not None and "cluster" in self.assignment:
                await asyncio.shield(asyncio.to_thread(self._clusters.lose, self.assignment["cluster"]))

    async def _work(self) -> None:
        await self._stage("boot", self._boot)
        if self.assignment is None:
            return
        await self._stage("mesh", self._join)
        steps = (("cluster", self._cluster),) if "cluster" in self.assignment else (("pull", self._pull), ("load", self._load))
        for name, step in steps:
            if self.failure is None:
                await self._stage(name, step)
        if self.plan.fault is Fault.AGENT_DEAD and self._agent is not None:
            await self._agent.stop()
        if self.plan.fault is Fault.ENGINE_CRASH and self.engine is not None:
            await asyncio.sleep(self.plan.crash_after)
            await self.engine.stop()
            self._state = {"state": "exited", "detail": "CUDA error", "exit": 1}
            self.failure = {"stage": "load", "reason": "engine_crashed", "detail": "The engine ended with status 1."}

    async def _stage(self, name: str, step: Callable[[Stage], Awaitable[None]]) -> None:
        stage = Stage(name, time.time())
        self.stages.append(stage)
        await self._report(stage, "begin")
        await step(stage)
        if self.failure is not None:
            stage.detail = self.failure["detail"]
            await self._report(stage, "fail")
        elif stage.detail != "never":
            stage.ended_at = time.time()
            await self._report(stage, "end")

    async def _boot(self, stage: Stage) -> None:
        await asyncio.sleep(self.plan.boot)
        if self.plan.fault is Fault.SILENT:
            stage.detail = "never"
            return
        key = f"nodes/{self.settings['node_role_id']}:{self.id}/assignment.json"
        s3 = await self._client("s3")
        asked = 0.0
        while True:
            if time.monotonic() - asked > _HELLO:
                await self._send({"kind": "hello", "public_key": self.public_key})
                asked = time.monotonic()
            with contextlib.suppress(ClientError, BotoCoreError):
                answer = await asyncio.to_thread(s3.get_object, Bucket=self.settings["bucket"], Key=key)
                self.assignment = json.loads(answer["Body"].read())
                self.files = dict(self.assignment["nebula"])
                return
            await asyncio.sleep(_POLL)

    async def _join(self, stage: Stage) -> None:
        await asyncio.sleep(self.plan.mesh)
        if self.plan.fault is Fault.MESH_TIMEOUT:
            stage.detail = "never"
            await asyncio.Event().wait()
        self._agent = HttpServer(self._answer, host=str(self.overlay), port=int(self.settings.get("agent_port", AGENT_PORT)))
        await self._agent.start()

    async def _cluster(self, stage: Stage) -> None:
        self._state = {"state": "starting", "detail": None, "exit": None}
        stage.detail = "k3s"
        await asyncio.sleep(self.plan.cluster)
        if self.plan.fault is Fault.CLUSTER or self._clusters is None:
            self._fail(
                "cluster",
                "download_failed",
                "curl: (6) Could not resolve host: github.com | download failed in line 71 with status 6",
            )
            return
        assert self.assignment is not None
        self._kubeconfig = await asyncio.to_thread(self._clusters.open, self.assignment["cluster"])
        self._state = {"state": "ready", "detail": None, "exit": None}

    async def _pull(self, stage: Stage) -> None:
        self._state = {"state": "pulling", "detail": None, "exit": None}
        for step in range(4):
            stage.progress = step / 4
            await asyncio.sleep(self.plan.pull / 4)
        if self.plan.fault is Fault.BAD_IMAGE:
            self._fail("pull", "bad_image", "manifest unknown: the image does not exist")

    async def _load(self, _: Stage) -> None:
        self._state = {"state": "starting", "detail": None, "exit": None}
        await asyncio.sleep(self.plan.load)
        if self.plan.fault is Fault.OUT_OF_MEMORY:
            self._fail("load", "out_of_memory", "torch.OutOfMemoryError: CUDA out of memory.")
            return
        assert self.assignment is not None
        asked = self.assignment["engine"]
        behaviour = {"model": self.assignment["model"], "key": asked["key"], **self.plan.engine}
        self.engine = FakeEngine(host=str(self.overlay), port=int(asked["port"]), **behaviour)
        await self.engine.start()
        self._state = {"state": "ready", "detail": None, "exit": None}

    def _fail(self, stage: str, reason: str, detail: str) -> None:
        self.failure = {"stage": stage, "reason": reason, "detail": detail}
        self._state = {"state": "exited", "detail": detail, "exit": 1}

    # ---- its deadlines

    async def _watch(self) -> None:
        """End the node when nobody leases it."""
        while True:
            await asyncio.sleep(_POLL)
            if self.plan.fault is Fault.AGENT_DEAD and self._state["state"] == "ready":
                return
            if self._lease is None and time.monotonic() - self._born > self._limit("boot_deadline"):
                await self.end("boot_deadline")
                return
            if self._lease is not None and time.monotonic() > self._lease:
                await asyncio.sleep(self._limit("drain"))
                if time.monotonic() > self._lease:
                    await self.end("lease")
                    return

    def _limit(self, name: str) -> float:
        return float((self.assignment or self.settings)[name])

    async def end(self, reason: str) -> None:
        """Say so, upload the log, and end the instance without a replacement."""
        if self.ended is not None:
            return
        self.ended = reason
        s3, scaling = await self._client("s3"), await self._client("autoscaling")
        prefix = f"nodes/{self.settings['node_role_id']}:{self.id}/logs"
        with contextlib.suppress(ClientError, BotoCoreError):
            await asyncio.to_thread(
                s3.put_object, Bucket=self.settings["bucket"], Key=f"{prefix}/agent.log", Body=f"ended: {reason}\n".encode()
            )
        await self._send({"kind": "end", "reason": reason, "detail": None})
        with contextlib.suppress(ClientError, BotoCoreError):
            await asyncio.to_thread(
                scaling.terminate_instance_in_auto_scaling_group, InstanceId=self.id, ShouldDecrementDesiredCapacity=True
            )

    # ---- what it says

    async def _client(self, service: str) -> Any:
        return await asyncio.to_thread(self.aws.node_client, service, self.id)

    async def _send(self, message: Mapping[str, Any]) -> None:
        sqs = await self._client("sqs")
        body = json.dumps({"version": 1, "instance": self.id, "at": time.time(), **message})
        with contextlib.suppress(ClientError, BotoCoreError):
            await asyncio.to_thread(sqs.send_message, QueueUrl=self.settings["nodes_queue_url"], MessageBody=body)

    async def _report(self, stage: Stage, state: str) -> None:
        if self._agent is None:
            await self._send(
                {"kind": "stage", "name": stage.name, "state": state, "progress": stage.progress, "detail": stage.detail}
            )

    async def _answer(self, exchange: Exchange) -> None:
        method, path = exchange.request.method, exchange.request.path
        token = f"Bearer {self.assignment['agent_token']}" if self.assignment else ""
        allowed = hmac.compare_digest(exchange.request.headers.get("authorization", ""), token)
        body = json.loads(exchange.request.body or b"{}")
        if path == "/health":
            _json(exchange, 200, {"ok": True})
        elif not allowed:
            _json(exchange, 401, {"error": "unauthorized"})
        elif (method, path) == ("GET", "/status"):
            _json(exchange, 200, self.status())
        elif (method, path) == ("POST", "/lease"):
            self._lease = time.monotonic() + float(body["seconds"])
            _json(exchange, 200, {"remaining": float(body["seconds"])})
        elif (method, path) == ("POST", "/nebula"):
            self.files |= body["files"]
            _json(exchange, 200, {"ok": True})
        elif (method, path) == ("POST", "/end"):
            self._tasks.append(asyncio.create_task(self.end("asked")))
            _json(exchange, 202, {"ok": True})
        elif (method, path) == ("GET", "/kubeconfig") and self._kubeconfig is not None:
            exchange.answer(200, self._kubeconfig.encode(), "text/plain")
        elif (method, path) == ("GET", "/logs"):
            exchange.answer(200, b"a pretended log\n", "text/plain")
        else:
            _json(exchange, 404, {"error": "not found"})

    def status(self) -> dict[str, Any]:
        """What the agent tells."""
        notices = {"interruption": "spot/instance-action", "rebalance": "events/recommendations/rebalance"}
        found = [(kind, self.aws.metadata_text(self.id, path)) for kind, path in notices.items()]
        notice = next(({"kind": kind, "at": _when(str(text)), "detail": str(text)} for kind, text in found if text), None)
        remaining = None if self._lease is None else max(0.0, self._lease - time.monotonic())
        return {
            "version": 1, "instance": self.id, "boot_id": self._boot_id, "uptime": time.monotonic() - self._born,
            "stages": [{"name": s.name, "started_at": s.started_at, "ended_at": s.ended_at, "progress": s.progress, "detail": s.detail} for s in self.stages],
            "lease": {"remaining": remaining}, "notice": notice, "engine": self._state, "failure": self.failure,
            "certificate": {"fingerprint": None}, "public_key": self.public_key,
        }  # fmt: skip


def _when(text: str) -> float | None:
    moment = json.loads(text).get("time")
    return None if moment is None else datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def _json(exchange: Exchange, status: int, value: Any) -> None:
    exchange.answer(status, json.dumps(value).encode())


__all__ = ["AGENT_PORT", "Clusters", "FakeNode", "Fault", "NodePlan"]

"""A pretended node and its kubelet, as a client of an API server, pretended or real: pods that are assigned to it run, fail and end as a test wants.

Containers are not run. With `engines=True` a pretended engine really listens on the pod's address, so that a gateway can talk to it. Not responsible
for giving pods a node: that is the scheduler's (`Controllers`, or the real one).
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Access, Seen
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes.api import NODE_LEASES, Api
from lamplighter.testing.kubernetes.engines import PodEngine
from lamplighter.testing.kubernetes.logs import LogServer
from lamplighter.testing.kubernetes.outcomes import Outcome, Outcomes
from lamplighter.testing.kubernetes.podlife import PodLife
from lamplighter.testing.kubernetes.runner import Runner
from lamplighter.testing.kubernetes.times import now_text

_HEARTBEAT = 2.0


class Kubelet(Runner):
    """One node. `outcomes`: by model name or part of an image's name, `*` for the rest; `kubelet.outcomes["x"] = Outcome(...)` changes them later.

    `gpus`: of `gpu_resource`. `taints`: as a node's spec has them. `backoff`: seconds before a container that ended is started again, whatever
    the message says. `pre_stop`: the most seconds that a preStop command takes. `heartbeat`: seconds between two.
    """

    def __init__(
        self, access: Access, node: str = "node-1", *, gpus: int = 0, gpu_resource: str = "nvidia.com/gpu", cpu: str = "16",
        memory: str = "64Gi", labels: Mapping[str, str] | None = None, taints: Sequence[Mapping[str, Any]] = (),
        outcomes: Mapping[str, Outcome] | None = None, engines: bool = False, backoff: float = 0.3, pre_stop: float = 0.05,
        heartbeat: float = _HEARTBEAT,
    ) -> None:  # fmt: skip
        super().__init__(f"kubelet-{node}")
        self.node = node
        self.outcomes = Outcomes(outcomes)
        self.engines_wanted = engines
        self.backoff = backoff
        self.pre_stop = pre_stop
        self.images: set[str] = set()
        """Those that the node has pulled: a second pod with one starts without the pull."""
        self.logs = LogServer()
        self._access = access
        self._resources = {
            "cpu": cpu,
            "memory": memory,
            "pods": "110",
            "ephemeral-storage": "200Gi",
            **({gpu_resource: str(gpus)} if gpus else {}),
        }
        self._labels = {
            "kubernetes.io/hostname": node,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **(labels or {}),
        }
        self._taints = [dict(one) for one in taints]
        self._heartbeat = heartbeat
        self._dead = False
        self._lives: dict[str, PodLife] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Register the node, keep it alive, and run its pods."""
        api = Api(self._access, "kubelet")
        await self.logs.start()
        beating: asyncio.Task[None] | None = None
        try:
            await self._register(api)
            beating = asyncio.create_task(self._beat(api))
            async for change in api.cluster.watch(known.POD, ALL_NAMESPACES, fields={"spec.nodeName": self.node}):
                if self._dead:
                    continue
                if change.seen is Seen.LISTED:
                    there = {one["metadata"]["uid"] for one in change.items}
                    for one in change.items:
                        self._heard(api, one)
                    for uid in set(self._lives) - there:
                        self._vanished(uid)
                    self.ready.set()
                elif change.seen in (Seen.ADDED, Seen.MODIFIED):
                    self._heard(api, change.object)
                elif change.seen is Seen.DELETED:
                    self._vanished(change.object["metadata"]["uid"])
        finally:
            tasks = [*self._tasks.values(), *([beating] if beating is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.logs.stop()
            await api.close()

    def _heard(self, api: Api, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        life = self._lives.get(uid)
        if life is None:
            if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
                if pod["metadata"].get("deletionTimestamp"):
                    self._tasks[uid] = asyncio.create_task(api.delete(known.POD, pod, 0))
                return
            life = self._lives[uid] = PodLife(self, api, pod, self.outcomes.of(pod))
            self._tasks[uid] = asyncio.create_task(life.run())
        else:
            life.heard(pod)

    def _vanished(self, uid: str) -> None:
        """It was deleted by force: what still runs of it ends at once."""
        self._lives.pop(uid, None)
        task = self._tasks.pop(uid, None)
        if task is not None:
            task.cancel()

    # ---- the node

    async def _register(self, api: Api) -> None:
        body = {"metadata": {"name": self.node, "labels": self._labels}, "spec": {"taints": self._taints} if self._taints else {}}
        try:
            await api.create(known.NODE, None, body)
        except KubernetesError as error:
            if error.status != 409:
                raise
        await self._status(api)
        with contextlib.suppress(KubernetesError):
            await api.create(
                known.LEASE, NODE_LEASES, {"metadata": {"name": self.node, "namespace": NODE_LEASES}, "spec": self._lease()}
            )

    async def _status(self, api: Api) -> None:
        conditions = [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"},
            *({"type": f"{one}Pressure", "status": "False", "reason": f"KubeletHasNo{one}Pressure", "message": ""} for one in ("Memory", "Disk", "PID")),
        ]  # fmt: skip
        status = {
            "capacity": self._resources, "allocatable": self._resources,
            "conditions": [{**one, "lastHeartbeatTime": now_text(), "lastTransitionTime": now_text()} for one in conditions],
            "addresses": [{"type": "InternalIP", "address": self.logs.host}, {"type": "Hostname", "address": self.node}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.logs.port}},
            "nodeInfo": {
                "machineID": self.node, "systemUUID": self.node, "bootID": self.node, "kernelVersion": "6.1.0", "osImage": "pretended",
                "containerRuntimeVersion": "pretended://0", "kubeletVersion": "v1.34.0-lamplighter-fake", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        }  # fmt: skip
        await api.merge(known.NODE, None, self.node, {"status": status}, "status")

    def _lease(self) -> Manifest:
        return {"holderIdentity": self.node, "leaseDurationSeconds": 40, "renewTime": now_text(micro=True)}

    async def _beat(self, api: Api) -> None:
        posted = time.monotonic()
        while True:
            await asyncio.sleep(self._heartbeat)
            if self._dead:
                continue
            with contextlib.suppress(KubernetesError):
                if await api.merge(known.LEASE, NODE_LEASES, self.node, {"spec": self._lease()}) is None:
                    await self._register(api)
                if time.monotonic() - posted > 4 * self._heartbeat:
                    await self._status(api)
                    posted = time.monotonic()

    # ---- what a test does to it, from any thread

    def engine(self, pod: str) -> PodEngine:
        """The pretended engine of a pod that serves. Raises KeyError."""
        for life in list(self._lives.values()):
            if life.name == pod and life.engine is not None:
                return life.engine
        raise KeyError(pod)

    def engine_list(self) -> list[PodEngine]:
        """All that serve now."""
        return [life.engine for life in list(self._lives.values()) if life.engine is not None]

    def crash(self, pod: str, exit: int = 137, reason: str = "Error") -> None:
        """The container of a pod ends now, in the middle of what it does (`reason` "OOMKilled": for memory); it is started again."""
        life = next(one for one in list(self._lives.values()) if one.name == pod)
        self.background.loop.call_soon_threadsafe(life.end_container, exit, reason)

    def die(self) -> None:
        """The machine is gone: its engines are cut off, nobody says so, nothing of it is updated any more."""

        async def end() -> None:
            self._dead = True
            for life in self._lives.values():
                await life.cut()
            for task in self._tasks.values():
                task.cancel()
            await self.logs.stop()

        self.background.call(end())

    def set_allocatable(self, **resources: str) -> None:
        """Change what the node offers, as when its GPU falls off the bus: `set_allocatable(**{"nvidia.com/gpu": "0"})`."""
        self._resources |= resources

        async def tell() -> None:
            api = Api(self._access, "kubelet")
            await self._status(api)
            await api.close()

        self.background.call(tell())


__all__ = ["Kubelet"]

"""The pretended other half of a federated pool: a home cluster, a cluster for each pretended node, and a pretended Liqo that joins them.

With `lamplighter.testing.aws` it is the whole chain on one machine: the pod that home asks for becomes, through pretended Liqo, a pod of the node's
cluster, whose pretended kubelet runs a pretended engine on loopback. Every part is a stand-in and says so itself; the home cluster may be a real one.
"""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Self

import yaml

from lamplighter.providers.kubernetes.access import Access
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Kubelet, Outcome
from lamplighter.testing.kubernetes.background import Background
from lamplighter.testing.liqo import FakeLiqo, Member

K3S = "/etc/rancher/k3s/config.yaml"
LIQO = "/etc/lamplighter/cluster/manifests/lamplighter-liqo.yaml"


class Chain:
    """`with Chain() as chain`. `home`: another home cluster than a pretended one. `noticed`: seconds until Kubernetes notices a lost node (really 40).

    `rbac`: whether Roles count at a pretended home. `outcomes`: how pods on nodes turn out, by model; see `testing.kubernetes.Outcome`.
    `faults`: of the Liqo on nodes that come; see `FakeLiqo`.
    """

    def __init__(
        self,
        *,
        home: Access | None = None,
        home_id: str = "home",
        gpus: int = 1,
        noticed: float = 0.5,
        outcomes: Mapping[str, Outcome] | None = None,
        rbac: bool = False,
    ) -> None:
        self.cluster: FakeCluster | None = None if home is not None else FakeCluster(name="home", rbac=rbac)
        self.outcomes = dict(outcomes or {})
        self.faults: set[str] = set()
        self.cut = False
        """Whether nodes that come are cut off from home's end of the tunnel."""
        self.gpus = gpus
        self.liqo = FakeLiqo(not_ready_after=noticed, schedules=home is None)
        self.home_id = home_id
        self.clusters: dict[str, FakeCluster] = {}
        self.kubelets: dict[str, Kubelet] = {}
        self._schedulers: dict[str, Controllers] = {}
        self._access = home
        self._controllers: Controllers | None = None
        self._background = Background("fake-liqo")
        self._ended = asyncio.Event()
        self._lock = threading.Lock()
        self._rounds: asyncio.Task[None] | None = None

    @property
    def access(self) -> Access:
        """How the home cluster is reached."""
        if self._access is None:
            assert self.cluster is not None
            self._access = self.cluster.access()
        return self._access

    @property
    def living(self) -> list[str]:
        """The clusters of nodes that run."""
        return sorted(self.kubelets)

    # --- its life -----------------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self.cluster is not None:
            self.cluster.start()
            self._controllers = Controllers(self.access, scheduling=False).start()
        self._background.start()
        self._background.call(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._background.call(self._end())
        self._background.stop()
        for name in list(self.kubelets):
            self._stop(name)
        if self._controllers is not None:
            self._controllers.stop()
        if self.cluster is not None:
            self.cluster.stop()

    async def _begin(self) -> None:
        await self.liqo.add(self.home_id, Cluster.connect(self.access), pods="10.244.0.0/16")
        ready = asyncio.Event()

        async def rounds() -> None:
            self._ended = asyncio.Event()
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.liqo.running())
                ready.set()
                await self._ended.wait()

        self._rounds = asyncio.create_task(rounds())
        await ready.wait()

    async def _end(self) -> None:
        self._ended.set()
        if self._rounds is not None:
            await self._rounds
        for member in list(self.liqo.members.values()):
            await member.client.close()

    # --- what nodes are told to do -------------------------------------------------------------------------------------------------------

    def open(self, given: Mapping[str, Any]) -> str:
        """Become what the assignment's `cluster` says; its kubeconfig as k3s would write it. May block for some tens of milliseconds."""
        name = str(yaml.safe_load(given["files"][K3S])["node-name"])
        version = str(yaml.safe_load(given["files"][LIQO])["spec"]["version"])
        cluster = FakeCluster(name=name).start()
        # As k3s does where it finds NVIDIA's runtime.
        nvidia = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}
        cluster.create(nvidia)
        controllers = Controllers(cluster.access()).start()
        kubelet = Kubelet(cluster.access(), name, gpus=self.gpus, engines=True, outcomes=self.outcomes).start()
        with self._lock:
            self.clusters[name], self.kubelets[name], self._schedulers[name] = cluster, kubelet, controllers
        self._background.call(self._join(name, cluster, version))
        return yaml.safe_dump(cluster.kubeconfig())

    async def _join(self, name: str, cluster: FakeCluster, version: str) -> Member:
        if self.cut:
            self.liqo.cut(self.home_id, name)
        return await self.liqo.add(name, Cluster.connect(cluster.access()), version=version, faults=set(self.faults))

    def lose(self, given: Mapping[str, Any]) -> None:
        """The machine is gone this instant, with its API server, its pods and its end of the tunnel."""
        name = str(yaml.safe_load(given["files"][K3S])["node-name"])
        if name not in self.kubelets:
            return
        if self._background.running:
            self._background.call(self._lose(name))
        self._stop(name)

    async def _lose(self, name: str) -> None:
        if name in self.liqo.members:
            self.liqo.lose(name)

    def _stop(self, name: str) -> None:
        with self._lock:
            kubelet, cluster, controllers = (
                self.kubelets.pop(name, None),
                self.clusters.get(name),
                self._schedulers.pop(name, None),
            )
        for runner in (kubelet, controllers):
            if runner is not None:
                runner.stop()
        if cluster is not None:
            cluster.stop()


__all__ = ["Chain"]

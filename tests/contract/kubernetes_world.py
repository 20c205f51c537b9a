"""A pretended cluster with a provider on it, for the provider's contract and its tests."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.core.clock import SystemClock
from lamplighter.engines.base import Accelerator, Container
from lamplighter.providers.base import Desired, Observation, Presence, Provider
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.janitor import release
from lamplighter.providers.kubernetes.kinds import NAMESPACE as NAMESPACE_KIND
from lamplighter.providers.kubernetes.kinds import NODE, POD
from lamplighter.providers.kubernetes.provider import KubernetesProvider
from lamplighter.testing.kubernetes.cluster import FakeCluster
from lamplighter.testing.kubernetes.controllers import Controllers
from lamplighter.testing.kubernetes.kubelet import Kubelet
from lamplighter.testing.provider import FakeEngineKind

NAMESPACE = "models"
MODELS = {
    name: ModelConfig.model_validate({"engine": "fake", "pool": "gpu", "source": f"hf:org/{name}"}) for name in ("one", "two")
}


RULES: list[dict[str, Any]] = [
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"], "verbs": ["get", "patch", "update"]},
    {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create", "patch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
]  # fmt: skip
"""The keeper's, as the chart makes it: nothing in the whole cluster."""


def role(namespace: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A Role for the account `keeper`, and its binding."""
    group, meta = "rbac.authorization.k8s.io", {"name": "keeper", "namespace": namespace}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "keeper"},
            "subjects": [{"kind": "ServiceAccount", "name": "keeper", "namespace": namespace}],
        },
    ]  # fmt: skip


class PodEngineKind(FakeEngineKind):
    """The pretended engine, in a container."""

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        """See `Containerised`."""
        return Container(
            image=config.image or "registry.example/fake-engine:1",
            arguments=("--served-model-name", name, *config.arguments),
            secrets={"ENGINE_KEY": "key", "HF_TOKEN": "hub_token"},
            port=8000,
            ready="/health",
            shared_memory=2**30,
            member_arguments=("--headless",) if accelerator is not None and accelerator.nodes > 1 else None,
        )


def pool(**settings: Any) -> KubernetesPool:
    """Its settings."""
    return KubernetesPool.model_validate({"kind": "kubernetes", "namespace": NAMESPACE, "max_replicas": 4, **settings})


class KubernetesWorld:
    """Implements `ProviderWorld` on a cluster that may be pretended or real."""

    model = "one"

    def __init__(
        self, access: Access, settings: KubernetesPool | None = None, models: Mapping[str, ModelConfig] | None = None
    ) -> None:
        self.access = access
        self.settings = settings or pool()
        self.models = dict(models or MODELS)
        self.made: list[KubernetesProvider] = []
        self.provider: KubernetesProvider = self.make("ins_ours")

    def make(self, installation: str, settings: KubernetesPool | None = None) -> KubernetesProvider:
        """Another object for the same pool."""
        provider = KubernetesProvider(
            "gpu",
            settings or self.settings,
            models=lambda: self.models,
            engines={"fake": PodEngineKind()},
            installation=installation,
            clock=SystemClock(),
            access=self.access,
        )
        self.made.append(provider)
        return provider

    def another(self) -> Provider:
        return self.make("ins_ours")

    def foreign(self) -> Provider:
        return self.make("ins_theirs")

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], provider: Provider | None = None, seconds: float = 30
    ) -> Sequence[Observation]:
        provider = provider or self.provider
        end = time.monotonic() + seconds
        while True:
            await provider.renew()
            seen = await provider.observe()
            if met(seen):
                return seen
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.02)

    async def crash(self, handle: str) -> None:
        raise NotImplementedError

    async def abandon(self) -> None:
        """The CronJob comes by long after the last renewal."""
        cluster = Cluster.connect(self.access)
        try:
            assert await release(cluster, cluster.namespace, now=time.time() + 3600)
        finally:
            await cluster.close()
        await self.until(lambda seen: all(one.presence is Presence.ENDED for one in seen))

    async def close(self) -> None:
        """Of all objects made."""
        for one in self.made:
            await one.close()

    async def wake(self, count: int = 1) -> Sequence[Observation]:
        """Scale the model and wait for its replicas."""
        await self.provider.scale(Desired({self.model: count}), frozenset())
        return await self.until(lambda seen: len(seen) == count and all(one.endpoint is not None for one in seen))


class FakeWorld(KubernetesWorld):
    """On the pretended cluster. `cluster`, `kubelet`: to make things go wrong with."""

    def __init__(self, cluster: FakeCluster, kubelet: Kubelet, **more: Any) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        super().__init__(cluster.access(namespace=NAMESPACE), **more)

    async def crash(self, handle: str) -> None:
        self.kubelet.crash(handle.rpartition(".")[0], exit=139)


class RealWorld(KubernetesWorld):
    """On a real control plane, in a namespace of its own, with a pretended node."""

    def __init__(self, access: Access, namespace: str, kubelet: Kubelet, **more: Any) -> None:
        self.kubelet = kubelet
        super().__init__(access, pool(namespace=namespace, node_selector={"lamplighter.dev/test": namespace}), **more)

    async def crash(self, handle: str) -> None:
        self.kubelet.crash(handle.rpartition(".")[0], exit=139)


@asynccontextmanager
async def real_world(plane: Any, **more: Any) -> AsyncIterator[RealWorld]:
    """A namespace and a node for one test; both are deleted after it."""
    name = f"contract-{secrets.token_hex(4)}"
    cluster = Cluster.connect(plane.access())
    try:
        await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        kubelet = Kubelet(plane.access(), f"node-{name}", gpus=8, labels={"lamplighter.dev/test": name})
        with kubelet:
            world = RealWorld(plane.access(namespace=name), name, kubelet, **more)
            try:
                yield world
            finally:
                await world.close()
                await cluster.delete(NAMESPACE_KIND, name)
                await _emptied(cluster, name)
        await cluster.delete(NODE, f"node-{name}")
    finally:
        await cluster.close()


async def _emptied(cluster: Cluster, namespace: str) -> None:
    """Until its pods are gone, which the pretended kubelet must still see to."""
    end = time.monotonic() + 30
    while await cluster.list(POD, namespace):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


@asynccontextmanager
async def fake_world(*, rbac: bool = False, gpus: int = 8, **more: Any) -> AsyncIterator[FakeWorld]:
    """One node with GPUs, and the controllers."""
    with FakeCluster(rbac=rbac) as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        kubelet = Kubelet(cluster.access(), gpus=gpus)
        with Controllers(cluster.access()), kubelet:
            world = FakeWorld(cluster, kubelet, **more)
            try:
                yield world
            finally:
                await world.close()

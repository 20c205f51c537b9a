"""What conformance tests of the API share: a server, pretended or real, a namespace of their own on it, and a pretended node.

Not a test. The real server is `long`'s.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Kubelet
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster

PATIENCE = 30.0
DEFINITION = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


@dataclass
class Bench:
    """One API server, a namespace of this test's own, and the administrator's client."""

    server: Any
    client: Cluster
    space: str

    @property
    def fake(self) -> bool:
        return isinstance(self.server, FakeCluster)

    @property
    def short(self) -> str:
        """Seconds of a watch in which a server tells all that happened before."""
        return "1" if self.fake else "3"

    def deployment(self, name: str = "engine", image: str = "example.org/engine:1", replicas: int | None = None) -> Manifest:
        spec: Manifest = {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "engine", "image": image, "ports": [{"name": "engine", "containerPort": 8000}]}]
                },
            },
        }
        if replicas is not None:
            spec["replicas"] = replicas
        meta = {"name": name, "namespace": self.space, "labels": {"app": name}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}

    def config_map(self, name: str, **labels: str) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.space, "labels": labels},
            "data": {"a": "1"},
        }

    async def get(self, kind: Kind, name: str) -> Manifest:
        return await self.client.get(kind, name, self.space)

    async def refused(self, work: Any) -> KubernetesError:
        """The refusal of a call that must be refused."""
        with pytest.raises(KubernetesError) as caught:
            await work
        return caught.value

    async def as_account(self, name: str) -> Cluster:
        """The client of a ServiceAccount of this namespace."""
        token = await asyncio.to_thread(self.server.account, self.space, name)
        return Cluster.connect(self.server.access(token, self.space))

    async def until(self, look: Callable[[], Any], what: str) -> Any:
        """The first truthy result of a coroutine function."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            if found := await look():
                return found
            assert loop.time() < end, f"waited {PATIENCE:g} s in vain: {what}"
            await asyncio.sleep(0.05)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.long)])
def api_server(request: pytest.FixtureRequest) -> Iterator[FakeCluster | ControlPlane | LentCluster]:
    """The pretended API server and the real one."""
    if request.param == "real":
        yield request.getfixturevalue("real_cluster")
    else:
        with FakeCluster(rbac=True) as cluster:
            yield cluster


@pytest.fixture
async def bench(api_server: FakeCluster | ControlPlane | LentCluster) -> AsyncIterator[Bench]:
    """A namespace of its own on it."""
    client = Cluster.connect(api_server.access())
    space = f"t-{uuid.uuid4().hex[:10]}"
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    yield Bench(api_server, client, space)
    await client.delete(known.NAMESPACE, space)
    await client.close()


@pytest.fixture
def gpu_node(api_server: FakeCluster | ControlPlane | LentCluster) -> Iterator[Kubelet]:
    """A pretended node with one GPU; on the pretended server controllers and scheduler are pretended too."""
    if isinstance(api_server, LentCluster):
        pytest.skip("a lent cluster has nodes of its own: no pretended one joins it")
    name = f"node-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        if isinstance(api_server, FakeCluster):
            stack.enter_context(Controllers(api_server.access()))
        yield stack.enter_context(Kubelet(api_server.access(), name, gpus=1, labels={"test": name}))
        if isinstance(api_server, ControlPlane):
            api_server.http.delete(f"/api/v1/nodes/{name}")


async def events(bench: Bench, kind: Kind, **params: str) -> list[Manifest]:
    """All events of one watch, until the server ends it."""
    import json

    heard = []
    http = bench.client._http
    async with http.stream("GET", kind.path(bench.space), params={"watch": "true", **params}, timeout=PATIENCE) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            heard.append(json.loads(line))  # noqa: PERF401 - an await in a comprehension reads worse
    return heard

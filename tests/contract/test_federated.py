"""The provider contract against `aws` with `federation: liqo`: emulated AWS, pretended nodes and clusters, a pretended Liqo. Nothing is proven."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config.federation import FederationConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import SystemClock
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.federation import names as liqo_names
from lamplighter.federation import node_passage
from lamplighter.federation.node_provider import FederatedProvider
from lamplighter.federation.node_workload import REPLICA
from lamplighter.providers.base import Desired, Presence
from lamplighter.testing.aws import Emulator, Fault, NodePlan
from lamplighter.testing.chain import Chain
from lamplighter.testing.contracts import ProviderContract
from lamplighter.testing.contracts.provider import ready
from lamplighter.testing.kubernetes import Outcome
from lamplighter.testing.kubernetes import Fault as PodFault
from tests.contract.aws_world import MODELS, OURS, REGION, AwsWorld, ContainedFake, make_data, mesh_of


class ChainWorld(AwsWorld):
    """The stack of AwsWorld, whose nodes become clusters that join a pretended home."""

    def __init__(self, aws: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch, chain: Chain) -> None:
        self.chain = chain
        super().__init__(aws, data, monkeypatch)
        self.nodes.clusters = chain

    def make(  # type: ignore[override] # another provider, with the same ways to make one
        self,
        installation: str = OURS,
        stack: str | None = None,
        name: str = "gpu",
        federation: dict[str, Any] | None = None,
        **pool: Any,
    ) -> FederatedProvider:
        settings = {
            "kind": "aws", "region": REGION, "stack": stack or self.stack, "max_replicas": 2, "instance_types": ["g4dn.xlarge"], "federation": "liqo",
        }  # fmt: skip
        provider = FederatedProvider(
            name,
            AwsPool.model_validate({**settings, **self.pool, **pool}),
            federation=FederationConfig.model_validate(federation or {}),
            models=lambda: MODELS,
            engines={"fake": ContainedFake()},
            mesh=mesh_of(self.data),
            data=self.data,
            installation=installation,
            clock=SystemClock(),
            home=lambda: self.home(),
        )
        self._stack.push_async_callback(provider.close)
        return provider

    def home(self) -> Any:
        """A client of the home cluster."""
        from lamplighter.providers.kubernetes.client import Cluster

        return Cluster.connect(self.chain.access)

    def left(self) -> list[str]:
        """What is left of any peering or pod in the home cluster."""
        home = self.chain.cluster
        assert home is not None
        kinds = ("Deployment", "Pod")
        found = [f"{kind} {one['metadata']['name']}" for kind in kinds for one in home.all(kind, "llm-inference")]
        for kind in liqo_names.ALL:
            found += [
                f"{kind.kind} {one['metadata']['name']}"
                for one in home.all(kind.kind)
                if liqo_names.REMOTE_ID in (one["metadata"].get("labels") or {})
            ]
        found += [f"Node {one['metadata']['name']}" for one in home.all("Node")]
        found += [
            f"Namespace {one['metadata']['name']}"
            for one in home.all("Namespace")
            if one["metadata"]["name"].startswith("liqo-tenant-")
        ]
        return found


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    with Emulator(region=REGION) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
async def world(aws: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChainWorld]:
    chain = await asyncio.to_thread(Chain().__enter__)
    try:
        world = ChainWorld(aws, data, monkeypatch, chain)
        yield world
        await world.close()
    finally:
        await asyncio.to_thread(chain.__exit__)


class TestContract(ProviderContract):
    """`aws`, federated."""


async def eventually(
    met: Callable[[], object], what: Callable[[], object] = lambda: "it did not happen", limit: float = 20.0
) -> None:
    end = time.monotonic() + limit
    while not met():
        assert time.monotonic() < end, what()
        await asyncio.sleep(0.05)


async def test_the_whole_chain_tells_its_stages_and_leaves_nothing(world: ChainWorld) -> None:
    """A person would not know what the minutes are spent on; and what stays behind in either cluster costs, or stands in the way."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    assert [stage.name for stage in one.stages] == [
        "capacity",
        "boot",
        "mesh",
        "cluster",
        "federation",
        "schedule",
        "pull",
        "load",
    ]
    assert one.rate is None or one.rate.hourly > 0
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    told = {seen[0].detail for seen in [await world.provider.observe()] if seen}
    assert told
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left)
    assert not world.live()
    assert world.desired() == 0

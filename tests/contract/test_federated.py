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
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.federation import names as liqo_names
from lamplighter.federation import node_passage
from lamplighter.federation.node_provider import FederatedProvider
from lamplighter.providers.base import Desired, Presence
from lamplighter.providers.kubernetes.access import Access
from lamplighter.testing.aws import Emulator, Fault, NodePlan
from lamplighter.testing.chain import Chain
from lamplighter.testing.contracts import ProviderContract
from lamplighter.testing.contracts.provider import ready
from lamplighter.testing.kubernetes import Fault as PodFault
from lamplighter.testing.kubernetes import Outcome
from tests.contract.aws_world import MODELS, OURS, REGION, AwsWorld, ContainedFake, make_data, mesh_of


class ChainWorld(AwsWorld):
    """The stack of AwsWorld, whose nodes become clusters that join a pretended home."""

    lease = 6.0
    token: Access | None = None
    """As whom the provider comes to the home cluster; default: as its administrator."""

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
            home=self.home,
        )
        self._stack.push_async_callback(provider.close)
        return provider

    def home(self) -> Any:
        """A client of the home cluster."""
        from lamplighter.providers.kubernetes.client import Cluster

        return Cluster.connect(self.token or self.chain.access)

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


@pytest.mark.long
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


async def test_a_lost_machine_leaves_no_hanging_pod_and_no_stale_node(world: ChainWorld) -> None:
    """A pod that hangs Terminating and a node that is no more: the next wake's pod might be put there, and wait for ever."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    world.aws.reclaim(world.instance(one.handle), seconds=0)
    (lost,) = await world.until(lambda seen: seen[0].presence is Presence.ENDED)
    assert lost.loss is LossReason.SPOT_RECLAIMED
    assert lost.endpoint is None
    await eventually(lambda: not world.left(), world.left)
    await world.provider.scale(Desired({"one": 1}), frozenset({one.handle}))
    (new,) = await world.until(lambda seen: ready(seen) and seen[0].handle != one.handle, limit=60)
    assert new.endpoint is not None
    await world.provider.scale(Desired({}), frozenset({new.handle}))
    assert not await world.until(lambda seen: not seen)


@pytest.mark.long
async def test_a_spot_notice_is_passed_on(world: ChainWorld) -> None:
    """Two minutes in which another machine could take over would pass unused."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    world.aws.reclaim(world.instance(one.handle), seconds=30)
    (noticed,) = await world.until(lambda seen: seen[0].notice is not None)
    assert noticed.endpoint == one.endpoint, "it still answers"
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left)


async def test_another_minor_of_liqo_is_refused_with_both_versions(world: ChainWorld) -> None:
    """Two that do not understand each other would wait for each other until the deadline, at the price of a GPU."""
    provider = world.make(federation={"liqo_version": "v1.3.0"})
    await provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure), provider)
    assert one.failure is WakeFailure.FEDERATION_FAILED
    assert one.detail is not None
    assert "v1.2.0" in one.detail
    assert "v1.3.0" in one.detail
    await provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen, provider)
    await eventually(lambda: not world.left(), world.left)
    assert not world.live()


async def test_a_gateway_that_is_not_reached_is_told_and_ends_the_wake(
    world: ChainWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall between two gateways would be waited for until the boot deadline, without a word of what is wrong."""
    monkeypatch.setattr(node_passage, "JOIN_LIMIT", 4.0)
    world.chain.cut = True
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (waiting,) = await world.until(
        lambda seen: bool(seen and seen[0].stages[-1].name == "federation" and seen[0].stages[-1].detail)
    )
    assert waiting.failure is None
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure))
    assert one.failure is WakeFailure.FEDERATION_FAILED
    assert "not within" in (one.detail or "")
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left)


async def test_what_cannot_become_a_cluster_says_why(world: ChainWorld) -> None:
    """Nobody would know that the machine has no way to the internet."""
    world.nodes.plan = NodePlan(fault=Fault.CLUSTER)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure))
    assert one.failure is WakeFailure.DOWNLOAD_FAILED
    assert "Could not resolve host" in (one.detail or "")
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)


async def test_a_pod_that_cannot_run_says_why_in_the_kubelets_words(world: ChainWorld) -> None:
    """The reason is four clusters away; the person at the chat sees it all the same."""
    world.chain.outcomes["one"] = Outcome(
        fault=PodFault.IMAGE_PULL, message="manifest for example/fake:1 not found: manifest unknown"
    )
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen and seen[0].failure))
    assert one.failure is WakeFailure.BAD_IMAGE
    assert "example/fake:1" in (one.detail or "")
    assert one.stages[-1].name == "pull"
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left)


@pytest.mark.long
async def test_a_pod_that_somebody_deletes_is_a_loss(world: ChainWorld) -> None:
    """Its conversations are gone with it: they must be told, and a machine with an unknown pod must not be taken for the old one."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    home = world.chain.cluster
    assert home is not None
    (pod,) = home.all("Pod", "llm-inference")
    home.delete("Pod", pod["metadata"]["name"], "llm-inference")
    (lost,) = await world.until(lambda seen: seen[0].presence is Presence.ENDED)
    assert lost.loss is LossReason.VANISHED
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left)


@pytest.mark.long
async def test_liqo_that_hangs_holds_no_machine(world: ChainWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tidiness must not cost money: the machine ends although its peering cannot be taken apart."""
    monkeypatch.setattr(node_passage, "PART_LIMIT", 2.0)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    member = world.chain.liqo.members["home"]
    member.down = True
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await eventually(lambda: not world.live(), limit=15)
    assert world.left(), "something hangs, which is why this test is here"
    member.down = False
    assert not await world.until(lambda seen: not seen)
    await eventually(lambda: not world.left(), world.left, limit=60)


@pytest.mark.long
async def test_home_that_does_not_answer_holds_no_machine(world: ChainWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server is away for an upgrade, and a GPU bills until it is back."""
    monkeypatch.setattr(node_passage, "PART_LIMIT", 2.0)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(ready)
    home = world.chain.cluster
    assert home is not None
    home.fail("*", "*", 503, None)
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await eventually(lambda: not world.live(), limit=20)
    home.heal()
    assert not await world.until(lambda seen: not seen, limit=60)
    await eventually(lambda: not world.left(), world.left, limit=60)


@pytest.mark.long
async def test_a_restarted_keeper_adopts_in_every_phase(world: ChainWorld) -> None:
    """A crash of ours in the middle of a handshake would leave half a peering, or buy a second machine."""
    world.nodes.plan = NodePlan(boot=0.3, mesh=0.2, cluster=0.5)
    world.chain.outcomes["one"] = Outcome(pull=0.8, load=0.8)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    phases: set[str] = set()
    provider: FederatedProvider = world.make()
    handles = set[str]()
    end = time.monotonic() + 60
    while True:
        (one,) = await world.until(lambda seen: len(seen) == 1, provider)
        handles.add(one.handle)
        if one.endpoint is not None:
            break
        assert one.failure is None, one
        assert time.monotonic() < end, one
        if one.stages and one.stages[-1].name not in phases:
            phases.add(one.stages[-1].name)
            await provider.close()  # as far as its successor can tell, it was killed
            provider = world.make()
        await asyncio.sleep(0.05)
    assert len(handles) == 1
    assert len(world.aws_launched()) == 1
    assert {"cluster", "federation"} <= phases, phases
    await provider.scale(Desired({}), frozenset({one.handle}))
    last = world.make()
    await provider.close()  # in the middle of the way out
    await last.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen, last)
    await eventually(lambda: not world.left(), world.left)


@pytest.mark.long
async def test_what_a_keeper_left_behind_is_cleared_by_the_next(world: ChainWorld) -> None:
    """It was killed, and the machine ended by its lease: nobody else knows of the peering."""
    await world.provider.scale(Desired({"one": 1}), frozenset())
    await world.until(ready)
    await world.provider.close()
    end = time.monotonic() + 20
    while world.live():
        assert time.monotonic() < end, "the lease ends it"
        await asyncio.sleep(0.1)
    assert world.left()
    after = world.make()
    seen = await after.observe()
    await after.scale(Desired({}), frozenset(one.handle for one in seen))
    assert not await world.until(lambda seen: not seen, after)
    await eventually(lambda: not world.left(), world.left, limit=60)


async def test_without_liqo_at_home_no_machine_is_bought(world: ChainWorld) -> None:
    """A GPU would be paid for minutes, to be told at their end what was known at their beginning."""
    home = world.chain.cluster
    assert home is not None
    world.chain.liqo.members["home"].down = True
    home.delete("CustomResourceDefinition", "namespaceoffloadings.offloading.liqo.io")
    with pytest.raises(ProviderError) as refused:
        await world.provider.scale(Desired({"one": 1}), frozenset())
    assert refused.value.reason is WakeFailure.FEDERATION_FAILED
    assert "federation install" in refused.value.advice
    assert not world.live()
    assert world.desired() == 0
    assert not await world.provider.observe()

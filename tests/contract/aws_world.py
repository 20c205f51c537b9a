"""The provider `aws` and an emulated AWS around it, whose instances become pretended nodes on loopback addresses."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import SystemClock
from lamplighter.engines.base import Accelerator, Container
from lamplighter.mesh.administration import make_authority
from lamplighter.mesh.storage import MeshFolder
from lamplighter.providers.aws import AwsProvider
from lamplighter.providers.aws.client import AwsError
from lamplighter.providers.aws.prices import Prices
from lamplighter.providers.base import Observation, Provider
from lamplighter.testing.aws import Emulator, FakeNode, NodeFactory, NodePlan, PoolSeed
from lamplighter.testing.aws.world import current
from lamplighter.testing.provider import FakeEngineKind

_NUMBERS = count()
OURS, THEIRS = "ins_ours", "ins_theirs"
LEASE, DRAIN, BOOT = 3.0, 0.3, 60.0
REGION = "eu-central-1"
PASSPHRASE = "a passphrase of the tests"
MODELS = {
    "one": ModelConfig.model_validate({"engine": "fake", "pool": "gpu"}),
    "two": ModelConfig.model_validate({"engine": "fake", "pool": "gpu"}),
}


class ContainedFake(FakeEngineKind):
    """The pretended engine, as if it had a container."""

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        return Container(image="example/fake:1", arguments=("--model", name), secrets={"KEY": "key"})


async def _no_price_list(self: Prices) -> None:
    raise AwsError("The emulated AWS has no price list.")


def mesh_of(data: Path) -> MeshConfig:
    """A mesh whose addresses are loopback's."""
    return MeshConfig.model_validate(
        {
            "network": "127.77.0.0/16",
            "nodes": "127.77.128.0/17",
            "home": "127.77.0.10",
            "lighthouses": [{"name": "light", "overlay": "127.77.0.1", "addresses": ["127.0.0.1:4242"]}],
            "passphrase": f"file:{data / 'passphrase'}",
        }
    )


def make_data(folder: Path) -> Path:
    """A data folder with an online authority."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passphrase").write_text(PASSPHRASE)
    make_authority(MeshFolder(folder / "mesh"), mesh_of(folder), "online", PASSPHRASE, time.time())
    return folder


class AwsWorld:
    """One stack of ours and one of somebody else in one account. Close it."""

    model = "one"
    lease = LEASE

    def __init__(self, aws: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch, **pool: Any) -> None:
        self.aws = aws
        self.data = data
        self.pool = pool
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(Prices, "_ask_on_demand", _no_price_list)
        aws.capacity.clear()
        self.number = next(_NUMBERS)  # a stack for each test: to empty the account takes longer
        self.stack = f"ours{self.number}"
        seed = PoolSeed(max=3, boot_deadline=BOOT, lease=self.lease, drain=DRAIN)
        light = {"name": "light", "address": "192.0.2.7:4242", "instance_id": "i-0123456789abcdef0"}
        self.manifest = aws.seed_stack(self.stack, OURS, REGION, pools={"gpu": seed}, lighthouse=light)
        self.nodes = NodeFactory(aws, self.manifest)
        self._stack = AsyncExitStack()
        self._stack.enter_context(self.nodes)
        self._theirs = False
        self.provider = self.make()

    def make(self, installation: str = OURS, stack: str | None = None, name: str = "gpu", **pool: Any) -> AwsProvider:
        """A provider; closed with the world."""
        settings = {
            "kind": "aws",
            "region": REGION,
            "stack": stack or self.stack,
            "max_replicas": 2,
            "instance_types": ["g4dn.xlarge"],
        }
        provider = AwsProvider(
            name,
            AwsPool.model_validate({**settings, **self.pool, **pool}),
            models=lambda: MODELS,
            engines={"fake": ContainedFake()},
            mesh=mesh_of(self.data),
            data=self.data,
            installation=installation,
            clock=SystemClock(),
        )
        self._stack.push_async_callback(provider.close)
        return provider

    async def close(self) -> None:
        await self._stack.aclose()
        for group in self.manifest["pools"]["gpu"]["groups"].values():
            self.aws.client("autoscaling", REGION).set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0)
        for listeners in (current().appeared, current().vanished):
            listeners.clear()  # the next test's nodes are others
        assert not self.nodes.errors

    def another(self) -> AwsProvider:
        return self.make()

    def foreign(self) -> Provider:
        if not self._theirs:
            self.aws.seed_stack(f"theirs{self.number}", THEIRS, REGION, pools={"gpu": PoolSeed()})
            self._theirs = True
        return self.make(THEIRS, f"theirs{self.number}")

    async def until(
        self, met: Callable[[Sequence[Observation]], bool], provider: Provider | None = None, *, limit: float = 25.0
    ) -> Sequence[Observation]:
        provider = provider or self.provider
        end, renewed = time.monotonic() + limit, 0.0
        while True:
            if time.monotonic() - renewed > 0.5:
                renewed = time.monotonic()
                await provider.renew()
            seen = await provider.observe()
            if met(seen):
                return seen
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.03)

    def instance(self, handle: str) -> str:
        """The instance of a replica."""
        return next(machine.id for machine in self.aws.instances() if machine.tags.get("lamplighter:replica") == handle)

    def node(self, handle: str) -> FakeNode:
        return self.nodes.node(self.instance(handle))

    async def crash(self, handle: str) -> None:
        node = self.node(handle)
        await asyncio.to_thread(self.nodes.run, lambda: node.end("failed"))

    async def abandon(self) -> None:
        await self.provider.renew()  # from now on nobody does
        end = time.monotonic() + LEASE + DRAIN + 10
        while self.live():
            assert time.monotonic() < end, "a node outlived its lease"
            await asyncio.sleep(0.1)

    def live(self) -> list[str]:
        """What is billed."""
        machines = self.aws.instances(live=True)
        return [machine.id for machine in machines if machine.tags.get("lamplighter:stack") == self.stack]

    def aws_launched(self) -> list[str]:
        """Every instance that was ever launched in the stack."""
        return [machine.id for machine in self.aws.instances() if machine.tags.get("lamplighter:stack") == self.stack]

    def desired(self, market: str = "spot") -> int:
        """A group's desired capacity, in AWS."""
        name = self.manifest["pools"]["gpu"]["groups"][market]
        answer = self.aws.client("autoscaling", REGION).describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return int(answer["AutoScalingGroups"][0]["DesiredCapacity"])


__all__ = ["BOOT", "DRAIN", "LEASE", "MODELS", "AwsWorld", "NodePlan", "make_data"]

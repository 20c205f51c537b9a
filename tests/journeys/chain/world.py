"""A real `lamplighter up` whose pool is AWS with `federation: liqo`; around it emulated AWS, pretended nodes, clusters and Liqo, all on loopback.

What is pretended: AWS (moto with our additions), what boots on a machine (`FakeNode`, no mesh and no k3s), both API servers unless a real one is
lent for home, Liqo's controllers, the kubelets, the engines. What is real: Lamplighter itself, all of it, and every byte between it and those.
"""

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.federation import names as liqo
from lamplighter.providers.kubernetes.access import Access
from lamplighter.providers.kubernetes.client import ALL_NAMESPACES, Cluster
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, NAMESPACE, NODE, POD
from lamplighter.testing.aws import Emulator, NodeFactory, NodePlan, PoolSeed
from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.chain import Chain
from tests.contract.aws_world import make_data, mesh_of
from tests.journeys.cloud.world import _installation
from tests.journeys.harness import Server, eventually

MODEL, POOL, STACK, REGION, SPACE = "llama", "gpu", "lamplighter", "eu-central-1", "llm-inference"
STAGES = ["capacity", "boot", "mesh", "cluster", "federation", "schedule", "pull", "load"]


@dataclass
class World:
    """The installation and what it lives in."""

    aws: Emulator
    chain: Chain
    nodes: NodeFactory
    server: Server
    settings: dict[str, Any] = field(default_factory=dict)

    def desired(self) -> int:
        """Machines that are wanted in AWS."""
        from moto.autoscaling.models import autoscaling_backends

        groups = autoscaling_backends[ACCOUNT][self.aws.region].autoscaling_groups
        return sum(int(group.desired_capacity or 0) for group in groups.values())

    def left(self) -> list[str]:
        """What there is in AWS, in home's namespace, and of any peering."""
        found = [f"machine {one.id} ({one.state})" for one in self.aws.instances(live=True)]
        found += [f"{self.desired()} machines wanted"] if self.desired() else []
        return found + asyncio.run(_left(self.chain.access))

    def nothing_left(self, timeout: float = 60) -> None:
        """Wait until all of it is gone."""
        eventually(lambda: not self.left(), what=f"nothing is left; {self.left()}", timeout=timeout)

    def wake_stages(self) -> list[str]:
        """The stages of the newest wake, as the store has them; each begins where the one before ended."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.data / 'lamplighter.db'}?mode=ro", uri=True)) as connection:
            ((text,),) = connection.execute("SELECT stages FROM wakes ORDER BY id DESC LIMIT 1").fetchall()
        stages = json.loads(text)
        for before, after in itertools.pairwise(stages):
            assert before["ended_at"] is not None, stages
            assert before["ended_at"] <= after["started_at"] + 1e-6, stages
        return [str(one["name"]) for one in stages]

    def restart(self, **federation: Any) -> None:
        """Stop it, and start it with other settings of the federation."""
        self.server.stop()
        self.server.config = _config(self.server.data, self.settings, federation)
        self.server.start()

    def story(self) -> str:
        """What happened, for a test that failed."""
        return f"{self.nodes.errors}\n{self.left()}\n--- lamplighter\n{self.server.text()[-6000:]}"


async def _left(access: Access) -> list[str]:
    home = Cluster.connect(access)
    try:
        found = [f"{kind.kind} {one['metadata']['name']}" for kind in (DEPLOYMENT, POD) for one in await home.list(kind, SPACE)]
        for kind in (*liqo.ALL, NODE, NAMESPACE):
            space = ALL_NAMESPACES if kind.namespaced else None
            there = await home.list(kind, space, labels={liqo.REMOTE_ID: None})
            found += [f"{kind.kind} {one['metadata']['name']}" for one in there]
        return found
    finally:
        await home.close()


def _config(data: Path, settings: dict[str, Any], federation: dict[str, Any]) -> str:
    mesh = mesh_of(data).model_dump(mode="json", exclude_unset=True)
    return json.dumps(
        {
            "models": {MODEL: {"engine": "vllm", "pool": POOL, "source": "hf:owner/llama"}},
            "pools": {
                POOL: {
                    "kind": "aws", "region": REGION, "stack": STACK, "instance_types": ["g4dn.xlarge"], "sleep_after": "3s",
                    "lease": "60s", "boot_deadline": "240s", "at_exit": "keep", "federation": "liqo", **settings,
                }
            },
            "federation": {"kubeconfig": str(data / "home.yaml"), **federation},
            "mesh": mesh,
        },
        indent=1,
    )  # fmt: skip


@contextlib.contextmanager
def world(folder: Path, *, home: Access | None = None, **settings: Any) -> Iterator[World]:
    """Everything, running; nothing of it afterwards."""
    import yaml

    data = make_data(folder / "data")
    data.chmod(0o700)
    with contextlib.ExitStack() as stack:
        aws = stack.enter_context(Emulator(region=REGION))
        chain = stack.enter_context(Chain(home=home))
        content = chain.access.content
        assert content is not None
        kubeconfig = data / "home.yaml"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(yaml.safe_dump(dict(content)))
        installation = asyncio.run(_installation(data))
        light = {"name": "light", "address": "192.0.2.7:4242", "instance_id": "i-0123456789abcdef0"}
        seed = PoolSeed(max=2, boot_deadline=240, lease=40, drain=1)
        manifest = aws.seed_stack(STACK, installation, REGION, pools={POOL: seed}, lighthouse=light)
        nodes = stack.enter_context(NodeFactory(aws, manifest, NodePlan(boot=0.1, mesh=0.1, cluster=0.3), clusters=chain))
        server = Server(data, _config(data, settings, {}), environment=aws.environment())
        made = World(aws, chain, nodes, server, settings)
        server.start()
        try:
            yield made
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop()

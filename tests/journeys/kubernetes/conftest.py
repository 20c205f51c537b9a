"""A pretended cluster with one GPU node, and servers that use it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamplighter.testing.kubernetes import Controllers, FakeCluster
from tests.journeys.harness import Server
from tests.journeys.invariants import assert_quiet
from tests.journeys.kubernetes.world import MODELS, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cluster with controllers and the namespace of the models, without nodes. Servers that run after the test are checked and ended."""
    made: list[Server] = []

    def make(config: str, *arguments: str, name: str = "data") -> Server:
        made.append(Server(tmp_path / name, config, arguments))
        return made[-1]

    cluster = FakeCluster(name="gpu-cluster").start()
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MODELS}})
    world = World(cluster, tmp_path, make)
    try:
        world.controllers = Controllers(cluster.access(), node_grace=2.0, evict_after=1.0).start()
        yield world
        for one in made:
            if one.process is not None and one.process.poll() is None:
                assert_quiet(one)
                assert one.stop() == 0, one.text()[-4000:]
    finally:
        for one in made:
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait(10)
        world.end()


@pytest.fixture
def started(world: World) -> Callable[..., Server]:
    """Starts the usual server on a cluster with one GPU node."""

    def start(**options: str) -> Server:
        if not world.kubelets:
            world.node()
        return world.server(**options).start()

    return start

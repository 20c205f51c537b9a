"""The provider contract against Kubernetes: the shipped provider on a pretended API server, and on a real one where there is one (`long`).

Nodes are pretended either way (`lamplighter.testing.kubernetes.Kubelet`); the real one has its own controllers and scheduler.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from lamplighter.core.errors import ProviderError
from lamplighter.providers.base import Desired
from lamplighter.providers.kubernetes import provider
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.contracts import ProviderContract
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster
from tests.contract.kubernetes_world import RULES, FakeWorld, RealWorld, fake_world, real_world, role


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon pods appear is this machine's speed, which is no test of ours; but where it is asked how long a call takes, nothing is changed."""
    if "at_once" not in request.node.name:
        monkeypatch.setattr(provider, "APPEAR", 20.0)


class TestKubernetes(ProviderContract):
    """`kubernetes`, as Deployments."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[FakeWorld]:
        async with fake_world() as world:
            yield world


@pytest.mark.long
class TestRealKubernetes(ProviderContract):
    """The same against a real API server, controllers and scheduler."""

    @pytest.fixture
    async def world(self, real_cluster: ControlPlane | LentCluster) -> AsyncIterator[RealWorld]:
        async with real_world(real_cluster) as world:
            yield world


@pytest.mark.long
class TestRealTrouble:
    """What a real control plane does to a provider."""

    @pytest.fixture
    async def world(self, real_cluster: ControlPlane | LentCluster) -> AsyncIterator[RealWorld]:
        async with real_world(real_cluster) as world:
            yield world

    async def test_the_role_of_the_chart_is_enough_and_less_is_named(
        self, real_cluster: ControlPlane | LentCluster, world: RealWorld
    ) -> None:
        """A keeper that needs more than the chart gives works on the developer's machine alone."""
        namespace = world.settings.namespace or ""
        token = await asyncio.to_thread(real_cluster.account, namespace, "keeper")
        world.access = real_cluster.access(token, namespace)
        admin = Cluster.connect(real_cluster.access(namespace=namespace))
        try:
            fewer = [rule for rule in RULES if rule["resources"][0] != "deployments/scale"]
            for manifest in role(namespace, fewer):
                await admin.apply(manifest, force=True)
            denied = world.make("ins_ours")
            with pytest.raises(ProviderError) as raised:
                await denied.scale(Desired({world.model: 1}), frozenset())
            assert "may not patch deployments.apps/scale" in raised.value.message
            for manifest in role(namespace, RULES):
                await admin.apply(manifest, force=True)
            world.provider = world.make("ins_ours")
            (one,) = await world.wake()
            await world.provider.scale(Desired({}), frozenset({one.handle}))
            assert not await world.until(lambda seen: not seen)
        finally:
            await admin.close()

    async def test_an_api_server_that_restarts_and_forgets(
        self, control_plane: ControlPlane, world: RealWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upgrade of the control plane must not end models, nor blind the keeper."""
        monkeypatch.setattr(provider, "STALE", 300.0)  # how long a start takes is this machine's speed
        (one,) = await world.wake()
        await asyncio.to_thread(control_plane.restart_api, kill=True)
        (same,) = await world.until(lambda seen: len(seen) == 1)
        assert (same.handle, same.endpoint) == (one.handle, one.endpoint)
        await asyncio.to_thread(control_plane.compact)
        await world.wake(2)

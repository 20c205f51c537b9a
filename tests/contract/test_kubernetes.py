"""The provider contract against Kubernetes: the shipped provider on a pretended API server, and on a real one where there is one (`long`).

Nodes are pretended either way (`lamplighter.testing.kubernetes.Kubelet`); the real one has its own controllers and scheduler.
"""

from collections.abc import AsyncIterator

import pytest

from lamplighter.testing.contracts import ProviderContract
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster
from tests.contract.kubernetes_world import FakeWorld, RealWorld, fake_world, real_world


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

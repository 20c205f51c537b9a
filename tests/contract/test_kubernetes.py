"""The provider contract against Kubernetes: the shipped provider on a pretended API server with pretended controllers and kubelet."""

from collections.abc import AsyncIterator

import pytest

from lamplighter.testing.contracts import ProviderContract
from tests.contract.kubernetes_world import FakeWorld, fake_world


class TestKubernetes(ProviderContract):
    """`kubernetes`, as Deployments."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[FakeWorld]:
        async with fake_world() as world:
            yield world

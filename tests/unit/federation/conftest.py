"""What every test of the federation has."""

from collections.abc import AsyncIterator

import pytest

from lamplighter.federation.peering import PeerSpec, slice_for
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.liqo import FakeLiqo
from tests.unit.federation.harness import NODE, Pair, clusters


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with clusters() as (at_home, at_gpu):
        home, gpu = opened = [Cluster.connect(one.access()) for one in (at_home, at_gpu)]
        liqo = FakeLiqo(not_ready_after=0.0)
        await liqo.add("home", home, pods="10.244.0.0/16", reserved=("10.77.0.0/16",))
        await liqo.add("gpu-1", gpu, api_server=f"https://{NODE}:6443", reserved=("10.77.0.0/16",))
        spec = PeerSpec("gpu-1", gateway_address=NODE).with_slice(slice_for("g5.xlarge"))
        yield Pair(at_home, at_gpu, home, gpu, liqo, spec)
        for client in opened:
            await client.close()

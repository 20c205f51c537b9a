"""The keeper of a federated pool with exactly the chart's rights in the home cluster: the whole chain, there and back, and a loss."""

import asyncio
from pathlib import Path

import pytest

from lamplighter.providers.base import Desired, Presence
from lamplighter.testing.aws import Emulator
from lamplighter.testing.chain import Chain
from lamplighter.testing.contracts.provider import ready
from tests.chart.rendering import NAMESPACE, of, render
from tests.chart.test_rbac import Recorded
from tests.contract.aws_world import REGION, make_data
from tests.contract.test_federated import ChainWorld, eventually

ACCOUNT = "lamplighter-keeper"


@pytest.mark.timeout(180)
async def test_a_federated_pool_needs_no_more_than_the_chart_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb too few shows only once a GPU is paid for; and what it leaves behind then nobody may clear."""
    chain = await asyncio.to_thread(Chain(rbac=True).__enter__)
    try:
        home = chain.cluster
        assert home is not None
        home.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        documents = render({"federation": {"enabled": True}})
        for kind in ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            for right in of(documents, kind):
                home.create(dict(right))
        token = home.account(NAMESPACE, ACCOUNT)
        recorded = Recorded(home, f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}")
        with Emulator(region=REGION) as aws:
            monkeypatch.setattr(ChainWorld, "token", home.access(token))
            world = ChainWorld(aws, make_data(tmp_path / "data"), monkeypatch, chain)
            try:
                await world.provider.scale(Desired({"one": 1}), frozenset())
                (one,) = await world.until(ready, limit=40)
                await world.provider.scale(Desired({}), frozenset({one.handle}))
                assert not await world.until(lambda seen: not seen, limit=40)
                await world.provider.scale(Desired({"one": 1}), frozenset())
                (one,) = await world.until(ready, limit=40)
                world.aws.reclaim(world.instance(one.handle), seconds=0)
                await world.until(lambda seen: seen[0].presence is Presence.ENDED)
                await eventually(lambda: not world.left(), world.left, 40)
            finally:
                await world.close()
        assert recorded.refused == set()
    finally:
        await asyncio.to_thread(chain.__exit__)

"""The pretended API server's own hand: faults, outages, forgetting, accounts. What the API means is asked in tests/contract."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Access, Cluster, Seen
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.testing.kubernetes import ApiRefusal, FakeCluster


def _config_map(name: str = "c", **data: str) -> known.Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[Cluster]:
    """The administrator's."""
    made = Cluster.connect(cluster.access())
    yield made
    await made.close()


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Without RBAC."""
    async with FakeCluster() as made:
        yield made


async def test_refusals_as_asked(cluster: FakeCluster, client: Cluster) -> None:
    """A test that wants an API server to fail must get exactly that, so often and no more."""
    cluster.fail("get", "configmaps", 500, times=2, message="etcd is slow")
    cluster.create(_config_map())
    for _ in range(2):
        with pytest.raises(KubernetesError) as caught:
            await client.get(known.CONFIG_MAP, "c", "default")
        assert (caught.value.status, caught.value.said) == (500, "etcd is slow")
    await client.get(known.CONFIG_MAP, "c", "default")
    cluster.fail("*", "*", 403, times=None)
    with pytest.raises(KubernetesError):
        await client.list(known.POD, "default")
    cluster.heal()
    await client.list(known.POD, "default")


async def test_latency(cluster: FakeCluster, client: Cluster) -> None:
    """Slow control planes are what limits are for."""
    cluster.latency = 0.2
    began = time.monotonic()
    await client.list(known.POD, "default")
    assert time.monotonic() - began >= 0.2
    cluster.heal()
    assert cluster.latency == 0


async def test_an_outage_keeps_everything(cluster: FakeCluster, client: Cluster) -> None:
    """After an outage the API server is the same one, on the same port."""
    cluster.create(_config_map(a="1"))
    url = cluster.url
    cluster.stop()
    with pytest.raises(KubernetesError) as caught:
        await client.get(known.CONFIG_MAP, "c", "default")
    assert "cannot be reached" in str(caught.value)
    cluster.start()
    assert cluster.url == url
    assert (await client.get(known.CONFIG_MAP, "c", "default"))["data"] == {"a": "1"}


async def test_watches_are_cut_and_resumed(cluster: FakeCluster, client: Cluster) -> None:
    """A test that cuts watches must cut them, and lose no event by it."""
    async with aclosing(client.watch(known.CONFIG_MAP, "default")) as changes:
        assert (await anext(changes)).seen is Seen.LISTED
        cluster.create(_config_map("one"))
        assert (await anext(changes)).object["metadata"]["name"] == "one"
        assert cluster.watches == 1
        cluster.cut_watches()
        cluster.create(_config_map("two"))
        names = []
        async for change in changes:
            if change.seen is Seen.ADDED:
                names.append(change.object["metadata"]["name"])
                break
        assert names == ["two"]


async def test_bookmarks_on_demand(cluster: FakeCluster, client: Cluster) -> None:
    """Waiting a minute for a bookmark is no unit test."""
    async with aclosing(client.watch(known.CONFIG_MAP, "default")) as changes:
        await anext(changes)
        cluster.create({**_config_map("elsewhere"), "metadata": {"name": "elsewhere", "namespace": "kube-system"}})
        cluster.create(_config_map("here"))
        assert (await anext(changes)).object["metadata"]["name"] == "here"
        cluster.bookmark()
        assert (await anext(changes)).seen is Seen.ALIVE


def test_kubeconfig_as_a_file(tmp_path: Path) -> None:
    """A real process reads it, and nobody else's account can."""
    with FakeCluster(name="there") as cluster:
        file = cluster.write_kubeconfig(tmp_path / "config")
        assert file.stat().st_mode & 0o077 == 0
        assert Cluster.connect(Access(kubeconfig=file, context="there")).server == cluster.url


async def test_accounts_and_revoked_tokens() -> None:
    """Expired tokens are answered 401, and nobody may do what no Role says."""
    async with FakeCluster(rbac=True) as cluster:
        token = cluster.account("default", "poor")
        client = Cluster.connect(cluster.access(token))
        with pytest.raises(KubernetesError) as caught:
            await client.list(known.POD, "default")
        assert caught.value.status == 403
        cluster.gate.revoke(token)
        with pytest.raises(KubernetesError) as caught:
            await client.list(known.POD, "default")
        assert caught.value.status == 401
        await client.close()


def test_objects_handed_out_are_copies() -> None:
    """A test that alters what it looked at would alter the cluster."""
    with FakeCluster() as cluster:
        cluster.create(_config_map(a="1"))
        cluster.get("ConfigMap", "c")["data"]["a"] = "2"
        assert cluster.get("ConfigMap", "c")["data"] == {"a": "1"}
        cluster.edit("ConfigMap", "c", lambda found: found["data"].update(a="3"))
        assert cluster.get("ConfigMap", "c")["data"] == {"a": "3"}
        cluster.delete("ConfigMap", "c")
        cluster.delete("ConfigMap", "c")
        with pytest.raises(ApiRefusal):
            cluster.get("ConfigMap", "c")

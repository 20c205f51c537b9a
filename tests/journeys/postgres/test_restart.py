"""PostgreSQL goes away under load, and comes back: who asks an awake model never notices, and afterwards everybody agrees again."""

import time

import httpx
import pytest

from tests.journeys.harness import ADMIN_KEY, Server, eventually
from tests.journeys.many_gateways.cluster import Cluster, Load


def _new_key(server: Server) -> str:
    with server.http() as client:
        return str(client.post("/api/keys", json={"name": "somebody"}).raise_for_status().json()["key"])


def _opens(server: Server, key: str) -> bool:
    return httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=10).status_code == 200


@pytest.mark.parametrize("fast", [True, False], ids=["in-order", "crash"])
def test_a_restart_of_postgresql_loses_no_request(cluster: Cluster, fast: bool) -> None:
    """If this fails, an update of the database is an outage of every model."""
    cluster.keeper("keeper")
    gateways = [cluster.gateway("one"), cluster.gateway("two")]
    cluster.awake(*gateways)
    with Load(gateways) as load:
        load.more(15)
        cluster.postgres.restart(away=3, fast=fast)
        load.more(30)
        key = _new_key(gateways[0])  # the store takes writes again, and the other gateway hears of them
        eventually(lambda: _opens(gateways[1], key), what="the other gateway knows the new key", timeout=15)
        load.more(10)
    assert load.failures == []
    for one in gateways:
        assert one.model("m")["state"] == "awake"


@pytest.mark.long
def test_a_long_outage_stops_nothing_that_runs(cluster: Cluster) -> None:
    """If this fails, gateways that could serve say that they cannot, and a load balancer makes an outage of it."""
    keeper = cluster.keeper("keeper")
    gateways = [cluster.gateway("one"), cluster.gateway("two")]
    cluster.awake(*gateways)
    with Load(gateways) as load:
        load.more(10)
        cluster.postgres.stop()
        end = time.monotonic() + 45  # beyond the leases, the heartbeats and the age of every gateway's picture
        while time.monotonic() < end:
            for one in gateways:
                assert httpx.get(f"{one.url}/ready", timeout=5).status_code == 200
            time.sleep(1)
        assert "degraded" in httpx.get(f"{gateways[0].url}/ready", timeout=5).text
        load.more(10)
        cluster.postgres.start()
        eventually(keeper.leads, what="the keeper leads again")
        load.more(10)
    assert load.failures == []
    eventually(lambda: "degraded" not in httpx.get(f"{gateways[0].url}/ready").text, what="all is well again")
    assert _opens(gateways[0], ADMIN_KEY)


def test_postgresql_that_is_not_there_is_named(cluster: Cluster) -> None:
    """If this fails, a wrong URL at the first start ends in a traceback, or with a password on the screen."""
    cluster.url = "postgresql://me:very-secret@127.0.0.1:1/nowhere"
    server = cluster._new(Server, "data")
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(60) != 0
    assert "127.0.0.1:1/nowhere" in server.text()
    assert "cannot be reached" in server.text()
    assert "very-secret" not in server.text()

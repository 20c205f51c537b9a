"""What may be spread over processes, and what is refused in words; ports that several share."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from lamplighter.cli.keeper_port import KeeperPort
from lamplighter.cli.listen import listen, listen_together
from lamplighter.cli.roles import Role, check_roles
from lamplighter.config import Config, parse
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import AlreadyRunning, ConfigError
from lamplighter.observability.metrics import Metrics
from lamplighter.store.store import Store

MODELS = "models: {m: {engine: openai, pool: nas}}\npools: {nas: {kind: static, url: 'http://nas'}}\n"
SHARED = "store: {url: env:DATABASE_URL}\n"
LIMITED = "limits: {default: {parallel: 4}}\n"
REDIS = "redis: {url: env:REDIS_URL}\n"


@pytest.mark.parametrize(
    ("text", "role", "workers", "says"),
    [
        (MODELS, Role.GATEWAY, 1, "needs PostgreSQL"),
        (MODELS, Role.KEEPER, 1, "needs PostgreSQL"),
        (MODELS, Role.BOTH, 4, "4 gateway processes need PostgreSQL"),
        (MODELS + SHARED, Role.KEEPER, 2, "does not come in several workers"),
        (MODELS + SHARED + LIMITED, Role.BOTH, 2, "need Redis"),
    ],
)
def test_what_cannot_be_spread_is_refused(text: str, role: Role, workers: int, says: str) -> None:
    """If this fails, two gateways on SQLite corrupt nothing but know nothing of each other, or each counts limits for itself."""
    with pytest.raises(ConfigError, match=says) as caught:
        check_roles(parse(text), role, workers)
    assert caught.value.next_step
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "role", "workers"),
    [
        (MODELS, Role.BOTH, 1),
        (MODELS + SHARED, Role.GATEWAY, 1),
        (MODELS + SHARED, Role.KEEPER, 1),
        (MODELS + SHARED, Role.GATEWAY, 3),
        (MODELS + SHARED + LIMITED + REDIS, Role.BOTH, 3),
    ],
)
def test_what_can_be_spread_is_not_refused(text: str, role: Role, workers: int) -> None:
    """If this fails, a sound installation does not start."""
    check_roles(parse(text), role, workers)


def test_one_port_for_several() -> None:
    """If this fails, workers cannot share a port, or a second installation shares it by accident and takes half of the requests."""
    listeners = listen_together("127.0.0.1", 0, 3)
    ports = {one.getsockname()[1] for one in listeners}
    assert len(ports) == 1
    (port,) = ports
    with pytest.raises(AlreadyRunning):
        listen("127.0.0.1", port)
    with pytest.raises(AlreadyRunning):
        listen_together("127.0.0.1", port, 2)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    for one in listeners:
        one.close()


@pytest.fixture
async def keeper_port(tmp_path: Path) -> AsyncIterator[Callable[[Config, int | None], KeeperPort]]:
    """Makes a keeper's port before an open store."""
    store = await Store.open(tmp_path / "store.db", SystemClock())
    yield lambda config, term: KeeperPort(config, store, Metrics(process=False), lambda: term)
    await store.close()


async def test_a_keeper_shows_how_it_is(keeper_port: Callable[[Config, int | None], KeeperPort]) -> None:
    """If this fails, Kubernetes restarts keepers that are well, or nobody can see which of them leads."""
    config = parse(MODELS)
    local = httpx.ASGITransport(keeper_port(config, 7), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=local, base_url="http://keeper") as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.get("/ready")).json() == {"status": "ready", "leads": True, "term": 7}
        assert "lamplighter_keeper_leads" in (await client.get("/metrics")).text
        assert (await client.get("/metrics", headers={"x-forwarded-for": "1.2.3.4"})).status_code == 403
        assert (await client.get("/v1/models")).status_code == 404
        assert (await client.post("/ready")).status_code == 404
    away = httpx.ASGITransport(keeper_port(config, None), client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=away, base_url="http://keeper") as client:
        assert json.loads((await client.get("/ready")).text)["leads"] is False
        assert (await client.get("/metrics")).status_code == 403

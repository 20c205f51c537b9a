"""Routes of operation, and the gateway's beginning and end."""

import pytest

from lamplighter.gateway.app import _from_here
from lamplighter.gateway.view import STALE_AFTER
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import KEY, config_of, running


async def test_health_and_readiness_need_no_key() -> None:
    """An orchestrator would restart a gateway that is well."""
    async with running() as rig:
        for path in ("/health", "/ready"):
            answer = await rig.client.get(path, headers={"authorization": ""})
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await rig.client.post("/health")).status_code == 405


async def test_a_gateway_without_its_store_is_alive_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traffic would go on to a gateway that no longer knows what runs."""
    async with running() as rig:
        view = rig.gateway.services.view
        await view.stop()
        monkeypatch.setattr(view, "_read_at", rig.clock.monotonic() - STALE_AFTER - 1)
        assert (await rig.client.get("/ready")).status_code == 503
        assert (await rig.client.get("/health")).status_code == 200


async def test_metrics_tell_what_happened() -> None:
    """Dashboards and alerts would be blind."""
    async with FakeEngine(tokens=7) as engine, running() as rig:
        await rig.ready(engine.url)
        await rig.chat()
        await rig.chat(stream=True)
        await rig.chat("none")
        text = (await rig.client.get("/metrics")).text
        assert 'lamplighter_requests_total{model="big",route="chat",status="2xx"} 2.0' in text
        assert 'lamplighter_requests_total{model="",route="chat",status="4xx"} 1.0' in text
        assert 'lamplighter_tokens_total{kind="completion",model="big"} 14.0' in text
        assert 'lamplighter_time_to_first_token_seconds_count{model="big"} 1.0' in text
        assert 'lamplighter_requests_in_flight{model="big"} 0.0' in text
        assert 'model="none"' not in text


@pytest.mark.parametrize(
    ("client", "headers", "here"),
    [
        (("127.0.0.1", 1), {}, True),
        (("127.9.9.9", 1), {}, True),
        (("::1", 1), {}, True),
        (("::ffff:127.0.0.1", 1), {}, True),
        (("127.0.0.1", 1), {b"x-forwarded-for": b"1.2.3.4"}, False),
        (("192.168.1.5", 1), {}, False),
        (("::ffff:192.168.1.5", 1), {}, False),
        (("socket", 1), {}, False),
        (None, {}, False),
    ],
)
def test_only_this_machine_itself_is_here(client: tuple[str, int] | None, headers: dict[bytes, bytes], here: bool) -> None:
    """Metrics would be open to everybody behind a proxy on this machine."""
    assert _from_here({"client": client}, headers) is here


@pytest.mark.parametrize(("key", "open_to_all", "status"), [("wrong", False, 401), (KEY, False, 200), ("wrong", True, 200)])
async def test_metrics_from_elsewhere_need_a_key(key: str, open_to_all: bool, status: int) -> None:
    """Anybody on the network could see who asks what and how much."""
    async with running(config_of(server={"metrics_without_key": open_to_all})) as rig:
        headers = {"authorization": f"Bearer {key}", "x-forwarded-for": "1.2.3.4"}
        assert (await rig.client.get("/metrics", headers=headers)).status_code == status


async def test_starting_and_stopping_twice_is_harmless() -> None:
    """A second signal would end in a traceback."""
    async with running() as rig:
        await rig.gateway.start()
        await rig.gateway.stop()
        await rig.gateway.stop()


async def test_no_cross_origin_access_is_granted() -> None:
    """Any web page that a person visits could use their gateway."""
    async with running() as rig:
        for method in ("OPTIONS", "GET"):
            answer = await rig.client.request(method, "/v1/models", headers={"origin": "https://evil.example"})
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_store_that_is_away_does_not_send_traffic_away_from_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All gateways lose the database together: a load balancer would make an outage of every model out of a restart of PostgreSQL."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        view = rig.gateway.services.view
        await view.stop()
        monkeypatch.setattr(view, "_read_at", rig.clock.monotonic() - STALE_AFTER - 1)
        answer = await rig.client.get("/ready")
        assert (answer.status_code, "store" in answer.json()["degraded"]) == (200, True)
        assert (await rig.chat()).status_code == 200


async def test_before_the_drain_requests_are_still_taken() -> None:
    """A load balancer needs a moment to notice: what it sends meanwhile would fail."""
    async with FakeEngine() as engine, running() as rig:
        await rig.ready(engine.url)
        rig.gateway.leave()
        assert (await rig.client.get("/ready")).status_code == 503
        assert (await rig.chat()).status_code == 200
        await rig.gateway.drain(1)
        assert (await rig.chat()).status_code == 503

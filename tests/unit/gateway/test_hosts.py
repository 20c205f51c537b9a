"""Names that are not ours, proxies that are not trusted, and what the public port refuses when there is an admin port."""

from typing import Any

import httpx
import pytest

from lamplighter.config import ServerConfig
from lamplighter.gateway.hosts import Hosts, Proxies, on_loopback
from lamplighter.gateway.metering import Meter, Record
from tests.unit.gateway.harness import KEY, Rig, config_of, running


def hosts(**settings: Any) -> Hosts:
    return Hosts(ServerConfig.model_validate(settings))


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8080",
        b"LocalHost",
        b"app.localhost",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[::1]:8080",
        b"192.168.1.5",
        b"localhost.",
    ],
)
def test_names_that_nobody_can_rebind_are_ours(host: bytes) -> None:
    """The page would not open on the machine itself, or by the machine's address."""
    assert hosts().admits(host)
    assert hosts(allowed_hosts=[]).admits(host)


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"localhost.evil.example", b"evil.example:8080", b"127.0.0.1.nip.io", b"localhost:80:80", b"localhost:x", b"",
     b"[::1", b"[::1]x", b"evil.example@localhost", b"loc\xe4lhost"],
)  # fmt: skip
def test_foreign_names_are_not_ours(host: bytes) -> None:
    """A web page that makes its own name point at this machine would read what needs no key here."""
    assert not hosts().admits(host)


def test_configured_names_are_ours() -> None:
    """Behind a proxy, the public name would be refused."""
    named = hosts(public_url="https://Llm.example.com/x", allowed_hosts=["api.example.org", "*.lan"])
    for host in (b"llm.example.com", b"api.example.org:443", b"nas.lan", b"a.b.lan"):
        assert named.admits(host)
    for host in (b"lan", b"evillan", b"example.com", b"x.llm.example.com"):
        assert not named.admits(host)
    assert hosts(allowed_hosts=["*"]).admits(b"anything.example")


def test_loopback_is_told_from_the_rest() -> None:
    """The check would not run where it is needed, or run where proxies ask under any name."""
    assert on_loopback("127.0.0.1")
    assert on_loopback("::1")
    assert on_loopback("::ffff:127.0.0.1")
    assert not on_loopback("192.168.1.5")
    assert not on_loopback(None)
    assert not on_loopback("/run/socket")


def test_nobody_is_believed_by_default() -> None:
    """A client could write any address into the log, and get around the throttle of the sign-in."""
    assert Proxies([]).client("203.0.113.9", [b"198.51.100.1"]) == "203.0.113.9"


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ([b"198.51.100.1"], "198.51.100.1"),
        ([b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the first was written by the client
        ([b"1.1.1.1", b"198.51.100.1"], "198.51.100.1"),
        ([b"198.51.100.1, 10.1.2.3"], "198.51.100.1"),  # two proxies of ours
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"[2001:db8::1]:4711"], "2001:db8::1"),
        ([b"198.51.100.1:4711"], "198.51.100.1"),
        ([b"unknown"], "10.0.0.7"),
        ([b"198.51.100.1, garbage\x00"], "10.0.0.7"),
        ([b""], "10.0.0.7"),
        ([], "10.0.0.7"),
    ],
)
def test_a_trusted_proxy_tells_the_client_and_nobody_else_does(told: list[bytes], client: str) -> None:
    """The access log would blame the proxy, or whomever an attacker names."""
    assert Proxies(["10.0.0.0/8"]).client("10.0.0.7", told) == client


async def test_a_rebound_name_reads_nothing_on_loopback() -> None:
    """Any web page in a browser of this machine could read the metrics and the page's answers."""
    async with running() as rig, httpx.AsyncClient(base_url=rig.url) as stranger:
        evil = {"host": "evil.example"}
        for path in ("/metrics", "/", "/api/status", "/api/session", "/v1/models"):
            answer = await stranger.get(path, headers=evil)
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host"), path
            assert "server.allowed_hosts" in answer.json()["error"]["next_step"]
        assert (await stranger.get("/metrics", headers={**evil, "authorization": "Bearer x"})).status_code == 421
        assert (await stranger.get("/metrics")).status_code == 200
        assert (await stranger.get("/health", headers=evil)).status_code == 200
        with_key = await rig.client.get("/v1/models", headers=evil)
        assert with_key.status_code == 200


async def test_listed_names_bind_those_with_a_key_too() -> None:
    """Who lists the names means that there are no others."""
    async with running(config_of(server={"allowed_hosts": ["llm.example.com"]})) as rig:
        assert (await rig.client.get("/v1/models", headers={"host": "other.example"})).status_code == 421
        assert (await rig.client.get("/v1/models", headers={"host": "llm.example.com"})).status_code == 200
        assert (await rig.chat(headers={"host": "other.example"})).status_code == 421


async def test_pages_of_named_origins_may_ask_inference_and_nothing_else() -> None:
    """A page could read chats with its visitor's session; or a browser client could not work."""
    origin = "https://app.example.com"
    async with running(config_of(server={"cors": {"origins": [origin]}})) as rig:
        asks = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        async with httpx.AsyncClient(base_url=rig.url) as browser:  # a preflight carries no key
            for path in ("/v1/chat/completions", "/v1/models", "/api/chat"):
                answer = await browser.options(path, headers=asks)
                assert answer.status_code == 204
                assert answer.headers["access-control-allow-origin"] == origin
                assert answer.headers["access-control-allow-headers"] == "authorization"
            for path in ("/api/session", "/api/keys", "/api/status", "/", "/metrics"):
                answer = await browser.options(path, headers=asks)
                assert answer.status_code >= 400
                assert not any(name.startswith("access-control") for name in answer.headers), path
        told = await rig.client.get("/v1/models", headers={"origin": origin})
        assert told.headers["access-control-allow-origin"] == origin
        refused = await rig.client.post("/v1/chat/completions", json={}, headers={"origin": origin})
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == origin  # else the page cannot read why
        foreign = await rig.client.post("/v1/chat/completions", json={}, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


async def test_no_origin_is_let_in_by_default() -> None:
    """The safe setting would be one that somebody must know of."""
    async with running() as rig:
        preflight = await rig.client.options("/v1/chat/completions", headers={"origin": "https://a.example"})
        assert preflight.status_code == 204
        for answer in (preflight, await rig.client.get("/v1/models", headers={"origin": "https://a.example"})):
            assert not any(name.startswith("access-control") for name in answer.headers)


async def _asked(rig: Rig, app: Any, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(
            method, path, headers={"authorization": f"Bearer {KEY}", **(headers or {})}, json={} if method == "POST" else None
        )


@pytest.mark.parametrize("page", ["public", "admin", "both"])
async def test_the_admin_port_takes_admin_calls_from_the_public_one(page: str) -> None:
    """Whoever got an admin key could use it from anywhere on the network."""
    config = config_of(server={"admin": {"port": 9090, "page": page}})
    async with running(config) as rig:
        public, admin = rig.gateway.asgi, rig.gateway.admin_asgi
        for path in ("/api/keys", "/metrics", "/api/openapi.json"):
            refused = await _asked(rig, public, path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_port"), path
            assert (await _asked(rig, admin, path)).status_code == 200
        refused = await _asked(rig, public, "/api/models/big/wake", method="POST")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_port")
        assert (await _asked(rig, admin, "/api/models/big/wake", method="POST")).status_code == 202
        for app in (public, admin):
            for path in ("/v1/models", "/health", "/ready"):
                assert (await _asked(rig, app, path)).status_code == 200
        shown = await _asked(rig, public, "/api/session")
        if page == "admin":
            assert shown.status_code == 403
            assert (await _asked(rig, public, "/")).status_code == 403
        else:
            assert shown.json()["admin"] is False
            assert (await _asked(rig, public, "/")).status_code != 403
        assert (await _asked(rig, admin, "/api/session")).json()["admin"] is True
        assert ((await _asked(rig, admin, "/")).status_code == 404) is (page == "public")


async def test_a_trusted_proxy_says_that_the_client_came_by_tls() -> None:
    """The session's cookie would travel without encryption, or links would name the proxy's inner address."""
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "llm.example.com"}
    for trusted, expected in ((["127.0.0.1"], "https://llm.example.com/#login="), ([], "http://localhost/#login=")):
        async with running(config_of(server={"trusted_proxies": trusted})) as rig:
            made = await _asked(rig, rig.gateway.asgi, "/api/login-links", method="POST", headers=headers)
            assert made.json()["url"].startswith(expected)


async def test_a_proxy_on_this_machine_opens_no_metrics() -> None:
    """Everybody who reaches the proxy would read the metrics as if they sat at the machine."""
    async with (
        running(config_of(server={"trusted_proxies": ["127.0.0.1"]})) as rig,
        httpx.AsyncClient(base_url=rig.url) as stranger,
    ):
        assert (await stranger.get("/metrics", headers={"x-forwarded-for": "198.51.100.1"})).status_code == 401
        assert (await stranger.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("trusted", "seen"), [([], "127.0.0.1"), (["127.0.0.1"], "203.0.113.7"), (["127.0.0.1", "203.0.113.0/24"], "198.51.100.1")]
)
async def test_the_log_names_the_client_behind_trusted_proxies_only(
    trusted: list[str], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever abuses a key could write somebody else's address into the log, or hide behind the proxy's."""
    clients: list[str] = []
    finish = Meter.finish

    def noted(self: Meter, record: Record) -> None:
        clients.append(record.client)
        finish(self, record)

    monkeypatch.setattr(Meter, "finish", noted)
    async with running(config_of(server={"trusted_proxies": trusted})) as rig:
        told = {"x-forwarded-for": "198.51.100.1, 203.0.113.7"}
        answer = await rig.client.post("/v1/chat/completions", json={"model": "none"}, headers=told)
        assert answer.status_code == 400
    assert clients == [seen]

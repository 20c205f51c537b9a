"""Signing in, CSRF, cookies, keys: who gets in, and how they are put out."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from lamplighter.gateway.control.throttle import FAILURES, Throttle
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.chat.stage import CONFIG, Stage, stage

COOKIE = "lamplighter_session"
PAGE = {"x-lamplighter": "1"}


def error_of(response: httpx.Response) -> str:
    """The error's code, after checking its whole shape."""
    error = response.json()["error"]
    assert {"message", "type", "code", "param", "next_step"} <= error.keys()
    assert error["message"]
    return str(error["code"])


async def signed_in(one: Stage, key: str) -> httpx.AsyncClient:
    """A browser with a session."""
    client = one.client(key=None)
    response = await client.post("/api/session", json={"key": key})
    assert response.status_code == 200, response.text
    return client


async def test_a_key_opens_a_session_that_scripts_cannot_read() -> None:
    """If this fails, nobody can sign in, or a script on the page can steal the session."""
    async with stage() as one:
        client = await signed_in(one, one.key)
        response = await client.post("/api/session", json={"key": one.key}, headers=PAGE)
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert "Max-Age=2592000" in cookie
        assert "Secure" not in cookie
        who = (await client.get("/api/session")).json()
        assert (who["principal"]["name"], who["admin"]) == ("ada", True)
        assert who["version"]
        assert (await client.delete("/api/session", headers=PAGE)).status_code == 204
        assert (await client.get("/api/session")).status_code == 401


async def test_the_cookie_is_secure_over_tls() -> None:
    """If this fails, a session travels in the clear once somebody types http."""
    public = {**CONFIG, "server": {"public_url": "https://lamp.test"}}
    async with stage(config=public) as one, one.client(key=None) as client:
        assert "Secure" in (await client.post("/api/session", json={"key": one.key})).headers["set-cookie"]
        local = await client.post("/api/session", json={"key": one.key}, headers={**PAGE, "host": "localhost:8080"})
        assert "Secure" not in local.headers["set-cookie"]
    async with stage() as one:
        transport = httpx.ASGITransport(one.control)
        async with httpx.AsyncClient(transport=transport, base_url="https://lamp.test") as client:
            assert "Secure" in (await client.post("/api/session", json={"key": one.key})).headers["set-cookie"]


async def test_a_foreign_site_cannot_use_the_session() -> None:
    """If this fails, any site a person visits can delete their chats and make itself a key."""
    async with stage() as one:
        client = await signed_in(one, one.key)
        for method, path, body in (
            ("POST", "/api/keys", {"name": "evil", "admin": True}),
            ("DELETE", "/api/chats/cht_x", None),
            ("PATCH", "/api/chats/cht_x", {"title": "x"}),
            ("POST", "/api/models/quick/wake", {}),
            ("POST", "/api/login-links", None),
            ("DELETE", "/api/session", None),
            ("POST", "/api/session", {"key": one.other_key}),
        ):
            refused = await client.request(method, path, json=body)
            assert (refused.status_code, error_of(refused)) == (403, "csrf"), (method, path)
        assert (await client.get("/api/keys")).status_code == 200
        assert (await client.post("/api/keys", json={"name": "good"}, headers=PAGE)).status_code == 201
        form = await one.client(key=None).post(
            "/api/session", content=f'{{"key": "{one.key}"}}', headers={"content-type": "text/plain"}
        )
        assert (form.status_code, error_of(form)) == (415, "not_json")


async def test_a_login_link_works_once_and_not_for_long() -> None:
    """If this fails, a link in somebody's scroll-back opens the page for ever."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, one.client() as admin, one.client(key=None) as browser:
        link = (await admin.post("/api/login-links")).json()
        assert link["url"] == f"http://lamp.test/#login={link['login_token']}"
        assert link["expires_at"] == clock.time() + 900
        both = await asyncio.gather(*(browser.post("/api/session", json={"login_token": link["login_token"]}) for _ in range(2)))
        assert sorted(response.status_code for response in both) == [200, 401]
        assert (await browser.get("/api/session")).json()["admin"] is True
        late = (await admin.post("/api/login-links")).json()["login_token"]
        await clock.advance(901)
        refused = await one.client(key=None).post("/api/session", json={"login_token": late})
        assert (refused.status_code, error_of(refused)) == (401, "invalid_login_token")


async def test_a_session_ends_after_thirty_days_and_with_its_key() -> None:
    """If this fails, a lost laptop stays signed in."""
    clock = VirtualClock()
    async with stage(clock=clock) as one:
        client = await signed_in(one, one.other_key)
        with pytest.MonkeyPatch.context() as later:
            later.setattr(clock, "_start", clock._start + 30 * 86_400 + 1)
            ended = await client.get("/api/session")
            assert (ended.status_code, error_of(ended)) == (401, "not_signed_in")
        assert (await client.get("/api/session")).status_code == 200
        async with one.client() as admin:
            bob = next(key for key in (await admin.get("/api/keys")).json()["keys"] if key["name"] == "bob")
            assert (await admin.delete(f"/api/keys/{bob['id']}")).status_code == 204
        assert (await client.get("/api/session")).status_code == 401
        refused = await one.client(key=one.other_key).get("/api/status")
        assert (refused.status_code, error_of(refused)) == (401, "api_key_revoked")
        assert refused.headers["www-authenticate"] == "Bearer"


async def test_guessing_is_slowed_and_nobody_is_locked_out() -> None:
    """If this fails, keys can be guessed as fast as the network allows, or a stranger can lock the owner out."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, one.client(key=None) as client:
        codes = [(await client.post("/api/session", json={"key": f"lk-{number}"})).status_code for number in range(FAILURES + 2)]
        assert codes == [401] * FAILURES + [429] * 2
        waiting = await client.post("/api/session", json={"key": one.key})
        assert error_of(waiting) == "too_many_attempts"
        assert 1 <= int(waiting.headers["retry-after"]) <= 6
        await clock.advance(int(waiting.headers["retry-after"]))
        assert (await client.post("/api/session", json={"key": one.key})).status_code == 200


def test_the_throttle_is_bounded_and_counts_networks() -> None:
    """If this fails, an attacker fills the memory with addresses, or has a fresh one for each attempt."""
    throttle = Throttle(VirtualClock())
    for number in range(10_000):
        throttle.failed(f"10.0.{number // 256}.{number % 256}")
    assert len(throttle._spent) <= 4096
    for number in range(FAILURES):
        throttle.failed(f"2001:db8::{number + 1:x}")
    with pytest.raises(Exception, match="Too many"):
        throttle.check("2001:db8::ffff")
    throttle.check("2001:db8:0:1::1")
    throttle.check(None)
    throttle.check("not an address")


async def test_keys_are_made_listed_and_revoked() -> None:
    """If this fails, an admin cannot give or take access, or a key's secret can be read again."""
    async with stage() as one, one.client() as admin:
        made = (await admin.post("/api/keys", json={"name": "phone", "principal": "ada"})).json()
        assert made["key"].startswith("lk-")
        assert made["prefix"] == made["key"][:7]
        assert (made["admin"], made["principal"], made["revoked_at"]) == (False, "ada", None)
        async with one.client(key=made["key"]) as phone:
            assert (await phone.get("/api/session")).json()["principal"]["name"] == "ada"
            forbidden = await phone.post("/api/keys", json={"name": "more"})
            assert (forbidden.status_code, error_of(forbidden)) == (403, "admin_required")
        listed = await admin.get("/api/keys")
        assert made["key"] not in listed.text
        assert {key["name"] for key in listed.json()["keys"]} == {"ada", "bob", "phone"}
        for _ in range(2):
            assert (await admin.delete(f"/api/keys/{made['id']}")).status_code == 204
        assert (await admin.delete("/api/keys/key_none")).status_code == 404
        own = next(key for key in listed.json()["keys"] if key["name"] == "ada")
        last = await admin.delete(f"/api/keys/{own['id']}")
        assert (last.status_code, error_of(last)) == (409, "last_admin_key")
        assert (await admin.get("/api/keys")).status_code == 200


async def test_the_use_of_a_key_is_noted() -> None:
    """If this fails, an admin cannot tell which keys nobody uses."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, one.client() as admin:
        await one.client(key=one.other_key).get("/api/status")
        used_at = clock.time()
        await clock.advance(11)
        keys = {key["name"]: key["last_used_at"] for key in (await admin.get("/api/keys")).json()["keys"]}
        assert keys["bob"] == used_at


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/session", {}, 400, "invalid_request"),
        ("POST", "/api/session", {"key": "a", "login_token": "b"}, 400, "invalid_request"),
        ("POST", "/api/session", {"key": "\ud800"}, 400, "invalid_request"),
        ("POST", "/api/session", {"login_token": "\udcff"}, 400, "invalid_request"),
        ("POST", "/api/session", ["key"], 400, "invalid_request"),
        ("POST", "/api/session", {"key": 5}, 400, "invalid_request"),
        ("POST", "/api/session", {"key": "no\u0000key"}, 401, "invalid_api_key"),
        ("POST", "/api/keys", {"name": ""}, 400, "invalid_request"),
        ("POST", "/api/keys", {"name": "a\nb"}, 400, "invalid_request"),
        ("POST", "/api/keys", {"name": "x", "admin": "yes"}, 400, "invalid_request"),
        ("POST", "/api/keys", {"name": "x", "root": True}, 400, "invalid_request"),
        ("POST", "/api/keys", {"name": "cli (this machine)"}, 400, "reserved_name"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PUT", "/api/keys", None, 405, "method_not_allowed"),
        ("GET", "/api/chats?limit=many", None, 400, "invalid_request"),
        ("GET", "/api/chats?before=junk", None, 400, "bad_cursor"),
        ("GET", "/api/chats/cht_none", None, 404, "chat_not_found"),
    ],
)
async def test_every_refusal_has_the_one_shape(method: str, path: str, body: object, status: int, code: str) -> None:
    """If this fails, the page and the command line show people a raw or empty error."""
    async with stage() as one, one.client() as client:
        content = None if body is None else json.dumps(body)  # ASCII: lone surrogates travel as escapes
        response = await client.request(method, path, content=content, headers={"content-type": "application/json"})
        assert (response.status_code, error_of(response)) == (status, code)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"


async def test_bodies_are_bounded() -> None:
    """If this fails, anyone who reaches the port can fill the memory through the sign-in."""
    async with stage() as one, one.client(key=None) as client:
        big = await client.post("/api/session", json={"key": "x" * 1_100_000})
        assert (big.status_code, error_of(big)) == (413, "body_too_large")

        sent = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 100_000_000:
                sent += 100_000
                yield b" " * 100_000

        chunked = await client.post("/api/session", content=chunks(), headers={"content-type": "application/json"})
        assert (chunked.status_code, error_of(chunked)) == (413, "body_too_large")
        assert sent < 3_000_000
        broken = await client.post("/api/session", content=b"{", headers={"content-type": "application/json"})
        assert (broken.status_code, error_of(broken)) == (400, "invalid_json")


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, strangers can hold as many connections open as they like."""
    monkeypatch.setattr("lamplighter.gateway.control.guard.BODY_SECONDS", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"key": '
        await asyncio.sleep(3600)

    async with stage() as one, one.client(key=None) as client:
        slow = await client.post("/api/session", content=trickle(), headers={"content-type": "application/json"})
        assert (slow.status_code, error_of(slow)) == (408, "body_timeout")
        assert slow.headers["connection"] == "close"


async def test_the_api_describes_itself_to_admins_only() -> None:
    """If this fails, tools cannot be made for the API, or strangers read what there is to attack."""
    async with stage() as one:
        described = (await one.client().get("/api/openapi.json")).json()
        assert "/api/chats/{chat_id}" in described["paths"]
        assert (await one.client(key=one.other_key).get("/api/openapi.json")).status_code == 403
        assert (await one.client(key=None).get("/api/openapi.json")).status_code == 401
        for path in ("/docs", "/redoc", "/openapi.json", "/api/docs"):
            assert (await one.client().get(path)).status_code == 404

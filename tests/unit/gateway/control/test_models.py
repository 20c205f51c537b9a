"""Models over HTTP: reading makes no demand, orders do, and only what the file allows can be added."""

from lamplighter.engines.catalogue import CATALOGUE
from lamplighter.store import demand
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.chat.stage import stage


async def test_looking_wakes_nothing() -> None:
    """If this fails, an open page keeps a GPU burning."""
    async with stage() as one, one.client(key=one.other_key) as client:
        status = (await client.get("/api/status")).json()
        assert [model["name"] for model in status["models"]] == ["quick", "slow", "small", "always"]
        assert [pool["name"] for pool in status["pools"]] == ["cloud", "here", "nas"]
        assert status["installation"] == one.store.installation
        catalogue = (await client.get("/api/catalogue")).json()
        assert [entry["name"] for entry in catalogue["models"]] == list(CATALOGUE)
        assert catalogue["machine"]["memory_bytes"] > 0
        assert (await client.get("/api/chats")).status_code == 200
        assert await demand.totals(one.store) == {}


async def test_orders_wake_and_put_to_sleep() -> None:
    """If this fails, the page's wake and sleep buttons do nothing."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, one.client() as client:
        woken = await client.post("/api/models/quick/wake", json={"keep": 1800})
        assert woken.status_code == 202
        assert woken.json()["name"] == "quick"
        assert (await demand.totals(one.store))["quick"].wanted_until == clock.time() + 1800
        assert (await client.post("/api/models/slow/wake")).status_code == 202
        assert (await demand.totals(one.store))["slow"].wanted_until == clock.time() + 600
        assert (await client.post("/api/models/quick/sleep")).status_code == 202
        ordered = (await demand.totals(one.store))["quick"]
        assert (ordered.wanted_until, ordered.sleep_asked_at) == (None, clock.time())


async def test_orders_are_refused_with_a_reason() -> None:
    """If this fails, anyone can run up costs, or an impossible order is accepted in silence."""
    async with stage() as one, one.client() as client, one.client(key=one.other_key) as other:
        for path in ("/api/models/quick/wake", "/api/models/quick/sleep", "/api/models"):
            assert (await other.post(path, json={})).status_code == 403
        assert (await client.post("/api/models/none/wake")).json()["error"]["code"] == "model_not_found"
        assert (await client.post("/api/models/always/wake")).status_code == 202
        assert (await client.post("/api/models/always/sleep")).json()["error"]["code"] == "always_on"
        for keep in (0, -1, 1e9, "soon"):
            assert (await client.post("/api/models/quick/wake", json={"keep": keep})).status_code == 400
        assert await demand.totals(one.store) == {}


async def test_models_are_added_and_removed() -> None:
    """If this fails, a better model cannot be chosen from the page."""
    async with stage() as one, one.client() as client:
        added = await client.post("/api/models", json={"catalogue": "qwen3-0.6b"})
        assert added.status_code == 201, added.text
        assert (added.json()["name"], added.json()["pool"], added.json()["state"]) == ("qwen3-0.6b", "here", "asleep")
        named = await client.post("/api/models", json={"name": "org/mine:1", "source": "hf:a/b:c.gguf"})
        assert named.json()["source"] == "hf:a/b:c.gguf"
        assert (await client.post("/api/models/org/mine:1/wake")).status_code == 202
        assert (await client.post("/api/models", json={"catalogue": "qwen3-0.6b"})).status_code == 201
        names = [model["name"] for model in (await client.get("/api/status")).json()["models"]]
        assert names == ["quick", "slow", "small", "always", "qwen3-0.6b", "org/mine:1"]
        assert (await client.delete("/api/models/org/mine:1")).status_code == 204
        assert (await client.delete("/api/models/org/mine:1")).status_code == 404
        assert (await client.delete("/api/models/quick")).json()["error"]["code"] == "model_in_file"


async def test_the_api_cannot_reach_files_urls_or_commands() -> None:
    """If this fails, a stolen admin key of the page is a way into the machine."""
    async with stage() as one, one.client() as client:
        for body in (
            {"name": "x", "source": "file:/etc/passwd"},
            {"name": "x", "source": "http://evil.example/model.gguf"},
            {"name": "x", "source": "hf:a/b", "pool": "here"},
            {"name": "x", "source": "hf:a/b", "engine": "openai"},
            {"name": "x", "source": "hf:a/b", "wake": "touch /tmp/x"},
            {"name": "x", "source": "hf:a/b", "pool": {"kind": "command", "wake": "touch /tmp/x"}},
            {"name": "x", "source": "hf:a/b", "program": "/bin/sh"},
            {"name": "../x", "source": "hf:a/b"},
            {"source": "hf:a/b"},
            {"name": "x"},
            {},
        ):
            assert (await client.post("/api/models", json=body)).status_code == 400, body
        assert (await client.post("/api/models", json={"catalogue": "none"})).status_code == 404
        assert (await client.post("/api/models", json={"name": "quick", "source": "hf:a/b"})).status_code == 409
        desk = {"kind": "command", "url": "http://x", "wake": "touch /tmp/x", "sleep": "touch /tmp/x"}
        for path in ("/api/pools", "/api/pools/desk", "/api/config"):
            for verb in ("POST", "PUT", "PATCH"):
                assert (await client.request(verb, path, json=desk)).status_code in (404, 405), (verb, path)
        assert (await client.post("/api/models/quick/wake", json={"wake": "touch /tmp/x"})).status_code == 400

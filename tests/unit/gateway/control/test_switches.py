"""Changing what serves a name over HTTP: who may, what is refused and why, and what is shown."""

from typing import Any

import pytest

from lamplighter.core.rollouts import Because, Phase
from lamplighter.store import outcomes, overlay, rollouts
from lamplighter.store.outcomes import Seen, Where
from tests.unit.gateway.chat.stage import CONFIG, stage

MODELS = {
    "chat": {"engine": "fake", "pool": "cloud", "source": "hf:org/chat", "revision": "v1", "aliases": ["gpt"]},
    "better": {"engine": "fake", "pool": "cloud"},
    "narrow": {"engine": "fake", "pool": "one", "source": "hf:org/narrow"},
    "far": {"engine": "vllm", "pool": "nas", "source": "far"},
    "local": {"engine": "vllm", "pool": "here", "source": "file:/models/x"},
}
POOLS = {
    "cloud": {"kind": "fake", "max_replicas": 3},
    "one": {"kind": "fake"},
    "nas": {"kind": "static", "url": "http://nas.lan:1"},
    "here": {"kind": "process", "max_replicas": 2},
}
SETTINGS: dict[str, Any] = {**CONFIG, "models": MODELS, "pools": POOLS}


async def test_only_admins_change_what_serves() -> None:
    """If this fails, anybody with a key can send everybody to another model."""
    async with stage(config=SETTINGS) as one, one.client(key=one.other_key) as client:
        assert (await client.get("/api/switches")).status_code == 403
        assert (await client.get("/api/models/chat/switch")).status_code == 403
        assert (await client.post("/api/models/chat/switch", json={"revision": "v2"})).status_code == 403
        assert (await client.post("/api/models/chat/switch/rollback")).status_code == 403


async def test_a_change_begins_and_is_shown() -> None:
    """If this fails, the command line has nothing to begin with, or cannot tell how it goes."""
    async with stage(config=SETTINGS) as one, one.client() as client:
        untouched = (await client.get("/api/models/chat/switch")).json()
        assert untouched == {"name": "chat", "target": "chat", "revision": None, "since": None, "rollout": None, "notes": []}
        body = {"revision": "v2", "steps": [0.5, 10], "every": 60, "checks": [{"prompt": "2+2?", "expect": "4"}]}
        answer = await client.post("/api/models/gpt/switch", json=body)
        assert answer.status_code == 201, answer.text
        begun = answer.json()["rollout"]
        assert (begun["candidate"], begun["phase"], begun["steps"], begun["weight"]) == (
            "chat@v2",
            "waking",
            [0.5, 10.0, 100.0],
            0.0,
        )
        assert "chat@v2" in await overlay.effective(one.store, one.services.config)
        again = await client.post("/api/models/chat/switch", json={"to": "better"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "switch_under_way")
        await outcomes.add(one.store, {Where(begun["id"], 0, "candidate"): Seen(7, 1)})
        await rollouts.advance(one.store, begun["id"], Phase.CHECKING, term=None)
        await rollouts.advance(one.store, begun["id"], Phase.SERVING, term=None, step=0, reason=Because.CHECKED)
        shown = (await client.get("/api/models/chat/switch")).json()["rollout"]
        assert (shown["weight"], shown["candidate_seen"]["requests"], shown["passes_at"]) == (0.5, 7, shown["since"] + 60)
        assert [event["to_phase"] for event in shown["events"]] == ["waking", "checking", "serving"]
        listed = (await client.get("/api/switches")).json()["switches"]
        assert [one["name"] for one in listed] == ["chat"]
        await one.services.view.refresh()
        status = {model["name"]: model["switch"] for model in (await client.get("/api/status")).json()["models"]}
        assert status["chat"] == {"target": "chat", "candidate": "chat@v2", "weight": 0.5, "phase": "serving", "of": None}
        assert status["chat@v2"]["of"] == "chat"
        assert status["better"] is None
        assert (await client.delete("/api/models/chat@v2")).json()["error"]["code"] == "switch_target"


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("none", {"to": "better"}, 404, "model_not_found"),
        ("chat", {"to": "none"}, 404, "model_not_found"),
        ("chat", {}, 400, None),
        ("chat", {"to": "better", "revision": "v2"}, 400, None),
        ("chat", {"to": "chat"}, 409, "already_serving"),
        ("chat", {"revision": "v1"}, 409, "already_serving"),
        ("chat", {"revision": "../etc"}, 400, None),
        ("chat", {"revision": "v" * 124}, 400, None),
        ("narrow", {"revision": "v2"}, 409, "pool_too_small"),
        ("far", {"revision": "v2"}, 409, "foreign_server"),
        ("local", {"revision": "v2"}, 400, None),
        ("chat", {"revision": "v2", "steps": [50, 10]}, 400, None),
        ("chat", {"revision": "v2", "steps": [0]}, 400, None),
        ("chat", {"revision": "v2", "steps": [1.001, 1.002]}, 400, None),
        ("chat", {"revision": "v2", "every": 0}, 400, None),
        ("chat", {"revision": "v2", "within": 1e9}, 400, None),
        ("chat", {"revision": "v2", "samples": True}, 400, None),
        ("chat", {"revision": "v2", "checks": [{"prompt": "x", "expect": "("}]}, 400, None),
        ("chat", {"revision": "v2", "max_ttft_ratio": 0.5}, 400, None),
        ("chat", {"revision": "v2", "strategy": "hope"}, 400, None),
    ],
)
async def test_what_makes_no_sense_is_refused(name: str, body: dict[str, Any], status: int, code: str | None) -> None:
    """If this fails, a change begins that can never end well, or one that nobody meant."""
    async with stage(config=SETTINGS) as one, one.client() as client:
        answer = await client.post(f"/api/models/{name}/switch", json=body)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert code in (None, error["code"])
        assert (await rollouts.changes(one.store)).active == {}


async def test_orders_fit_the_moment() -> None:
    """If this fails, a candidate that nobody checked is promoted by hand, or an order is lost without a word."""
    async with stage(config=SETTINGS) as one, one.client() as client:

        async def order(what: str) -> tuple[int, str]:
            answer = await client.post(f"/api/models/chat/switch/{what}")
            return answer.status_code, answer.json().get("error", {}).get("code", "")

        assert await order("rollback") == (409, "no_switch")
        assert (await order("dance"))[0] == 400
        await client.post("/api/models/chat/switch", json={"revision": "v2"})
        assert await order("promote") == (409, "order_out_of_place")
        assert await order("resume") == (409, "order_out_of_place")
        assert await order("pause") == (202, "")  # nobody keeps here: it stands in the store
        newest = await rollouts.latest(one.store, "chat")
        assert newest is not None
        assert newest.asked == "pause"
        await rollouts.advance(one.store, newest.id, Phase.PAUSED, term=None)
        assert await order("pause") == (409, "order_out_of_place")
        await rollouts.advance(one.store, newest.id, Phase.ROLLED_BACK, term=None)
        assert await order("promote") == (409, "no_switch")

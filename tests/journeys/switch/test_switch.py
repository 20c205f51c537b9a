"""A model is changed while people go on asking: nobody gets an error, what is good is promoted, what is bad is taken back."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lamplighter.testing.engine import Wrong
from tests.journeys.harness import PROGRAM, Server, eventually, running
from tests.journeys.switch.crowd import Crowd, Engines

REVISIONS = """
pools: {cloud: {kind: fake, max_replicas: 2, stages: {pull: 200ms, load: 300ms}, tokens_per_second: 2000}}
models: {chat: {engine: fake, pool: cloud, source: "hf:org/chat", revision: "v1", aliases: [gpt]}}
keeper: {interval: 500ms}
"""
ARGUMENTS = ("--every", "3s", "--settle", "3s", "--samples", "10", "--wait")


def servers(one: str, other: str) -> str:
    return (
        f'pools: {{old: {{kind: static, url: "{one}"}}, new: {{kind: static, url: "{other}"}}}}\n'
        "models:\n  chat: {engine: openai, pool: old}\n  better: {engine: openai, pool: new, source: chat}\n"
        "keeper: {interval: 500ms}\n"
    )


def switch(server: Server, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """`lamplighter models switch ...` as a person runs it."""
    done = subprocess.run(
        [PROGRAM, "models", "switch", *arguments, "--data", server.data], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    if status is not None:
        assert done.returncode == status, done.stdout + done.stderr
    return done


def shown(server: Server, name: str = "chat") -> dict[str, Any]:
    return dict(json.loads(switch(server, name, "--status", "--json").stdout))


def both_found(server: Server) -> bool:
    return {model["state"] for model in server.status()["models"]} == {"awake"}


def test_blue_green_of_a_revision_under_load(server: Callable[..., Server]) -> None:
    """A new revision would cost people their answers, or the old one would burn beside it for ever."""
    with running(server(REVISIONS)) as lamplighter:
        with Crowd(lamplighter.url, "gpt").asking() as crowd:
            eventually(lambda: crowd.answered["chat"] > 20, what="people are answered by the old revision")
            done = switch(lamplighter, "chat", "--revision", "v2", "--strategy", "blue-green", "--settle", "2s", "--wait")
            assert "promoted" in done.stdout
            at = crowd.answered["chat@v2"]
            eventually(lambda: crowd.answered["chat@v2"] > at + 20, what="people are answered by the new one")
        assert crowd.wrong == []
        assert set(crowd.answered) == {"chat", "chat@v2"}
        found = shown(lamplighter)
        assert (found["target"], found["revision"]) == ("chat@v2", "v2")
        eventually(lambda: lamplighter.model("chat")["state"] == "asleep", what="the old revision sleeps")
        assert lamplighter.model("chat")["switch"]["target"] == "chat@v2"
        # What was decided is remembered, and the file may say the same later.
        assert lamplighter.stop() == 0
        lamplighter.start()
        with lamplighter.http() as client:
            body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.headers["lamplighter-model"] == "chat@v2"
            assert answer.json()["model"] == "chat"  # clients see the name that they know
        # And taken back.
        assert "rolled back" in switch(lamplighter, "chat", "--rollback").stdout
        eventually(lambda: shown(lamplighter)["target"] == "chat", what="it is taken back")


def test_a_good_canary_is_promoted_step_by_step(server: Callable[..., Server]) -> None:
    """A share would never grow, or grow past people whom nobody counted."""
    with Engines() as engines:
        old, new = (engines.new(model="chat", tokens_per_second=2000) for _ in range(2))
        with running(server(servers(old.url, new.url))) as lamplighter:
            eventually(lambda: both_found(lamplighter), what="both servers are found")
            with Crowd(lamplighter.url, "chat").asking() as crowd:
                eventually(lambda: crowd.answered["chat"] > 50, what="people are answered")
                done = switch(lamplighter, "chat", "--to", "better", "--steps", "20%,60%", *ARGUMENTS)
            assert crowd.wrong == []
            assert crowd.answered["better"] > 50
            events = [event["weight"] for event in shown(lamplighter)["rollout"]["events"] if event["to_phase"] != "promoted"]
            assert events == [0, 0, 20, 60, 100]
            assert "step_passed" in done.stderr
            listed = switch(lamplighter, "--list").stdout
            assert "chat\tbetter" in listed
            with lamplighter.http() as client:
                metrics = client.get("/metrics").text
            assert 'lamplighter_rollouts_total{name="chat",outcome="promoted",reason=' in metrics
            assert 'lamplighter_rollout_weight{name="chat",target="better"} 1.0' in metrics


@pytest.mark.parametrize(
    ("before", "behaviour", "reason"),
    [
        ({}, {"wrong": Wrong.STATUS_500}, "errors"),
        ({}, {"wrong": Wrong.RESET}, "errors"),
        ({"wrong": Wrong.SLOW_HEADERS, "slow_seconds": 1.5}, {}, "slow"),
    ],
)
def test_a_bad_canary_is_rolled_back_and_nobody_notices(
    server: Callable[..., Server], before: dict[str, Any], behaviour: dict[str, Any], reason: str
) -> None:
    """A broken or slow model would go on serving its share until somebody looks."""
    with Engines() as engines:
        old = engines.new(model="chat", tokens_per_second=2000)
        new = engines.new(model="chat", tokens_per_second=2000, **before)
        with running(server(servers(old.url, new.url))) as lamplighter:
            eventually(lambda: both_found(lamplighter), what="both servers are found")
            with Crowd(lamplighter.url, "chat").asking() as crowd:
                eventually(lambda: crowd.answered["chat"] > 50, what="people are answered")
                switch(lamplighter, "chat", "--to", "better", "--steps", "30%", "--every", "60s", "--samples", "10")
                eventually(lambda: shown(lamplighter)["rollout"]["phase"] == "serving", what="the canary serves")
                engines.alter(new, **behaviour)
                eventually(lambda: shown(lamplighter)["rollout"]["phase"] == "rolled_back", what="it is rolled back")
                count = crowd.answered["chat"]
                eventually(lambda: crowd.answered["chat"] > count + 20, what="the old one answers everybody")
            assert crowd.wrong == []
            found = shown(lamplighter)
            assert (found["target"], found["rollout"]["reason"]) == ("chat", reason)


def test_a_wrong_answer_keeps_everybody_away(server: Callable[..., Server]) -> None:
    """People would be sent to a model that answers nonsense quickly and without errors."""
    with Engines() as engines:
        old = engines.new(model="chat", tokens_per_second=2000)
        new = engines.new(model="chat", tokens_per_second=2000, says=(" nonsense",))
        with running(server(servers(old.url, new.url))) as lamplighter:
            eventually(lambda: both_found(lamplighter), what="both servers are found")
            check = ("--check", "What is lit?", "--expect", r"(?i)the\s+lamp")
            done = switch(lamplighter, "chat", "--to", "better", *check, *ARGUMENTS, status=1)
            assert "check_failed" in done.stderr
            assert "nonsense" in done.stderr
            assert new.counters.requests == 1  # the check's own
            engines.alter(new, says=("The", " lamp", " is", " lit"))
            assert "promoted" in switch(lamplighter, "chat", "--to", "better", *check, "--steps", "50", *ARGUMENTS).stdout


def test_a_keeper_that_dies_in_the_middle_is_followed(server: Callable[..., Server]) -> None:
    """A crash would leave a change half done for ever, or begin it anew."""
    one = server(REVISIONS).start()
    switch(one, "chat", "--revision", "v2", "--steps", "50%", "--every", "6s", "--settle", "2s")
    eventually(lambda: shown(one)["rollout"]["phase"] == "serving", what="the canary serves")
    rollout = shown(one)["rollout"]
    one.kill()
    with running(one):
        eventually(lambda: shown(one)["rollout"]["phase"] == "promoted", what="it goes on and is promoted")
        assert shown(one)["rollout"]["id"] == rollout["id"]
        assert shown(one)["target"] == "chat@v2"


def test_people_have_the_last_word(server: Callable[..., Server]) -> None:
    """Who sees something wrong could only watch, or an order would be taken that makes no sense."""
    with running(server(REVISIONS)) as lamplighter:
        assert switch(lamplighter, "chat", "--rollback", status=7).stderr.startswith("error: No change of 'chat'")
        assert "serves 'chat' already" in switch(lamplighter, "chat", "--revision", "v1", status=7).stderr
        assert "There is no model 'none'" in switch(lamplighter, "none", "--revision", "v2", status=7).stderr
        slow = ("--every", "1h", "--steps", "50%")
        switch(lamplighter, "chat", "--revision", "v2", *slow)
        assert "is under way" in switch(lamplighter, "chat", "--revision", "v3", status=7).stderr
        eventually(lambda: shown(lamplighter)["rollout"]["phase"] == "serving", what="the canary serves")
        assert shown(lamplighter)["rollout"]["weight"] == 50
        assert "paused" in switch(lamplighter, "chat", "--pause").stdout
        assert "paused already" in switch(lamplighter, "chat", "--pause", status=7).stderr
        assert "serving" in switch(lamplighter, "chat", "--resume").stdout
        assert "rolled back" in switch(lamplighter, "chat", "--rollback").stdout
        assert shown(lamplighter)["target"] == "chat"
        eventually(lambda: len(lamplighter.status()["models"]) == 1, what="the candidate is gone")
        switch(lamplighter, "chat", "--revision", "v2", *slow)
        eventually(lambda: shown(lamplighter)["rollout"]["phase"] == "serving", what="the canary serves")
        assert "served by chat@v2" in switch(lamplighter, "chat", "--promote").stdout
        assert switch(lamplighter, "chat", "--to", "x", "--revision", "y", status=2).returncode == 2


def test_a_pool_with_one_place_says_so(server: Callable[..., Server]) -> None:
    """A change would wait for ever for a place that its own model has."""
    with running(server(REVISIONS.replace("max_replicas: 2", "max_replicas: 1"))) as lamplighter:
        refused = switch(lamplighter, "chat", "--revision", "v2", status=7).stderr
        assert "holds one replica" in refused
        assert "max_replicas" in refused

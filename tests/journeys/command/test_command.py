"""A machine of one's own, woken and put to sleep by commands, under the real `lamplighter up`: only its hardware is pretended."""

import concurrent.futures
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.journeys.command.desk import Desk
from tests.journeys.harness import Server, eventually, running

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path / "desk", getattr(request, "param", "openai"))
    yield one
    one.crash()


def config(desk: Desk, **settings: object) -> str:
    """One model `m` on the desk."""
    model = {"engine": desk.engine, "pool": "desk", "source": "fake" if desk.engine == "openai" else "llama3.2:3b"}
    pool = desk.settings(sleep_after="2s", wake_every="5s", min_residency="500ms", **settings)
    return f"models: {json.dumps({'m': model})}\npools: {{desk: {pool}}}\nkeeper: {{interval: 500ms}}\n"


@pytest.mark.parametrize("desk", ["openai", "ollama"], indirect=True)
def test_a_request_wakes_it_and_idleness_puts_it_to_sleep(server: Callable[..., Server], desk: Desk) -> None:
    """The machine would have to run day and night, or the request would fail because it does not."""
    with running(server(config(desk))) as lamplighter, lamplighter.http() as client:
        assert lamplighter.model("m")["state"] == "asleep"
        assert (desk.awake(), desk.diary) == (False, [])
        answer = client.post("/v1/chat/completions", json=HELLO)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        assert desk.awake()
        (pool,) = lamplighter.status()["pools"]
        assert (pool["kind"], pool["max_replicas"]) == ("command", 3)
        assert desk.folder.name in desk.wake
        assert str(desk.folder) not in client.get("/api/status").text, "what the commands are is nobody's business"
        lamplighter.until("asleep", "m")
        eventually(lambda: not desk.awake(), what="the machine is off")
        assert desk.diary == ["wake", "sleep"]
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200, "and again"
        assert desk.diary == ["wake", "sleep", "wake"]
    assert not desk.awake(), "whoever leaves puts out the light"
    assert desk.diary == ["wake", "sleep", "wake", "sleep"]


def test_a_wake_command_that_fails_shows_its_own_words(server: Callable[..., Server], desk: Desk) -> None:
    """A person would not learn that the network card's name is wrong."""
    broken = config(desk).replace(json.dumps(desk.wake), json.dumps(["sh", "-c", "echo 'wol: no such interface eth9'; exit 3"]))
    with running(server(broken)) as lamplighter, lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", json=HELLO, headers={"lamplighter-wake": "wait"})
        assert answer.status_code == 503
        failure = eventually(lambda: lamplighter.model("m")["failure"], what="the failure is shown")
        assert "The wake command failed with exit status 3: wol: no such interface eth9" in failure["message"]
        assert "wol: no such interface eth9" in answer.text
        assert desk.diary == []


def test_lamplighter_is_killed_and_the_next_one_keeps_its_promise(server: Callable[..., Server], desk: Desk) -> None:
    """The machine would be on until somebody notices: days, for a moment of use."""
    lamplighter = server(config(desk)).start()
    with lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
    lamplighter.kill()
    time.sleep(0.5)
    process = desk.process
    assert process is not None, "what runs there is not touched by our death"
    with running(lamplighter) as again, again.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200, "adopted, not woken again"
        assert desk.process == process
        eventually(lambda: not desk.awake(), what="the machine is off")
        assert desk.diary == ["wake", "sleep"]


def test_lamplighter_is_killed_while_it_wakes_the_machine(server: Callable[..., Server], desk: Desk) -> None:
    """The wake command would run twice at once, or its process stay for ever; and a machine that came up would never sleep."""
    slow = config(desk).replace(json.dumps(desk.wake), json.dumps(f"{desk.wake}; exec sleep 333"))
    lamplighter = server(slow).start()
    with concurrent.futures.ThreadPoolExecutor(1) as person, lamplighter.http() as client:
        person.submit(client.post, "/v1/chat/completions", json=HELLO)
        eventually(lambda: desk.process, what="the machine comes up")
        lamplighter.kill()
    lamplighter.config = config(desk)
    with running(lamplighter):
        eventually(lambda: not desk.awake(), what="the machine is off")
        assert "sleep" in desk.diary
    assert "was killed" in lamplighter.text()


def test_a_machine_that_was_on_is_used_and_left_alone(server: Callable[..., Server], desk: Desk) -> None:
    """Somebody who works at it would be interrupted because a model is idle."""
    desk.switch_on()
    with running(server(config(desk))) as lamplighter, lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        lamplighter.until("asleep", "m")
        time.sleep(1)
    assert desk.diary == []
    assert desk.awake()


def test_a_request_while_it_falls_asleep_is_held_and_wakes_it_again(server: Callable[..., Server], desk: Desk) -> None:
    """It still answers for a moment: the request would go to a machine that is gone a second later."""
    slow = config(desk).replace(json.dumps(desk.sleep), json.dumps(f"echo falling >> {desk.folder}/diary; sleep 3; {desk.sleep}"))
    with running(server(slow)) as lamplighter, lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        eventually(lambda: "falling" in desk.diary, what="it falls asleep")
        assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
        assert desk.diary == ["wake", "falling", "sleep", "wake"]


def test_leaving_in_the_middle_of_a_wake_leaves_nothing_behind(server: Callable[..., Server], desk: Desk) -> None:
    """Ctrl-C would leave the command running, or the machine on that it woke after all."""
    slow = config(desk).replace(json.dumps(desk.wake), json.dumps(f"{desk.wake}; sleep 334"))
    with running(server(slow)) as lamplighter:
        lamplighter.order("wake", "m")
        eventually(desk.awake, what="the machine comes up")
        assert lamplighter.stop() == 0
    assert not desk.awake()
    assert desk.diary == ["wake", "sleep"]
    assert not [one for one in psutil.process_iter(["cmdline"]) if "sleep 334" in " ".join(one.info["cmdline"] or ())]

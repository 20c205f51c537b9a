"""The whole chain with a real Lamplighter: a question wakes a machine, which becomes a cluster, joins home's, and answers as a pod; and all ways out.

AWS, the nodes, both Kubernetes and Liqo are pretended (see `world`); nothing here proves anything about the real ones.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.testing.kubernetes import Outcome
from tests.journeys.chain.world import MODEL, STAGES, World, world
from tests.journeys.harness import eventually

QUESTION = [{"role": "user", "content": "Who lit the lamp?"}]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as one:
        yield one


@dataclass
class Answer:
    """One streamed answer. `stages`: that its comments named, in order. `error`: with which it ended. `finished`: whether it told its end."""

    stages: list[str] = field(default_factory=list)
    text: str = ""
    error: dict[str, Any] | None = None
    finished: bool = False


def held(made: World) -> Answer:
    """Ask by a raw stream."""
    body = {"model": MODEL, "stream": True, "max_tokens": 200, "messages": QUESTION}
    answer = Answer()
    with made.server.http() as client, client.stream("POST", "/v1/chat/completions", json=body, timeout=120) as response:
        for line in response.iter_lines():
            if line.startswith(":"):
                named = [word.removeprefix("stage=") for word in line.split() if word.startswith("stage=")]
                answer.stages += [name for name in named if name not in answer.stages]
            elif line == "data: [DONE]":
                answer.finished = True
            elif line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                answer.error = event.get("error", answer.error)
                answer.text += "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
            elif line.startswith("{"):
                answer.error = json.loads(line).get("error", answer.error)
    return answer


def ask(made: World) -> str:
    """Through OpenAI's own client, as anybody would."""
    answer = made.server.openai(timeout=120).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8)
    return str(answer.choices[0].message.content)


@pytest.mark.timeout(240)
def test_from_a_question_to_an_answer_to_nothing(made: World) -> None:
    """A person would not know what the minutes are spent on, would get no answer, or would pay for what is left behind."""
    assert made.left() == []
    began = time.monotonic()
    answer = held(made)
    took = time.monotonic() - began
    assert answer.error is None, f"{answer.error} {made.story()}"
    assert answer.finished
    assert answer.text
    told = [name for name in answer.stages if name != "queued"]
    assert told == [name for name in STAGES if name in told], "in order"
    assert {"cluster", "federation"} <= set(answer.stages)
    assert made.wake_stages() == STAGES, "every one, each begun where the one before ended"
    print(
        f"\nFrom the question to the whole answer, all stages pretended: {took:.1f} s; told meanwhile: {', '.join(answer.stages)}"
    )
    assert ask(made), "and again, without a wake"
    (name,) = made.chain.living
    assert name.startswith("gpu-i-")
    eventually(lambda: made.server.model(MODEL)["state"] == "asleep", what=f"it sleeps; {made.story()}", timeout=60)
    made.nothing_left()
    assert made.chain.living == []


@pytest.mark.timeout(240)
def test_a_machine_that_is_taken_in_the_middle_of_an_answer(made: World) -> None:
    """An answer that stops without a word is taken for a whole one; and what the machine leaves in home's cluster stands in the next one's way."""
    made.chain.outcomes[MODEL] = Outcome(engine={"tokens_per_second": 2, "tokens": 60})
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(held(made)), daemon=True)
    asking.start()
    eventually(lambda: made.server.model(MODEL)["state"] == "awake", what=f"it is awake; {made.story()}")
    time.sleep(2)  # some words have come
    (machine,) = made.aws.instances(live=True)
    del made.chain.outcomes[MODEL]
    made.aws.reclaim(machine.id, seconds=0)
    asking.join(120)
    (answer,) = answers
    assert answer.text
    assert answer.finished or answer.error is not None, "an explicit error, or it went on elsewhere to its end"
    print(f"\nA machine that is taken: {'it went on elsewhere' if answer.finished else answer.error}")
    lost = f"gpu-{machine.id}"

    def rest() -> list[str]:
        return [one for one in made.left() if lost in one or machine.id in one]

    eventually(lambda: not rest(), what=f"nothing of it is left; {rest()}", timeout=60)
    again = held(made)
    assert again.error is None, f"{again.error} {made.story()}"
    assert again.text
    assert lost not in made.chain.living
    made.nothing_left()


@pytest.mark.timeout(240)
def test_a_peering_that_can_never_be_is_told_to_who_waits(made: World) -> None:
    """Two versions of Liqo that do not understand each other: the person would wait for a deadline, and be told of a timeout."""
    made.restart(liqo_version="v1.3.0")
    answer = held(made)
    assert not answer.text
    assert answer.error is not None, made.story()
    assert "v1.2.0" in answer.error["message"], answer.error
    assert "v1.3.0" in answer.error["message"], answer.error
    assert answer.error["code"] is not None
    made.nothing_left()
    assert len(made.aws.instances()) == 1, "what can never be is not tried again and again"


@pytest.mark.timeout(300)
def test_a_keeper_that_is_killed_in_the_middle_of_joining(made: World) -> None:
    """A second machine would be bought, or the first one's half of a peering left for ever."""
    asking = threading.Thread(target=lambda: _ignored(made), daemon=True)
    asking.start()
    eventually(lambda: made.chain.living, what=f"the machine became a cluster; {made.story()}")
    made.server.kill()
    asking.join(60)
    made.server.start()
    answer = held(made)
    assert answer.error is None, f"{answer.error} {made.story()}"
    assert answer.text
    assert len(made.aws.instances()) == 1, "it was adopted"
    made.nothing_left()


def _ignored(made: World) -> None:
    """Ask, and lose the answer with the server."""
    with contextlib.suppress(httpx.HTTPError):
        held(made)

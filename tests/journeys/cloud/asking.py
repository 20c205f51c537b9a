"""A client that watches its own answer arrive, and the table of a wake's times."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.journeys.cloud.world import MODEL, Show

QUESTION = "Who lit the lamp?"
TAIL = (" dark", " again", " after", ".")


@dataclass
class Answer:
    """One streamed answer. Times in seconds since it was asked for, on the machine's clock as `asked_at`."""

    asked_at: float
    headers: float = 0.0
    comments: list[tuple[float, str]] = field(default_factory=list)
    pieces: list[tuple[float, str]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    done: bool = False

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    @property
    def first(self) -> float:
        """When its first token came."""
        return self.pieces[0][0]

    @property
    def stages(self) -> list[str]:
        """The stages that its comments named, in order."""
        named = [
            word.removeprefix("stage=") for _, comment in self.comments for word in comment.split() if word.startswith("stage=")
        ]
        return list(dict.fromkeys(named))


def ask(show: Show, tokens: int = 12, *, question: str = QUESTION, at: int = 0, act: Callable[[], None] = lambda: None) -> Answer:
    """Ask, and read to the end. `act` is done when the `at`-th token came."""
    answer = Answer(time.time())
    began = time.monotonic()
    body = {"model": MODEL, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": question}]}
    with show.server.http() as client, client.stream("POST", "/v1/chat/completions", json=body, timeout=150) as response:
        answer.headers = time.monotonic() - began
        if response.status_code != 200:
            answer.error = json.loads(response.read()).get("error")
            return answer
        for line in response.iter_lines():
            now = time.monotonic() - began
            if line.startswith(":"):
                answer.comments.append((now, line))
            elif line == "data: [DONE]":
                answer.done = True
            elif line.startswith("data: "):
                _take(answer, now, json.loads(line.removeprefix("data: ")))
                if at and len(answer.pieces) == at:
                    act()
                    at = 0
    return answer


def _take(answer: Answer, now: float, event: dict[str, Any]) -> None:
    if "error" in event:
        answer.error = event["error"]
    for choice in event.get("choices", []):
        if piece := choice["delta"].get("content"):
            answer.pieces.append((now, piece))


def beside(show: Show, tokens: int, **options: Any) -> tuple[threading.Thread, list[Answer]]:
    """The same, in a thread; the answer is in the list once it ended."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask(show, tokens, **options)), daemon=True)
    thread.start()
    return thread, answers


@dataclass(frozen=True)
class Times:
    """A wake taken apart: each step with its seconds, and whether it is a stage (or the machine's own start) or ours."""

    steps: list[tuple[str, float, bool]]

    @property
    def whole(self) -> float:
        return sum(seconds for _, seconds, _ in self.steps)

    @property
    def overhead(self) -> float:
        """What is in no stage: our own code, and what it waited for without need."""
        return sum(seconds for _, seconds, ours in self.steps if ours)

    def table(self, title: str) -> str:
        """For people."""
        rows = [(f"{name}{' *' if ours else ''}", seconds) for name, seconds, ours in self.steps]
        rows += [("from the question to the first token", self.whole), ("of which * our own, beside the stages", self.overhead)]
        return "\n".join([f"\n{title}", *(f"  {name:<58}{seconds:6.2f} s" for name, seconds in rows)])


def times(show: Show, answer: Answer, instance: str) -> Times:
    """By the clocks of the emulated AWS, the node, the store and the client, which are one machine's."""
    wake = next(one for one in show.wakes() if one["started_at"] >= answer.asked_at)
    stages = {one["name"]: one for one in json.loads(wake["stages"])}
    happened = [
        (at, what) for at, who, what in show.aws.history if at >= answer.asked_at and (who == instance or what == "desired 1")
    ]
    desired, running = (next(at for at, what in happened if what == wanted) for wanted in ("desired 1", "running"))
    marks = [
        ("request held, order written, AWS's dead-man pushed", desired, True),
        ("capacity: desired 1 -> the instance runs", running, False),
        ("the machine starts: kernel, user data, agent", stages["boot"]["started_at"], False),
        ("boot: hello -> certificate -> assignment read", stages["boot"]["ended_at"], False),
        ("mesh: overlay up -> the keeper's first dial answered", stages["mesh"]["ended_at"], False),
        ("pull", stages["pull"]["ended_at"], False),
        ("load", stages["load"]["ended_at"], False),
        ("the keeper sees it and says ready", wake["ended_at"], True),
        ("the held request is sent, the first token comes back", answer.asked_at + answer.first, True),
    ]
    steps, before = [], answer.asked_at
    for name, at, ours in marks:
        steps.append((name, at - before, ours))
        before = at
    return Times(steps)

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
    """A wake taken apart. `overhead`: what is in none of its stages."""

    rows: list[tuple[str, float]]
    whole: float
    overhead: float

    def table(self, title: str) -> str:
        """For people."""
        rows = [
            *self.rows,
            ("from the question to the first token", self.whole),
            ("of which our own, beside the stages", self.overhead),
        ]
        return "\n".join([f"\n{title}", *(f"  {name:<50}{seconds:6.2f} s" for name, seconds in rows)])


def times(show: Show, answer: Answer, instance: str) -> Times:
    """By the clocks of the emulated AWS (its two delays are known), of the node and of the client."""
    wake = next(one for one in show.wakes() if one["started_at"] >= answer.asked_at)
    stages = {one["name"]: one for one in json.loads(wake["stages"])}
    running = show.running_at[instance]
    capacity = show.aws.pace.launch + show.aws.pace.pending
    machine = max(0.0, stages["boot"]["started_at"] - running)
    rows = [("capacity (the emulated AWS's own delays)", capacity), ("the machine starts (until its agent runs)", machine)]
    for name, words in (
        ("boot", "boot (agent runs -> assignment read)"),
        ("mesh", "mesh (until the keeper's first dial is answered)"),
        ("pull", "pull (stand-in for docker)"),
        ("load", "load (pretended vLLM)"),
    ):
        rows.append((words, stages[name]["ended_at"] - stages[name]["started_at"]))
    return Times(rows, answer.first, answer.first - sum(seconds for _, seconds in rows))

"""One conversation over `/v1/chat/completions`, streamed: what `lamplighter chat` says and hears, without a terminal.

Not responsible for showing anything: the caller iterates over what happens.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.operations.client import Client

_COMMENT = re.compile(r"(\w+)=(\S+)")


class AnswerBroken(LamplighterError):
    """The answer ended with an error, or without its end; what came so far is incomplete."""

    code = "answer_broken"


@dataclass(frozen=True, slots=True)
class Waking:
    """The model is being woken. `elapsed` and `eta` as the server wrote them (`3s`); None when it did not say."""

    stage: str | None
    elapsed: str | None
    eta: str | None

    def __str__(self) -> str:
        text = "waking" + (f": {self.stage}" if self.stage else "") + (f", for {self.elapsed}" if self.elapsed else "")
        return text + (f", about {self.eta} in all" if self.eta else "")


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end. `model`: who answered. `usage`: as OpenAI's API has it, when the server told."""

    model: str
    usage: dict[str, Any] | None


@dataclass
class Conversation:
    """The messages so far. `model` may be changed between two questions."""

    client: "Client"
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> Generator[Waking | Text | Done, None, None]:
        """Send `question` with all that was said before. Closing the iterator ends the answer; what came of it is kept.

        Raises NotRunning, Refused (then the question is forgotten), AnswerBroken (then what came is kept).
        """
        self.messages.append({"role": "user", "content": question})
        body = {"model": self.model, "messages": self.messages, "stream": True, "stream_options": {"include_usage": True}}
        parts: list[str] = []
        try:
            with self.client.open_stream("/v1/chat/completions", body) as answer:
                for item in _read(answer.iter_bytes(), self.model):
                    if isinstance(item, Text):
                        parts.append(item.text)
                    yield item
        finally:
            if parts:
                self.messages.append({"role": "assistant", "content": "".join(parts)})
            else:
                self.messages.pop()

    def forget(self) -> None:
        """Begin anew; a system prompt stays."""
        self.messages[:] = [message for message in self.messages if message["role"] == "system"]


def _read(chunks: Iterable[bytes], model: str) -> Iterator[Waking | Text | Done]:
    usage: dict[str, Any] | None = None
    for line in lines(chunks):
        if line.startswith(":"):
            if "waking" in line:
                said = dict(_COMMENT.findall(line))
                yield Waking(said.get("stage"), said.get("elapsed"), said.get("eta"))
            continue
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            yield Done(model, usage)
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise AnswerBroken("the answer holds something that is not JSON", next_step="Run `lamplighter doctor`.") from None
        if "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {"message": str(event["error"])}
            raise AnswerBroken(
                str(error.get("message") or "the answer ended with an error"), next_step=str(error.get("next_step") or "")
            )
        usage = event.get("usage") or usage
        model = event.get("model") or model
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                yield Text(text)
    raise AnswerBroken("the answer broke off", next_step="Ask again; `lamplighter status` shows what happened.")


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of an event stream however it is cut into chunks. Only LF and CRLF end a line: JSON may hold every other separator."""
    pending = b""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if pending:
        yield pending.decode(errors="replace")

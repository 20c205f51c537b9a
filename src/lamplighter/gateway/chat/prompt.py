"""Makes the request for a model out of a branch of messages, so that it fits. Pure.

Not responsible for sampling defaults: those are the engine's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lamplighter.core.errors import RequestError
from lamplighter.store.chats import Message

TITLE_LENGTH = 60
_MARKUP = "#>*`_~- \t"
_PER_MESSAGE = 6
"""Tokens that a chat template spends around each message, about."""
_ANSWER = 1024
"""Tokens kept free for the answer when nobody said how long it may be; never more than a quarter of the context."""
_LEAST_SHARE = 0.1
_CONTINUE = "Continue your answer exactly where it stops. Do not repeat any of it and do not comment: write only what follows."


def title_of(question: str) -> str:
    """A chat's title from its first question: its first line that says something, shortened at a word."""
    line = next((plain for line in question.splitlines() if (plain := " ".join(line.strip(_MARKUP).split()))), "")
    if len(line) <= TITLE_LENGTH:
        return line or "New chat"
    short = line[:TITLE_LENGTH]
    head, space, _ = short.rpartition(" ")
    return (head if space and len(head) > TITLE_LENGTH // 2 else short).rstrip(" ,.;:") + "…"


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: four ASCII characters each, and two thirds of a token for every other one."""
    ascii_count = len(text.encode("ascii", "ignore"))
    return ascii_count // 4 + (len(text) - ascii_count) * 2 // 3 + 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that a request is made of. `history`: the branch down to the question, oldest first. `kept`: text of the answer that the
    model must continue. `context`: tokens that one request may use, None when unknown. `prefill`: the engine continues an unfinished last
    answer by itself."""

    system: str | None
    history: Sequence[Message]
    kept: str
    params: Mapping[str, Any]
    context: int | None
    prefill: bool
    share: float = 1.0

    def body(self) -> dict[str, Any]:
        """The chat completion request, without `model` and `stream`. A system prompt and the question always stay."""
        turns = self._trimmed(_turns(self.history), self.share)
        if self.kept:
            turns.append({"role": "assistant", "content": self.kept})
            if not self.prefill:
                turns.append({"role": "user", "content": _CONTINUE})
        if self.system:
            turns.insert(0, {"role": "system", "content": self.system})
        return {"messages": turns, **self.params}

    def after(self, error: RequestError) -> "Prompt | None":
        """Another way to ask, after an engine refused this one before its first token; None when there is none.

        A prompt that was too long (our count is an estimate) is shortened; a model that cannot be prefilled is asked to continue.
        """
        if error.code == "context_length_exceeded":
            return self._shorter()
        if error.status == 400 and self.kept and self.prefill:
            return replace(self, prefill=False)
        return None

    def _shorter(self) -> "Prompt | None":
        turns = _turns(self.history)
        count, share = len(self._trimmed(turns, self.share)), self.share
        while share > _LEAST_SHARE:
            share /= 2
            if len(self._trimmed(turns, share)) < count:
                return replace(self, share=share)
        return None

    def _trimmed(self, turns: list[dict[str, str]], share: float) -> list[dict[str, str]]:
        """The newest turns that fit; the last one always stays, and what stays begins with a question."""
        room = self._room(share)
        if room is None:
            return turns
        first = len(turns) - 1
        room -= _cost(turns[first]["content"]) if turns else 0
        while first > 0 and (room := room - _cost(turns[first - 1]["content"])) >= 0:
            first -= 1
        while first < len(turns) - 1 and turns[first]["role"] != "user":
            first += 1
        return turns[max(0, first) :]

    def _room(self, share: float) -> int | None:
        if self.context is None:
            return None if share == 1.0 else int(sum(_cost(message.content) for message in self.history) * share)
        answer = min(int(self.params.get("max_tokens") or _ANSWER), self.context // 4)
        spent = _cost(self.system or "") + _cost(self.kept) + (_cost(_CONTINUE) if self.kept and not self.prefill else 0)
        return int((self.context - answer - spent) * share)


def _cost(text: str) -> int:
    return estimate_tokens(text) + _PER_MESSAGE


def _turns(history: Sequence[Message]) -> list[dict[str, str]]:
    """Roles take turns, because chat templates insist on it: answers that never came are left out, questions left alone are joined."""
    turns: list[dict[str, str]] = []
    for message in history:
        if not message.content:
            continue
        if turns and turns[-1]["role"] == message.role:
            turns[-1]["content"] += "\n\n" + message.content
        else:
            turns.append({"role": message.role, "content": message.content})
    return turns

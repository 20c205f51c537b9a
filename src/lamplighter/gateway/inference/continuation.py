"""Lets another engine go on with a streamed answer that broke off, so that the client sees one stream. Pure: bytes in, bytes and requests out.

What was given is asked for again as the beginning of the assistant's own message; what comes is made to look like the rest of the first
stream. No token is given twice and none is left out. Where that cannot be promised (tools, logprobs, several choices, a schema, reasoning)
there is no continuation. Not responsible for finding another engine (`dispatch`), nor for what the client is told meanwhile (`http`).

The text is one that an uninterrupted stream could have produced. With greedy sampling it is the same text wherever the engine reads the text
that was given as the tokens that it had written, which is nearly always: see `docs/guides/accounting.md`.
"""

from typing import Any

import msgspec

from lamplighter.engines.continuing import Continues
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import EventTooLarge, Splitter, payload

MOST_TEXT = 256 * 1024
"""Characters of an answer up to which it can be continued."""
MOST_TIMES = 3
"""Engines that may be lost for one answer."""
_KEEP = 8 * 1024
"""Bytes that are kept as they came, before only their text is kept: reading them at once is quicker, and most streams end before."""
_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_PREVENT = (
    "tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs", "prompt_logprobs", "response_format", "json_schema",
    "grammar", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "best_of", "echo", "suffix",
    "use_beam_search", "modalities", "audio", "continue_final_message", "add_generation_prompt", "prompt_embeds", "return_token_ids",
)  # fmt: skip
"""Fields whose presence means more than text, or text that must be one whole."""
_TEXT_FIELDS = frozenset({"role", "content"})


class Continuation:
    """One stream that could be continued. `feed` it everything the engine sends; after a loss, `next_request` and `splice`."""

    __slots__ = (
        "_able", "_before", "_begun", "_buffer", "_count", "_frame", "_given", "_next", "_owed", "_request", "_size", "_splitter",
        "_text", "_times", "_trailing",
    )  # fmt: skip

    def __init__(self, request: InferenceRequest, way: Continues) -> None:
        self._request = request
        self._able: Continues | None = way
        self._buffer: list[bytes] = []
        self._size = 0
        self._splitter = Splitter()
        self._text: list[str] = []
        self._given = 0
        """Characters in `_text`."""
        self._count = 0
        """Pieces of text so far: tokens, for engines that send each by itself."""
        self._trailing = 0
        """Of them, those at the end that are nothing but space: they are asked for again."""
        self._before = 0
        """Pieces that the engines before the one that writes now have given for good."""
        self._begun = False
        """Whether the client had anything before the engine that writes now."""
        self._frame: dict[str, Any] | None = None
        """What every chunk of the first stream has: its id, its time."""
        self._owed = ""
        """Space that was given at the end and that the next engine may write again."""
        self._next: Splitter | None = None
        self._times = 0

    @classmethod
    def of(cls, request: InferenceRequest, way: Continues | None) -> "Continuation | None":
        """For a stream of `request` from an engine that continues in this `way`; None when it could not be continued."""
        if way is None or not request.stream or request.route not in {"chat", "completions"}:
            return None
        if any(request.has(name) for name in _PREVENT) and not _harmless(request):
            return None
        if request.has("n") and request.get("n") != 1:
            return None
        if request.route == "completions" and not isinstance(request.get("prompt"), str):
            return None
        return cls(request, way)

    @property
    def happened(self) -> bool:
        """Whether another engine went on: what the stream used is then put together of what two engines told."""
        return self._times > 0

    def feed(self, data: bytes) -> None:
        """What the first engine sent, as it came."""
        if self._able is None:
            return
        self._buffer.append(data)
        self._size += len(data)
        if self._size > _KEEP:
            self._read()

    def next_request(self) -> InferenceRequest | None:
        """What to ask another engine for, after a loss; None when the answer cannot be continued."""
        self._read()
        self._next = None
        if self._able is None or self._times >= MOST_TIMES:
            return None
        text = "".join(self._text)
        kept = text.rstrip()
        if self._half_a_stop(text):
            return None
        changes = self._shortened()
        if changes is None:
            return None
        self._owed = text[len(kept) :] if kept else text
        if kept:
            beginning = self._prefilled(kept)
            if beginning is None:
                return None
            changes |= beginning
        following = self._request.changed(changes)
        self._times += 1
        self._before = self._count = self._count - self._trailing
        self._trailing = 0
        self._begun = self._frame is not None
        self._next = Splitter()
        return following

    def splice(self, data: bytes) -> bytes:
        """What the next engine sent, as it came: what of it belongs into the one stream, whole events only. Raises sse.EventTooLarge."""
        if self._next is None:
            raise RuntimeError("nothing was asked to go on")
        return b"".join(self._spliced(event) for event in self._next.split(self._next.feed(data)))

    # -- what was given

    def _read(self) -> None:
        """Take the text out of what was kept as it came."""
        data, self._size = b"".join(self._buffer), 0
        self._buffer.clear()
        if not data or self._able is None:
            return
        try:
            whole = self._splitter.feed(data)
        except EventTooLarge:
            self._give_up()
            return
        for event in self._splitter.split(whole):
            if (chunk := _decode(event)) is not None:
                self._note(chunk)

    def _note(self, chunk: dict[str, Any]) -> None:
        """One chunk that the client was given."""
        if self._frame is None:
            self._frame = {name: chunk[name] for name in ("id", "created", "model", "system_fingerprint") if name in chunk}
        choices = chunk.get("choices")
        if "error" in chunk or not isinstance(choices, list) or len(choices) > 1:
            self._give_up()
            return
        if not choices:
            return
        piece = _piece(choices[0])
        if piece is None or choices[0].get("finish_reason") is not None:
            self._give_up()  # it is more than text, or there is nothing left to go on with
            return
        self._add(piece, piece)

    def _add(self, piece: str, written: str) -> None:
        """A token: what the engine wrote, and what of it the client did not have yet."""
        if not written:
            return
        self._text.append(piece)
        self._given += len(piece)
        self._count += 1
        self._trailing = self._trailing + 1 if written.isspace() else 0
        if self._given > MOST_TEXT:
            self._give_up()

    def _give_up(self) -> None:
        self._able = None
        self._text.clear()
        self._buffer.clear()
        self._size = 0

    # -- what is asked for

    def _shortened(self) -> dict[str, Any] | None:
        """The limits on the answer's length, less what was given; None when nothing is left."""
        given = self._count - self._trailing
        changes: dict[str, Any] = {}
        for name in _LIMITS:
            limit = self._request.get(name) if self._request.has(name) else None
            if isinstance(limit, int) and limit >= 0:
                if limit <= given:
                    return None
                changes[name] = limit - given
        return changes

    def _prefilled(self, kept: str) -> dict[str, Any] | None:
        """What makes an engine go on after `kept`; None when the conversation ends with an answer that somebody else began."""
        request = self._request
        if request.route == "completions":
            return {"prompt": f"{request.get('prompt')}{kept}"}
        messages = request.get("messages")
        if messages[-1].get("role") == "assistant":
            return None
        changes: dict[str, Any] = {"messages": [*messages, {"role": "assistant", "content": kept}]}
        if self._able is Continues.FLAG:
            changes |= {"continue_final_message": True, "add_generation_prompt": False}
        return changes

    def _half_a_stop(self, text: str) -> bool:
        """Whether the text ends with the beginning of a stop sequence: the next engine would not see that it is completed."""
        stop = self._request.get("stop") if self._request.has("stop") else None
        stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
        return any(text.endswith(one[:length]) for one in stops if isinstance(one, str) for length in range(1, len(one)))

    # -- what comes

    def _spliced(self, event: bytes) -> bytes:
        content = payload(event)
        if content is None or content == b"[DONE]":
            return event
        chunk = _decode(event)
        if chunk is None:
            return event  # it is no JSON: as without us
        choices = chunk.get("choices")
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._add_usage(usage)
        if self._frame is None:  # the first engine was lost before it said anything that counts
            self._frame = {name: chunk[name] for name in ("id", "created") if name in chunk}
        if "error" in chunk or not isinstance(choices, list) or len(choices) > 1:
            self._give_up()
        elif choices:
            choice = choices[0]
            written = _piece(choice)
            if written is None:
                self._give_up()
            else:
                finished = choice.get("finish_reason") is not None
                piece = self._without_owed(written)
                self._add(piece, written)
                if finished:
                    self._give_up()
                elif not piece and usage is None and self._begun:
                    return b""  # it says who speaks, or repeats a space: that was said
                _put(choice, piece)
        chunk |= self._frame
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _without_owed(self, piece: str) -> str:
        while self._owed and piece:
            if piece[0] != self._owed[0]:
                self._owed = ""  # the engine left the space out, or chose another one: ours stands
                break
            piece, self._owed = piece[1:], self._owed[1:]
        return piece

    def _add_usage(self, usage: dict[str, Any]) -> None:
        """Tokens of the whole answer: what was given before is an answer, although the next engine read it as its prompt."""
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            before = min(self._before, prompt)
            usage["prompt_tokens"], usage["completion_tokens"] = prompt - before, completion + before


def _harmless(request: InferenceRequest) -> bool:
    """Whether the fields that would prevent it are there and say nothing: `tools: []`, `response_format: {"type": "text"}`."""
    for name in _PREVENT:
        value = request.get(name) if request.has(name) else None
        if name == "response_format" and isinstance(value, dict) and value.get("type") == "text":
            continue
        if name == "best_of" and value == 1:
            continue
        if name == "tool_choice" and value in {"none", "auto"}:
            continue
        if value not in (None, False, 0, [], ""):
            return False
    return True


def _decode(event: bytes) -> dict[str, Any] | None:
    content = payload(event)
    if content is None or content == b"[DONE]":
        return None
    try:
        chunk = msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return chunk if isinstance(chunk, dict) else None


def _piece(choice: Any) -> str | None:
    """The text of one choice of a chunk; None when it holds more than text."""
    if not isinstance(choice, dict) or choice.get("logprobs") is not None or choice.get("index", 0) != 0:
        return None
    if "delta" not in choice:
        text = choice.get("text")
        return text if isinstance(text, str) else None
    delta = choice["delta"]
    if not isinstance(delta, dict) or any(value for name, value in delta.items() if name not in _TEXT_FIELDS):
        return None
    text = delta.get("content")
    return text if isinstance(text, str) else "" if text is None else None


def _put(choice: dict[str, Any], piece: str) -> None:
    if "delta" in choice:
        if piece or choice["delta"].get("content") is not None:
            choice["delta"]["content"] = piece
    else:
        choice["text"] = piece

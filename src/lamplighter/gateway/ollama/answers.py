"""Answers in Ollama's shape: an object, or a stream of objects, one a line. Made from what the engines say in OpenAI's words.

The durations are measured: by the engine where it tells (llama.cpp's `timings`), else from here, between arrival, first word and end.
"""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.ollama.requests import Note
from lamplighter.gateway.sse import Splitter, Usage, payload

_MS = 1_000_000
_NOTHING = msgspec.Raw()


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Timings(msgspec.Struct):
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = _NOTHING


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: Usage | None = None


_answer = msgspec.json.Decoder(_Answer)
_embeddings = msgspec.json.Decoder(_Embeddings)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _note(request: InferenceRequest) -> Note:
    return request.note if isinstance(request.note, Note) else Note(time.monotonic_ns())


def _thought(said: _Said) -> str:
    return said.reasoning_content or said.reasoning or ""


class _Reader:
    """Makes lines of events. `chat`: whether the words stand in `message.content` or in `response`."""

    def __init__(self, request: InferenceRequest, *, chat: bool) -> None:
        self._request = request
        self._chat = chat
        self._splitter = Splitter()
        self._opened = time.monotonic_ns()
        self._first: int | None = None
        self._calls: dict[int, tuple[str, str]] = {}
        self._reason: str | None = None
        self._timings: _Timings | None = None
        self._done = False

    @property
    def usage(self) -> Usage | None:
        """Tokens, once the engine told them."""
        return self._splitter.usage

    @property
    def events(self) -> int:
        """Pieces that went by."""
        return self._splitter.events

    @property
    def partial(self) -> bool:
        """Whether half an event waits for its end."""
        return self._splitter.partial

    @property
    def done(self) -> bool:
        """Whether the line with `done` was written."""
        return self._done

    @property
    def finished(self) -> bool:
        """Whether the answer came to an end: its reason was told."""
        return self._done or self._reason is not None

    def feed(self, data: bytes) -> bytes:
        """Whole lines, possibly none. Raises EventTooLarge."""
        return self._lines(self._splitter.feed(data))

    def close(self) -> bytes:
        """The line with `done`, when the answer ended but the engine did not say its last word."""
        rest = self._lines(self._splitter.close())
        if self._done or self._reason is None or self._splitter.partial:
            return rest
        return rest + self._end()

    def _lines(self, whole: bytes) -> bytes:
        if not whole:
            return b""
        lines = []
        for event in self._splitter.split(whole):
            content = payload(event)
            if content is None or self._done:
                continue
            if content.strip() == b"[DONE]":
                if self._reason is not None:
                    lines.append(self._end())
                continue
            try:
                lines.append(self._read(_answer.decode(content)))
            except (msgspec.MsgspecError, RecursionError):
                continue  # no words in it that we could pass on
        return b"".join(lines)

    def _read(self, answer: _Answer) -> bytes:
        if bytes(answer.error) not in {b"", b"null"}:
            return _line({"error": _message_of(answer.error)})
        self._timings = answer.timings or self._timings
        lines = b""
        for choice in answer.choices[:1]:
            said = choice.delta or _Said(content=choice.text)
            for call in said.tool_calls or ():
                name, arguments = self._calls.get(call.index, ("", ""))
                function = call.function or _Function()
                self._calls[call.index] = (name or function.name or "", arguments + (function.arguments or ""))
            if said.content or _thought(said):
                self._first = self._first or time.monotonic_ns()
                lines += self._words(said.content or "", _thought(said), choice.logprobs)
            if choice.finish_reason is not None:
                self._reason = choice.finish_reason
                if self._calls:
                    lines += self._called()
        return lines

    def _words(self, text: str, thought: str, logprobs: _Logprobs | None) -> bytes:
        line = _words(self._request.model, text, thought, chat=self._chat)
        if logprobs is not None and logprobs.content:
            line["logprobs"] = logprobs.content
        return _line(line)

    def _called(self) -> bytes:
        calls, broken = _tool_calls(self._calls[index] for index in sorted(self._calls))
        line = _words(self._request.model, broken, "", chat=self._chat)
        if calls and self._chat:
            line["message"]["tool_calls"] = calls
        return _line(line)

    def _end(self) -> bytes:
        self._done = True
        now, note = time.monotonic_ns(), _note(self._request)
        first = self._first or now
        line = {
            **_words(self._request.model, "", "", chat=self._chat),
            "done": True,
            "done_reason": _reason(self._reason),
            "total_duration": now - note.began,
            "load_duration": self._opened - note.began,
            **_counts(self.usage, self._timings, prompt=first - self._opened, answer=now - first),
        }
        return _line(line)


def _words(model: str, text: str, thought: str, *, chat: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"model": model, "created_at": _now()}
    if chat:
        line["message"] = {"role": "assistant", "content": text, **({"thinking": thought} if thought else {})}
    else:
        line["response"] = text
        if thought:
            line["thinking"] = thought
    line["done"] = False
    return line


def _tool_calls(made: Any) -> tuple[list[dict[str, Any]], str]:
    """The calls whose arguments are whole, and the text of those that were cut off: nothing is lost, nothing is made up."""
    calls, broken = [], ""
    for name, text in made:
        try:
            arguments = msgspec.json.decode(text) if text.strip() else {}
        except (msgspec.MsgspecError, RecursionError):
            arguments = None
        if isinstance(arguments, dict):
            calls.append({"function": {"name": name, "arguments": arguments}})
        else:
            broken += text
    return calls, broken


def _reason(reason: str | None) -> str:
    return "length" if reason == "length" else "stop"


def _counts(usage: Usage | None, timings: _Timings | None, *, prompt: int, answer: int) -> dict[str, int]:
    """Tokens, and nanoseconds of the prompt and of the answer unless the engine measured them itself."""
    if timings is not None and timings.predicted_ms > 0:
        prompt, answer = int(timings.prompt_ms * _MS), int(timings.predicted_ms * _MS)
    counts = {"prompt_eval_duration": max(0, prompt), "eval_duration": max(0, answer)}
    if usage is None:
        return counts
    return {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens, **counts}


def _message_of(error: msgspec.Raw) -> str:
    found = msgspec.json.decode(error)
    message = found.get("message") if isinstance(found, dict) else found
    return message if isinstance(message, str) else "The engine reported an error without words."


class _Dialect:
    """What all of Ollama's routes share."""

    stream_type = b"application/x-ndjson"
    terminator = b""

    def error(self, error: RequestError) -> bytes:
        """`{"error": "..."}`, with the next step in the sentence: its clients show nothing else."""
        message = f"model not found: {error.message}" if error.code == "model_not_found" else error.message
        if error.next_step and error.next_step not in message:
            message = f"{message} {error.next_step}"
        return msgspec.json.encode({"error": message})

    def error_event(self, error: RequestError) -> bytes:
        """The same as a line; its clients raise it."""
        return self.error(error) + b"\n"

    def reader(self, request: InferenceRequest) -> _Reader:
        """Embeddings do not stream."""
        return _Reader(request, chat=False)

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """A piece of the answer without words."""
        return _line({**_words(request.model, "", "", chat=False), "lamplighter": text})


class GenerateDialect(_Dialect):
    """`/api/chat` and `/api/generate`."""

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat

    def reader(self, request: InferenceRequest) -> _Reader:
        """Lines from events."""
        return _Reader(request, chat=self._chat)

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """A piece of the answer without words; `lamplighter` tells people what it waits for."""
        return _line({**_words(request.model, "", "", chat=self._chat), "lamplighter": text})

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """Raises ValueError when the engine's answer is not one whole answer."""
        answer, note, now = _decode(_answer, body), _note(request), time.monotonic_ns()
        if not answer.choices:
            raise ValueError("an answer without choices")
        total = now - note.began
        if note.load:
            line = {**_words(request.model, "", "", chat=self._chat), "done": True, "done_reason": "load"}
            return msgspec.json.encode({**line, "total_duration": total, "load_duration": total}), answer.usage
        choice = answer.choices[0]
        said = choice.message or _Said(content=choice.text)
        made = [call.function or _Function() for call in said.tool_calls or ()]
        calls, broken = _tool_calls((function.name or "", function.arguments or "") for function in made)
        line = _words(request.model, (said.content or "") + broken, _thought(said), chat=self._chat)
        if calls and self._chat:
            line["message"]["tool_calls"] = calls
        if choice.logprobs is not None and choice.logprobs.content:
            line["logprobs"] = choice.logprobs.content
        counts = _counts(answer.usage, answer.timings, prompt=0, answer=total)
        worked = counts["prompt_eval_duration"] + counts["eval_duration"]
        line |= {"done": True, "done_reason": _reason(choice.finish_reason), "total_duration": total}
        return msgspec.json.encode({**line, "load_duration": max(0, total - worked), **counts}), answer.usage


class EmbedDialect(_Dialect):
    """`/api/embed`, and `/api/embeddings` with its single vector (`one`)."""

    def __init__(self, *, one: bool) -> None:
        self._one = one

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """Raises ValueError when the engine's answer holds no vectors."""
        answer, note = _decode(_embeddings, body), _note(request)
        vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
        if self._one:
            return msgspec.json.encode({"embedding": vectors[0] if vectors else []}), answer.usage
        tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
        line = {"model": request.model, "embeddings": vectors, "total_duration": time.monotonic_ns() - note.began}
        return msgspec.json.encode({**line, "load_duration": 0, "prompt_eval_count": tokens}), answer.usage


def _decode(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


CHAT = GenerateDialect(chat=True)
GENERATE = GenerateDialect(chat=False)
EMBED = EmbedDialect(one=False)
EMBEDDINGS = EmbedDialect(one=True)

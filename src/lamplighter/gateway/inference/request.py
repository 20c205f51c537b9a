"""Reads the JSON of an inference request: checks the fields that the gateway uses, and writes the bytes that go to the engine.

The top level is taken apart into name and raw bytes of each value, and put together again: values that are not ours to change keep their
bytes exactly, while duplicate and escaped names cannot mean one thing here and another at the engine. Other fields are the engine's to judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from lamplighter.engines.base import Capability
from lamplighter.gateway.inference import measure, remote
from lamplighter.gateway.inference.fields import (
    Fields,
    Message,
    check_choices,
    check_list,
    check_messages,
    check_text,
    check_tokens,
    encode,
    flag,
    given,
    inner,
    missing,
    read,
    string,
    value,
)

Route = Literal["chat", "completions", "embeddings", "responses", "messages", "count_tokens", "rerank", "tokenize", "detokenize"]

UPSTREAM_PATHS: dict[Route, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "rerank": "/v1/rerank",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
CAPABILITY: dict[Route, Capability] = {
    "chat": Capability.CHAT,
    "completions": Capability.COMPLETIONS,
    "embeddings": Capability.EMBEDDINGS,
    "responses": Capability.RESPONSES,
    "messages": Capability.MESSAGES,
    "count_tokens": Capability.MESSAGES,
    "rerank": Capability.RERANK,
    "tokenize": Capability.TOKENIZE,
    "detokenize": Capability.TOKENIZE,
}

_STREAMS: frozenset[Route] = frozenset({"chat", "completions", "responses", "messages"})
_USAGE_OPTION: frozenset[Route] = frozenset({"chat", "completions"})
"""Routes whose stream tells its usage only when it is asked to."""
_TRUE = msgspec.Raw(b"true")
_MOST_SESSION = 256

__all__ = ["CAPABILITY", "UPSTREAM_PATHS", "Fields", "InferenceRequest", "Route", "encode_fields", "from_fields", "parse"]


@dataclass(slots=True)
class InferenceRequest:
    """A request that was understood. `usage_asked`: the client itself wants the usage event of its stream.

    `note`: what the dialect that read it must remember for its answer; nobody else looks at it.
    """

    route: Route
    model: str
    stream: bool
    usage_asked: bool
    _fields: Fields
    _messages: Sequence[Message] = ()
    note: object = None
    _prefix: bytes | None = field(default=None, repr=False)

    def body(self, upstream_model: str) -> bytes:
        """The bytes for an engine that knows the model as `upstream_model`. A stream always asks for usage: the gateway meters it."""
        fields = self._fields
        if upstream_model != self.model:
            fields = {**fields, "model": msgspec.Raw(msgspec.json.encode(upstream_model))}
        if self.stream and not self.usage_asked:
            merged = {**inner(fields, "stream_options"), "include_usage": _TRUE}
            fields = {**fields, "stream_options": msgspec.Raw(msgspec.json.encode(merged))}
        return msgspec.json.encode(fields)

    def bound(self) -> tuple[int, int | None]:
        """Tokens of the prompt and of the answer at the most; None for an answer that only the model's context bounds."""
        return measure.bound(self.route, self._fields)

    def prefix(self) -> bytes:
        """A digest of the prompt's beginning, the same for all turns of one conversation; b"" when there is none to share."""
        if self._prefix is None:
            self._prefix = measure.prefix(self.route, self._fields, self._messages)
        return self._prefix

    def session(self, headers: Mapping[bytes, bytes]) -> bytes:
        """What ties requests together: the header `Lamplighter-Session` or `X-Session-Id`, else what the body says; b"" for nothing."""
        named = headers.get(b"lamplighter-session") or headers.get(b"x-session-id")
        if named:
            return named[:_MOST_SESSION]
        fields = self._fields
        for name in ("prompt_cache_key", "user"):
            if name in fields and (raw := given(fields, name)) is not None:
                return bytes(memoryview(raw)[:_MOST_SESSION])
        if "metadata" in fields and self.route == "messages":
            found = self.get("metadata")
            if isinstance(found, dict) and isinstance(user := found.get("user_id"), str):
                return user.encode(errors="replace")[:_MOST_SESSION]
        return b""

    def check_remote(self, *, allowed: bool) -> None:
        """Whether it names nothing that the engine would have to fetch; see `remote`. Raises RequestError 400."""
        remote.check(self._fields, allowed=allowed)

    def has(self, name: str) -> bool:
        """Whether the client gave the field, with anything but null."""
        return given(self._fields, name) is not None

    def get(self, name: str) -> Any:
        """A field's value, decoded anew at each call; None when it is absent."""
        return value(self._fields, name)

    def changed(self, changes: Mapping[str, Any]) -> "InferenceRequest":
        """The same request with other values in some fields (None: without the field). What is not named keeps its bytes."""
        fields = dict(self._fields)
        for name, new in changes.items():
            fields.pop(name, None)
            if new is not None:
                fields[name] = msgspec.Raw(msgspec.json.encode(new))
        messages = check_messages(fields) if "messages" in changes else self._messages
        return replace(self, _fields=fields, _messages=messages, _prefix=None)


def parse(route: Route, raw: bytes) -> InferenceRequest:
    """Understand `raw`. Raises RequestError 400 that names the field."""
    return from_fields(route, read(raw))


def from_fields(route: Route, fields: Fields) -> InferenceRequest:
    """Check the fields that are ours. Raises RequestError 400 that names the field."""
    model = string(fields, "model")
    stream = "stream" in fields and route in _STREAMS and flag(fields, "stream")
    messages: Sequence[Message] = ()
    if route == "chat":
        messages = check_messages(fields)
        check_tokens(fields, "max_tokens", "max_completion_tokens")
        check_choices(fields)
    elif route == "completions":
        check_text(fields, "prompt")
        check_tokens(fields, "max_tokens", least=0)
        check_choices(fields)
    elif route == "embeddings":
        check_text(fields, "input")
    else:
        messages = _check_other(route, fields)
    if route not in _USAGE_OPTION:
        return InferenceRequest(route, model, stream, True, fields, messages)
    usage_asked = False
    if stream and "stream_options" in fields:
        options = inner(fields, "stream_options")
        usage_asked = flag(options, "include_usage", "stream_options.include_usage")
    return InferenceRequest(route, model, stream, usage_asked, fields, messages)


def _check_other(route: Route, fields: Fields) -> Sequence[Message]:
    if route == "responses":
        if "input" in fields or not any(name in fields for name in ("prompt", "previous_response_id")):
            check_text(fields, "input")
        check_tokens(fields, "max_output_tokens")
    elif route == "messages":
        if given(fields, "max_tokens") is None:
            raise missing("max_tokens")
        check_tokens(fields, "max_tokens")
        return check_messages(fields)
    elif route == "count_tokens":
        return check_messages(fields)
    elif route == "rerank":
        string(fields, "query")
        check_list(fields, "documents")
    elif route == "detokenize":
        check_list(fields, "tokens")
    return ()


encode_fields = encode

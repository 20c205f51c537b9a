"""Reads the JSON of an inference request: checks the fields that the gateway uses, and writes the bytes that go to the engine.

The top level is taken apart into name and raw bytes of each value, and put together again: values that are not ours to change keep their
bytes exactly, while duplicate and escaped names cannot mean one thing here and another at the engine. Other fields are the engine's to judge.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.engines.base import Capability

Route = Literal["chat", "completions", "embeddings"]

UPSTREAM_PATHS: dict[Route, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
CAPABILITY: dict[Route, Capability] = {
    "chat": Capability.CHAT,
    "completions": Capability.COMPLETIONS,
    "embeddings": Capability.EMBEDDINGS,
}

_CONTENT = frozenset({b'"', b"[", b"n"})
"""How a JSON string, list or null begins."""
_MAX_CHOICES = 128
_MAX_TOKENS = 2**31 - 1
_BOM = b"\xef\xbb\xbf"
_TRUE = msgspec.Raw(b"true")
_NULL = msgspec.Raw(b"null")

Fields = dict[str, msgspec.Raw]


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = _NULL


_fields = msgspec.json.Decoder(Fields)
_messages = msgspec.json.Decoder(list[_Message])
_text = msgspec.json.Decoder(str)
_whole = msgspec.json.Decoder(int)
_any = msgspec.json.Decoder()


@dataclass(slots=True)
class InferenceRequest:
    """A request that was understood. `usage_asked`: the client itself wants the usage event of its stream."""

    route: Route
    model: str
    stream: bool
    usage_asked: bool
    _fields: Fields

    def body(self, upstream_model: str) -> bytes:
        """The bytes for an engine that knows the model as `upstream_model`. A stream always asks for usage: the gateway meters it."""
        fields = self._fields
        if upstream_model != self.model:
            fields = {**fields, "model": msgspec.Raw(msgspec.json.encode(upstream_model))}
        if self.stream and not self.usage_asked:
            options = fields.get("stream_options")
            merged: Fields = {} if options is None or bytes(options) == b"null" else _fields.decode(options)
            fields = {**fields, "stream_options": msgspec.Raw(msgspec.json.encode({**merged, "include_usage": _TRUE}))}
        return msgspec.json.encode(fields)


def parse(route: Route, raw: bytes) -> InferenceRequest:
    """Understand `raw`. Raises RequestError 400 that names the field."""
    if raw.startswith(_BOM):
        raw = raw[3:]
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise _malformed(f"it is not UTF-8 (byte {error.start})") from None
    try:
        fields = _fields.decode(raw)
    except msgspec.ValidationError:
        raise RequestError("The request's body must be a JSON object.", code="invalid_body") from None
    except msgspec.DecodeError as error:
        raise _malformed(str(error).removeprefix("JSON is malformed: ")) from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    return from_fields(route, fields)


def from_fields(route: Route, fields: Fields) -> InferenceRequest:
    """Check the fields that are ours. Raises RequestError 400 that names the field."""
    model = _string(fields, "model")
    stream = "stream" in fields and route != "embeddings" and _flag(fields, "stream")
    usage_asked = False
    if route == "chat":
        _check_messages(fields)
        _check_numbers(fields, 1)
    elif route == "completions":
        _check_text(fields, "prompt")
        _check_numbers(fields, 0)
    else:
        _check_text(fields, "input")
    options = fields.get("stream_options")
    if stream and options is not None and bytes(options) != b"null":
        try:
            inner = _fields.decode(options)
        except (msgspec.MsgspecError, RecursionError):
            raise _wrong("stream_options", "an object") from None
        usage_asked = _flag(inner, "include_usage", "stream_options.include_usage")
    return InferenceRequest(route, model, stream, usage_asked, fields)


def encode_fields(body: dict[str, Any]) -> Fields:
    """Fields from Python values, for callers in this process."""
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}


def _string(fields: Fields, name: str) -> str:
    raw = fields.get(name)
    if raw is None:
        raise RequestError(f"The field `{name}` is missing.", param=name, code="missing_required_parameter")
    try:
        value = _text.decode(raw)
    except msgspec.MsgspecError:
        raise _wrong(name, "a string") from None
    if not value:
        raise _wrong(name, "a string that is not empty")
    return value


def _flag(fields: Fields, name: str, param: str | None = None) -> bool:
    raw = fields.get(name)
    if raw is None:
        return False
    value = bytes(raw)
    if value == b"true":
        return True
    if value in {b"false", b"null"}:
        return False
    raise _wrong(param or name, "true or false")


def _check_numbers(fields: Fields, least_tokens: int) -> None:
    if "max_tokens" in fields:
        _check_number(fields, "max_tokens", least_tokens, _MAX_TOKENS)
    if "max_completion_tokens" in fields:
        _check_number(fields, "max_completion_tokens", least_tokens, _MAX_TOKENS)
    if "n" in fields:
        _check_number(fields, "n", 1, _MAX_CHOICES)


def _check_number(fields: Fields, name: str, least: int, most: int) -> None:
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return
    try:
        value = _whole.decode(raw)
    except msgspec.MsgspecError:
        raise _wrong(name, "a whole number") from None
    if not least <= value <= most:
        raise RequestError(
            f"The field `{name}` must be between {least} and {most}; got {str(value)[:40]}.", param=name, code="invalid_value"
        )


def _check_messages(fields: Fields) -> None:
    raw = fields.get("messages")
    if raw is None:
        raise RequestError("The field `messages` is missing.", param="messages", code="missing_required_parameter")
    try:
        messages = _messages.decode(raw)
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        # msgspec says where: "... - at `$[0].role`".
        _, _, place = str(error).partition("$")
        param = f"messages{place.strip('`')}"
        raise RequestError(
            "The field `messages` must be a list of objects, each with a `role` that is a string.",
            param=param,
            code="invalid_type",
        ) from None
    if not messages:
        raise RequestError("The field `messages` must have at least one message.", param="messages", code="invalid_value")
    for index, message in enumerate(messages):
        if bytes(memoryview(message.content)[:1]) not in _CONTENT:  # its beginning tells its type; it may be megabytes
            raise _wrong(f"messages[{index}].content", "a string, a list of parts, or null")


def _check_text(fields: Fields, name: str) -> None:
    """A prompt or an input: a string, or a list that is not empty (of strings, or of token numbers)."""
    raw = fields.get(name)
    if raw is None:
        raise RequestError(f"The field `{name}` is missing.", param=name, code="missing_required_parameter")
    value = bytes(memoryview(raw)[:64])  # its beginning tells; it may be megabytes
    if value.startswith(b'"'):
        return
    if not value.startswith(b"["):
        raise _wrong(name, "a string or a list")
    if value[1:].lstrip().startswith(b"]"):
        raise RequestError(f"The field `{name}` must not be empty.", param=name, code="invalid_value")


def _malformed(why: str) -> RequestError:
    return RequestError(f"The request's body is not valid JSON: {why}.", code="invalid_json")


def _wrong(name: str, wanted: str) -> RequestError:
    return RequestError(f"The field `{name}` must be {wanted}.", param=name, code="invalid_type")

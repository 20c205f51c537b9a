"""OpenAI's Responses dialect, `/v1/responses`: named events that are numbered, and a last one that carries the whole response.

llama.cpp leaves out numbers and fields that OpenAI's own libraries need (`responses.stream()` fails without them): what is absent is added,
what is there keeps its bytes.
"""

import re
import time
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.dialects.typed import TypedReader
from lamplighter.gateway.inference.fields import Fields
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage, comment

_LAST = frozenset({"response.completed", "response.failed", "response.incomplete", "response.cancelled"})
_NULL = msgspec.Raw(b"null")
_ABSENT: Fields = {
    "error": _NULL,
    "incomplete_details": _NULL,
    "instructions": _NULL,
    "metadata": msgspec.Raw(b"{}"),
    "output": msgspec.Raw(b"[]"),
    "parallel_tool_calls": msgspec.Raw(b"true"),
    "temperature": _NULL,
    "tool_choice": msgspec.Raw(b'"auto"'),
    "tools": msgspec.Raw(b"[]"),
    "top_p": _NULL,
}
"""Fields that every response has, with what they say when nothing was said."""
_ECHOED = ("instructions", "metadata", "tools", "tool_choice", "temperature", "top_p", "max_output_tokens", "text", "reasoning")
"""Fields of the request that a response repeats."""


class _Tokens(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Response(msgspec.Struct):
    usage: _Tokens | None = None


class _Event(msgspec.Struct):
    type: str = ""
    response: _Response | None = None


_event = msgspec.json.Decoder(_Event)
_response = msgspec.json.Decoder(_Response)
_fields = msgspec.json.Decoder(Fields)


def _usage(response: _Response | None) -> Usage | None:
    tokens = response.usage if response is not None else None
    return None if tokens is None else Usage(tokens.input_tokens or 0, tokens.output_tokens or 0)


class ResponsesReader(TypedReader):
    """Numbers the events that have no number."""

    signs = re.compile(rb"data:")

    def __init__(self, request: InferenceRequest) -> None:
        super().__init__()
        self._request = request
        self._number = 0
        self._item = -1
        self._part = 0
        self._created = _raw(int(time.time()))
        self._complete: bool | None = None

    def _look(self, whole: bytes) -> bytes:
        # An engine that numbers its events leaves nothing to add: only its last event is read.
        if self._complete and b'"response.' in whole and not any(b'"%b"' % name.encode() in whole for name in _LAST):
            return whole
        return super()._look(whole)

    def read(self, event: bytes, content: bytes) -> bytes:
        """Notes tokens and the end, and adds what is absent."""
        if self._complete is None:
            self._complete = b'"sequence_number"' in content
        if self._complete:
            self._note(_event.decode(content))
            return event
        fields, found = _fields.decode(content), _event.decode(content)
        self._note(found)
        kind = found.type
        if not kind or "\n" in kind or "\r" in kind:
            return event
        if kind == "response.output_item.added":
            self._item, self._part = self._item + 1, -1
        elif kind in {"response.content_part.added", "response.reasoning_summary_part.added"}:
            self._part += 1
        if "sequence_number" not in fields:
            fields["sequence_number"] = _raw(self._number)
        self._number += 1
        if "item_id" in fields or "item" in fields:
            fields.setdefault("output_index", _raw(max(0, self._item)))
        if "item_id" in fields and ("text" in fields or "delta" in fields or "part" in fields) and "arguments" not in kind:
            index = "summary_index" if "summary" in kind else "content_index"
            fields.setdefault(index, _raw(max(0, self._part)))
            if kind.startswith("response.output_text.") and "logprobs" not in fields:
                fields["logprobs"] = msgspec.Raw(b"[]")
        if (response := fields.get("response")) is not None:
            inner = _fields.decode(response)
            inner.setdefault("created_at", self._created)
            fields["response"] = msgspec.Raw(msgspec.json.encode(_completed(inner, self._request)))
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(fields) + b"\n\n"

    def _note(self, found: _Event) -> None:
        if found.type in _LAST:
            self.usage = _usage(found.response) or self.usage
            self._done = True


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _completed(response: Fields, request: InferenceRequest) -> Fields:
    """`response` with what every response has."""
    for name in _ECHOED:
        if name not in response and request.has(name):
            response[name] = _raw(request.get(name))
    if "model" not in response:
        response["model"] = _raw(request.model)
    for name, absent in _ABSENT.items():
        response.setdefault(name, absent)
    return response


class ResponsesDialect:
    """`event: response.*`, ended by `response.completed`, `response.incomplete` or `response.failed`; there is no `[DONE]`."""

    stream_type = b"text/event-stream; charset=utf-8"
    terminator = b""

    def reader(self, request: InferenceRequest) -> ResponsesReader:
        """Events pass as they are when they are complete."""
        return ResponsesReader(request)

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """With what every response has. Raises ValueError when it is not one whole JSON object."""
        try:
            fields = _fields.decode(body)
            usage = _usage(_response.decode(body))
        except msgspec.ValidationError:
            if not body.lstrip().startswith(b"{"):
                raise
            return body, None
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if all(name in fields for name in _ABSENT):
            return body, usage
        return msgspec.json.encode(_completed(fields, request)), usage

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """A comment: a numbered event of ours would shift the engine's numbers."""
        return comment(text)

    def error(self, error: RequestError) -> bytes:
        """`{"error": {...}}`."""
        return msgspec.json.encode(error.body())

    def error_event(self, error: RequestError) -> bytes:
        """An `error` event. Its fields stand at the top as the API says, and under `error`, where the libraries look for what to raise."""
        body = error.body()
        event = {"type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}
        return b"event: error\ndata: " + msgspec.json.encode({**event, **body}) + b"\n\n"


RESPONSES = ResponsesDialect()

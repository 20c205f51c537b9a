"""Anthropic's dialect, `/v1/messages`: named events, `ping` as heartbeat, errors of its own shape. The engine speaks it itself."""

import re
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.dialects.typed import TypedReader
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage, comment

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Tokens(msgspec.Struct):
    """Anthropic counts the tokens that came from a cache apart from the others."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    @property
    def prompt(self) -> int:
        return (self.input_tokens or 0) + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)


class _Message(msgspec.Struct):
    usage: _Tokens | None = None


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: _Tokens | None = None
    delta: _Delta | None = None


_event = msgspec.json.Decoder(_Event)
_message = msgspec.json.Decoder(_Message)


class MessagesReader(TypedReader):
    """`message_start` tells the prompt's tokens, `message_delta` the answer's and why it ended, `message_stop` that it is whole."""

    signs = re.compile(rb'"message_(?:start|delta|stop)"')

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False
        self._prompt = 0

    def read(self, event: bytes, content: bytes) -> bytes:
        """Notes tokens and the end; the event passes as it is."""
        found = _event.decode(content)
        if found.type == "message_start" and found.message is not None and found.message.usage is not None:
            self._prompt = found.message.usage.prompt  # its output tokens are those of the beginning: they tell nothing
        elif found.type == "message_delta":
            if found.usage is not None and found.usage.output_tokens is not None:
                self.usage = Usage(found.usage.prompt or self._prompt, found.usage.output_tokens)
            self._stopped = self._stopped or (found.delta is not None and found.delta.stop_reason is not None)
        elif found.type == "message_stop":
            self._done = True
        return event

    @property
    def finished(self) -> bool:
        """Whether the reason of its end was told."""
        return self._done or self._stopped


class AnthropicDialect:
    """`event: ...` and `data: {...}`, ended by `message_stop`."""

    stream_type = b"text/event-stream; charset=utf-8"
    terminator = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def reader(self, request: InferenceRequest) -> MessagesReader:
        """Events pass as they are."""
        return MessagesReader()

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """As it came. Raises ValueError when it is not one whole JSON object."""
        try:
            tokens = _message.decode(body).usage
        except msgspec.ValidationError:
            if not body.lstrip().startswith(b"{"):
                raise
            return body, None
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if request.route == "count_tokens":
            return body, Usage()  # counting costs no tokens
        return body, None if tokens is None else Usage(tokens.prompt, tokens.output_tokens or 0)

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """A `ping`, which Anthropic's own servers send too, and a comment for people."""
        return comment(text)[:-1] + b'event: ping\ndata: {"type":"ping"}\n\n'

    def error(self, error: RequestError) -> bytes:
        """`{"type": "error", "error": {...}}`."""
        return msgspec.json.encode(_body(error))

    def error_event(self, error: RequestError) -> bytes:
        """The same as an `error` event."""
        return b"event: error\ndata: " + msgspec.json.encode(_body(error)) + b"\n\n"


def _body(error: RequestError) -> dict[str, Any]:
    inner = dict(error.body()["error"])
    kind = _TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {**inner, "type": kind}}


ANTHROPIC = AnthropicDialect()

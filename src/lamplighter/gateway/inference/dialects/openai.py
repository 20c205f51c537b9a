"""OpenAI's dialect: chat completions, completions, embeddings, and what else answers in one JSON object. Bytes pass through."""

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import DONE, Splitter, Usage, comment, error_event, read_whole


class OpenAIDialect:
    """`data: {...}` events and `data: [DONE]`."""

    stream_type = b"text/event-stream; charset=utf-8"
    terminator = DONE

    def reader(self, request: InferenceRequest) -> Splitter:
        """The engines speak this dialect themselves."""
        return Splitter(strip=not request.usage_asked)

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """As it came. Raises ValueError when it is not one whole JSON object."""
        return body, read_whole(body)

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """A comment."""
        return comment(text)

    def error(self, error: RequestError) -> bytes:
        """`{"error": {...}}`."""
        return msgspec.json.encode(error.body())

    def error_event(self, error: RequestError) -> bytes:
        """The same as an event."""
        return error_event(error.body())


OPENAI = OpenAIDialect()

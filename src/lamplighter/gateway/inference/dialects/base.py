"""What a dialect must say: the seam between the data path, which moves bytes, and what those bytes mean to one family of clients."""

from typing import Protocol

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage


class StreamReader(Protocol):
    """Takes an engine's stream as it arrives and gives what may go to the client: whole events only. One for each stream."""

    @property
    def usage(self) -> Usage | None:
        """Tokens, once the engine told them."""
        ...

    @property
    def events(self) -> int:
        """How many pieces of the answer went by, for estimates when the engine never tells."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What may go on now, possibly nothing. Raises sse.EventTooLarge."""
        ...

    def close(self) -> bytes:
        """The engine's stream ended: what was held back and may still go on."""
        ...

    @property
    def partial(self) -> bool:
        """Whether half an event waits for its end."""
        ...

    @property
    def done(self) -> bool:
        """Whether the stream said itself that it is whole, in the words that the client waits for."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the answer came to an end, although the stream may not have said its last word."""
        ...


class Dialect(Protocol):
    """One family of clients. Stateless."""

    stream_type: bytes
    """Content type of a stream."""
    terminator: bytes
    """What ends a whole stream when the engine did not say it."""

    def reader(self, request: InferenceRequest) -> StreamReader:
        """For the stream that answers `request`. An event that carries nothing but a usage that the client did not ask for is left out."""
        ...

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """A whole answer for the client, and the usage in it. Raises ValueError when `body` is not one whole JSON object."""
        ...

    def heartbeat(self, text: str, request: InferenceRequest) -> bytes:
        """What keeps a stream alive without meaning anything to the client; `text` is for people who look at the bytes."""
        ...

    def error(self, error: RequestError) -> bytes:
        """The body of an error answer."""
        ...

    def error_event(self, error: RequestError) -> bytes:
        """An error within a stream whose head is gone; the stream ends after it."""
        ...

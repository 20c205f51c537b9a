"""Streams whose events have names (Anthropic's messages, OpenAI's responses): framing as everywhere, usage and end from the events' types.

Not responsible for what the events of one family are called: a subclass reads them.
"""

import re
from abc import ABC, abstractmethod

import msgspec

from lamplighter.gateway.sse import Splitter, Usage, payload


class TypedReader(ABC):
    """A `StreamReader`. Only events that hold one of `signs` are read; all others pass as they are."""

    signs: re.Pattern[bytes]

    def __init__(self) -> None:
        self._splitter = Splitter()
        self.usage: Usage | None = None
        self._done = False

    @property
    def events(self) -> int:
        """Pieces that went by."""
        return self._splitter.events

    def feed(self, data: bytes) -> bytes:
        """Whole events. Raises EventTooLarge."""
        whole = self._splitter.feed(data)
        return self._look(whole) if whole else whole

    def close(self) -> bytes:
        """What was held back."""
        rest = self._splitter.close()
        return self._look(rest) if rest else rest

    def _look(self, whole: bytes) -> bytes:
        if self.signs.search(whole) is None:
            return whole
        return b"".join(
            event if self.signs.search(event) is None else self._read_event(event) for event in self._splitter.split(whole)
        )

    def _read_event(self, event: bytes) -> bytes:
        content = payload(event)
        if content is None:
            return event
        try:
            return self.read(event, content)
        except (msgspec.MsgspecError, RecursionError):
            return event  # not ours to judge: the client's library will

    @abstractmethod
    def read(self, event: bytes, content: bytes) -> bytes:
        """Take notice of one event, whose data is `content`; give it back, or what goes on in its place."""

    @property
    def partial(self) -> bool:
        """Whether half an event waits for its end."""
        return self._splitter.partial

    @property
    def done(self) -> bool:
        """Whether the last event went by."""
        return self._done

    @property
    def finished(self) -> bool:
        """Whether the answer came to an end."""
        return self._done

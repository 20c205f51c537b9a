"""Server-sent events as bytes: cuts a stream at event boundaries, finds the usage event, knows a finished stream from a broken one.

Bytes are passed on exactly as the engine wrote them; only a whole usage event that the client did not ask for is left out. Events are not
parsed, except those few that may carry usage.
"""

import re
from typing import Any

import msgspec

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event; a larger one ends the stream with an error."""

# Two line ends in a row. A line ends with CRLF, LF or CR; atomic groups keep CRLF from being read as two.
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_NULL_USAGE = re.compile(rb'"usage"\s*:\s*null')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"|"stop_reason"\s*:\s*"')
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")

DONE = b"data: [DONE]\n\n"


class EventTooLarge(Exception):
    """An event did not end within `MAX_EVENT` bytes."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None


_chunk = msgspec.json.Decoder(_Chunk)


def read_whole(body: bytes) -> Usage | None:
    """The usage in a whole JSON answer, if it has any. Raises ValueError when `body` is not one whole JSON object."""
    try:
        return _chunk.decode(body).usage
    except msgspec.ValidationError:  # JSON, but not of the shape we know: not ours to judge
        if not body.lstrip().startswith(b"{"):
            raise
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def payload(event: bytes) -> bytes | None:
    """The data of one event: its `data` lines joined by line feeds; None when it has none (a comment)."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def comment(text: str) -> bytes:
    """An SSE comment, a whole event by itself; clients ignore it, proxies see traffic."""
    return b": " + text.replace("\r", " ").replace("\n", " ").encode() + b"\n\n"


def error_event(error: dict[str, Any]) -> bytes:
    """An event that carries an error in OpenAI's shape."""
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


class Splitter:
    """Takes bytes as they arrive, gives whole events. `usage` holds the tokens once they were seen.

    `strip`: leave out an event that carries nothing but usage.
    """

    __slots__ = ("_last", "_pending", "_previous", "_scanned", "_strip", "usage")

    def __init__(self, *, strip: bool = False) -> None:
        self._strip = strip
        self._pending = b""
        self._scanned = 0
        self._previous = b""
        self._last = b""
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """What may go on now: whole events only, possibly nothing. Raises EventTooLarge."""
        if self._pending:
            data = self._pending + data
        if data.endswith(b"\n\n") and b"\r" not in data:  # almost always: the engine wrote whole events
            self._pending = b""
            self._scanned = 0
        else:
            end = self._end(data)
            self._pending = data[end:]
            self._scanned = max(0, len(self._pending) - 3)
            if len(self._pending) > MAX_EVENT:
                raise EventTooLarge(f"an event is larger than {MAX_EVENT} bytes")
            if not end:
                return b""
            data = data[:end]
        self._previous, self._last = self._last, data
        if b'"usage"' in data:
            return self._metered(data)
        return data

    def _end(self, data: bytes) -> int:
        """Where the last whole event ends; 0 when there is none. What was searched before is not searched again."""
        if b"\r" not in data:
            at = data.rfind(b"\n\n", self._scanned)
            return at + 2 if at >= 0 else 0
        end = 0
        start = self._scanned
        if start and data[start - 1 : start] == b"\r":
            start -= 1  # never begin between CR and LF
        for match in _BOUNDARY.finditer(data, start):
            # A CR at the very end may be half a CRLF: wait for what follows.
            if match.end() < len(data) or data[-1:] != b"\r":
                end = match.end()
        return end

    def close(self) -> bytes:
        """The stream ended: a last event that was held back only because its final CR might have been half a CRLF."""
        rest = self._pending
        if not rest.endswith(b"\r") or not _BOUNDARY.search(rest[-3:]):
            return b""
        self._pending = b""
        self._previous, self._last = self._last, rest
        return self._metered(rest) if b'"usage"' in rest else rest

    def events(self, data: bytes) -> list[bytes]:
        """The single events in what `feed` gave."""
        events, start = [], 0
        for match in _BOUNDARY.finditer(data):
            if match.end() > start:
                events.append(data[start : match.end()])
                start = match.end()
        if start < len(data):
            events.append(data[start:])
        return events

    def _metered(self, data: bytes) -> bytes:
        if _NULL_USAGE.search(data) and data.count(b'"usage"') == len(_NULL_USAGE.findall(data)):
            return data  # vLLM says `"usage":null` in every event
        kept = []
        for event in self.events(data):
            if b'"usage"' in event and (content := payload(event)) is not None:
                try:
                    chunk = _chunk.decode(content)
                except (msgspec.MsgspecError, RecursionError):
                    chunk = None
                if chunk is not None and chunk.usage is not None:
                    self.usage = chunk.usage
                    if self._strip and not chunk.choices:
                        continue
            kept.append(event)
        return b"".join(kept)

    @property
    def partial(self) -> bool:
        """Whether half an event waits for its end."""
        return bool(self._pending.strip())

    @property
    def done(self) -> bool:
        """Whether the stream said `[DONE]`."""
        return _DONE.search(self._previous[-4096:] + self._last[-4096:]) is not None

    @property
    def finished(self) -> bool:
        """Whether the answer itself came to an end (a finish reason, or the usage that follows it)."""
        return self.usage is not None or _FINISHED.search(self._previous + self._last) is not None

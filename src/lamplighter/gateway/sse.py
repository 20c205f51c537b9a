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
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"|"stop_reason"\s*:\s*"')

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
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[6:-2]  # as nearly all are
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def comment(text: str) -> bytes:
    """An SSE comment, a whole event by itself; clients ignore it, proxies see traffic."""
    return b": " + text.replace("\r", " ").replace("\n", " ").encode() + b"\n\n"


def error_event(error: dict[str, Any]) -> bytes:
    """An event that carries an error in OpenAI's shape."""
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


class Splitter:
    """Takes bytes as they arrive, gives whole events. `usage` holds the tokens once they were seen, `events` counts what went by.

    `strip`: leave out an event that carries nothing but usage.
    """

    __slots__ = ("_last", "_pending", "_previous", "_scanned", "_strip", "events", "usage")

    def __init__(self, *, strip: bool = False) -> None:
        self._strip = strip
        self._pending = b""
        self._scanned = 0
        self._previous = b""
        self._last = b""
        self.usage: Usage | None = None
        self.events = 0

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
        self.events += data.count(b"\ndata:") + 1  # each event has one; the first has no line before it
        if len(data) > 16 or data.strip(
            b"\r\n"
        ):  # empty lines that come by themselves must not make us forget how the stream ended
            self._previous, self._last = self._last, data
        at = data.rfind(b'"usage"')
        return data if at < 0 else self._metered(data, at)

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
        at = rest.rfind(b'"usage"')
        return rest if at < 0 else self._metered(rest, at)

    @staticmethod
    def split(data: bytes) -> list[bytes]:
        """The single events in what `feed` gave."""
        events, start = [], 0
        if b"\r" not in data:
            while (at := data.find(b"\n\n", start)) >= 0:
                events.append(data[start : at + 2])
                start = at + 2
        else:
            for match in _BOUNDARY.finditer(data):
                events.append(data[start : match.end()])
                start = match.end()
        if start < len(data):
            events.append(data[start:])
        return events

    def _metered(self, data: bytes, at: int) -> bytes:
        """Note the usage in whole events, and leave out what the client did not ask for. `at`: where the last `"usage"` stands.

        The last event that has usage decides; searching on for others would mean reading every byte of a long piece twice.
        """
        if b"\r" in data:
            return b"".join(event for event in self.split(data) if not self._only_usage(event))
        while at >= 0 and data[at + 7 : at + 12] == b":null":  # vLLM says so in every event but the last
            at = data.rfind(b'"usage"', 0, at)
        if at < 0:
            return data
        before = data.rfind(b"\n\n", 0, at)
        start = before + 2 if before >= 0 else 0
        end = data.find(b"\n\n", at) + 2
        return data[:start] + data[end:] if self._only_usage(data[start:end]) else data

    def _only_usage(self, event: bytes) -> bool:
        """Whether `event` is to be left out; its usage is noted in any case."""
        if b'"usage"' not in event or (content := payload(event)) is None:
            return False
        try:
            chunk = _chunk.decode(content)
        except (msgspec.MsgspecError, RecursionError):
            return False
        if chunk.usage is None:
            return False
        self.usage = chunk.usage
        return self._strip and not chunk.choices

    @property
    def partial(self) -> bool:
        """Whether half an event waits for its end."""
        return bool(self._pending.strip())

    @property
    def done(self) -> bool:
        """Whether the stream said `[DONE]`."""
        tail = self._previous[-256:] + self._last[-256:]
        at = tail.rfind(b"[DONE]")
        if at < 0 or tail[at + 6 : at + 7] not in {b"\r", b"\n"}:
            return False
        return tail[:at].removesuffix(b" ").endswith((b"\ndata:", b"\rdata:")) or tail[:at].removesuffix(b" ") == b"data:"

    @property
    def finished(self) -> bool:
        """Whether the answer itself came to an end (a finish reason, or the usage that follows it)."""
        return self.usage is not None or _FINISHED.search(self._previous + self._last) is not None

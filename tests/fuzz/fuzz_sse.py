"""Fuzz target: the reader of event streams. However an engine's bytes are cut on the way, the client gets the same whole events, and the same
usage is counted."""

import json
import re

from lamplighter.gateway.sse import Splitter, payload

_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)")
SEEDS = [
    b'\x05data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    b'\x01data: {"choices":[{"delta":{}}],"usage":null}\r\n\r\ndata: {"choices":[],"usage":{"prompt_tokens":3}}\r\n\r\ndata: [DONE]\r\n\r\n',
    b": comment\r\rdata: x\r\rdata: y\n\n",
    b"\x03event: a\ndata: 1\ndata: 2\n\nid: 7\n\n\n\n",
    b'\x02data: {"usage":{"prompt_tokens":1}}\n\ndata: half',
    b"\x07\r\n\r\r\n\n\r\n\r",
]


def cut(data: bytes, step: int) -> list[bytes]:
    """`data` in pieces of changing lengths."""
    pieces, at, size = [], 0, step
    while at < len(data):
        pieces.append(data[at : at + size])
        at += size
        size = (size * 7 + step) % 23 + 1
    return pieces


def read(pieces: list[bytes], *, strip: bool) -> tuple[bytes, Splitter]:
    """What a client gets when the engine's bytes arrive in these pieces."""
    splitter = Splitter(strip=strip)
    out = b""
    for piece in pieces:
        given = splitter.feed(piece)
        if given and not strip:
            assert _ends_whole(given), given
        out += given
    return out + splitter.close(), splitter


def _ends_whole(data: bytes) -> bool:
    """Whether it ends where an event ends."""
    ends = [match.end() for match in _BOUNDARY.finditer(data)]
    return bool(ends) and (ends[-1] == len(data) or not data[ends[-1] :].strip(b"\r\n"))


def _events(data: bytes) -> list[bytes | None]:
    """The events' contents as the standard reads them: lines up to an empty one; more empty lines mean nothing, half an event is none."""
    found, lines = [], []
    for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        if line:
            lines.append(line)
        elif lines:
            found.append(payload(b"\n".join(lines) + b"\n\n"))
            lines = []
    return found


def check(data: bytes) -> None:
    """One input: how it is cut, then the stream. Raises AssertionError."""
    step = data[0] % 19 + 1 if data else 1
    stream = data[1:]
    whole, at_once = read([stream] if stream else [], strip=False)
    assert stream.startswith(whole), "bytes are changed"
    for pieces in (cut(stream, step), [stream[index : index + 1] for index in range(len(stream))]):
        out, splitter = read(pieces, strip=False)
        assert _events(out) == _events(whole), "what is passed on depends on how it was cut"
        assert stream.startswith(out), "bytes are changed"
        if stream.rstrip(b"\r\n").endswith(b"\ndata: [DONE]") and not splitter.partial:
            assert splitter.done == at_once.done
        # Of a large piece only the last event that speaks of usage is read; in small ones more may be found, but never less.
        assert at_once.usage is None or splitter.usage is not None
    for pieces in ([stream] if stream else [], cut(stream, step)):
        out, splitter = read(pieces, strip=True)
        assert set(_events(out)) <= set(_events(whole))
        for left_out in [event for event in _events(whole) if event is not None and event not in _events(out)]:
            assert b"usage" in left_out or b"\\u" in left_out, "more than usage was left out"
            assert not json.loads(left_out.decode("latin-1")).get("choices")
            assert splitter.usage is not None, "usage was left out and not counted"

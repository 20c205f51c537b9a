"""Raw sockets for the corpora: sends bytes as they are, reads everything that comes back, and takes it apart strictly.

Not a client: it knows no more of HTTP than is needed to see where answers begin and end, and fails on whatever is not exact.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Names of headers in lower case; `raw` holds the head's bytes."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes


class NotHttp(Exception):
    """What came is not a row of whole answers. Its text says where it stops being one."""


def answers(data: bytes, *, methods: Sequence[str] = ()) -> list[Answer]:
    """The answers in `data`, interim ones left out. Raises NotHttp. `methods`: of the requests, where HEAD is among them."""
    found: list[Answer] = []
    at = 0
    while at < len(data):
        begin = at
        match = _STATUS.match(data, at)
        if match is None:
            raise NotHttp(f"no status line at byte {at}: {data[at : at + 60]!r}")
        status, at = int(match[1]), match.end()
        headers: dict[str, str] = {}
        while not data.startswith(b"\r\n", at):
            line = _HEADER.match(data, at)
            if line is None:
                raise NotHttp(f"no header at byte {at}: {data[at : at + 60]!r}")
            name = line[1].decode().lower()
            if name in headers and name in {"content-length", "transfer-encoding"}:
                raise NotHttp(f"{name} is there twice")
            headers[name] = line[2].decode("latin-1")
            at = line.end()
        at += 2
        head = data[begin:at]
        if status < 200:
            continue
        silent = status in {204, 304} or (len(found) < len(methods) and methods[len(found)] == "HEAD")
        if silent:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            if "content-length" in headers:
                raise NotHttp("both lengths")
            body, at = _chunks(data, at)
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body = data[at : at + length]
            if len(body) < length:
                raise NotHttp(f"the body ends after {len(body)} of {length} bytes")
            at += length
        else:
            body, at = data[at:], len(data)
        found.append(Answer(status, headers, body, head))
    return found


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    parts = []
    while True:
        line = re.compile(rb"([0-9a-f]+)\r\n").match(data, at)
        if line is None:
            raise NotHttp(f"no chunk at byte {at}: {data[at : at + 40]!r}")
        size, at = int(line[1], 16), line.end()
        parts.append(data[at : at + size])
        if data[at + size : at + size + 2] != b"\r\n":
            raise NotHttp(f"the chunk at byte {at} does not end")
        at += size + 2
        if size == 0:
            return b"".join(parts), at


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back, and whether the other side closed."""

    data: bytes
    closed: bool


async def exchange(port: int, *packets: bytes, pause: float = 0.05, silence: float = 0.6) -> Heard:
    """Send each packet by itself; read until the server closes, or is silent for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for index, packet in enumerate(packets):
            if index:
                await asyncio.sleep(pause)
            with contextlib.suppress(ConnectionError):
                writer.write(packet)
                await writer.drain()
        data = bytearray()
        try:
            while chunk := await asyncio.wait_for(reader.read(65536), silence):
                data += chunk
        except TimeoutError:
            return Heard(bytes(data), closed=False)
        except ConnectionError:
            pass
        return Heard(bytes(data), closed=True)
    finally:
        writer.transport.abort()

"""An engine that misbehaves on the wire, as a process of its own: `python -m tests.journeys.broken_engines.rude WAY [TIMES]`.

Its list of models and its health are always right, so that it is taken for ready. Inference misbehaves in WAY, TIMES times (default: always),
then it answers as it should. The first line of its standard output is its URL.
"""

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any

WORDS = ("The", " lamp", " is", " lit", ".")


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.stream = False

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        """In order: FIN."""
        self.writer.close()

    def reset(self) -> None:
        """RST: what the other side has not read yet is lost too."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def whole(self, body: bytes, *, length: int | None = None, extra: str = "", status: str = "200 OK") -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n{extra}\r\n"
        self.write(head.encode() + body)

    def begin(self, extra: str = "") -> None:
        self.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{extra}\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, text: str, finish: str | None = None) -> bytes:
        delta = {"content": text} if text else {}
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    async def well(self, *, pause: float = 0.0) -> None:
        """As an engine should."""
        if not self.stream:
            message = {"role": "assistant", "content": "".join(WORDS)}
            usage = {"prompt_tokens": 2, "completion_tokens": len(WORDS), "total_tokens": 2 + len(WORDS)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            self.whole(
                json.dumps(
                    {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
                ).encode()
            )
            return
        self.begin()
        for word in WORDS:
            self.chunk(self.event(word))
            await asyncio.sleep(pause)
        self.chunk(self.event("", "stop"))
        self.chunk(b"data: [DONE]\n\n")
        self.write(b"0\r\n\r\n")

    async def half(self) -> None:
        """The beginning of an answer, arrived."""
        if self.stream:
            self.begin()
            for word in WORDS[:2]:
                self.chunk(self.event(word))
        else:
            self.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"choices":[')
        await self.writer.drain()
        await asyncio.sleep(0.1)


async def silent(talk: Talk) -> None:
    await asyncio.Event().wait()


async def reset(talk: Talk) -> None:
    talk.reset()


async def close(talk: Talk) -> None:
    talk.close()


async def half_head(talk: Talk) -> None:
    talk.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
    await talk.writer.drain()
    talk.close()


async def garbage(talk: Talk) -> None:
    talk.write(b"\x00\x01\x02 this is no HTTP \xff\xfe\r\n\r\n")
    await talk.writer.drain()
    talk.close()


async def garbage_later(talk: Talk) -> None:
    await talk.half()
    talk.write(b"zzz this is no chunk\r\n")
    await talk.writer.drain()
    await asyncio.sleep(0.1)


async def slow(talk: Talk) -> None:
    await asyncio.sleep(1.0)
    await talk.well(pause=0.2)


async def cut(talk: Talk) -> None:
    await talk.half()
    talk.reset()


async def half_event(talk: Talk) -> None:
    """It ends in order, in the middle of an event."""
    await talk.half()
    if talk.stream:
        talk.chunk(talk.event(" is")[:40])
        talk.write(b"0\r\n\r\n")
        await talk.writer.drain()
    talk.close()


async def half_event_closed(talk: Talk) -> None:
    await talk.half()
    if talk.stream:
        talk.chunk(talk.event(" is")[:40])
        await talk.writer.drain()
    talk.close()


async def no_end(talk: Talk) -> None:
    """Whole events, then the end, and never a word that it is finished."""
    await talk.half()
    if talk.stream:
        talk.write(b"0\r\n\r\n")
        await talk.writer.drain()
    talk.close()


async def stall(talk: Talk) -> None:
    await talk.half()
    await asyncio.Event().wait()


async def long_length(talk: Talk) -> None:
    """It promises more than it sends."""
    talk.whole(b'{"choices":[]}', length=1000)
    await talk.writer.drain()
    talk.close()


async def short_length(talk: Talk) -> None:
    """It sends more than it promised: the rest would be taken for the next answer."""
    talk.whole(b'{"choices":[]}{"choices":["of somebody else"]}', length=14)


async def two_lengths(talk: Talk) -> None:
    talk.whole(b'{"choices":[]}', extra="content-length: 3\r\n")


async def both_lengths(talk: Talk) -> None:
    talk.whole(b"e\r\n" + b'{"choices":[]}' + b"\r\n0\r\n\r\n", length=3, extra="transfer-encoding: chunked\r\n")


async def html(talk: Talk) -> None:
    talk.whole(b"<html><body>It works!</body></html>")


async def huge_head(talk: Talk) -> None:
    talk.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (index, b"y" * 1000) for index in range(2000)) + b"\r\n")
    await talk.writer.drain()


async def error_500(talk: Talk) -> None:
    talk.whole(
        b'{"error":{"message":"CUDA error: an illegal memory access was encountered"}}', status="500 Internal Server Error"
    )


async def idle_close(talk: Talk) -> None:
    """It answers, offers to keep the connection, and closes it a moment later."""
    await talk.well()
    await talk.writer.drain()
    await asyncio.sleep(0.05)
    talk.close()


WAYS: dict[str, Callable[[Talk], Coroutine[Any, Any, None]]] = {
    way.__name__: way
    for way in (
        silent, reset, close, half_head, garbage, garbage_later, slow, cut, half_event, half_event_closed, no_end, stall, long_length,
        short_length, two_lengths, both_lengths, html, huge_head, error_500, idle_close,
    )
}  # fmt: skip


async def serve(way: str, times: int | None) -> None:
    left = times

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        talk = Talk(reader, writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if first.startswith("GET"):
                    talk.whole(b'{"object":"list","data":[{"id":"m","object":"model"}]}')
                else:
                    talk.stream = bool(json.loads(body).get("stream"))
                    wrong = left is None or left > 0
                    if left:
                        left -= 1
                    await (WAYS[way](talk) if wrong and way != "well" else talk.well())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))

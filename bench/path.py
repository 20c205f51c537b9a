"""`python -m bench.path`: what our own code costs for one request, without sockets: from the bytes of a request to the bytes of its answer.

Everything is on, as in `bench.gateway`; only the transports on both sides are pretended. CPU time of one thread, the least of many short
runs, so that it can be compared on a machine that does other work. `--profile` shows where one kind of request spends it.
"""

import argparse
import asyncio
import cProfile
import io
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import uvloop
from uvicorn.server import ServerState

from bench import gateway
from lamplighter.gateway.connection import Connection
from lamplighter.gateway.server import HttpProtocol, configure

_RUNS = 20
_EACH = 200
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n"
_NAMED = b'"id":"chatcmpl-1","created":1700000000,"model":"mock"'
_USAGE = b'"usage":{"prompt_tokens":10,"completion_tokens":64,"total_tokens":74}'


def _event(rest: bytes) -> bytes:
    data = b'data: {%b,"object":"chat.completion.chunk",%b}\n\n' % (_NAMED, rest)
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole() -> list[bytes]:
    message = b'"choices":[{"index":0,"message":{"role":"assistant","content":"A mock completion."},"finish_reason":"stop"}]'
    body = b'{%b,"object":"chat.completion",%b,%b}' % (_NAMED, message, _USAGE)
    return [_HEAD % (b"application/json", b"content-length: %d\r\n" % len(body)) + body]


def _stream() -> list[bytes]:
    token = _event(b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]')
    last = _event(b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]') + _event(b'"choices":[],' + _USAGE)
    end = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    return [_HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n"), *[token] * 64, last + end]


KINDS = {
    "whole": (False, _whole()),
    "stream-at-once": (True, [b"".join(_stream())]),
    "stream-in-pieces": (True, _stream()),
}


class _Pretended(asyncio.Transport):
    """Takes everything and sends nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Into nowhere."""

    def abort(self) -> None:
        """There is nothing to end."""

    close = abort

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """There is nothing to read."""

    def resume_reading(self) -> None:
        """There is nothing to read."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default


def _request(*, stream: bool) -> bytes:
    body = b'{"model":"mock","messages":[{"role":"user","content":"Say something."}],"max_tokens":64,"stream":%b}' % (
        b"true" if stream else b"false"
    )
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
        gateway.KEY.encode(), len(body), body,
    )  # fmt: skip


async def measure(data: Path, profiled: str | None) -> None:
    """Print the cost of each kind."""
    await gateway.prepare(data)
    async with gateway.opened(data, ["http://127.0.0.1:1", "http://127.0.0.1:2"]) as opened:
        config = configure(opened.asgi)
        config.load()
        client = HttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        client.connection_made(cast("Any", _Pretended()))
        engines = []
        for target in opened.direct.dispatch.lanes.targets():
            connection = Connection(target.upstream)
            connection.connection_made(_Pretended())
            target.upstream.give_back(connection, keep=True)
            target.fresh_at = float("-inf")  # not growing into its load any more
            engines.append(connection)

        def one(question: bytes, pieces: list[bytes]) -> None:
            client.data_received(question)
            engine = next(connection for connection in engines if connection.busy)
            for piece in pieces:
                engine.data_received(piece)

        for kind, (stream, pieces) in KINDS.items():
            question = _request(stream=stream)
            least = float("inf")
            for _ in range(_RUNS):
                await asyncio.sleep(0)
                began = time.thread_time()
                for _ in range(_EACH):
                    one(question, pieces)
                least = min(least, (time.thread_time() - began) / _EACH)
            print(f"{kind:<18} {least * 1e6:6.1f} us")
            if kind == profiled:
                profile = cProfile.Profile()
                profile.enable()
                for _ in range(2000):
                    one(question, pieces)
                profile.disable()
                text = io.StringIO()
                pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(40)
                print(text.getvalue())


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.path", description=__doc__)
    parser.add_argument("--profile", choices=list(KINDS), help="show where this kind of request spends its time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lamplighter-path-") as folder:
        uvloop.run(measure(Path(folder), arguments.profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())

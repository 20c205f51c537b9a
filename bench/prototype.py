"""A proxy that does nothing but pass bytes on: uvicorn, raw ASGI, httptools. What the gateway is compared with.

No keys, limits, holding, routing, metering, metrics or log; no timeouts, no error handling. Nobody should run it.
"""

import asyncio
import socket
import sys
from typing import Any, cast

import httptools
import msgspec
import uvicorn

_POOL: list["_Connection"] = []
_UPSTREAM = ("127.0.0.1", 0)


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.waiter: asyncio.Future[None] | None = None

    def start(self, body: bytes) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.complete = self.headed = False
        self.transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.headed = True
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter
        self.waiter = None


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    msgspec.json.decode(body)
    if _POOL:
        upstream = _POOL.pop()
    else:
        _, upstream = await asyncio.get_running_loop().create_connection(_Connection, *_UPSTREAM)
    upstream.start(body)
    while not upstream.headed:
        await upstream.wait()
    kept = [pair for pair in upstream.headers if pair[0] in {b"content-type", b"content-length"}]
    await send({"type": "http.response.start", "status": upstream.status, "headers": kept})
    while True:
        if upstream.pieces:
            body = b"".join(upstream.pieces)
            upstream.pieces = []
            await send({"type": "http.response.body", "body": body, "more_body": not upstream.complete})
            if upstream.complete:
                break
        elif upstream.complete:
            await send({"type": "http.response.body", "body": b""})
            break
        else:
            await upstream.wait()
    _POOL.append(upstream)


def main() -> None:
    """`python -m bench.prototype UPSTREAM_PORT`: prints its port."""
    global _UPSTREAM  # noqa: PLW0603 - one setting of a throw-away program
    _UPSTREAM = ("127.0.0.1", int(sys.argv[1]))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="error", backlog=4096)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

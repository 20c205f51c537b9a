"""How connections end when a server leaves: one by one, each with its answer whole."""

import asyncio
import socket
from typing import Any

from lamplighter.cli.running import _Server
from lamplighter.gateway.server import configure

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    return head.lower(), await asyncio.wait_for(reader.readexactly(2), 5)


async def test_every_answer_after_leaving_is_the_last_of_its_connection() -> None:
    """If this fails, clients keep sending on connections of a gateway that is about to end, and lose what they send last."""
    release = asyncio.Event()

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = _Server(configure(app, lifespan="off", loop="asyncio"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    idle, idle_out = await asyncio.open_connection("127.0.0.1", port)
    busy, busy_out = await asyncio.open_connection("127.0.0.1", port)
    idle_out.write(ASK)
    head, _ = await _answer(idle)
    assert b"connection: close" not in head
    busy_out.write(ASK.replace(b"GET /", b"GET /slow"))
    await asyncio.sleep(0.1)

    server.server_state.leave()
    idle_out.write(ASK)  # it came on an open connection: it is still answered
    head, body = await _answer(idle)
    assert (b"connection: close" in head, body) == (True, b"ok")
    assert await asyncio.wait_for(idle.read(), 5) == b""
    release.set()
    head, body = await _answer(busy)
    assert (b"connection: close" in head, body) == (True, b"ok")

    server.should_exit = True
    await asyncio.wait_for(serving, 10)
    for writer in (idle_out, busy_out):
        writer.close()

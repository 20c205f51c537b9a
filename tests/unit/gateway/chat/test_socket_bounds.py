"""What one socket may cost: a client that does not read, one that never stops talking, and silence."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from lamplighter.gateway.auth import Identity
from lamplighter.gateway.chat import ws
from lamplighter.gateway.chat.log import BEHIND
from lamplighter.gateway.chat.ws import Socket
from lamplighter.testing.clock import VirtualClock
from tests.unit.gateway.chat.stage import Stage, stage
from tests.unit.gateway.chat.test_generations import begin


class Line:
    """The transport's side of a WebSocket. While `reads` is not set, the client's network takes nothing."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.closed: int | None = None
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send_text(self, text: str) -> None:
        await self.reads.wait()
        self.sent.append(json.loads(text))

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def close(self, code: int) -> None:
        self.closed = code

    def say(self, **frame: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    def types(self) -> list[str]:
        return [frame["type"] for frame in self.sent]


@contextlib.asynccontextmanager
async def line(one: Stage) -> AsyncIterator[Line]:
    """An open socket of the stage."""
    parts = one.control._parts
    end = Line()

    async def check() -> Identity:
        return one.identity

    socket = Socket(end, one.identity, check, parts.generations, parts.hub, one.clock)  # type: ignore[arg-type] # what a socket uses of it
    serving = asyncio.create_task(socket.serve())
    try:
        yield end
    finally:
        end.incoming.put_nowait({"type": "websocket.disconnect"})
        await serving
        assert parts.hub.count(one.identity.principal_id) == 0


async def test_silence_is_broken_by_a_ping() -> None:
    """If this fails, proxies cut quiet pages, and pages cannot tell a dead line."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        await clock.advance(0.1)
        assert end.types() == ["status"]
        await clock.advance(19)
        assert end.types() == ["status"]
        await clock.advance(2)
        assert end.types() == ["status", "ping"]
        await clock.advance(20)
        assert end.types() == ["status", "ping", "ping"]


async def test_a_client_that_does_not_read_costs_nothing_and_catches_up() -> None:
    """If this fails, one stalled phone fills the server's memory."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        await clock.advance(0.1)
        begun = await begin(one)
        end.say(type="tail", generation_id=begun.generation.id, after=0)
        call = await one.relay.next()
        call.started()
        call.text("one ")
        await clock.advance(0.1)
        end.reads.clear()
        for number in range(BEHIND + 100):
            call.text(f"{number} ")
            await clock.advance(0.05)
        told = len(end.sent)
        end.reads.set()
        call.end()
        await clock.advance(1)
        tail = [frame for frame in end.sent[told:] if frame["type"] in ("event", "snapshot")]
        assert len(tail) < 100
        assert any(frame["type"] == "snapshot" for frame in tail)
        assert tail[-1]["kind"] == "done"
        assert tail[-1]["data"]["message"]["content"].endswith(f"{BEHIND + 99} ")


async def test_a_client_that_asks_and_never_reads_is_closed() -> None:
    """If this fails, answers to a client's own questions pile up without a bound."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        await clock.advance(0.1)
        end.reads.clear()
        for _ in range(ws.MAX_REPLIES + 10):
            end.say(type="ping")
        await clock.advance(60)
        assert end.closed == 1013


async def test_a_client_that_talks_too_much_waits() -> None:
    """If this fails, one page can keep the whole server busy."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        for _ in range(200):
            end.say(type="ping")
        await clock.advance(1)
        assert 60 <= end.types().count("pong") <= 90
        await clock.advance(10)
        assert end.types().count("pong") == 200


async def test_tails_are_bounded() -> None:
    """If this fails, one socket can follow everything there is, many times over."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        one.relay.answer = ["Hi"]
        ids = [(await begin(one, f"r{number}")).generation.id for number in range(ws.MAX_TAILS // 2)]
        await clock.advance(2)
        ids += [(await begin(one, f"s{number}")).generation.id for number in range(ws.MAX_TAILS // 2 + 1)][: ws.MAX_TAILS]
        end.reads.clear()
        for identity in ids:
            end.say(type="tail", generation_id=identity, after=0)
        await clock.advance(30)
        end.reads.set()
        await clock.advance(1)
        errors = [frame["error"]["code"] for frame in end.sent if frame["type"] == "error"]
        assert errors == ["too_many_tails"]


async def test_an_untailed_generation_is_quiet_here() -> None:
    """If this fails, a page goes on paying for answers that it does not show."""
    clock = VirtualClock()
    async with stage(clock=clock) as one, line(one) as end:
        begun = await begin(one)
        end.say(type="tail", generation_id=begun.generation.id, after=0)
        call = await one.relay.next()
        call.started()
        call.text("a")
        await clock.advance(0.1)
        end.say(type="untail", generation_id=begun.generation.id)
        await clock.advance(0.1)
        call.text("b")
        await clock.advance(1)
        assert [frame["data"]["text"] for frame in end.sent if frame["type"] == "event"] == ["a"]
        log = await one.control._generations.attach(one.identity, begun.generation.id)
        assert not log.watched

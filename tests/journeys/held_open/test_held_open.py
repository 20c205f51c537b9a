"""Many streams held open for a model that takes its time: everybody hears of it, and memory stays flat."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import pytest

from tests.journeys.harness import ADMIN_KEY, Server, eventually, running
from tests.journeys.invariants import assert_quiet

HEARTBEAT = 2.0
CONFIG = f"""
models: {{slow: {{engine: fake, pool: cloud}}}}
pools: {{cloud: {{kind: fake, stages: {{capacity: 2h}}, boot_deadline: 3h}}}}
gateway: {{max_held: 2000, heartbeat: {HEARTBEAT:g}s, early_headers: 100ms}}
"""
BODY = b'{"model":"slow","messages":[{"role":"user","content":"Are you there?"}],"stream":true}'
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
    ADMIN_KEY.encode(), len(BODY), BODY,
)  # fmt: skip


@dataclass
class Crowd:
    """Clients that wait. `last`: when each heard anything the last time. `all_heard`: every one of those that came has."""

    last: dict[int, float] = field(default_factory=dict)
    ended: int = 0
    heard: int = 0
    all_heard: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def come(self, port: int, count: int) -> None:
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
        self._writers = [writer for _, writer in pairs]
        for writer in self._writers:
            writer.write(REQUEST)
        self._tasks = [asyncio.create_task(self._listen(number, reader)) for number, (reader, _) in enumerate(pairs)]

    async def _listen(self, number: int, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.last[number] = time.monotonic()
                self.heard += data.count(b": lamplighter waking")
                if len(self.last) == len(self._writers):
                    self.all_heard.set()
        self.ended += 1

    async def leave(self) -> None:
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks)


async def hold(lamplighter: Server, count: int, seconds: float) -> None:
    assert lamplighter.process is not None
    process, crowd = psutil.Process(lamplighter.process.pid), Crowd()
    await crowd.come(int(lamplighter.url.rsplit(":", 1)[1]), count)
    async with asyncio.timeout(60):
        await crowd.all_heard.wait()
    await asyncio.sleep(3 * HEARTBEAT)  # what is made once for each has been made
    model = await asyncio.to_thread(lamplighter.model, "slow")
    assert model["queued"] == count
    memory = [process.memory_info().rss]
    heard, began = crowd.heard, time.monotonic()
    while time.monotonic() - began < seconds:
        await asyncio.sleep(min(5.0, seconds / 10))
        memory.append(process.memory_info().rss)
        longest = time.monotonic() - min(crowd.last.values())
        assert longest < 3 * HEARTBEAT + 5, f"somebody heard nothing for {longest:.1f} s"
    assert crowd.ended == 0, "nobody was sent away"
    beats = (crowd.heard - heard) / count
    assert beats >= (seconds / HEARTBEAT) * 0.5, f"{beats:.1f} heartbeats each in {seconds:g} s"
    # The first half tells what is normal: the second must not be above it, but for the allocator's own steps.
    half = len(memory) // 2
    grown = max(memory[half:]) - max(memory[:half])
    print(f"{count} held for {seconds:g} s: {memory[0] / 1e6:.1f} -> {memory[-1] / 1e6:.1f} MB, {beats:.0f} heartbeats each")
    assert grown < 4e6, (
        f"memory grew by {grown / 1e6:.1f} MB while {count} streams were held: {[round(one / 1e6) for one in memory]}"
    )
    await crowd.leave()


def journey(make: Callable[..., Server], count: int, seconds: float) -> None:
    with running(make(CONFIG)) as lamplighter:
        asyncio.run(hold(lamplighter, count, seconds))
        assert_quiet(lamplighter)
        lamplighter.order("sleep", "slow")
        eventually(lambda: lamplighter.model("slow")["state"] in {"asleep", "draining"}, what="nobody asks: it need not wake")


def test_two_hundred_streams_for_a_minute(server: Callable[..., Server]) -> None:
    """A slow wake under load would eat the gateway's memory, or leave people without a sign of life."""
    journey(server, 200, 40)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_thousand_streams_for_ten_minutes(server: Callable[..., Server]) -> None:
    """The same as in an outage of a cloud: a thousand people wait, for ten minutes."""
    journey(server, 1000, 600)

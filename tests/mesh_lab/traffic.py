"""Traffic inside the mesh and what became of it: pings with every sequence number kept, listeners, connection tries."""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Self

from tests.mesh_lab.lab import PATIENCE, Machine, wait

_ANSWERED = re.compile(r"icmp_seq=(\d+) ttl=")

_LISTEN = """
import asyncio, json, sys
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(data, peer)
async def answer(reader, writer):
    writer.write(b'lamp'); await writer.drain(); writer.close()
async def main(tcp, udp):
    for port in tcp: await asyncio.start_server(answer, '0.0.0.0', port)
    for port in udp: await asyncio.get_running_loop().create_datagram_endpoint(Echo, ('0.0.0.0', port))
    print('ready', flush=True)
    await asyncio.Event().wait()
asyncio.run(main(*json.loads(sys.argv[1])))
"""
_TRY = """
import asyncio, json, sys
class Heard(asyncio.DatagramProtocol):
    def __init__(self): self.heard = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, peer): self.heard.done() or self.heard.set_result(True)
    def error_received(self, error): self.heard.done() or self.heard.set_result(False)
async def tcp(address, port, seconds):
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, port)
            got = await reader.read(4); writer.close()
            return got == b'lamp'
    except OSError: return False
async def udp(address, port, seconds, size):
    transport, heard = await asyncio.get_running_loop().create_datagram_endpoint(Heard, remote_addr=(address, port))
    try:
        transport.sendto(bytes(size))
        async with asyncio.timeout(seconds): return await heard.heard
    except OSError: return False
    finally: transport.close()
async def main(address, tcps, udps, seconds, size):
    tries = [('tcp', port, tcp(address, port, seconds)) for port in tcps] + [('udp', port, udp(address, port, seconds, size)) for port in udps]
    got = await asyncio.gather(*(one for *_, one in tries))
    print(json.dumps([[kind, port] for (kind, port, _), yes in zip(tries, got) if yes]))
asyncio.run(main(*json.loads(sys.argv[1])))
"""


class Pings:
    """Pings from `machine` to `address` until the block ends, with every answer's number and time."""

    def __init__(self, machine: Machine, to: Machine, *, every: float = 0.05, size: int = 84) -> None:
        self._process = machine.spawn("ping", "-n", "-i", every, "-s", size - 28, "-M", "do", to.overlay)
        self._answers: dict[int, float] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        wait(lambda: bool(self._answers), "the first answer to a ping")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def _read(self) -> None:
        assert self._process.stdout is not None
        # The lab may close the pipe first.
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                if found := _ANSWERED.search(line):
                    self._answers[int(found[1])] = time.monotonic()

    @property
    def answered(self) -> int:
        return len(self._answers)

    @property
    def lost(self) -> list[int]:
        """Numbers that never came back, up to the last that did."""
        numbers = sorted(self._answers)
        return sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []

    @property
    def silent(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - max(self._answers.values(), default=0.0)

    def flows(self, seconds: float) -> None:
        """Wait until pings were answered for `seconds` more: what is measured after a change must include its traffic."""
        begin = time.monotonic()
        wait(lambda: time.monotonic() - begin >= seconds, "time to pass", within=seconds + PATIENCE)
        wait(lambda: self.silent < 1.0, "an answer to a ping")


@contextlib.contextmanager
def listening(machine: Machine, tcp: Iterable[int] = (), udp: Iterable[int] = ()) -> Iterator[None]:
    """Listeners on all of the machine's addresses while the block lasts."""
    process = machine.spawn(sys.executable, "-c", _LISTEN, json.dumps([list(tcp), list(udp)]))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE)


def reached(
    machine: Machine, address: str, tcp: Iterable[int] = (), udp: Iterable[int] = (), *, seconds: float = 1.0, size: int = 32
) -> set[tuple[str, int]]:
    """Which ports of `address` answered: real connections, real datagrams of `size` bytes, all at once."""
    said = machine.run(sys.executable, "-c", _TRY, json.dumps([address, list(tcp), list(udp), seconds, size]))
    return {(kind, port) for kind, port in json.loads(said)}

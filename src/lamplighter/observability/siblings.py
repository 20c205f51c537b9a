"""Metrics of several processes behind one port: whichever of them is scraped asks the others and tells everything, each series with the
label `worker`.

Sums would hide that a counter began anew when one worker was replaced; with a label each is true by itself, and a dashboard sums as it does
over machines. Not responsible for what is measured, nor for who may scrape.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping

LIMIT = 2.0
"""Seconds for which another process is waited for: one that hangs must not make all of them invisible."""
_UP = "lamplighter_worker_up"


class Siblings:
    """One process's end. `name`: its own; `others`: the sockets where the others tell, by name; `render`: its own metrics as text."""

    def __init__(self, name: str, others: Mapping[str, str], render: Callable[[], bytes]) -> None:
        self._name = name
        self._others = others
        self._render = render
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Tell whoever connects to `listener`."""
        self._server = await asyncio.start_unix_server(self._tell, sock=listener)

    async def stop(self) -> None:
        """Tell no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def collect(self) -> bytes:
        """The metrics of all, in Prometheus's text format. A process that does not answer is missing, and said to be down."""
        names = list(self._others)
        answers = await asyncio.gather(*(self._ask(self._others[name]) for name in names))
        texts = {
            self._name: self._render(),
            **{name: text for name, text in zip(names, answers, strict=True) if text is not None},
        }
        up = {name: name in texts for name in sorted([self._name, *names])}
        return merged(texts) + _ups(up)

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self._render())
            await writer.drain()
        writer.close()

    async def _ask(self, path: str) -> bytes | None:
        try:
            async with asyncio.timeout(LIMIT):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Several processes' metrics as one text: each family once, its series labelled `worker` with the process's name."""
    heads: dict[str, list[str]] = {}
    series: dict[str, list[str]] = {}
    for name, text in texts.items():
        label = f'worker="{name}"'
        family = ""
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                heads.setdefault(family, [line])
                series.setdefault(family, [])
            elif line.startswith("#"):
                if line not in heads[family]:
                    heads[family].append(line)
            elif line:
                series[family].append(_labelled(line, label))
    return "".join(f"{line}\n" for family, head in heads.items() for line in (*head, *series[family])).encode()


def _labelled(line: str, label: str) -> str:
    brace, space = line.find("{"), line.find(" ")
    if brace == -1 or space < brace:
        return f"{line[:space]}{{{label}}}{line[space:]}"
    return f"{line[:brace]}{{{label},{line[brace + 1 :]}"


def _ups(up: Mapping[str, bool]) -> bytes:
    lines = [f"# HELP {_UP} 1 while a process behind this port answers.", f"# TYPE {_UP} gauge"]
    lines += [f'{_UP}{{worker="{name}"}} {float(alive)}' for name, alive in up.items()]
    return ("\n".join(lines) + "\n").encode()

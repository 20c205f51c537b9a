"""Several real processes of one installation on one PostgreSQL, before a pretended engine, and people who never stop asking.

The load's balancer is as simple as they come: it asks `/ready`, spreads over those that say yes, and never tries anything twice.
"""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.journeys.harness import ADMIN_KEY, Server, eventually
from tests.services import Postgres

TOKENS = 24
CONFIG = """
models: {{m: {{engine: openai, pool: there, source: fake}}}}
pools: {{there: {{kind: static, url: "{engine}"}}}}
store: {{url: env:DATABASE_URL}}
server: {{shutdown_grace: 20s, shutdown_delay: 4s}}
"""


class KeeperServer(Server):
    """A `lamplighter up --only keeper`: it serves no API, so its address is in its log alone."""

    @property
    def url(self) -> str:
        said = re.findall(r'"event": "keeping", "url": "([^"]+)"', self.text())
        if not said:
            raise ValueError("it has not said yet where it is")
        return str(said[-1])

    def leads(self) -> bool:
        """Whether it says that it leads; False also while it does not answer."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"{self.url}/ready", timeout=1)
            return answer.status_code == 200 and bool(answer.json()["leads"])
        return False


@dataclass
class Cluster:
    """One installation. Everything that it starts ends with it."""

    postgres: Postgres
    folder: Path
    engine: str
    url: str
    config: str = CONFIG
    servers: list[Server] = field(default_factory=list)

    def _new(self, kind: type[Server], name: str, *arguments: str) -> Server:
        data = self.folder / name
        data.mkdir(mode=0o700, exist_ok=True)
        one = kind(data, self.config.format(engine=self.engine), arguments, environment={"DATABASE_URL": self.url})
        self.servers.append(one)
        return one

    def gateway(self, name: str, *arguments: str) -> Server:
        """A gateway on its own, ready."""
        return self._new(Server, name, "--only", "gateway", *arguments).start()

    def keeper(self, name: str) -> KeeperServer:
        """A keeper on its own, ready (which does not mean that it leads)."""
        made = self._new(KeeperServer, name, "--only", "keeper")
        assert isinstance(made, KeeperServer)
        made.start()
        return made

    def both(self, name: str, *arguments: str) -> Server:
        """Both in one `lamplighter up`, ready."""
        return self._new(Server, name, *arguments).start()

    def awake(self, *servers: Server) -> None:
        """Wait until each of these gateways knows that the model answers."""
        for one in servers:
            one.until("awake", "m")

    def term(self) -> int:
        """The newest term of the keepers' leadership."""
        rows = self.postgres.query("SELECT term FROM leases WHERE name = 'keeper'", "lamplighter")
        return int(str(rows[0][0])) if rows else 0

    def end(self) -> None:
        """Kill what is left."""
        for one in self.servers:
            if one.process is not None and one.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    for child in psutil.Process(one.process.pid).children(recursive=True):
                        with contextlib.suppress(psutil.Error):
                            child.kill()
                one.process.kill()
                one.process.wait(10)


@contextlib.contextmanager
def fake_engine(*, speed: float = 40.0) -> Iterator[str]:
    """The URL of a pretended engine in a process of its own; `speed`: tokens per second of each stream."""
    command = [sys.executable, "-m", "lamplighter.testing.engine", "--tokens-per-second", str(speed), "--tokens", str(TOKENS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)


@dataclass
class Load:
    """People who ask one after the other, half of them for streams, until told to stop. `failures` says what went wrong for them."""

    gateways: list[Server]
    people: int = 6
    done: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _ready: dict[str, bool] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _count: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Load":
        with httpx.Client(timeout=2) as client:
            self._look(client)
        self._threads = [threading.Thread(target=self._watch, daemon=True)]
        self._threads += [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(self.people)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def more(self, count: int) -> None:
        """Wait for `count` further answers."""
        goal = self.done + count
        eventually(lambda: self.done >= goal or self.failures, what=f"{count} more answers")

    def _look(self, client: httpx.Client) -> None:
        for one in self.gateways:
            with contextlib.suppress(OSError, ValueError, KeyError):
                url = one.url
                try:
                    self._ready[url] = client.get(f"{url}/ready").status_code == 200
                except httpx.HTTPError:
                    self._ready[url] = False

    def _watch(self) -> None:
        with httpx.Client(timeout=2) as client:
            while not self._stop.wait(0.1):
                self._look(client)

    def _ask(self, number: int) -> None:
        turn = itertools.count(number)
        with httpx.Client(headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=60) as client:
            while not self._stop.is_set():
                ready = sorted(url for url, yes in self._ready.items() if yes)
                if not ready:
                    time.sleep(0.02)
                    continue
                url, began = ready[next(turn) % len(ready)], time.monotonic()
                problem = self._once(client, url, stream=number % 2 == 0)
                with self._count:
                    self.done += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    if problem:
                        self.failures.append(f"{url}: {problem}")

    def _once(self, client: httpx.Client, url: str, *, stream: bool) -> str:
        """What is wrong with one answer; empty when nothing is."""
        body = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "stream": stream}
        try:
            answer = client.post(f"{url}/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text[:300]}"
        return _whole_stream(answer.text) if stream else _whole(answer.text)


def _whole(text: str) -> str:
    tokens = json.loads(text)["usage"]["completion_tokens"]
    return "" if tokens == TOKENS else f"{tokens} tokens instead of {TOKENS}"


def _whole_stream(text: str) -> str:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return f"a stream without its end: {text[-200:]!r}"
    deltas = [
        json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1] if json.loads(event).get("choices")
    ]
    tokens = sum(1 for delta in deltas if delta)
    return "" if tokens == TOKENS else f"{tokens} tokens in a stream of {TOKENS}"

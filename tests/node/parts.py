"""Stand-ins for what a node runs beside its agent, inside one process: the container runtime and the mesh. And a node made of them."""

import contextlib
import http.server
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lamplighter.node.agent import Agent
from lamplighter.node.assignment import Assignment
from lamplighter.node.basics import Broken, Settings
from tests.node.cloud import Cloud

TOKEN = "a-token-of-some-length"  # the assignment's


class Runtime:
    """In Docker's place. `fails`: what the pull raises. `answers`: the status of the engine's health."""

    def __init__(self) -> None:
        self.is_ready, self.answers, self.code = True, 200, 0
        self.fails: Broken | None = None
        self.log_text = "the engine's log"
        self.prepared: list[tuple[str, ...]] = []
        self.prepare_result = (0, "")
        self.started: list[tuple[str, dict[str, str]]] = []
        self.now = "absent"
        self._server: http.server.ThreadingHTTPServer | None = None

    def ready(self) -> bool:
        """Whether bootstrap.sh is through."""
        return self.is_ready

    def pull(self, image: str, tell: Callable[[float | None, str], None]) -> None:
        """At once."""
        tell(0.5, f"{image}: half")
        if self.fails:
            raise self.fails

    def start(self, assignment: Assignment, host: str, environment: Mapping[str, str], weights: Path) -> None:
        """An engine that only has a health."""
        runtime = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(runtime.answers)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        assert assignment.engine is not None
        self.started.append((host, dict(environment)))
        self._server = http.server.ThreadingHTTPServer((host, assignment.engine.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.now = "running"

    def state(self) -> tuple[str, int | None]:
        """As the test set it."""
        return self.now, self.code if self.now == "exited" else None

    def execute(self, command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Notes it."""
        self.prepared.append(tuple(command))
        return subprocess.CompletedProcess(command, self.prepare_result[0], self.prepare_result[1], "")

    def logs(self) -> str:
        """Its log."""
        return self.log_text

    def close(self) -> None:
        """End the engine."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class Mesh:
    """In Nebula's place."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.reloads = 0
        self.runs = True

    def installed(self) -> bool:
        """It is there."""
        return True

    def alive(self) -> bool:
        """As the test set it."""
        return self.runs

    def start(self) -> None:
        """Nothing to do."""

    def install(self, files: Mapping[str, str]) -> None:
        """Keeps them."""
        self.files |= files
        self.reloads += 1

    def fingerprint(self) -> str | None:
        """Some."""
        return "ab" * 32


@dataclass
class Node:
    """An agent in a thread, with its stand-ins."""

    agent: Agent
    runtime: Runtime
    mesh: Mesh
    host: str
    result: list[int] = field(default_factory=list)
    thread: threading.Thread | None = None

    def start(self) -> None:
        """Run the agent."""
        self.thread = threading.Thread(target=lambda: self.result.append(self.agent.run()), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """As `kill -9`."""
        self.agent.stop()
        if self.thread is not None:
            self.thread.join(20)
        time.sleep(0.3)  # its interface closes within that

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **more: Any) -> httpx.Response:
        """What the keeper does."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.request(
            method, f"http://{self.host}:7443{path}", json=body, headers=headers, trust_env=False, timeout=10, **more
        )


_hosts = itertools.count(1)


def next_host() -> str:
    """An address of the loopback network that nothing else in this test run listens on."""
    return f"127.77.{128 + os.getpid() % 127}.{next(_hosts) % 250 + 1}"


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until it holds; fail otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.02)


@contextlib.contextmanager
def node(cloud: Cloud, root: Path, host: str, **settings: Any) -> Iterator[Node]:
    """A node whose files lie under `root`; not started yet."""
    testing = settings.pop("testing", {})
    raw = cloud.node_json(testing={"root": str(root), "agent_host": host, **testing}, **settings)
    runtime, mesh = Runtime(), Mesh()
    # Stand-ins with the same methods: an agent asks for no more than that.
    parts: dict[str, Any] = {"docker": runtime, "nebula": mesh}
    agent = Agent(Settings.parse(raw), **parts)
    made = Node(agent, runtime, mesh, host)
    try:
        yield made
    finally:
        made.stop()
        runtime.close()

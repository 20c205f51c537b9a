"""Runs the real `lamplighter up` as a user would and looks at it from outside: the process, its API, its engines, its log.

Not a fake of anything: every journey starts real processes on free ports and a data folder of its own.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import psutil

ADMIN_KEY = "lk-journeys-admin-key-0123456789"
PROGRAM = Path(sys.executable).parent / "lamplighter"
T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a journey waits for something to become true; far above what it takes, so that a busy machine fails nothing."""


def eventually(look: Callable[[], T], *, what: str, timeout: float = PATIENCE) -> T:
    """The first truthy result of `look`, or AssertionError naming `what`."""
    end = time.monotonic() + timeout
    while True:
        if found := look():
            return found
        assert time.monotonic() < end, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.05)


@dataclass
class Server:
    """One `lamplighter up` in `data`, with the configuration `config` (YAML text)."""

    data: Path
    config: str = ""
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for its environment beside the usual ones."""

    @property
    def log(self) -> Path:
        return self.data / "up.log"

    def start(self, *, ready: bool = True) -> "Server":
        """Start it and wait until it listens (and is ready)."""
        self.data.mkdir(parents=True, exist_ok=True)
        file = self.data.parent / f"{self.data.name}.yaml"
        file.write_text(self.config)
        (self.data / "run" / "server.json").unlink(missing_ok=True)
        environment = {**os.environ, "LAMPLIGHTER_ADMIN_KEY": ADMIN_KEY, "NO_COLOR": "1", **self.environment}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [PROGRAM, "up", "--port", "0", "--data", self.data, "--config", file, "--log-format", "json", *self.arguments],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
            )  # fmt: skip
        if ready:
            eventually(self._listens, what=f"lamplighter listens; its log:\n{self.text()}")
        return self

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"lamplighter ended with {self.process.returncode}:\n{self.text()}"
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    @property
    def url(self) -> str:
        return str(json.loads((self.data / "run" / "server.json").read_text())["url"])

    def text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def login_token(self) -> str:
        """The one-time login token of the newest start."""
        return str(re.findall(r"#login=([\w-]+)", self.text())[-1])

    def kill(self) -> None:
        """`kill -9`: no chance to clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM and the exit status; kills it when it does not end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise AssertionError(f"lamplighter did not end within {timeout:g} s of SIGTERM:\n{self.text()[-4000:]}") from None
        return self.process.returncode

    def http(self, **options: Any) -> httpx.Client:
        """A plain client with the admin key."""
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=PATIENCE, **options)

    def openai(self, **options: Any) -> Any:
        """OpenAI's own client, unmodified but for `base_url`; untyped, since journeys also ask what its types forbid."""
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": ADMIN_KEY, "timeout": PATIENCE, "max_retries": 0, **options}
        )

    def status(self) -> dict[str, Any]:
        with self.http() as client:
            return dict(client.get("/api/status").raise_for_status().json())

    def model(self, name: str = "small") -> dict[str, Any]:
        """The ModelStatus of `name`."""
        return next(model for model in self.status()["models"] if model["name"] == name)

    def until(self, state: str, name: str = "small", timeout: float = PATIENCE) -> None:
        """Wait until the model is in `state`."""
        eventually(
            lambda: self.model(name)["state"] == state, what=f"{name} is {state}; it is {self.model(name)}", timeout=timeout
        )

    def order(self, verb: str, name: str = "small") -> None:
        with self.http() as client:
            client.post(f"/api/models/{name}/{verb}", json={}).raise_for_status()

    def engines(self) -> list[psutil.Process]:
        """The engine processes that belong to this data folder, whoever their parent is."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(
                str(self.data / "run" / "engines") in part for part in line
            ):
                found.append(process)
        return found

    def engine_folder(self) -> Path:
        """The run folder of the only engine."""
        (folder,) = [path for path in (self.data / "run" / "engines").iterdir() if path.is_dir()]
        return folder

    def engine_metric(self, name: str) -> float:
        """A metric that the only engine tells of itself."""
        folder = self.engine_folder()
        spec, state = (json.loads((folder / file).read_text()) for file in ("spec.json", "state.json"))
        answer = httpx.get(f"{state['url']}/metrics", headers={"authorization": f"Bearer {spec['key']}"}, timeout=10)
        return float(
            re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.e+-]+)$", answer.raise_for_status().text, re.MULTILINE)[0]
        )

    def starts(self) -> int:
        """How many engines were launched since the data folder is there, from the store's own history."""
        import sqlite3

        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'lamplighter.db'}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM events WHERE to_state = 'launching'").fetchone()[0])

    def idle(self) -> None:
        """The invariant after every journey: no counter is left behind."""
        from tests.journeys.invariants import assert_quiet

        assert_quiet(self, patience=PATIENCE)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """`server` started, checked for its invariant, stopped; nothing of it may stay."""
    server.start()
    try:
        yield server
        if server.process is not None and server.process.poll() is None:
            server.idle()
            assert server.stop() == 0, server.text()[-4000:]
            assert server.engines() == []
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait(10)
        for process in server.engines():
            with contextlib.suppress(psutil.Error):
                process.kill()

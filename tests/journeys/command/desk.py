"""A machine that the test owns: a process that the wake command starts and the sleep command ends; both leave a line in a diary.

Its engine is `lamplighter.testing`'s, so everything but the hardware is real: shells, processes, sockets, exit statuses.
"""

import contextlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Desk:
    """`engine`: `openai` (any model called `fake`) or `ollama` (with `llama3.2:3b` and `tiny`)."""

    folder: Path
    engine: str = "openai"
    port: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "fake.txt").write_text("llama3.2:3b\ntiny\n")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = self.port or listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def wake(self) -> str:
        """The wake command, for the shell; like a real one it does no harm when the machine is on."""
        return f"{self.is_on} || {{ {self.program} >/dev/null 2>&1 & echo $! > {self._pid}; }}; echo wake >> {self._diary}"

    @property
    def sleep(self) -> str:
        return f"echo sleep >> {self._diary}; kill -9 $(cat {self._pid}); rm -f {self._pid}"

    @property
    def is_on(self) -> str:
        """A command that exits with 0 while it is on."""
        return f"kill -0 $(cat {self._pid} 2>/dev/null) 2>/dev/null"

    @property
    def program(self) -> str:
        # A session of its own, as the machine next door has: nothing that ends the wake command reaches it.
        session = "setsid " if shutil.which("setsid") else ""
        module = "engine" if self.engine == "openai" else "ollama"
        python = f"{session}{shlex.quote(sys.executable)} -P -m lamplighter.testing.{module}"
        if self.engine == "openai":
            return f"{python} --port {self.port} --tokens-per-second 400"
        return f"export OLLAMA_HOST=127.0.0.1:{self.port} OLLAMA_MODELS={shlex.quote(str(self.folder))}; {python} serve"

    @property
    def _pid(self) -> str:
        return shlex.quote(str(self.folder / "pid"))

    @property
    def _diary(self) -> str:
        return shlex.quote(str(self.folder / "diary"))

    @property
    def diary(self) -> list[str]:
        """The commands that ran, in order."""
        file = self.folder / "diary"
        return file.read_text().split() if file.exists() else []

    @property
    def process(self) -> psutil.Process | None:
        """What is on, if it is."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int((self.folder / "pid").read_text()))
            if process.status() != psutil.STATUS_ZOMBIE and str(self.port) in " ".join(
                [*process.cmdline(), *process.environ().values()]
            ):
                return process
        return None

    def awake(self) -> bool:
        return self.process is not None

    def switch_on(self) -> None:
        """Somebody switches it on by hand."""
        subprocess.run(["sh", "-c", f"{{ {self.program} >/dev/null 2>&1 & echo $! > {self._pid}; }}"], check=True)
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < end
            time.sleep(0.05)

    def crash(self) -> None:
        """The power fails."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
        (self.folder / "pid").unlink(missing_ok=True)

    def settings(self, **more: object) -> str:
        """The pool in YAML's flow style (JSON)."""
        import json

        return json.dumps({"kind": "command", "url": self.url, "wake": self.wake, "sleep": self.sleep, **more})

"""The mesh's program on the node: its files, its start, and its being told to read them again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lamplighter.node.basics import Settings, run, write


class Nebula:
    """A process in a session of its own: it outlives an agent that is killed, and is found again by the next."""

    def __init__(self, settings: Settings) -> None:
        self._fingerprint: str | None = None
        self._folder = settings.path("/etc/nebula")
        self._pid = settings.path("/run/lamplighter/nebula.pid")
        self._log = settings.path("/var/log/lamplighter/nebula.log")

    def install(self, files: Mapping[str, str]) -> None:
        """Write its files, and let a running one read them again. Raises OSError."""
        for name, text in files.items():
            write(self._folder / name, text)
        self._fingerprint = None
        if pid := self._running():
            os.kill(pid, signal.SIGHUP)

    def installed(self) -> bool:
        """Whether it can be started at all; bootstrap.sh may still be about to bring it."""
        return shutil.which("nebula") is not None

    def start(self) -> None:
        """Start it. Raises OSError when it cannot be started."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            command = ("nebula", "-config", str(self._folder / "config.yml"))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        write(self._pid, str(process.pid))

    def alive(self) -> bool:
        """Whether it runs."""
        return self._running() > 0

    def fingerprint(self) -> str | None:
        """Of its certificate, as Nebula itself reckons it."""
        if self._fingerprint is None:
            done = run(("nebula-cert", "print", "-json", "-path", str(self._folder / "node.crt")), 5)
            found = re.search(r'"fingerprint": *"([0-9a-f]{64})"', done.stdout)
            self._fingerprint = found[1] if found else None
        return self._fingerprint

    def _running(self) -> int:
        """Its process id, or 0. An id may be another program's by now, and a child that has ended must be waited for."""
        try:
            pid = int(self._pid.read_text())
            if b"nebula" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return _reaped(pid)
        except (OSError, ValueError):
            return 0
        return pid


def _reaped(pid: int) -> int:
    os.waitpid(pid, os.WNOHANG)
    return 0

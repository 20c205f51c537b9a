"""From the assignment's engine to one that answers: image, start, weights, health, and what is said of it meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamplighter.node.assignment import Assignment
from lamplighter.node.aws import Aws, fetch
from lamplighter.node.basics import Broken, Settings, judge, last_lines, log, write
from lamplighter.node.docker import Docker
from lamplighter.node.stages import Stages

QUIET = 4
"""Looks in a row without a half downloaded file after which the weights count as here: between two files there is a moment."""


@dataclass
class EngineState:
    """What `/status` tells: `waiting`, `pulling`, `starting`, `ready` or `exited`, with its exit status."""

    state: str = "waiting"
    detail: str | None = None
    exit: int | None = None


class Launch:
    """The one engine of this node. Everything can be done again after a restart of the agent. Every method raises Broken."""

    def __init__(
        self,
        settings: Settings,
        assignment: Assignment,
        docker: Docker,
        aws: Aws,
        stages: Stages,
        host: str,
        shown: EngineState,
        pause: Callable[[float], None],
    ) -> None:
        assert assignment.engine is not None  # noqa: S101 - a node without one launches none
        self._settings, self._assignment, self._engine = settings, assignment, assignment.engine
        self._docker, self._aws, self._stages, self._host, self._shown, self._pause = docker, aws, stages, host, shown, pause
        self._weights = settings.path("/var/lib/lamplighter/models")
        wanted = (self._engine.image, self._engine.arguments, self._engine.prepare)
        self._complete = self._weights / f".lamplighter-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]}"
        """Beside the weights: this engine once served from what is here, so nothing is to be downloaded."""

    def pull(self) -> None:
        """Bring the image, as soon as bootstrap.sh is through with model storage and the container runtime."""
        while not self._docker.ready():
            self._pause(0.2)
        self._stages.begin("pull")
        self._show("pulling")
        self._docker.pull(self._engine.image, lambda share, detail: self._stages.update("pull", share, detail))

    def start(self) -> None:
        """Start it, unless that was done before: an engine that has ended is not tried a second time."""
        started = self._settings.path("/run/lamplighter/engine.started")
        if not started.exists() and self._docker.state()[0] != "running":
            self._docker.start(self._assignment, self._host, self._environment(), self._weights)
            write(started, "")

    def watch(self) -> None:
        """Until it answers, and then until it ends."""
        self._show("starting")
        self._await()
        with contextlib.suppress(OSError):
            write(self._complete, "", 0o644)
        self._stages.end("pull")
        self._stages.end("load")
        self._show("ready")
        state, code = self._docker.state()
        while state not in ("exited", "absent"):
            self._pause(2)
            state, code = self._docker.state()
        self._show("exited", last_lines(self._docker.logs()), code)

    def _environment(self) -> dict[str, str]:
        values = {"key": self._engine.key}
        if (name := self._assignment.hub_token_secret) and "hub_token" in self._engine.secrets.values():
            try:
                values["hub_token"] = self._aws.secret(name).strip()
            except (OSError, KeyError, ValueError) as error:
                log.warning("no token for the hub: %s", error)
        filled = {name: values[what] for name, what in self._engine.secrets.items() if values.get(what)}
        return {**self._engine.environment, **filled}

    def _await(self) -> None:
        """Weights that are downloaded first belong to the stage `pull`; all else is the load."""
        quiet = QUIET if self._complete.exists() else None
        preparing: list[subprocess.CompletedProcess[str]] | None = None
        while True:
            self._check()
            size = downloading(self._weights)
            if size is not None:
                quiet = 0
                self._stages.update("pull", None, f"weights: {size / 1e9:.1f} GB")
            elif quiet is not None:
                quiet += 1
                if quiet > QUIET:
                    self._stages.end("pull")
                    self._stages.begin("load")
            if preparing is None and self._answers():
                if not self._engine.prepare:
                    return
                preparing = self._prepare()
            if preparing:
                if preparing[0].returncode == 0:
                    return
                raise Broken(judge(preparing[0].stdout, "download_failed"), last_lines(preparing[0].stdout))
            self._pause(0.5)

    def _check(self) -> None:
        state, code = self._docker.state()
        if state in ("exited", "absent"):
            text = self._docker.logs()
            self._show("exited", last_lines(text), code)
            reason = "out_of_memory" if code == 137 else judge(text)
            raise Broken(reason, f"the engine ended with status {code}: {last_lines(text)}")

    def _prepare(self) -> list[subprocess.CompletedProcess[str]]:
        done: list[subprocess.CompletedProcess[str]] = []

        def work() -> None:
            done.append(self._docker.execute(self._engine.prepare, 86_400))

        threading.Thread(target=work, daemon=True, name="prepare").start()
        return done

    def _answers(self) -> bool:
        try:
            return fetch("GET", f"http://{self._host}:{self._engine.port}{self._engine.health}", {}, timeout=2)[0] == 200
        except OSError:
            return False

    def _show(self, state: str, detail: str | None = None, code: int | None = None) -> None:
        self._shown.state, self._shown.detail, self._shown.exit = state, detail, code


def downloading(folder: Path) -> float | None:
    """Bytes under `folder` while something there is half downloaded, else None. (The names are those of the hub, llama.cpp and Ollama.)"""
    total, partial = 0.0, False
    for where, _, names in os.walk(folder):
        for name in names:
            partial = partial or name.endswith((".incomplete", ".downloadInProgress")) or "-partial" in name
            with contextlib.suppress(OSError):
                total += (Path(where) / name).lstat().st_blocks * 512
    return total if partial else None

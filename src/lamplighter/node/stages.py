"""The stages of a wake that happen on the node, in order, as the keeper is told of them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamplighter.node.basics import write

STAGES = ("boot", "mesh", "cluster", "pull", "load")
"""A node has `cluster`, or else `pull` and `load`."""


@dataclass
class Stage:
    """One stage of the wake. Unix seconds."""

    name: str
    wanted: bool = False
    finished: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None


class Stages:
    """The stages, one after the other: one that begins early (the pull, while the mesh comes up) counts from the end of the one before."""

    def __init__(self, path: Path, tell: Callable[[Stage, str], None]) -> None:
        self._path, self._tell = path, tell
        self._lock = threading.RLock()
        self._all = {name: Stage(name) for name in STAGES}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._all |= {one["name"]: Stage(**one) for one in json.loads(path.read_text()) if one["name"] in STAGES}

    def skip(self, name: str) -> None:
        """This node has no such stage."""
        self._all.pop(name, None)

    def begin(self, name: str) -> None:
        """It begins, or as soon as those before it have ended."""
        self._change(name, wanted=True)

    def end(self, name: str) -> None:
        """It ends, or as soon as it may."""
        self._change(name, wanted=True, finished=True)

    def update(self, name: str, progress: float | None, detail: str | None) -> None:
        """How far it is (0..1 when known)."""
        self._change(name, progress=progress, detail=detail)
        stage = self._all[name]
        if stage.started_at and not stage.ended_at:
            self._tell(stage, "progress")

    def current(self) -> str:
        """The one that runs: a failure now is its failure."""
        return next((name for name in self._all if self._all[name].ended_at is None), STAGES[-1])

    def listed(self) -> list[dict[str, Any]]:
        """For `/status`."""
        keys = ("name", "started_at", "ended_at", "progress", "detail")
        with self._lock:
            return [{key: getattr(one, key) for key in keys} for one in self._all.values() if one.started_at]

    def _change(self, name: str, **changes: Any) -> None:
        told: list[tuple[Stage, str]] = []
        with self._lock:
            for key, value in changes.items():
                setattr(self._all[name], key, value)
            for stage in self._all.values():
                if stage.wanted and stage.started_at is None:
                    stage.started_at = time.time()
                    told.append((stage, "begin"))
                if stage.finished and stage.ended_at is None:
                    stage.ended_at = time.time()
                    told.append((stage, "end"))
                if stage.ended_at is None:
                    break
            with contextlib.suppress(OSError):
                write(self._path, json.dumps([vars(one) for one in self._all.values()]))
        for stage, state in told:
            self._tell(stage, state)

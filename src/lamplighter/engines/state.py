"""The files by which an engine process and its keeper talk: who writes what, in which shape.

A replica's folder (0700) holds:

| file | written by | when |
|---|---|---|
| `spec.json` (0600) | the provider | before the process exists; never again |
| `claim` | the process, or the provider that gives it up | once: whoever makes it decides whether this replica ever begins |
| `state.json` (0600) | the process (its supervisor, or its engine: never both at a time) | at every step, replaced atomically |
| `lease` | whoever keeps it | touched; the process ends itself when it is not |
| `doomed` | the provider | when ending was asked; its age decides when asking turns into killing |
| `engine.log` (0600) | the engine | its standard output and error, bounded |

Not responsible for acting on any of it. Standard library only: an engine process imports this before anything else, and a wake is short.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

SPEC, STATE, CLAIM, LEASE, DOOMED, LOG = "spec.json", "state.json", "claim", "lease", "doomed", "engine.log"

LEASE_SECONDS = 45.0
"""How long an engine lives on when nobody renews its lease. Below the promised minute, far above any keeper's interval."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Spec:
    """What one replica shall be. `config`: the model's settings as plain values (`ModelConfig.model_dump`); `key`: its bearer key."""

    handle: str
    installation: str
    pool: str
    model: str
    models_folder: str
    made_at: float
    key: str = field(repr=False)
    lease_seconds: float = LEASE_SECONDS
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The spec in `folder`; None when there is none or it was only half written."""
        raw = _read(folder / SPEC)
        try:
            return cls(**raw) if raw is not None else None
        except TypeError:
            return None

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        replace_file(folder / SPEC, json.dumps({"version": _VERSION, **asdict(self)}))


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage as the process went through it. Unix seconds; `progress` 0..1 when known."""

    name: str
    started_at: float
    ended_at: float | None = None
    progress: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What the process says of itself. `create_time` (Unix seconds) guards against a reused pid; `engine_pid` is its inner process.

    `url`: where it answers, once it does. `failure`: a `WakeFailure` value. `exit`: how the engine ended (negative: the signal).
    """

    pid: int
    create_time: float
    engine_pid: int | None = None
    url: str | None = None
    stages: tuple[StageState, ...] = ()
    context: int | None = None
    failure: str | None = None
    detail: str | None = None
    exit: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The state in `folder`; None when nothing (readable) was written yet."""
        raw = _read(folder / STATE)
        try:
            if raw is None:
                return None
            stages = tuple(StageState(**stage) for stage in raw.pop("stages"))
            return cls(**raw, stages=stages)
        except (TypeError, KeyError):
            return None

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        replace_file(folder / STATE, json.dumps({"version": _VERSION, **asdict(self)}))


def _read(path: Path) -> dict[str, Any] | None:
    """The object in `path` without its version; None for anything that this version did not write whole."""
    try:
        raw = json.loads(path.read_bytes())
        return raw if isinstance(raw, dict) and raw.pop("version", None) == _VERSION else None
    except (OSError, ValueError):
        return None


def replace_file(path: Path, text: str) -> None:
    """Write `text` to `path` (0600) so that a reader sees the old or the new, never a part. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def claim(folder: Path, who: str) -> bool:
    """Make this replica ours to begin (the process) or to give up (the provider); True for the first to ask, and for it again.

    Without it a process that was slow to start could begin just after its provider declared that it never will.
    """
    path = folder / CLAIM
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with contextlib.suppress(OSError):
            return path.read_text() == who
        return False
    except OSError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(who)
    return True


def touch(path: Path, at: float | None = None) -> None:
    """Set the file's time to `at` (Unix seconds; None: now), making it when absent. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    os.utime(path, None if at is None else (at, at))

"""What all parts of the agent share: its settings, files, short commands, and the words for failures."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
"""Of the protocol between node and keeper."""
BODY_LIMIT = 1 << 20
LOG_LIMIT = 1 << 18

SIGNS = (
    (
        "out_of_memory",
        r"out of memory|OutOfMemory|bad_alloc|cudaMalloc failed|No available memory|KV cache is needed|more system memory",
    ),
    ("disk_full", r"[Nn]o space left"),
    ("gated_model", r"[Gg]ated ?[Rr]epo|Access to model|401 Client Error"),
    ("model_not_found", r"RepositoryNotFound|not a valid model|EntryNotFound|404 Client Error|file does not exist"),
    ("download_failed", r"MaxRetryError|ConnectionError|name resolution|no such host|dial tcp|timeout|connection reset"),
    ("model_corrupt", r"SafetensorError|HeaderTooLarge|digest mismatch|failed to load model"),
    ("engine_refused", r"error: (unrecognized|argument|invalid)|(unknown|invalid) argument"),
    ("engine_missing", r"No CUDA GPUs|NVIDIA driver|device driver|nvidia-container-cli|architecture"),
)
"""What engines and the container runtime say, by the keeper's word for it (`core.reasons.WakeFailure`); else `engine_crashed`."""

log = logging.getLogger("lamplighter.node")


class Broken(Exception):
    """The node will never serve. `reason`: a value of `WakeFailure`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def judge(text: str, otherwise: str = "engine_crashed") -> str:
    """The keeper's word for what `text`, the end of a log, says."""
    return next((reason for reason, pattern in SIGNS if re.search(pattern, text)), otherwise)


def last_lines(text: str, count: int = 3) -> str:
    """The last lines that say something, for a person, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-600:] or "no output"


def boottime() -> float:
    """Seconds since the machine started, suspended time included; the same for all processes, so that a restarted agent counts on."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def write(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace a file as a whole; it never exists with wider rights than `mode`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    temporary.replace(path)


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file; nothing when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""


def run(command: Sequence[str], timeout: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A short command; 127 when it is not there, 124 when it takes too long."""
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, str(error), "")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, str(error), "")


@dataclass(frozen=True)
class Settings:
    """`node.json`. Seconds. `testing`: addresses that stand in for AWS's, and `root`, `shutdown`, `agent_host`; never in real data."""

    region: str
    nodes_queue_url: str
    bucket: str
    node_role_id: str
    boot_deadline: float
    lease: float
    drain: float
    mode: str = "node"
    agent_port: int = 7443
    bake: Mapping[str, Any] = field(default_factory=dict)
    testing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Settings:
        """Raises ValueError for another version, TypeError for one that lacks something."""
        if raw.get("version") != VERSION:
            raise ValueError(f"node.json has version {raw.get('version')!r}, this agent knows {VERSION}")
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__ if name in raw})

    def path(self, absolute: str) -> Path:
        """Where a file of the node lies: under `testing.root` when there is one."""
        return Path(self.testing.get("root", "/")) / absolute.lstrip("/")

    def url(self, service: str, real: str) -> str:
        """A service's base address, without a slash at its end."""
        return str(self.testing.get(f"{service}_url", real)).rstrip("/")

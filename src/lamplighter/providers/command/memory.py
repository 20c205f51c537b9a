"""What must outlive a crash of ours: whether it was us who woke the machine. One small file in the data folder, replaced as a whole.

Not responsible for acting on it: `machine` does.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from lamplighter.engines.state import replace_file
from lamplighter.providers.command.commands import Mark

_VERSION = 1
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Memory:
    """`woken_at`: Unix seconds since when it is on because of us; None: it is not, or somebody else switched it on.

    `failures`: attempts in a row to put it to sleep that failed; `trouble`: what the last one said. `command`: what runs at the moment.
    """

    woken_at: float | None = None
    failures: int = 0
    trouble: str | None = None
    command: Mark | None = None


def place(data: Path, pool: str) -> Path:
    """The file of a pool under the data folder."""
    return data / "run" / "machines" / f"{pool}.json"


def read(file: Path) -> Memory:
    """An empty memory for a file that is not there, or that this version did not write whole."""
    try:
        raw = json.loads(file.read_bytes())
        if raw.pop("version") != _VERSION:
            return Memory()
        command = raw.pop("command")
        return Memory(**raw, command=Mark(**command) if command is not None else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Memory()


def write(file: Path, memory: Memory) -> None:
    """Replace the file. A full disk is told and survived: then only this life of ours knows that the machine must be put to sleep."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, json.dumps({"version": _VERSION, **asdict(memory)}))
    except OSError as error:
        _log.warning("who woke the machine could not be written", file=str(file), error=error.strerror or str(error))

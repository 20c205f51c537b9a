"""How much memory this machine, or the container around us, still has."""

import contextlib
from pathlib import Path

import psutil

_UNLIMITED = 2**60
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that a new process may use without anything being swapped or killed: the least of the machine's and the container's."""
    return min(psutil.virtual_memory().available, _container_room())


def total() -> int:
    """Bytes of memory in this machine, or that this container may use."""
    return min(psutil.virtual_memory().total, _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory" / "memory.limit_in_bytes"))


def _container_room() -> int:
    """What the container's limit leaves; file pages that the kernel can drop do not count as used."""
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit >= _UNLIMITED or used >= _UNLIMITED:
        return _UNLIMITED
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        used -= int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
    return max(0, limit - used)


def _read(path: Path) -> int:
    """The number in the file; very large when there is no file or no limit (`max`)."""
    try:
        return min(int(path.read_text()), _UNLIMITED)
    except (OSError, ValueError):
        return _UNLIMITED

"""The processes of a measurement: mock engines, load generators and what is measured, each on its own core, ended whatever happens."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

_BUILD = Path(__file__).parent / "build"
_SOURCE = Path(__file__).parent / "load.c"
_START_SECONDS = 60


class Load(msgspec.Struct):
    """What one run of the load generator found. Latencies in milliseconds, for answers that came whole with status 200."""

    ok: int
    errors: int
    seconds: float
    per_second: float
    events_per_second: float
    first_p50: float
    first_p99: float
    whole_p50: float
    whole_p99: float


@dataclass
class Cost:
    """One run and what it cost the process under load: CPU seconds, and memory in bytes at its highest."""

    load: Load
    cpu: float
    memory: int


def tool() -> Path:
    """The compiled load generator. Exits with advice when there is no compiler."""
    built = _BUILD / "load"
    if built.exists() and built.stat().st_mtime >= _SOURCE.stat().st_mtime:
        return built
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("A C compiler is needed for the load generator: install gcc.")
    _BUILD.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", str(built), str(_SOURCE)], check=True)
    return built


def cores() -> tuple[list[int], list[int]]:
    """One core for what is measured, the others for engine and load. All on one when there is no second."""
    if not hasattr(os, "sched_getaffinity"):  # macOS: nothing can be pinned
        return [], []
    available = sorted(os.sched_getaffinity(0))
    return available[:1], available[1:] or available[:1]


def pinned(to: Sequence[int]) -> Callable[[], None] | None:
    """For a new process: run on these cores only."""
    if not to:
        return None
    return lambda: os.sched_setaffinity(0, set(to))


@contextmanager
def process(command: Sequence[str], *, on: Sequence[int], log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that prints its port. Yields it with that port; ends it with its children."""
    with log.open("w") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=pinned(on))  # noqa: PLW1509 - only sets the affinity
    try:
        killer = threading.Timer(_START_SECONDS, running.kill)
        killer.start()
        line = running.stdout.readline() if running.stdout else ""
        killer.cancel()
        if not line.strip().isdigit():
            sys.exit(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        yield running, int(line)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(running.pid).children(recursive=True):
                child.terminate()
        running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def run(
    port: int,
    *,
    key: str,
    model: str,
    parallel: int,
    requests: int,
    stream: bool,
    seconds: float,
    on: Sequence[int],
    pid: int | None,
) -> Cost:
    """Put load on `port`. `pid`: the process to account for, with its children."""
    before = _cpu(pid)
    arguments = [
        str(tool()),
        "run",
        "127.0.0.1",
        str(port),
        key,
        model,
        str(parallel),
        str(requests),
        str(int(stream)),
        str(seconds),
    ]
    loading = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(on))  # noqa: PLW1509 - only sets the affinity
    highest = 0
    out: str | None = None
    while out is None:
        try:
            out, _ = loading.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            highest = max(highest, _memory(pid))
    return Cost(msgspec.json.decode(out, type=Load), _cpu(pid) - before, max(highest, _memory(pid)))


def _family(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu(pid: int | None) -> float:
    return sum(times.user + times.system for times in (member.cpu_times() for member in _family(pid)))


def _memory(pid: int | None) -> int:
    return sum(member.memory_info().rss for member in _family(pid))

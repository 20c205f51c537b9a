"""The processes of a measurement: mock engines, load generators and what is measured, each on its own core, ended whatever happens."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from bench import gateway

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


@dataclass
class Subject:
    """Something that is measured: its ports with engines that send at once and at a pace, and its process (None: the engine itself)."""

    name: str
    at_once: int
    paced: int
    key: str = "none"
    model: str = "mock"
    pid_at_once: int | None = None
    pid_paced: int | None = None
    results: dict[str, list[Cost]] = field(default_factory=dict)

    def middle(self, what: str, value: str) -> float | None:
        """The median over all rounds of one figure; None when it was not measured."""
        costs = self.results.get(what)
        if not costs:
            return None
        if value == "cpu":
            return statistics.median(cost.cpu / max(1, cost.load.ok) * 1e6 for cost in costs)
        if value == "memory":
            return max(cost.memory for cost in costs) / 1e6
        return float(statistics.median(getattr(cost.load, value) for cost in costs))

    @property
    def errors(self) -> int:
        return sum(cost.load.errors for costs in self.results.values() for cost in costs)


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


def end(running: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """End a process and its children, whatever it takes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(running.pid).children(recursive=True):
            child.terminate()
    running.terminate()
    try:
        running.wait(5)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


@contextmanager
def process(command: Sequence[str], *, on: Sequence[int], log: Path) -> Iterator[tuple[int, int]]:
    """A server that prints its port. Yields its pid and that port; ends it with its children."""
    with log.open("w") as errors:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=pinned(on))  # noqa: PLW1509 - only sets the affinity
    try:
        killer = threading.Timer(_START_SECONDS, running.kill)
        killer.start()
        line = running.stdout.readline() if running.stdout else ""
        killer.cancel()
        if not line.strip().isdigit():
            sys.exit(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        yield running.pid, int(line)
    finally:
        end(running)


def engines(stack: ExitStack, folder: Path, pace: str, on: Sequence[int]) -> list[str]:
    """The URLs of two new mock engines; `pace` is the microseconds between their events."""
    command = [str(tool()), "serve", "64", pace]
    started = [stack.enter_context(process(command, on=on, log=folder / f"engine-{pace}-{index}.log")) for index in range(2)]
    return [f"http://127.0.0.1:{port}" for _, port in started]


def own(stack: ExitStack, folder: Path, name: str, urls: Mapping[str, Sequence[str]], on: Sequence[int]) -> Subject:
    """This gateway, or the prototype, one process for each pace."""
    started = []
    for pace, engines_at in urls.items():
        if name == "prototype":
            command = [sys.executable, "-m", "bench.prototype", engines_at[0].rsplit(":", 1)[1]]
        else:
            data = folder / f"data-{pace}"
            data.mkdir()
            command = [sys.executable, "-m", "bench.gateway", "--data", str(data)]
            subprocess.run([*command, "--prepare"], check=True)
            command += engines_at
        started.append(stack.enter_context(process(command, on=on, log=folder / f"{name}-{pace}.log")))
    (pid_at_once, at_once), (pid_paced, paced) = started
    return Subject(name, at_once, paced, gateway.KEY, gateway.MODEL, pid_at_once, pid_paced)


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

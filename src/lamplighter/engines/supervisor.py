"""The life of an engine process: a small supervisor that outlives the engine by a moment, and ends it when nobody wants it any more.

`run(folder, body)` forks. The parent half, the supervisor, is what the provider knows (its pid is in `state.json`). It
- ends the engine when the lease was not renewed for `lease_seconds`, when the folder vanished, or on SIGTERM: at once, because the gateway
  has drained before;
- records how the engine ended, also for a keeper that was not there to see it;
- keeps `engine.log` below `MAX_LOG`;
- where the engine is a program of somebody else's (`grace`): asks it to end first, and leaves none of its children behind.
A thread inside the engine could not do this: llama.cpp holds the interpreter's lock for as long as it loads weights. The engine half runs
`body(life)` and, on Linux, is killed by the kernel the moment its supervisor is gone.

Not responsible for what the engine is. Standard library only, for a fast start.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.state import LEASE, LOG, ProcessState, Spec, StageState, claim, touch

MAX_LOG = 5 * 2**20
"""Bytes at which `engine.log` is moved to `engine.log.1` and begun again."""
_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY = 0.2
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Failure(Exception):
    """Why this engine will never be ready: the reason in the keeper's words, and one plain sentence."""

    def __init__(self, reason: WakeFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Life:
    """The engine's side of `state.json`. Every method may raise OSError when the disk refuses."""

    def __init__(self, folder: Path, spec: Spec, state: ProcessState) -> None:
        self.folder = folder
        self.spec = spec
        self._state = state
        self._written = 0.0

    def stage(self, name: str, detail: str | None = None) -> None:
        """Begin the stage `name`, which ends the one before."""
        self._state = replace(self._state, stages=(*self._ended(), StageState(name, time.time(), detail=detail)))
        self._write()

    def progress(self, done: int, total: int | None) -> None:
        """How far the current stage is, in its own units; written at most five times a second."""
        now = time.monotonic()
        if now - self._written < _PROGRESS_EVERY and done != total:
            return
        last = replace(
            self._state.stages[-1],
            progress=min(1.0, done / total) if total else None,
            detail=f"{done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB",
        )
        self._state = replace(self._state, stages=(*self._state.stages[:-1], last))
        self._write()

    def update(self, progress: float | None, detail: str | None) -> None:
        """How far the current stage is (0..1 when known), in words of the engine's; written at most five times a second."""
        now = time.monotonic()
        last = self._state.stages[-1]
        if now - self._written < _PROGRESS_EVERY or (last.progress, last.detail) == (progress, detail):
            return
        self._state = replace(self._state, stages=(*self._state.stages[:-1], replace(last, progress=progress, detail=detail)))
        self._write()

    def ready(self, url: str, context: int | None = None) -> None:
        """The engine answers at `url`."""
        self._state = replace(self._state, url=url, context=context, stages=self._ended())
        self._write()

    def ended(self, detail: str) -> None:
        """Why the engine that was ready ends by itself."""
        self._state = replace(self._state, detail=detail)
        self._write()

    def fail(self, failure: Failure) -> None:
        """The engine will never be ready."""
        self._state = replace(self._state, failure=failure.reason.value, detail=failure.detail)
        self._write()

    def _ended(self) -> tuple[StageState, ...]:
        stages = self._state.stages
        if stages and stages[-1].ended_at is None:
            return (*stages[:-1], replace(stages[-1], ended_at=time.time()))
        return stages

    def _write(self) -> None:
        self._state.write(self.folder)
        self._written = time.monotonic()


def run(folder: Path, body: Callable[[Life], None], *, grace: float = 0.0) -> int:
    """Claim `folder`, fork, run `body` in the engine half, watch it from the other. Returns the supervisor's exit status.

    `grace`: seconds between asking the engine half to end (SIGTERM, which it handles) and killing it; then whatever else is in its process
    group goes too, so this process must lead one. 0: it is killed at once.

    `body` makes the engine ready, calls `life.ready` and returns; the engine then serves until it is killed. It raises `Failure` for what a
    person should be told. Must be called by a single-threaded process, before anything heavy is imported.
    """
    spec = Spec.read(folder)
    if spec is None or not claim(folder, str(os.getpid())):
        return 2
    _die_first()
    _touch_if_absent(folder / LEASE)
    state = ProcessState(pid=os.getpid(), create_time=time.time())
    state.write(folder)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    kills = _oom_kills()
    # Whoever asks us to end before the handlers are there would kill the supervisor alone: such a signal waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        os.close(wake_read)
        os.close(wake_write)
        _engine_half(Life(folder, spec, replace(state, engine_pid=os.getpid())), body, parent=state.pid, polite=grace > 0)
    ending = _supervise(folder, spec, pid, wake_read, wake_write, grace)
    if grace > 0:
        end_group(os.getpid())
    _record(folder, state, ending, oom=_oom_kills() != kills)
    return 0


class _Ending:
    """How the engine ended. `asked`: by SIGTERM, the lease or the folder, in words; None when it ended by itself."""

    def __init__(self, status: int, asked: str | None) -> None:
        self.code = os.waitstatus_to_exitcode(status)
        self.asked = asked


def _engine_half(life: Life, body: Callable[[Life], None], *, parent: int, polite: bool) -> NoReturn:
    """Signals keep their default action: they end it even while C++ holds the interpreter's lock. `polite`: `body` handles SIGTERM itself."""
    die_with_parent(parent, signal.SIGTERM if polite else signal.SIGKILL)
    try:
        body(life)
        while True:
            signal.pause()
    except Failure as failure:
        print(f"failed: {failure.reason}: {failure.detail}", file=sys.stderr, flush=True)  # noqa: T201 - standard error is the engine's log
        with contextlib.suppress(OSError):
            life.fail(failure)
    except MemoryError:
        with contextlib.suppress(OSError):
            life.fail(Failure(WakeFailure.OUT_OF_MEMORY, "There was not enough memory to load the model."))
    except OSError as error:
        traceback.print_exc()
        reason = WakeFailure.DISK_FULL if error.errno == 28 else WakeFailure.ENGINE_CRASHED
        with contextlib.suppress(OSError):
            life.fail(Failure(reason, f"{error.strerror or error}."))
    except BaseException as error:  # noqa: BLE001 - the last frame of a process: everything becomes a state that the keeper reads
        traceback.print_exc()
        with contextlib.suppress(OSError):
            life.fail(Failure(WakeFailure.ENGINE_CRASHED, f"The engine ended with {type(error).__name__}."))
    finally:
        # Never through the interpreter's teardown: llama.cpp's destructor waits for requests that a stuck client keeps open for ever.
        os._exit(1)


def _supervise(folder: Path, spec: Spec, pid: int, wake_read: int, wake_write: int, grace: float) -> _Ending:
    """Watch until the engine is gone. Woken by SIGCHLD and SIGTERM through the pipe, and once a second."""
    asked: str | None = None
    terminated = False
    killed_at = float("inf")

    def on_term(_signal: int, _frame: object) -> None:
        nonlocal terminated
        terminated = True

    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    renewed_at, stamp = time.monotonic(), _stamp(folder)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return _Ending(status, asked)
        if asked is None:
            current, now = _stamp(folder), time.monotonic()
            if current != stamp:
                stamp, renewed_at = current, now
            if terminated:
                asked = "It was asked to end."
            elif current is None:
                asked = "Its folder was deleted."
            elif now - renewed_at > spec.lease_seconds:
                asked = f"Nobody renewed its lease for {spec.lease_seconds:g} s, so it ended itself."
            if asked is not None:
                os.kill(pid, signal.SIGTERM if grace > 0 else signal.SIGKILL)
                killed_at = now + grace
        elif time.monotonic() >= killed_at:
            os.kill(pid, signal.SIGKILL)
        _bound_log(folder / LOG)
        ready, _, _ = select.select([wake_read], [], [], 0.05 if asked else min(1.0, spec.lease_seconds / 4))
        if ready:
            os.read(wake_read, 512)


def _record(folder: Path, state: ProcessState, ending: _Ending, *, oom: bool) -> None:
    """Complete what the engine wrote with how it ended; the one place that judges an exit."""
    state = ProcessState.read(folder) or state
    failure, detail = state.failure, ending.asked or state.detail
    if failure is None and state.url is None and ending.asked is None:
        if ending.code == -signal.SIGKILL and oom:
            failure, detail = (
                WakeFailure.OUT_OF_MEMORY.value,
                "The system ended the engine because memory ran out while the model loaded.",
            )
        else:
            failure = WakeFailure.ENGINE_CRASHED.value
    if detail is None:
        detail = f"The engine ended by itself ({_how(ending.code)})."
        if ending.code == -signal.SIGKILL and oom:
            detail = "The system ended the engine because memory ran out."
    with contextlib.suppress(OSError):  # the folder may be gone, the disk full: then the log and the exit status have to do
        replace(state, failure=failure, detail=detail, exit=ending.code).write(folder)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _stamp(folder: Path) -> int | None:
    """The lease's time, 0 without a lease, None when the folder is gone."""
    try:
        return (folder / LEASE).stat().st_mtime_ns
    except OSError:
        return 0 if folder.is_dir() else None


def _touch_if_absent(path: Path) -> None:
    if not path.exists():
        touch(path)


def _bound_log(path: Path) -> None:
    """Copy and truncate: the engine's descriptor stays valid, since it appends."""
    try:
        if path.stat().st_size <= MAX_LOG:
            return
        previous = path.with_name(f"{path.name}.1")
        previous.write_bytes(path.read_bytes()[-MAX_LOG:])
        previous.chmod(0o600)
        os.truncate(path, 0)
    except OSError:
        return


def _die_first() -> None:
    """When memory runs out, the engine goes before the gateway; and a core file of some gigabytes helps nobody."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def end_group(leader: int) -> None:
    """Kill every other process of the group that `leader` (the supervisor) leads: what an engine started and left behind.

    Does nothing in any other group: it could be that of somebody's terminal.
    """
    import psutil

    if os.getpgrp() != leader:
        return
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if pid not in (leader, os.getpid()) and os.getpgid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Linux: the kernel ends us with our `parent`. Elsewhere a thread looks once a second (late while weights load)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
            if os.getppid() != parent:  # it went between the fork and the call
                os._exit(1)
            return

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), by)

    threading.Thread(target=look, daemon=True).start()


def _oom_kills() -> int | None:
    """How many processes the kernel ended for lack of memory since it booted (Linux); None elsewhere."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return None

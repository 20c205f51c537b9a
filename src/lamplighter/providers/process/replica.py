"""One replica: its folder on disk and its process. Everything is read anew each time, so that any provider object can adopt any replica.

Not responsible for deciding anything: `provider` does. Blocking, but quick (a few small files, one look at a process).
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Command
from lamplighter.engines.state import DOOMED, LEASE, LOG, SPEC, ProcessState, Spec, claim, touch
from lamplighter.providers.base import Observation, Presence, StageReport

BEGIN_WITHIN = 15.0
"""Seconds within which a launched process must have written its first state; generous, for a machine under load."""
KILL_AFTER = 10.0
"""Seconds after which an engine that was asked to end is killed."""
ABANDONED_AFTER = 3600.0
"""Seconds after which the folder of a dead replica is deleted that no pool asked about."""
_LOG_TAIL = 4096
_SAME_TIME = 2.0
"""Seconds between a process's begin and its first words that still count as the same; only where command lines are hidden."""
_GIVEN_UP = "given up"
_NOISE = ("Traceback", "  ", "\t", "^")


class Replica:
    """The replica in `folder`, as its files tell."""

    def __init__(self, folder: Path, spec: Spec, child: int | None = None) -> None:
        self.folder = folder
        self.spec = spec
        self._child = child

    @classmethod
    def read(cls, folder: Path, child: int | None = None) -> "Replica | None":
        """None when the folder holds no readable spec: half made, or not ours. `child`: its pid, if the caller started it and did not reap it."""
        spec = Spec.read(folder)
        return cls(folder, spec, child) if spec is not None and spec.handle == folder.name else None

    @classmethod
    def make(cls, folder: Path, spec: Spec, now: float) -> "Replica":
        """A new folder, not begun. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True)
        touch(folder / LEASE, now)
        spec.write(folder)
        return cls(folder, spec)

    def begin(self, command: Command) -> subprocess.Popen[bytes]:
        """Start the process, in a session of its own: Ctrl-C at the terminal must not end engines before the gateway drained. Raises OSError."""
        log = os.open(self.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                list(command.argv),
                cwd=self.folder,
                # The engine inherits what the person set for proxies, certificates and tokens of the hub.
                env={**os.environ, **command.env},  # noqa: TID251 - passed on, not read
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def renew(self, now: float) -> None:
        """Touch the lease of a replica that is wanted. A vanished folder is no error: its process notices by itself."""
        if (self.folder / DOOMED).exists() or not (self.folder / SPEC).exists():
            return
        with contextlib.suppress(OSError):
            touch(self.folder / LEASE, now)

    def doom(self, now: float) -> None:
        """Remember on disk that ending was asked (the first time counts), and ask."""
        with contextlib.suppress(OSError):  # a full disk must not keep an engine alive
            if not (self.folder / DOOMED).exists():
                touch(self.folder / DOOMED, now)
        self.end(now)

    def end(self, now: float) -> bool:
        """Push a doomed replica towards its end; True when it is proven gone and its folder deleted. Never waits."""
        process = self._process(ProcessState.read(self.folder))
        if process is not None:
            asked = self._doomed_at()
            with contextlib.suppress(OSError, psutil.Error):
                if asked is not None and now - asked > KILL_AFTER:
                    os.killpg(process.pid, signal.SIGKILL)  # its own session: the supervisor and the engine, nobody else
                else:
                    process.terminate()
            return False
        if not claim(self.folder, _GIVEN_UP) and ProcessState.read(self.folder) is None and self._young(now):
            return False  # a process holds it and is about to tell its pid
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    def observe(self, now: float, exit_code: int | None = None) -> Observation:
        """What it is now. `exit_code`: of its process, when the caller reaped it."""
        state = ProcessState.read(self.folder)
        process = self._process(state)
        if state is None:
            return self._without_state(now, exit_code)
        stages = tuple(StageReport(**asdict(stage)) for stage in state.stages)
        endpoint = Endpoint(state.url, self.spec.key) if state.url else None
        failure = WakeFailure(state.failure) if state.failure in set(WakeFailure) else None
        loss, detail = None, state.detail
        if process is None:
            endpoint = None
            if state.url:
                loss = LossReason.CRASHED
            elif failure is None:
                failure = WakeFailure.ENGINE_CRASHED
            if detail is None or failure is WakeFailure.ENGINE_CRASHED or loss:
                detail = self._with_log(detail or "The engine's process ended.")
        return Observation(
            handle=self.spec.handle,
            models=(self.spec.model,),
            presence=Presence.ENDED if process is None else Presence.STOPPING if self.doomed else Presence.RUNNING,
            stages=stages,
            endpoint=endpoint,
            failure=failure,
            loss=loss,
            detail=detail,
            started_at=self.spec.made_at,
        )

    @property
    def doomed(self) -> bool:
        """Whether ending was asked."""
        return self._doomed_at() is not None

    def abandoned(self, now: float) -> bool:
        """Whether it is dead for so long that nobody will ask about it: its pool left the configuration."""
        return self._process(ProcessState.read(self.folder)) is None and now - self._touched() > ABANDONED_AFTER

    def _without_state(self, now: float, exit_code: int | None) -> Observation:
        """Before the process's first word: young ones are on their way, old ones never will be."""
        base = Observation(self.spec.handle, (self.spec.model,), Presence.RUNNING, started_at=self.spec.made_at)
        if exit_code is None and (self._young(now) or not claim(self.folder, _GIVEN_UP)):
            return replace(base, presence=Presence.STOPPING) if self.doomed else base
        detail = (
            f"The engine's process ended before it began ({exit_code})." if exit_code is not None else "The engine never began."
        )
        return replace(base, presence=Presence.ENDED, failure=WakeFailure.ENGINE_CRASHED, detail=self._with_log(detail))

    def _young(self, now: float) -> bool:
        return now - self.spec.made_at < BEGIN_WITHIN

    def _doomed_at(self) -> float | None:
        try:
            return (self.folder / DOOMED).stat().st_mtime
        except OSError:
            return None

    def _touched(self) -> float:
        try:
            return max((self.folder / LEASE).stat().st_mtime, self.spec.made_at)
        except OSError:
            return self.spec.made_at

    def _process(self, state: ProcessState | None) -> psutil.Process | None:
        """Its living process. A pid alone proves nothing after a restart: the command line must carry our handle, or the times must agree."""
        pid = state.pid if state is not None else self._child
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            if pid == self._child:
                return process  # not reaped, so its pid cannot have been given to another
            try:
                ours = any(self.spec.handle in word for word in process.cmdline())
            except psutil.AccessDenied:
                ours = state is not None and abs(process.create_time() - state.create_time) < _SAME_TIME
            return process if ours else None
        except psutil.NoSuchProcess:
            return None

    def _with_log(self, detail: str) -> str:
        """`detail` and the last line of the log that means something to a person."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return detail
        for line in reversed(lines):
            if line.strip() and not line.startswith(_NOISE):
                return f"{detail} Its log ends: {line.strip()[:200]}"
        return detail


def cannot_begin(error: OSError) -> tuple[WakeFailure, str]:
    """Why a launch failed before there was a process: reason and sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WakeFailure.DISK_FULL, "The disk is full: the engine's folder cannot be made."
    if error.errno == errno.ENOENT and error.filename:
        return WakeFailure.ENGINE_MISSING, f"{error.filename} is not there."
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return WakeFailure.OUT_OF_MEMORY, "The system refused another process."
    return WakeFailure.PROVIDER_ERROR, f"The engine could not be started: {error.strerror or error}."

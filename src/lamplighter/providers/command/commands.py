"""Runs one command of the user's: bounded in time, in output and in what it learns of us; nothing of it is left behind when it is cut off.

Commands come from the configuration file alone; this module never builds one. Not responsible for when to run which (`machine`).
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import psutil

SHELL = "/bin/sh"
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "SSH_AUTH_SOCK", "SSH_AGENT_PID", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip
"""All that a command gets of our environment: what ssh and a shell need. Keys and tokens of ours stay with us."""
NOT_FOUND = 127
"""The exit status of a command that could not be started, as a shell gives it."""
KEPT = 4096
"""Bytes of its output that are remembered, the last ones."""
WORDS = 300
"""Characters of its own words that a person is shown."""
_LINES = 3
_LOOK = 0.05
"""Seconds between two looks whether it has ended."""
_ASKED = 2.0
"""Seconds between asking it to end and killing it."""
_LAST_WORDS = 0.3
"""Seconds for which the rest of its output is waited for once it has ended: what it left in the background may hold the pipe for ever."""
_NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\xa0-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A command's process, so that a later life of ours can end it: a pid alone would not prove that it is the same."""

    pid: int
    created: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. `code`: its exit status, negative for a signal; None: it was killed for its time. `words`: its last ones."""

    code: int | None
    words: str = ""

    @property
    def well(self) -> bool:
        """Whether it says that it did what it was asked."""
        return self.code == 0

    def told(self, what: str, limit: float) -> str:
        """One sentence for a person on the command `what`, which was not well."""
        if self.code is None:
            how = f"did not end within {limit:g} s and was killed"
        elif self.code < 0:
            how = f"was ended by signal {-self.code}"
        else:
            how = f"failed with exit status {self.code}"
        return f"The {what} command {how}" + (f": {self.words}" if self.words else ".")


class Run(Protocol):
    """Runs a command; `run` is the real one."""

    async def __call__(
        self, command: str | Sequence[str], *, limit: float, told: Mapping[str, str], mark: Callable[[Mark | None], None]
    ) -> Outcome:
        """`limit`: seconds. `told`: added to its environment. `mark`: called with its process, and with None when that has ended."""
        ...


async def run(
    command: str | Sequence[str], *, limit: float, told: Mapping[str, str], mark: Callable[[Mark | None], None]
) -> Outcome:
    """See `Run`. A text goes to the shell, words go to no shell. Never raises but when cancelled, and then its whole group is dead."""
    argv = [SHELL, "-c", command] if isinstance(command, str) else list(command)
    try:
        process, output = _start(argv, told)
    except (OSError, ValueError) as error:  # ValueError: a word with a zero byte
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Outcome(NOT_FOUND, f"{argv[0]}: {why}")
    tail = _Tail()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: tail, output)
    try:
        mark(_mark(process.pid))
        try:
            async with asyncio.timeout(limit):
                while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            pass
        if process.returncode is None:
            await _end(process)
            return Outcome(None, tail.words())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await tail.ended.wait()
        return Outcome(process.returncode, tail.words())
    finally:
        if process.returncode is None:
            await _end(process)
        transport.close()
        mark(None)


def end_left_over(mark: Mark) -> bool:
    """Kill the command that an earlier life of ours was running when it was killed; True if it still ran."""
    try:
        process = psutil.Process(mark.pid)
        if process.create_time() != mark.created or process.status() == psutil.STATUS_ZOMBIE:
            return False
        os.killpg(mark.pid, signal.SIGKILL)
    except (psutil.Error, OSError):
        return False
    return True


def _start(argv: Sequence[str], told: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """The process, in a session of its own, and what it writes. Raises OSError, ValueError."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            argv, env=_environment(told), stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, start_new_session=True
        )
    except (OSError, ValueError):
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, os.fdopen(reading, "rb", buffering=0)


class _Tail(asyncio.Protocol):
    """Remembers the end of what comes, however much that is."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._bytes = b""

    def data_received(self, data: bytes) -> None:
        self._bytes = (self._bytes + data)[-KEPT:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def words(self) -> str:
        """Its last lines as one, fit to be shown anywhere."""
        lines = [_NOT_TEXT.sub(" ", line).strip() for line in self._bytes.decode("utf-8", "replace").splitlines()]
        return " / ".join([line for line in lines if line][-_LINES:])[-WORDS:]


def _environment(told: Mapping[str, str]) -> dict[str, str]:
    ours = os.environ  # noqa: TID251 - passed on, not read
    return {name: ours[name] for name in PASSED_ON if name in ours} | dict(told)


def _mark(pid: int) -> Mark | None:
    try:
        return Mark(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None  # it has ended already


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then kill it. The leader is reaped last, so its number cannot belong to anybody else meanwhile."""
    _signal(process.pid, signal.SIGTERM)
    try:
        for _ in range(round(_ASKED / _LOOK)):
            if _is_dead(process.pid):
                break
            await asyncio.sleep(_LOOK)
    finally:
        _signal(process.pid, signal.SIGKILL)
    for _ in range(round(_ASKED / _LOOK)):  # one that hangs in the kernel is not waited for
        if process.poll() is not None:
            return
        await asyncio.sleep(_LOOK)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _is_dead(pid: int) -> bool:
    """Whether our own child has ended, without reaping it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True

"""Several gateway processes on one port, and a keeper beside them: begun, watched, begun again when one dies, and ended in order.

The parent does nothing else: it holds the folder and the ports, has no event loop and no thread, and so can fork at any time. Not responsible
for what the processes do (`running`).
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from lamplighter.cli.announce import Announcer
from lamplighter.cli.roles import Part, Role
from lamplighter.cli.supervise import FIRST_PAUSE, LONGEST_PAUSE, WELL_AFTER

_log = structlog.get_logger(__name__)

KEEPER = "keeper"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEEPER_GRACE = 30.0
"""Seconds that the keeper may take to end its engines once every gateway has ended."""
_SLACK = 10.0
"""Seconds beyond the gateways' own grace after which one that does not end is killed."""

Life = Callable[[Part], int]
"""What a process does: called in it, once; its result is the exit status."""


@dataclass
class _Member:
    """One process, whichever life it is in. Times are monotonic seconds."""

    part: Part
    pid: int = 0
    began_at: float = 0.0
    pause: float = FIRST_PAUSE
    again_at: float | None = None

    @property
    def name(self) -> str:
        return self.part.name or "?"


class Workers:
    """The parent of `count` gateways and, with `keeps`, a keeper. `life` is what each of them runs; `grace`: what a gateway may take to end."""

    def __init__(self, life: Life, count: int, *, keeps: bool, grace: float, announcer: Announcer) -> None:
        self._life = life
        self._grace = grace
        self._announcer = announcer
        self._leash, self._leash_held = os.pipe()
        self._ready, self._ready_written = os.pipe()
        self._stopping = False
        self._deadline = float("inf")
        self._status = 0
        self._waiting_for = count + keeps
        self._folder = tempfile.TemporaryDirectory(prefix="lamplighter-")  # short: a socket's path has 107 characters
        names = [str(number) for number in range(1, count + 1)] + ([KEEPER] if keeps else [])
        paths = {name: str(Path(self._folder.name) / name) for name in names}
        self._listeners = {name: _unix(path) for name, path in paths.items()}
        self._members = [_Member(self._part(name, index == 0, paths)) for index, name in enumerate(names)]

    def _part(self, name: str, first: bool, paths: Mapping[str, str]) -> Part:
        return Part(
            role=Role.KEEPER if name == KEEPER else Role.GATEWAY,
            name=name,
            first=first,
            parent=os.getpid(),
            leash=self._leash,
            ready=self._ready_written,
            metrics=self._listeners[name],
            siblings={other: path for other, path in paths.items() if other != name},
        )

    def run(self) -> int:
        """Until a signal asks to end, or the first start fails: the exit status."""
        try:
            with _signals() as woken, selectors.DefaultSelector() as selector:
                selector.register(woken, selectors.EVENT_READ)
                selector.register(self._ready, selectors.EVENT_READ)
                for member in self._members:
                    self._begin(member)
                while any(member.pid for member in self._members) or not self._stopping:
                    for key, _ in selector.select(self._due()):
                        if key.fileobj is woken:
                            self._signalled(woken.recv(4096))
                        else:
                            self._waiting_for -= len(os.read(self._ready, 4096))
                    self._reap()
                    self._revive()
                return self._status
        finally:
            for member in self._members:
                if member.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(member.pid, signal.SIGKILL)
            self._folder.cleanup()

    # -- beginning

    def _begin(self, member: _Member) -> None:
        member.again_at, member.began_at = None, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            member.pid = pid
            return
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the parent: it ends us in order
            signal.set_wakeup_fd(-1)
            for number in (*_SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._leash_held)
            os.close(self._ready)
            structlog.contextvars.bind_contextvars(worker=member.name)
            status = self._life(member.part)
        except BaseException:  # noqa: BLE001 - nothing may climb back into the parent's code
            _log.exception("a process of ours crashed")
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _revive(self) -> None:
        now = time.monotonic()
        for member in self._members:
            if member.again_at is not None and now >= member.again_at and not self._stopping:
                member.part = _later(member.part)
                self._begin(member)

    def _due(self) -> float | None:
        times = [member.again_at for member in self._members if member.again_at is not None and not self._stopping]
        if self._stopping:
            times += [self._deadline]
        return max(0.0, min(times) - time.monotonic()) if times else None

    # -- ending

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number not in _SIGNALS:
                continue
            if self._stopping:  # asked twice: at once
                for member in self._members:
                    if member.pid:
                        os.kill(member.pid, signal.SIGKILL)
                self._status = 128 + number
            else:
                self._announcer.stopping(self._grace)
                self._end(0)

    def _end(self, status: int) -> None:
        """Ask the gateways to drain; the keeper goes on until they have, so that what they need stays awake."""
        self._stopping, self._status = True, status
        self._deadline = time.monotonic() + self._grace + _SLACK
        for member in self._members:
            member.again_at = None
            if member.pid and member.part.role is Role.GATEWAY:
                os.kill(member.pid, signal.SIGTERM)
        self._end_keeper()

    def _end_keeper(self) -> None:
        if any(member.pid for member in self._members if member.part.role is Role.GATEWAY):
            return
        for member in self._members:
            if member.pid:
                self._deadline = time.monotonic() + _KEEPER_GRACE
                os.kill(member.pid, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            member = next((one for one in self._members if one.pid == pid), None)
            if member is not None:
                self._ended(member, os.waitstatus_to_exitcode(code))
        if self._stopping and time.monotonic() >= self._deadline:
            for member in self._members:
                if member.pid:
                    _log.error("a process did not end in time and is killed", process=member.name)
                    os.kill(member.pid, signal.SIGKILL)
            self._deadline = time.monotonic() + _SLACK

    def _ended(self, member: _Member, status: int) -> None:
        member.pid = 0
        if self._stopping:
            if status and not self._status:
                self._status = 1
            self._end_keeper()
            return
        if self._waiting_for > 0 and status > 0:
            # It could not even begin, and has said why: beginning again would only say it again.
            self._end(status)
            return
        if time.monotonic() - member.began_at >= WELL_AFTER:
            member.pause = FIRST_PAUSE
        _log.error("a process ended by itself; it is started again", process=member.name, status=status, pause=member.pause)
        member.again_at = time.monotonic() + member.pause
        member.pause = min(LONGEST_PAUSE, member.pause * 2)


def _later(part: Part) -> Part:
    """The same part in another life: what is said once was said."""
    return Part(
        role=part.role, name=part.name, first=False, parent=part.parent, leash=part.leash, ready=part.ready,
        metrics=part.metrics, siblings=part.siblings,
    )  # fmt: skip


def _unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(16)
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that tells the numbers of the signals that come; the end of a child is one."""
    woken, waking = socket.socketpair()
    woken.setblocking(False)
    waking.setblocking(False)
    old = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    heard: Sequence[signal.Signals] = [
        number for number in (*_SIGNALS, signal.SIGCHLD) if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda *_: None) for number in heard}
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        woken.close()
        waking.close()

"""An engine that is somebody else's program (vLLM, Ollama), inside the engine half of `supervisor`: started, watched, ended with its children.

Follows the program's log while it starts, asks it how it is, and tells both as stages. Not responsible for what a line of a log means, nor
for what a health check is: the engine's own module gives a `Watcher`. Standard library only, for a fast start.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.state import LOG
from lamplighter.engines.supervisor import Failure, Life, die_with_parent, end_group

GRACE = 6.0
"""Seconds for a program to end after SIGTERM; less than after which the provider kills the whole group."""
LOOK_EVERY = 0.5
_STEP = 0.1
_TAIL = 64 * 1024
"""Bytes at the end of the log in which the reason of an end is looked for."""


class Watcher(Protocol):
    """What an engine's module knows of its program."""

    def line(self, text: str) -> None:
        """One line of the log, or one redrawing of a progress bar."""
        ...

    def look(self) -> bool:
        """One health check while it starts; True when it is ready. May raise `Failure`. May take as long as loading does."""
        ...

    def judge(self, log: str, code: int) -> Failure:
        """Why it ended (`code`: its exit status, negative for a signal), from the end of its log."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that a request may use, when it told."""
        ...


def find(program: str | None, default: str) -> str:
    """The program's absolute path. Raises SourceError ENGINE_MISSING when it is not there."""
    wanted = os.path.expanduser(program) if program else default  # noqa: PTH111 - a bare name must stay one, to be looked for on the PATH
    found = shutil.which(wanted)
    if found is None:
        where = "there" if os.sep in wanted else "on the PATH of Lamplighter"
        raise SourceError(
            f"The program {wanted!r} is not {where}.",
            reason=WakeFailure.ENGINE_MISSING,
            next_step=f"Install {default}, or say where it is with the model's `program`.",
        )
    return os.path.abspath(found)  # noqa: PTH100 - resolving a link of a virtual environment would leave the environment


def free_port() -> int:
    """A port of loopback that nobody listens on. Somebody else may take it before the program does: then it ends, and is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(life: Life, argv: Sequence[str], environment: Mapping[str, str], url: str, watcher: Watcher) -> NoReturn:
    """Run the program until it ends or we are asked to end it (SIGTERM); then this process ends too. Raises `Failure` while it starts.

    Whatever happens, nothing that it started is left in our process group.
    """
    supervisor, process = os.getppid(), None
    signal.signal(signal.SIGTERM, _asked)
    signal.signal(signal.SIGINT, _asked)
    try:
        log = Tail(life.folder / LOG)
        log.skip()
        process = _begin(argv, life.folder, environment)
        _until_ready(process, log, watcher)
        life.ready(url, watcher.context)
        code = process.wait()
        life.ended(watcher.judge(log.end(), code).detail)
    except _Asked:
        code = 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if process is not None:
            _stop(process)
        end_group(supervisor)
    os._exit(code if code >= 0 else 1)


class _Asked(BaseException):
    """Our end was asked for. Raised by the signal's handler, so that nothing is done inside of one: a lock may be held there."""


def _asked(_signal: int, _frame: object) -> None:
    raise _Asked


def _begin(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    parent = os.getpid()
    try:
        return subprocess.Popen(
            list(argv),
            cwd=folder,
            env={**os.environ, **environment},  # noqa: TID251 - passed on, not read
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - this process has one thread
        )
    except OSError as error:
        raise Failure(WakeFailure.ENGINE_MISSING, f"{argv[0]} cannot be started: {error.strerror or error}.") from error


def _until_ready(process: "subprocess.Popen[bytes]", log: "Tail", watcher: Watcher) -> None:
    looked = time.monotonic()
    while True:
        for text in log.lines():
            watcher.line(text)
        code = process.poll()
        if code is not None:
            raise watcher.judge(log.end(), code)
        if time.monotonic() - looked >= LOOK_EVERY:
            if watcher.look():
                return
            looked = time.monotonic()
        time.sleep(_STEP)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL after a while."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(1)


class Tail:
    """Reads a log as it grows; stands its being cut off at the front. A redrawn progress bar (carriage returns) counts as lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def skip(self) -> None:
        """Begin at its present end."""
        with contextlib.suppress(OSError):
            self._at = self._path.stat().st_size

    def lines(self) -> list[str]:
        """What was completed since the last call."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._at:
                    self._at = 0
                file.seek(self._at)
                data = file.read(1024 * 1024)
                self._at += len(data)
        except OSError:
            return []
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-_TAIL:]
        return [line.decode("utf-8", "replace") for line in whole if line.strip()]

    def end(self) -> str:
        """Its last part."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class Asking:
    """Short, blocking requests to the program on loopback. What the network does becomes None: it is asked again."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self._port = port
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str, *, timeout: float = 2.0) -> tuple[int, Any] | None:
        """(status, the JSON of the answer or None)."""
        return self._ask("GET", path, None, timeout)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float) -> tuple[int, Any] | None:
        """As `get`."""
        return self._ask("POST", path, json.dumps(body).encode(), timeout)

    def stream(self, path: str, body: Mapping[str, Any], *, timeout: float) -> Iterator[dict[str, Any]]:
        """The JSON objects of an answer, one a line, as they come. Raises OSError and ValueError."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body).encode(), {**self._headers, "content-type": "application/json"})
            for line in connection.getresponse():
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("a line that is no object")  # noqa: TRY004 - like every other line that makes no sense
                yield value
        except http.client.HTTPException as error:
            raise OSError(type(error).__name__) from error
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, Any] | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request(method, path, body, {**self._headers, "content-type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        try:
            return answer.status, json.loads(data)
        except ValueError:
            return answer.status, None

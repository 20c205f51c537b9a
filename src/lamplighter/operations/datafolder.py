"""The layout of an installation's data folder, who may read it, and which process owns it.

Not responsible for what is inside the store, the models or the engines' run folders: their owners write those.
"""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lamplighter.core.errors import AlreadyRunning, LamplighterError


class DataFolderError(LamplighterError):
    """The data folder cannot be made, read or written."""

    code = "data_folder"
    exit_code = 3


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Where a running `lamplighter up` of this folder listens. `started_at`: Unix seconds.

    `admin_url`: its admin port, when that is another one. `certificate`: PEM file that begins with the certificate it shows, when it speaks
    HTTPS itself.
    """

    url: str
    pid: int
    started_at: float
    version: str
    admin_url: str | None = None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Everything an installation keeps. Private to its owner: it holds chats, engine keys and the command line's own key."""

    root: Path

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.root / "lamplighter.db"

    @property
    def models(self) -> Path:
        """Weights, shared by all engines."""
        return self.root / "models"

    @property
    def engines(self) -> Path:
        """One folder for each engine process, with its state and its log."""
        return self.root / "run" / "engines"

    @property
    def config(self) -> Path:
        """The configuration used when none is named and none lies in the working directory."""
        return self.root / "lamplighter.yaml"

    @property
    def cli_key(self) -> Path:
        """The key with which the command line of this machine speaks to the API."""
        return self.root / "cli.key"

    @property
    def server(self) -> Path:
        """`ServerInfo` of the process that serves this folder; absent when none does."""
        return self.root / "run" / "server.json"

    @property
    def lock_file(self) -> Path:
        """Locked as long as a process owns the folder; holds that process's id."""
        return self.root / "lock"

    @property
    def gateway_lock_file(self) -> Path:
        """The same for the right to serve clients from this folder, which a keeper on its own leaves to a gateway."""
        return self.root / "lock.gateway"

    def prepare(self) -> None:
        """Make the folder, readable by its owner alone. Raises DataFolderError."""
        try:
            for folder in (self.root, self.root / "run"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.root.stat().st_uid == os.geteuid():
                self.root.chmod(0o700)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"writable?")
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DataFolderError:
        if isinstance(error, FileExistsError | NotADirectoryError):
            return DataFolderError(
                f"the data folder {self.root} cannot be used: there is a file of that name in the way",
                next_step="Choose another folder with --data.",
            )
        if error.errno == errno.ENOSPC:
            return DataFolderError(
                f"the disk of the data folder {self.root} is full", next_step="Free some space, or choose another with --data."
            )
        return DataFolderError(
            f"the data folder {self.root} cannot be used: {error.strerror}",
            next_step="Choose a folder that you may write to with --data.",
        )

    def lock(self, *, gateway: bool = False) -> "FolderLock":
        """Own the folder (`gateway`: only serve clients from it) until the lock is released or this process ends.

        Raises AlreadyRunning, DataFolderError.
        """
        return FolderLock.take(self, self.gateway_lock_file if gateway else self.lock_file)

    def read_server(self) -> ServerInfo | None:
        """Who serves this folder, as it was last written; None when nobody says so. That process may have died since."""
        try:
            raw = json.loads(self.server.read_text(encoding="utf-8"))
            return ServerInfo(
                str(raw["url"]),
                int(raw["pid"]),
                float(raw["started_at"]),
                str(raw.get("version", "")),
                admin_url=raw.get("admin_url"),
                certificate=raw.get("certificate"),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_server(self, info: ServerInfo) -> None:
        """Say who serves this folder. Raises DataFolderError."""
        self.write_private(
            self.server,
            json.dumps(asdict(info)) + "\n",
        )

    def forget_server(self) -> None:
        """Nobody serves this folder any more."""
        with contextlib.suppress(OSError):
            self.server.unlink(missing_ok=True)

    def read_cli_key(self) -> str | None:
        """The command line's own key, if there is one."""
        try:
            return self.cli_key.read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def write_private(self, path: Path, text: str) -> None:
        """Replace the file at `path` in one step; only the owner can read it. Raises DataFolderError."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._unusable(error) from error


class FolderLock:
    """The right of one process to serve a data folder. The kernel drops it when the process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: DataFolder, file: Path) -> Self:
        """Raises AlreadyRunning with the owner's process id, DataFolderError."""
        try:
            # Not inherited (PEP 446): an engine that outlives us must not keep the folder locked.
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise folder._unusable(error) from error  # noqa: SLF001 - the two classes are one subject
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise folder._unusable(error) from error  # noqa: SLF001 - the two classes are one subject
            running = folder.read_server()
            where = f" at {running.url}" if running else ""
            raise AlreadyRunning(
                f"Lamplighter already runs with the data folder {folder.root}{where}{f' (process {owner})' if owner else ''}",
                next_step="Use that one (`lamplighter status`), stop it, or start another with its own --data folder and --port.",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Give the folder back; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

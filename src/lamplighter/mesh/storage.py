"""What the authorities keep on disk: `<data>/mesh/`, readable by its owner alone, changed by one process at a time, each file in one step.

- `index.json`: authorities, issued certificates, blocklist, what nodes are known to carry. Its replacement is what makes a change happen:
  other files of a change are written before it, so that a crash in between leaves at most a file that nobody names.
- `index.json.previous`: the same before the last change.
- `keys/<role>-<fingerprint>.key`: the authorities' encrypted private keys.
- `nodes/<name>/`: certificate, bundle and, when the pair was made here, the private key of a node.
- `published/`: bundle and blocklist for this machine's Nebula, when the configuration names no other folder.

Not responsible for what the records mean: that is `authority`.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from lamplighter.mesh.certificates import Certificate, parse
from lamplighter.mesh.errors import MeshError

Role = Literal["offline", "online"]
Kind = Literal["lighthouse", "home", "laptop", "gpu"]
State = Literal["introduced", "active", "retiring", "dropped"]

_LOCK_WAIT = 15.0
_LOCK_STEP = 0.02


class AuthorityRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An authority. `introduced`: trusted, does not sign yet. `active`: signs. `retiring`: trusted, signs no more. `dropped`: not trusted."""

    fingerprint: str
    role: Role
    state: State
    certificate: str
    made_at: float

    def parsed(self) -> Certificate:
        """The certificate."""
        return parse(self.certificate)

    @property
    def trusted(self) -> bool:
        """Whether it belongs into the bundle."""
        return self.state != "dropped"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate that was issued. Times: Unix seconds. `kind`: its template. `public_key`: hexadecimal.

    `life`: the seconds that were asked for; its authority's end can have cut them.
    """

    fingerprint: str
    name: str
    kind: Kind
    groups: tuple[str, ...]
    address: str
    public_key: str
    issued_at: float
    not_after: float
    life: float
    authority: str
    certificate: str
    revoked_at: float | None = None

    def living(self, now: float) -> bool:
        """Whether a peer would accept it at `now`, as far as we know."""
        return self.revoked_at is None and now <= self.not_after


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node is known to have: the authorities in its bundle, and its certificate; fingerprints. `at`: Unix seconds."""

    trusts: tuple[str, ...]
    carries: str | None
    at: float


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """Everything that is known, keyed by fingerprint; `blocklist`: until when (Unix seconds); `confirmed`: by name of a node."""

    version: Literal[1] = 1
    authorities: dict[str, AuthorityRecord] = {}
    certificates: dict[str, Record] = {}
    blocklist: dict[str, float] = {}
    confirmed: dict[str, Confirmation] = {}


class MeshFolder:
    """The folder. Reading needs no lock: files are replaced whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def index(self) -> Path:
        """The index's file."""
        return self.root / "index.json"

    def key_file(self, role: str, fingerprint: str) -> Path:
        """Where the encrypted key of an authority lies."""
        return self.root / "keys" / f"{role}-{fingerprint[:16]}.key"

    def node(self, name: str) -> Path:
        """The folder of a node's own files."""
        return self.root / "nodes" / name

    @property
    def published(self) -> Path:
        """Where bundle and blocklist go when the configuration names no folder."""
        return self.root / "published"

    def read(self) -> Index:
        """The index; an empty one when there is none yet. Raises MeshError when it cannot be read or is damaged."""
        try:
            return msgspec.json.decode(self.index.read_bytes(), type=Index)
        except FileNotFoundError:
            return Index()
        except OSError as error:
            raise unusable(self.index, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(
                f"the index {self.index} is damaged: {error}",
                code="mesh_index_damaged",
                next_step=f"Put back a backup, or what was before the last change: cp {self.index}.previous {self.index}. "
                "Check `lamplighter mesh list --all` afterwards: a revocation that was the last change must be made again.",
            ) from error

    @contextlib.contextmanager
    def change(self) -> Iterator[Index]:
        """The index, for changing; written when the block ends without an error. One process and one thread at a time. Raises MeshError."""
        with self.locked("lock"):
            index = self.read()
            before = msgspec.json.encode(index)
            yield index
            after = msgspec.json.encode(index)
            if after != before:
                self._keep_previous()
                self._replace(self.index, msgspec.json.format(after, indent=1), 0o600)

    def write(self, path: Path, text: str, *, mode: int = 0o600) -> bool:
        """Replace a file in one step, its folder made when missing; False when it had this content already. Raises MeshError."""
        content = text.encode()
        try:
            if path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
                return False
        except OSError:  # missing or unreadable: the replacement says what is wrong, if anything is
            pass
        self._replace(path, content, mode)
        return True

    def _keep_previous(self) -> None:
        previous = self.index.with_name("index.json.previous")
        try:
            previous.unlink(missing_ok=True)
            if self.index.exists():
                previous.hardlink_to(self.index)
        except OSError as error:
            raise unusable(previous, error) from error

    def _replace(self, path: Path, content: bytes, mode: int) -> None:
        # Nebula reads every *.yml of its folder: the unfinished file must not look like one.
        temporary = path.with_name(f".{path.name}.new")
        try:
            self._make(path.parent)
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise unusable(path, error, ours=self._ours(path)) from error

    def _ours(self, path: Path) -> bool:
        return path == self.root or self.root in path.parents

    def _make(self, folder: Path) -> None:
        """Folders of ours are private; others (such as /etc/nebula) are made as the system does."""
        ours = self._ours(folder)
        if ours and folder != self.root:
            self._make(folder.parent)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if ours else 0o755)
        if ours and folder.stat().st_mode & 0o077 and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: float = _LOCK_WAIT) -> Iterator[None]:
        """Hold the lock of that name, waiting `wait` seconds at most for others. Raises MeshError."""
        path = self.root / name
        try:
            self._make(self.root)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            self._wait(descriptor, wait)
            yield
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int, wait: float) -> None:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise MeshError(
                        f"another process has been changing {self.root} for {wait:.0f} seconds",
                        code="mesh_busy",
                        next_step="Let it finish (a prompt of another `lamplighter mesh` may be open), then try again.",
                    ) from error
                time.sleep(_LOCK_STEP)


def unusable(path: Path, error: OSError, *, ours: bool = True) -> MeshError:
    """An operating system's error as a sentence with a next step. `ours`: the path is in the mesh's folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MeshError(
            f"{path} cannot be written: the disk is full; nothing was changed",
            code="disk_full",
            next_step="Free some space, then try again.",
        )
    return MeshError(
        f"{path} cannot be used: {error.strerror or error}",
        code="mesh_folder",
        next_step="Run this as the user who owns the data folder, or choose another with --data."
        if ours
        else "Let the user who runs this write there, or choose another place.",
    )

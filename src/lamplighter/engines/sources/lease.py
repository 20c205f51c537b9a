"""One at a time fills a folder that several machines share: a lease in a file, for network file systems whose locks cannot be trusted.

The holder renews the file by writing a number into it; whoever waits compares what it sees with what it saw, by its own clock alone, so clocks
need not agree. A holder that says nothing for `STALE` seconds is taken for dead. Creating and renaming files is what even NFS does atomically.
A lease only saves work: files are written under other names, checked, and renamed, so two holders by mistake would do no harm.

Downloads on one machine use the kernel's lock (`fetch`), which is released at once when its holder dies.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

RENEW = 5.0
STALE = 60.0
_LOOK = 1.0


@contextlib.contextmanager
def held(
    path: Path,
    waiting: Callable[[str], None] = lambda _holder: None,
    *,
    stale: float = STALE,
    renew: float = RENEW,
    look: float = _LOOK,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lease `path` while the block runs. `waiting` is told who has it, each time that somebody else does. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = secrets.token_hex(8)
    _acquire(path, mine, waiting, stale, look, clock, sleep)
    ended = threading.Event()
    keeper = threading.Thread(target=_renew, args=(path, mine, ended, renew), daemon=True, name="lease")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if _owner(_read(path)) == mine:
            path.unlink(missing_ok=True)


def _acquire(
    path: Path,
    mine: str,
    waiting: Callable[[str], None],
    stale: float,
    look: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    seen, since = "", clock()
    while not _create(path, mine):
        text = _read(path)
        if text is None:
            continue  # it was given back just now
        if text != seen:
            seen, since = text, clock()
        elif clock() - since >= stale:
            _set_aside(path, text, mine)
            continue
        waiting(_host(text))
        sleep(look)


def _create(path: Path, mine: str) -> bool:
    """Make the lease ours when there is none: written aside first, and linked, so that nobody ever reads half of one."""
    aside = path.with_name(f"{path.name}.{mine}")
    aside.write_text(_text(mine, 0))
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        return _create_exclusively(path, mine)
    finally:
        aside.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, mine: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(_text(mine, 0))
    return True


def _set_aside(path: Path, seen: str, mine: str) -> None:
    """Take away the lease of one who is dead. Of several who try, one succeeds; one who took a living lease by mistake puts it back."""
    aside = path.with_name(f"{path.name}.{mine}.stale")
    with contextlib.suppress(OSError):
        path.rename(aside)
        if aside.read_text() != seen:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _renew(path: Path, mine: str, ended: threading.Event, every: float) -> None:
    count = 0
    while not ended.wait(every):
        count += 1
        if _owner(_read(path)) != mine:
            return  # taken for dead, while this machine was stopped: what we write is still checked and renamed
        aside = path.with_name(f"{path.name}.{mine}")
        with contextlib.suppress(OSError):
            aside.write_text(_text(mine, count))
            aside.replace(path)


def _text(owner: str, count: int) -> str:
    return json.dumps({"owner": owner, "host": os.uname().nodename, "count": count})


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _field(text: str | None, name: str) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return str(json.loads(text or "").get(name, ""))
    return ""


def _owner(text: str | None) -> str:
    return _field(text, "owner")


def _host(text: str) -> str:
    return _field(text, "host") or "another"

"""Brings a model's weights onto this disk: one fetcher at a time per model, whoever else asks waits and sees the same progress."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources import bundled, hub
from lamplighter.engines.sources.download import Progress
from lamplighter.engines.sources.files import Kind, locate, parse, parts, target
from lamplighter.engines.sources.index import IndexSettings


def fetch(
    source: str,
    models_folder: Path,
    progress: Progress,
    *,
    revision: str | None = None,
    force: bool = False,
    index: IndexSettings | None = None,
    hub_endpoint: str | None = None,
) -> Path:
    """The file to load, fetched when it is not here. `progress(done, total)` in bytes, total None while unknown. `revision`: of the hub's repository.

    Blocks; resumes what an earlier call left. `force` fetches it again even when it is here. `index` and `hub_endpoint` replace pip's and the
    hub library's own settings. Raises SourceError with the reason (DOWNLOAD_FAILED, DISK_FULL, GATED_MODEL, MODEL_NOT_FOUND).
    """
    parsed = parse(source, revision)
    if not force or parsed.kind is Kind.FILE:
        found = locate(parsed, models_folder)
        if found is not None:
            return found
    try:
        with _alone(models_folder, source if revision is None else f"{source}@{revision}", progress) as telling:
            if not force:
                found = locate(parsed, models_folder)  # another process may have brought it while we waited
                if found is not None:
                    return found
            path = target(parsed, models_folder)
            if force and path is not None:
                for part in parts(path):
                    part.unlink(missing_ok=True)
            if parsed.kind is Kind.BUNDLED:
                assert path is not None  # noqa: S101 - always known, for the type checker
                bundled.fetch(path, telling, index)
                return path
            return hub.fetch(parsed, models_folder, telling, endpoint=hub_endpoint)
    except OSError as error:
        raise SourceError(
            f"{models_folder} cannot be written: {error.strerror or error}.",
            reason=WakeFailure.DISK_FULL,
            next_step="Check its owner and its space, or point --data elsewhere.",
        ) from error


@contextlib.contextmanager
def _alone(
    models_folder: Path, source: str, progress: Progress, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Progress]:
    """Hold the lock of `source`; yields a `progress` that also tells those who wait for it, through the lock's file.

    The kernel releases the lock when its holder dies; the file itself stays.
    """
    folder = models_folder / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                told = os.pread(descriptor, 64, 0).split()
                if len(told) == 2:
                    progress(int(told[0]), int(told[1]) or None)
                sleep(0.2)

        def telling(done: int, total: int | None) -> None:
            os.pwrite(descriptor, f"{done:>20} {total or 0:>20}".encode(), 0)
            progress(done, total)

        yield telling
    finally:
        os.close(descriptor)

"""Shows a download in the foreground: a progress bar on a terminal, a line now and then elsewhere. The fetching is `engines.sources`'."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from lamplighter.cli.words import size

_LINE_EVERY = 5.0

Progress = Callable[[int, int | None], None]


@contextlib.contextmanager
def shown(label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A function to call with (bytes done, bytes in all or None). Nothing appears unless it is called, nor when `quiet`."""
    if quiet:
        yield lambda _done, _total: None
    elif sys.stderr.isatty():
        with _bar(label) as progress:
            yield progress
    else:
        yield _Lines(label)


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = None

    def progress(done: int, total: int | None) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(label, total=total)
        bar.update(task, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()


class _Lines:
    """One line every few seconds, for logs."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._clock = clock
        self._next_at = float("-inf")

    def __call__(self, done: int, total: int | None) -> None:
        now, ended = self._clock(), done == total
        if now < self._next_at and not (ended and self._next_at < float("inf")):
            return
        self._next_at = float("inf") if ended else now + _LINE_EVERY
        print(f"{self._label}: {size(done)}{f' of {size(total)}' if total else ''}", file=sys.stderr, flush=True)

"""Shows a download in the foreground: a progress bar on a terminal, a line now and then elsewhere. The fetching is `engines.sources`'."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from lamplighter.cli.words import size, span

_LINE_EVERY = 5.0

Progress = Callable[[int, int | None], None]


@contextlib.contextmanager
def shown(label: str, *, quiet: bool = False, lines: bool = False) -> Iterator[Progress]:
    """A function to call with (bytes done, bytes in all or None). Nothing appears unless it is called, nor when `quiet`.

    `lines`: lines for a log, whatever standard error is.
    """
    if quiet:
        yield lambda _done, _total: None
    elif sys.stderr.isatty() and not lines:
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
    """One line every few seconds, for logs: how much, how fast, how long still."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._clock = clock
        self._next_at = float("-inf")
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        now, ended = self._clock(), done == total
        if now < self._next_at and not (ended and self._next_at < float("inf")):
            return
        self._next_at = float("inf") if ended else now + _LINE_EVERY
        self._first = self._first or (now, done)
        of_all = f" of {size(total)} ({done / total:.0%}){self._left(now, done, total)}" if total else ""
        print(f"{self._label}: {size(done)}{of_all}", file=sys.stderr, flush=True)

    def _left(self, now: float, done: int, total: int) -> str:
        began, had = self._first or (now, done)
        if now <= began or done <= had or done >= total:
            return ""
        speed = (done - had) / (now - began)
        return f", {size(speed)}/s, about {span((total - done) / speed)} more"

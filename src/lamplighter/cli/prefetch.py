"""Fetches the bundled model in the foreground at the first start, so that the first answer does not begin with a download.

A failure stops nothing: the model's wake tries again by itself. Downloading is `engines.sources`' work.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import structlog

from lamplighter.cli.announce import Announcer
from lamplighter.cli.fetching import Progress, shown
from lamplighter.config import Config
from lamplighter.core.errors import SourceError
from lamplighter.engines.sources.fetch import fetch
from lamplighter.engines.sources.files import Kind, locate, parse

_log = structlog.get_logger(__name__)

_BUNDLED = Kind.BUNDLED.value


class _Stopped(Exception):
    """The person asked to end: no failure."""


async def bundled(config: Config, models_folder: Path, announcer: Announcer, stop: asyncio.Event) -> None:
    """Fetch the bundled model when a model needs it and it is not here. Returns early when `stop` is set; never raises."""
    wanted = [name for name, model in config.models.items() if model.engine == "llamacpp" and model.source == _BUNDLED]
    if not wanted or locate(parse(_BUNDLED), models_folder) is not None:
        return
    announcer.note(f"Fetching the bundled model for {', '.join(wanted)}; the page and the API answer meanwhile.")
    try:
        with shown("bundled model") as progress:
            await _in_thread(models_folder, progress, stop)
    except _Stopped:
        return
    except SourceError as error:
        announcer.problem(
            error.message, error.next_step or "The next request tries again; `lamplighter models pull bundled` does, too."
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the server serves on and the wake tries again
        _log.exception("the bundled model could not be fetched", error=str(error))
    else:
        announcer.note("The bundled model is here; the first request wakes it.")


async def _in_thread(models_folder: Path, progress: Progress, stop: asyncio.Event) -> None:
    """A daemon thread of our own: the loop's executor would keep the process from ending while a download hangs."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def told(done: int, total: int | None) -> None:
        if stop.is_set():
            raise _Stopped
        progress(done, total)

    def settle(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            fetch(_BUNDLED, models_folder, told)
        except BaseException as caught:  # noqa: BLE001 - carried to the loop, whole
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, name="fetch-bundled", daemon=True).start()
    stopped = asyncio.create_task(stop.wait())
    either: set[asyncio.Future[Any]] = {ended, stopped}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    if not ended.done():
        raise _Stopped
    ended.result()

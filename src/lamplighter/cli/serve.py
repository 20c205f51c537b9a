"""The life of one `lamplighter up`: own the folder, take the port, start both planes, say where, serve, end in order.

Not responsible for what the planes do (`compose` makes them), nor for options (`up`, `dev`). One process, one loop, one exit.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
import uvicorn
import uvloop

from lamplighter import __version__
from lamplighter.cli import prefetch
from lamplighter.cli.announce import Announcement, Announcer
from lamplighter.cli.compose import Installation
from lamplighter.cli.listen import is_public, listen, local_url
from lamplighter.config import Config
from lamplighter.config.secrets import admin_key, check
from lamplighter.gateway.server import configure
from lamplighter.observability import logging
from lamplighter.operations.datafolder import DataFolder, ServerInfo

_log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CONNECTIONS_GRACE = 3
"""Seconds that sockets may take to close after the drain has ended every answer."""
_OPEN_FILES = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is to do, options and configuration combined. `port` 0: any free one."""

    config: Config
    folder: DataFolder
    host: str
    port: int
    config_file: str | None = None
    open_browser: bool = False


def plan(
    config: Config,
    folder: DataFolder,
    *,
    host: str | None,
    port: int | None,
    log_format: str | None,
    log_level: str | None,
    config_file: str | None,
    open_browser: bool,
) -> Plan:
    """The plan of one run: what the command line says wins over the configuration."""
    said = {"format": log_format, "level": log_level}
    log = config.log.model_copy(update={name: str(value) for name, value in said.items() if value is not None})
    return Plan(
        config=config.model_copy(update={"log": log}),
        folder=folder,
        host=host or config.server.host,
        port=config.server.port if port is None else port,
        config_file=config_file,
        open_browser=open_browser,
    )


def serve(plan: Plan) -> None:
    """Serve until a signal asks to end. Raises LamplighterError when it cannot start; a second signal ends the process at once."""
    check(plan.config)
    plan.folder.prepare()
    with plan.folder.lock(), contextlib.closing(listen(plan.host, plan.port)) as listener:
        logging.configure(format=plan.config.log.format, level=plan.config.log.level)
        _allow_many_files()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(plan, listener))


async def _serve(plan: Plan, listener: socket.socket) -> None:
    url = local_url(listener)
    with _asked_to_stop() as stop:
        async with Installation.open(plan.config, plan.folder) as installation:
            first_key = await installation.first_keys(admin_key())
            server = _Server(configure(installation.asgi, lifespan="off", timeout_graceful_shutdown=_CONNECTIONS_GRACE))
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
            plan.folder.write_server(ServerInfo(url, os.getpid(), time.time(), __version__))
            announcer = Announcer(plan.config.log.format)
            announcer.started(
                Announcement(
                    url=plan.config.server.public_url or url,
                    login=await installation.login_link(plan.config.server.public_url or url),
                    first_key=first_key,
                    models=tuple(plan.config.models),
                    data=str(plan.folder.root),
                    config_file=plan.config_file,
                    public=is_public(listener),
                    note=installation.weak_note(),
                ),
                open_browser=plan.open_browser,
            )
            fetching = asyncio.create_task(
                prefetch.bundled(plan.config, plan.folder.models, announcer, stop), name="bundled-model"
            )
            try:
                await asyncio.wait({asyncio.create_task(stop.wait(), name="stop"), serving}, return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                announcer.stopping(plan.config.server.shutdown_grace)
                await fetching
                await installation.drain()
            finally:
                plan.folder.forget_server()
                server.should_exit = True
                await serving


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[asyncio.Event]:
    """An event set by the first signal. The second one ends the process at once: the engines end by their lease."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, asked, number)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _allow_many_files() -> None:
    """Every held stream is an open file; the usual soft limit of 1024 would be the true bound on clients."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

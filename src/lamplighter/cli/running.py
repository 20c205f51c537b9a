"""Both planes on one loop: started, announced, served, ended in order when a signal asks.

Not responsible for the folder, the port or the log: `serve` has them ready before it imports this module, which is slow to load.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
import uvloop

from lamplighter import __version__
from lamplighter.cli import prefetch
from lamplighter.cli.announce import Announcement, Announcer
from lamplighter.cli.compose import Installation
from lamplighter.cli.listen import is_public, local_url
from lamplighter.cli.serve import Plan
from lamplighter.config.secrets import admin_key
from lamplighter.core.clock import SystemClock
from lamplighter.gateway.server import configure, settle
from lamplighter.gateway.tls import Certificate, secure
from lamplighter.operations.datafolder import ServerInfo

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CONNECTIONS_GRACE = 3
"""Seconds that sockets may take to close after the drain has ended every answer."""


def run(plan: Plan, listener: socket.socket, admin: socket.socket | None = None) -> None:
    """Serve on `listener`, and on `admin` if there is one, until a signal asks to end. Raises LamplighterError when it cannot start."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(plan, listener, admin))


async def _serve(plan: Plan, listener: socket.socket, admin: socket.socket | None) -> None:
    tls = plan.config.server.tls
    certificate = Certificate(tls, SystemClock()) if tls is not None else None
    local = local_url(listener, tls=tls is not None)
    own = ServerInfo(
        local,
        os.getpid(),
        time.time(),
        __version__,
        admin_url=local_url(admin, tls=tls is not None) if admin is not None else None,
        certificate=certificate.file if certificate is not None else None,
    )
    announcer = Announcer(plan.config.log.format)
    with _asked_to_stop() as stop:
        async with Installation.open(plan.config, plan.folder) as installation:
            first_key = await installation.first_keys(admin_key())
            url = plan.config.server.public_url or local
            said = Announcement(
                url=url,
                login=await installation.login_link(url),
                first_key=first_key,
                models=tuple(plan.config.models),
                data=str(plan.folder.root),
                config_file=plan.config_file,
                public=is_public(listener) and certificate is None,
                note=installation.weak_note(),
            )
            settle()
            ports = [(installation.asgi, listener)] + ([(installation.admin_asgi, admin)] if admin is not None else [])
            serving = asyncio.create_task(_listen(ports, certificate, closing := asyncio.Event()), name="http")
            try:
                plan.folder.write_server(own)
                announcer.started(said, open_browser=plan.open_browser)
                fetching = asyncio.create_task(prefetch.bundled(plan.config, plan.folder.models, announcer, stop), name="fetch")
                stopping = asyncio.create_task(stop.wait(), name="stop")
                await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                announcer.stopping(plan.config.server.shutdown_grace)
                await fetching
                await installation.drain()
            finally:
                plan.folder.forget_server()
                closing.set()
                await serving


async def _listen(
    ports: Sequence[tuple[Callable[..., Any], socket.socket]], certificate: Certificate | None, closing: asyncio.Event
) -> None:
    """Serve each application on its socket until `closing` is set or one of them ends."""
    servers = [
        _Server(secure(configure(asgi, lifespan="off", timeout_graceful_shutdown=_CONNECTIONS_GRACE), certificate))
        for asgi, _ in ports
    ]
    serving = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, (_, listener) in zip(servers, ports, strict=True)
    ]
    following = [asyncio.create_task(certificate.follow(), name="certificate")] if certificate is not None else []
    waiting = asyncio.create_task(closing.wait())
    await asyncio.wait({waiting, *serving}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *following):
        task.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving)


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

    # Under `nohup` the end of the terminal is no reason to end.
    heard = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, asked, number)
    try:
        yield stop
    finally:
        for number in heard:
            loop.remove_signal_handler(number)

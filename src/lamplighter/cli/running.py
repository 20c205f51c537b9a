"""The planes of one process on one loop: started, announced, served, ended in order when a signal asks.

Not responsible for the folder, the port or the log: `serve` has them ready before it imports this module, which is slow to load.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import uvicorn
import uvloop

from lamplighter import __version__
from lamplighter.cli import prefetch
from lamplighter.cli.announce import Announcement, Announcer
from lamplighter.cli.compose import Installation
from lamplighter.cli.listen import is_public, local_url
from lamplighter.cli.roles import Part
from lamplighter.cli.serve import Plan
from lamplighter.config.secrets import admin_key
from lamplighter.core.clock import SystemClock
from lamplighter.gateway.server import Connections, configure, settle
from lamplighter.gateway.tls import Certificate, secure
from lamplighter.observability.siblings import Siblings
from lamplighter.operations.datafolder import ServerInfo

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CONNECTIONS_GRACE = 3
"""Seconds that sockets may take to close after the drain has ended every answer."""


def run(plan: Plan, listener: socket.socket | None, admin: socket.socket | None, part: Part) -> None:
    """Serve on `listener`, and on `admin` if there is one, until a signal asks to end. Raises LamplighterError when it cannot start.

    Without a listener nothing is served: the keeper beside several workers.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(plan, listener, admin, part))


async def _serve(plan: Plan, listener: socket.socket | None, admin: socket.socket | None, part: Part) -> None:
    tls = plan.config.server.tls if part.role.serves else None  # a keeper shows only how it is, and that to its own machine
    certificate = Certificate(tls, SystemClock()) if tls is not None else None
    announcer = Announcer(plan.config.log.format)
    with _asked_to_stop(part.leash) as stop:
        async with Installation.open(plan.config, plan.folder, part.role) as installation, _told_to_siblings(part, installation):
            said = None
            if part.role.serves and part.first and listener is not None:
                said = await _announcement(plan, installation, listener, certificate)
            settle()
            ports = [(installation.asgi, listener)] if listener is not None else []
            if admin is not None:
                ports.append((installation.admin_asgi, admin))
            http = _Http(ports, certificate)
            serving = asyncio.create_task(http.run(), name="http")
            try:
                if said is not None and listener is not None:
                    plan.folder.write_server(_server_info(listener, admin, certificate, part))
                    announcer.started(said, open_browser=plan.open_browser)
                elif part.parent is None and listener is not None:
                    announcer.keeping(local_url(listener))
                if part.ready is not None:
                    os.write(part.ready, b"r")
                fetching = [_fetching(plan, announcer, stop)] if part.role.keeps else []
                stopping = asyncio.create_task(stop.wait(), name="stop")
                await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                if part.parent is None:
                    announcer.stopping(plan.config.server.shutdown_delay + plan.config.server.shutdown_grace)
                if part.role.serves:
                    http.leave()
                    await installation.leave()
                await asyncio.gather(*fetching)
                await installation.drain()
            finally:
                if part.role.serves and part.parent is None:
                    plan.folder.forget_server()
                http.end()
                await serving


async def _announcement(
    plan: Plan, installation: Installation, listener: socket.socket, certificate: Certificate | None
) -> Announcement:
    """Make the first keys, and say where we are.

    In a pod this goes into a log that many may read: there nobody gets a link to sign in with, who has a preset key does not need one.
    """
    preset = admin_key()
    first_key = await installation.first_keys(preset)
    logged = preset is not None and "KUBERNETES_SERVICE_HOST" in os.environ  # noqa: TID251 - how every pod knows that it is one
    url = plan.config.server.public_url or local_url(listener, tls=certificate is not None)
    return Announcement(
        url=url,
        login=None if logged else await installation.login_link(url),
        first_key=first_key,
        models=tuple(plan.config.models),
        data=str(plan.folder.root),
        config_file=plan.config_file,
        public=is_public(listener) and certificate is None,
        note=installation.weak_note(),
    )


def _server_info(listener: socket.socket, admin: socket.socket | None, certificate: Certificate | None, part: Part) -> ServerInfo:
    tls = certificate is not None
    return ServerInfo(
        local_url(listener, tls=tls),
        part.parent or os.getpid(),
        time.time(),
        __version__,
        admin_url=local_url(admin, tls=tls) if admin is not None else None,
        certificate=certificate.file if certificate is not None else None,
    )


def _fetching(plan: Plan, announcer: Announcer, stop: asyncio.Event) -> asyncio.Task[None]:
    return asyncio.create_task(prefetch.bundled(plan.config, plan.folder.models, announcer, stop), name="fetch")


@contextlib.asynccontextmanager
async def _told_to_siblings(part: Part, installation: Installation) -> AsyncIterator[None]:
    """Whichever of several workers is scraped tells the metrics of all."""
    if part.metrics is None or part.name is None:
        yield
        return
    siblings = Siblings(part.name, part.siblings, installation.metrics.render)
    installation.metrics.gather = siblings.collect
    await siblings.start(part.metrics)
    try:
        yield
    finally:
        await siblings.stop()


class _Http:
    """The servers of this process: one for each application and its socket."""

    def __init__(self, ports: Sequence[tuple[Callable[..., Any], socket.socket]], certificate: Certificate | None) -> None:
        self._ports = ports
        self._certificate = certificate
        self._closing = asyncio.Event()
        self._servers = [
            _Server(secure(configure(asgi, lifespan="off", timeout_graceful_shutdown=_CONNECTIONS_GRACE), certificate))
            for asgi, _ in ports
        ]

    async def run(self) -> None:
        """Serve until `end`, or until one of the servers ends."""
        serving = [
            asyncio.create_task(server.serve(sockets=[listener]))
            for server, (_, listener) in zip(self._servers, self._ports, strict=True)
        ]
        certificate = self._certificate
        following = [asyncio.create_task(certificate.follow(), name="certificate")] if certificate is not None else []
        waiting = asyncio.create_task(self._closing.wait())
        await asyncio.wait({waiting, *serving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, *following):
            task.cancel()
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*serving)

    def leave(self) -> None:
        """From now on every answer is the last one of its connection."""
        for server in self._servers:
            server.server_state.leave()

    def end(self) -> None:
        """Close the sockets, and every connection once its answer is whole."""
        self._closing.set()


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end before the drain."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = Connections()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _asked_to_stop(leash: int | None) -> Iterator[asyncio.Event]:
    """An event set by the first signal. The second one ends the process at once: the engines end by their lease.

    `leash`: a pipe of the parent's; when the parent is gone, that is a signal too.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    # Under `nohup` the end of the terminal is no reason to end.
    heard = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, asked, number)
    if leash is not None:
        loop.add_reader(leash, _parent_gone, leash, stop)
    try:
        yield stop
    finally:
        if leash is not None:
            loop.remove_reader(leash)
        for number in heard:
            loop.remove_signal_handler(number)


def _parent_gone(leash: int, stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(leash)
    stop.set()

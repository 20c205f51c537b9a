"""Puts the control API together: routes, errors, protection, and the chats behind them. Owns their beginning and end."""

import asyncio
import os
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from lamplighter import __version__
from lamplighter.engines import memory
from lamplighter.engines.catalogue import weak_note
from lamplighter.gateway.chat.generations import Generations
from lamplighter.gateway.chat.hub import Hub
from lamplighter.gateway.control import chats, errors, keys, limits, models, session, socket, switches, usage
from lamplighter.gateway.control.access import Admin
from lamplighter.gateway.control.guard import Guard
from lamplighter.gateway.control.parts import Parts
from lamplighter.gateway.control.status import Statuses
from lamplighter.gateway.control.throttle import Throttle
from lamplighter.gateway.openapi import openapi_document
from lamplighter.gateway.services import Services


class Control:
    """The ASGI application of `/api/*` (HTTP and WebSocket). Serves between `start` and `stop`."""

    def __init__(self, services: Services) -> None:
        total, cores = memory.total(), os.cpu_count() or 1
        statuses = Statuses(
            services.config,
            services.engines,
            circuits=services.circuits,
            note=lambda model: weak_note(model, total, cores),
            now=services.clock.time,
        )
        self._generations = Generations(
            services.store, services.clock, services.view, services.relay, services.engines, services.gateway_id
        )
        self._hub = Hub(services.store, services.clock, services.view, statuses.models)
        self._parts = Parts(services, self._generations, self._hub, statuses, Throttle(services.clock))
        self._asgi = Guard(_application(self._parts))

    async def start(self) -> None:
        """End what an earlier gateway left unfinished, and begin to serve. The view and the keyring must be running. Raises StoreError."""
        await self._generations.start()
        await self._hub.start()

    async def drain(self, grace: float) -> None:
        """Begin no more answers; return when those that are being written have ended, or after `grace` seconds."""
        self._generations.refuse()
        settled = asyncio.Event()
        settling = asyncio.create_task(self._generations.settle(), name="generations-settle")
        settling.add_done_callback(lambda _: settled.set())
        try:
            await self._parts.services.clock.wait(settled, grace)
        finally:
            settling.cancel()

    async def stop(self) -> None:
        """Interrupt the answers that are left, keeping their text, and end."""
        await self._hub.stop()
        await self._generations.stop()

    @property
    def generating(self) -> int:
        """How many answers are being written."""
        return self._generations.running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)


def build_control(services: Services) -> Control:
    """The control API of one gateway."""
    return Control(services)


def described() -> dict[str, Any]:
    """FastAPI's own description of these routes, which `openapi.document` completes."""
    return _routed().openapi()


def _routed() -> FastAPI:
    app = FastAPI(title="Lamplighter control API", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    for router in (
        session.router,
        models.router,
        switches.router,
        keys.router,
        limits.router,
        chats.router,
        usage.router,
        socket.router,
    ):
        app.include_router(router)
    return app


def _application(parts: Parts) -> FastAPI:
    app = _routed()
    app.state.parts = parts
    errors.install(app)

    @app.get("/api/openapi.json", include_in_schema=False)
    async def openapi(_: Admin) -> dict[str, Any]:
        """The whole document, as at `/openapi.json`."""
        return await asyncio.to_thread(openapi_document)

    return app

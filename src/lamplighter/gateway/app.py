"""The gateway as one object: makes its parts, starts and ends them in order, and sends each request to the part that answers it.

Not responsible for listening: `server.configure` says how, and the command line does it.
"""

import asyncio
import ipaddress
import random
from collections.abc import Mapping
from typing import Any

from lamplighter import __version__
from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.core.ids import new_id
from lamplighter.engines.base import Engine
from lamplighter.gateway.accounts import Accounts, Prices
from lamplighter.gateway.admission.gate import Gate
from lamplighter.gateway.auth import Keyring
from lamplighter.gateway.connection import Limits
from lamplighter.gateway.control import build_control
from lamplighter.gateway.cors import Cors
from lamplighter.gateway.demand import DemandReporter
from lamplighter.gateway.edge import Edge
from lamplighter.gateway.hosts import Hosts, Proxies
from lamplighter.gateway.inference import models
from lamplighter.gateway.inference.dispatch import Dispatch
from lamplighter.gateway.inference.http import InferenceRoutes
from lamplighter.gateway.inference.local import LocalRelay
from lamplighter.gateway.inference.operations import OPERATIONS
from lamplighter.gateway.lane import Lane
from lamplighter.gateway.metering import Meter
from lamplighter.gateway.ollama.app import OllamaApp, claims
from lamplighter.gateway.openapi import openapi_document
from lamplighter.gateway.outcomes import Outcomes
from lamplighter.gateway.page import build_page
from lamplighter.gateway.responses import JSON_HEADERS, NO_STORE, NOSNIFF, answer, answer_json, refuse, valid_request_id
from lamplighter.gateway.routing import Lanes
from lamplighter.gateway.services import Services
from lamplighter.gateway.upstream import Upstreams
from lamplighter.gateway.view import View
from lamplighter.observability.logging import AccessLog
from lamplighter.observability.metrics import CONTENT_TYPE, Metrics
from lamplighter.store.store import Store

_FORWARDED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})
_DOCUMENT = "/openapi.json"


class Gateway:
    """One gateway. `start` before the first request, `drain` and `stop` at the end; `asgi` is what the server runs."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        engines: Mapping[str, Engine],
        *,
        metrics: Metrics | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        gateway = config.gateway
        self.metrics = metrics or Metrics()
        self._view = View(store, config, clock)
        self._upstreams = Upstreams(
            Limits(
                connect=gateway.connect_timeout,
                first_byte=gateway.first_byte_timeout,
                first_token=gateway.first_token_timeout,
                idle_stream=gateway.idle_stream_timeout,
                connections=gateway.max_upstream_connections,
            ),
            clock,
        )
        self._lanes = Lanes(config, engines, self._upstreams, clock)
        self._outcomes = self._lanes.outcomes = Outcomes(store, clock, self.metrics)
        self._lanes.on_opened = lambda lane, _: self.metrics.breaker_opened.labels(lane.name).inc()
        gateway_id = new_id("gtw")
        self._reporter = DemandReporter(store, clock, gateway_id, self._lanes, self._view)
        self._lanes.reporter = self._reporter
        self._view.listen(self._lanes.apply)
        access = AccessLog(clock, format=config.log.format) if config.log.access else None
        self._accounts = Accounts(store, clock, self.metrics, gateway_id=gateway_id, keep=config.accounts.keep)
        self._accounts.price = Prices(config, lambda: self._view.snapshot.models)
        self._meter = Meter(self.metrics, access, clock, self._accounts)
        self.admission = Gate(config, store, clock, self.metrics, model_of=self._model_of)
        self._dispatch = Dispatch(config, clock, self._lanes, self._meter, self.admission, store.bus)
        self.keyring = keyring or Keyring(store, clock)
        self.services = Services(
            config=config,
            store=store,
            clock=clock,
            engines=engines,
            view=self._view,
            keyring=self.keyring,
            relay=LocalRelay(self._dispatch),
            metrics=self.metrics,
            accounts=self._accounts,
            admission=self.admission,
            gateway_id=gateway_id,
            started_at=clock.time(),
            circuits=self._lanes.reports,
        )
        self.metrics.refreshers.append(self._refresh_gauges)
        self._control = build_control(self.services)
        self._page = build_page()
        self._ollama = OllamaApp(self.services, self._lanes)
        self.cors, self.hosts = Cors(config.server.cors), Hosts(config.server)
        self.proxies = Proxies(config.server.trusted_proxies)
        border: dict[str, Any] = {"cors": self.cors, "hosts": self.hosts, "proxies": self.proxies}
        self.direct = InferenceRoutes(self._dispatch, self.keyring, OPERATIONS, self.admission.bodies, **border)
        """The routes that the server's protocol answers itself (`server.DirectRoutes`): all POSTs of `OPERATIONS`."""
        self._public = Edge(config, self._route, admin=None if config.server.admin is None else False, **border)
        self._admin = Edge(config, self._route, admin=True, **border)
        self._running = False
        self._leaving = False

    # -- life

    async def start(self) -> None:
        """Load the keys and the picture of the store, announce this gateway. Raises StoreError. Safe to call twice."""
        if self._running:
            return
        self._running = True
        await self.keyring.start()
        await self.admission.start()
        await self._reporter.start()
        await self._view.start()
        await self._upstreams.start()
        await self._accounts.start()
        await self._outcomes.start()
        await self._control.start()

    def leave(self) -> None:
        """Say that no more requests should be sent here; those that come are served until `drain`."""
        self._leaving = True

    async def drain(self, grace: float) -> None:
        """Refuse new work, send away those who wait for a wake, and let what runs finish for up to `grace` seconds.

        Who waits for a place on an awake model gets it: the answers before it end.
        """
        self._leaving = self._dispatch.closing = True
        deadline = self._clock.monotonic() + grace
        controls = asyncio.create_task(self._control.drain(grace), name="control-drain")
        try:
            while self._clock.monotonic() < deadline:
                for lane in self._lanes:
                    if not lane.awake and not lane.closing:
                        self._close(lane)
                if all(lane.idle for lane in self._lanes):
                    break
                await self._clock.sleep(0.05)
            await controls
        finally:
            controls.cancel()
        for lane in self._lanes:
            self._close(lane)

    def _close(self, lane: Lane) -> None:
        lane.closing = True
        lane.notify()

    async def stop(self) -> None:
        """End everything; answers that still run end with an error event. Safe to call twice."""
        if not self._running:
            return
        self._running = False
        self._dispatch.stop()
        await self._control.stop()
        await self._upstreams.stop()
        for _ in range(20):  # those whose engine was just taken away write their last words
            if all(lane.idle for lane in self._lanes):
                break
            await asyncio.sleep(0.01)
        await self._view.stop()
        await self._reporter.stop()
        await self.admission.stop()
        await self.keyring.stop()
        await self._accounts.stop()
        await self._outcomes.stop()
        self._meter.close()

    def assert_idle(self) -> None:
        """Raises AssertionError naming the first count that is not zero. Nothing may be under way when it is called."""
        for lane in self._lanes:
            if not lane.idle or lane.loads or lane.waiting_since:
                raise AssertionError(f"{lane.name}: {lane.queued} queued, {lane.in_flight} in flight, loads {lane.loads}")
        for target in self._lanes.targets():
            if target.in_flight:
                raise AssertionError(f"{target.replica_id}: {target.in_flight} in flight")
        busy, _ = self._upstreams.counts()
        if busy:
            raise AssertionError(f"{busy} connections to engines are busy")
        self.admission.assert_idle()

    def _model_of(self, name: str) -> tuple[str, ModelConfig] | None:
        lane = self._lanes.find(name)
        return None if lane is None else (lane.name, lane.config)

    # -- requests

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application."""
        await self._public(scope, receive, send)

    async def admin_asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application of the admin port (`server.admin`): everything, with the powers of an admin's key."""
        await self._admin(scope, receive, send)

    async def _route(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "http":
            path = scope["path"]
            if claims(path, scope):
                await self._ollama(path, scope, receive, send, request_id_of(scope))
            elif path in OPERATIONS or path == _DOCUMENT or (path.startswith("/v1") and (path == "/v1" or path[3] == "/")):
                await self._v1(path, scope, receive, send)
            elif path in {"/health", "/ready", "/metrics"}:
                await self._operations(path, scope, receive, send)
            elif path.startswith("/api/") or path == "/api":
                await self._control(scope, receive, send)
            else:
                await self._page(scope, receive, send)
        elif kind == "websocket":
            await self._control(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    async def _v1(self, path: str, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Everything under `/v1` that is not inference, and the description of it all."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = request_id_of(scope)
        try:
            identity = self.keyring.identify(headers)
            if path in OPERATIONS:
                models.check_method(scope["method"], "POST")
            created, snapshot = int(self.services.started_at), self._view.snapshot
            if path == "/v1/models":
                models.check_method(scope["method"], "GET", "HEAD")
                found = models.listing(self._lanes, snapshot, created, identity)
            elif path.startswith(models.PREFIX):
                models.check_method(scope["method"], "GET", "HEAD")
                found = models.one(path, self._lanes, snapshot, created, identity)
            elif path == _DOCUMENT:
                models.check_method(scope["method"], "GET", "HEAD")
                found = await asyncio.to_thread(openapi_document)
            else:
                raise RequestError(
                    f"There is no {path[:200]}.",
                    status=404,
                    code="unknown_url",
                    next_step=f"There are: {', '.join([*OPERATIONS, '/v1/models'])}.",
                )
        except RequestError as error:
            operation = OPERATIONS.get(path)
            await refuse(send, error, request_id, body=operation.dialect.error(error) if operation is not None else None)
            return
        await answer_json(send, found, headers=[(b"x-request-id", request_id.encode())])

    async def _operations(self, path: str, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            models.check_method(scope["method"], "GET", "HEAD")
            if path == "/metrics":
                if not (self._config.server.metrics_without_key or _from_here(scope, headers)):
                    self.keyring.identify(headers)
                body = self.metrics.render() if self.metrics.gather is None else await self.metrics.gather()
                fields, status = [(b"content-type", CONTENT_TYPE.encode()), NOSNIFF, NO_STORE], 200
            elif path == "/health":
                body, fields, status = b'{"status":"ok","version":"%b"}' % __version__.encode(), JSON_HEADERS, 200
            else:
                status, body = self._readiness()
                fields = JSON_HEADERS
        except RequestError as error:
            await refuse(send, error, "-")
            return
        await answer(send, status, fields, body)

    def _readiness(self) -> tuple[int, bytes]:
        """Whether to send requests here.

        A store that is away does not make a gateway useless while engines answer: all gateways lose it together, and a load balancer that
        believed them all would turn an outage of the database into one of the service.
        """
        if self._leaving or self._dispatch.closing or not self._running:
            return 503, b'{"status":"not ready","reason":"stopping"}'
        if self._view.fresh:
            return 200, b'{"status":"ready"}'
        if any(lane.awake for lane in self._lanes):
            return 200, b'{"status":"ready","degraded":"the store does not answer"}'
        return 503, b'{"status":"not ready","reason":"the store does not answer"}'

    async def _lifespan(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _refresh_gauges(self) -> None:
        metrics = self.metrics
        metrics.in_flight.replace({(lane.name,): lane.in_flight for lane in self._lanes})
        metrics.held.replace({(lane.name,): lane.queued for lane in self._lanes})
        for lane in self._lanes:
            metrics.retries_refused.labels(lane.name).value = float(lane.retry_budget.refused)
        metrics.breaker_state.replace(self._lanes.circuits())
        busy, idle = self._upstreams.counts()
        metrics.connections.replace({("busy",): busy, ("idle",): idle})


def request_id_of(scope: dict[str, Any]) -> str:
    """The client's own request id when it may be repeated, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    return valid_request_id(given) or f"req_{random.getrandbits(80):020x}"


def _from_here(scope: dict[str, Any], headers: dict[bytes, bytes]) -> bool:
    """Whether the client is on this machine itself, and not a proxy on it that speaks for others."""
    client = scope.get("client")
    if not client or _FORWARDED & headers.keys():
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)

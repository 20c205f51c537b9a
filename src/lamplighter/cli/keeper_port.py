"""What a keeper on its own shows on its port: that it lives, that it is ready, its metrics. No API, no page, no key.

Not responsible for keeping (`capacity.keeper`), nor for what a gateway shows on the same paths.
"""

import ipaddress
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from lamplighter import __version__
from lamplighter.config import Config
from lamplighter.core.errors import StoreError
from lamplighter.observability.metrics import CONTENT_TYPE, Metrics
from lamplighter.store.store import Store

_JSON = "application/json"
_PROXIED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})


class KeeperPort:
    """The ASGI application. `term` gives the term in which this keeper leads; None while another does."""

    def __init__(self, config: Config, store: Store, metrics: Metrics, term: Callable[[], int | None]) -> None:
        self._config = config
        self._store = store
        self._metrics = metrics
        self._term = term

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, kind, body = await self._answer(scope)
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: MutableMapping[str, Any]) -> tuple[int, str, bytes]:
        match scope["path"] if scope["method"] in ("GET", "HEAD") else "":
            case "/health":
                return 200, _JSON, _json({"status": "ok", "version": __version__})
            case "/ready":
                return await self._ready()
            case "/metrics" if self._config.server.metrics_without_key or _from_here(scope):
                return 200, CONTENT_TYPE, self._metrics.render()
            case "/metrics":
                return (
                    403,
                    _JSON,
                    _json({"error": "metrics are shown to this machine only; server.metrics_without_key shows them to all"}),
                )
            case _:
                return (
                    404,
                    _JSON,
                    _json({"error": "this is a keeper: it has /health, /ready and /metrics; clients ask a gateway"}),
                )

    async def _ready(self) -> tuple[int, str, bytes]:
        try:
            await self._store.skew()  # the smallest question that PostgreSQL must answer
        except StoreError as error:
            return 503, _JSON, _json({"status": "not ready", "reason": error.message})
        return 200, _JSON, _json({"status": "ready", "leads": self._term() is not None, "term": self._term()})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _from_here(scope: MutableMapping[str, Any]) -> bool:
    client = scope.get("client")
    if not client or _PROXIED & {name for name, _ in scope["headers"]}:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False

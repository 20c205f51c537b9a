"""What every request passes first, whatever it asks: the host's name, trusted proxies, pages of other origins, which port it came by.

ASGI in, ASGI out. The fast way of inference requests does not come through here; it asks the same policies (`hosts`, `cors`) itself. Not
responsible for keys and sessions.
"""

from typing import Any

from lamplighter.config import Config
from lamplighter.core.errors import RequestError
from lamplighter.gateway.control.access import ADMIN
from lamplighter.gateway.cors import OLLAMA, Cors, open_to_pages
from lamplighter.gateway.hosts import Hosts, Proxies, host_name, on_loopback
from lamplighter.gateway.responses import refuse
from lamplighter.gateway.wire import Headers

_ALWAYS = frozenset({"/health", "/ready"})
"""Asked by load balancers under any name; they say nothing worth protecting."""
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})


class Edge:
    """The border of one listening port. `admin`: whether it is the admin's; None: there is one port for everything."""

    def __init__(self, config: Config, app: Any, *, cors: Cors, hosts: Hosts, proxies: Proxies, admin: bool | None) -> None:
        self._app = app
        self._cors = cors
        self._hosts = hosts
        self._proxies = proxies
        self._admin = admin
        server = config.server
        self._page = server.admin.page if server.admin is not None else "both"
        hsts = server.tls.hsts if server.tls is not None else None
        self._hsts = b"max-age=%d" % int(hsts) if hsts is not None and hsts != float("inf") else None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request in, or refuse it."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._proxies:
            self._believe(scope)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path: str = scope["path"]
        try:
            self._check_host(scope, headers, path)
            if self._admin is not None:
                self._check_port(scope, path)
        except RequestError as error:
            await _refuse(scope, receive, send, error)
            return
        if kind == "http":
            pages = open_to_pages(path)
            if pages and scope["method"] == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": self._cors.preflight(headers)})
                await send({"type": "http.response.body", "body": b""})
                return
            extra = self._cors.fields_for(headers.get(b"origin")) if pages and self._cors.enabled else []
            if self._hsts is not None and scope["scheme"] == "https" and _lasting(headers.get(b"host")):
                extra = [*extra, (b"strict-transport-security", self._hsts)]
            if extra:
                # The direct way to the socket would leave them out.
                scope, send = {**scope, "extensions": {}}, _with(send, extra)
        await self._app(scope, receive, send)

    # -- names

    def _check_host(self, scope: dict[str, Any], headers: dict[bytes, bytes], path: str) -> None:
        host = headers.get(b"host")
        if self._hosts.admits(host) or path in _ALWAYS:
            return
        if not self._hosts.strict:
            if (b"authorization" in headers or b"x-api-key" in headers) and (open_to_pages(path) or path.startswith("/api/")):
                return  # a page that rebound its name knows no key, and there a wrong one is refused
            server = scope.get("server")
            if not server or not on_loopback(server[0]):
                return
        raise unknown_host(host)

    # -- ports

    def _check_port(self, scope: dict[str, Any], path: str) -> None:
        control = path.startswith("/api/") and path not in OLLAMA
        inference = open_to_pages(path) or path in _ALWAYS or path == "/openapi.json"
        if self._admin:
            if self._page == "public" and not (control or inference or path == "/metrics"):
                raise RequestError("The page is on the public port.", status=404, code="public_port")
            return
        scope[ADMIN] = False
        if path == "/metrics" or (self._page == "admin" and not inference):
            raise RequestError(
                f"`{path[:100]}` is not answered on this port.",
                status=403,
                type="permission_error",
                code="admin_port",
                next_step="Ask on the admin port (server.admin).",
            )

    # -- proxies

    def _believe(self, scope: dict[str, Any]) -> None:
        """Put what a trusted proxy says of its client in the place of what we see of the proxy."""
        peer = scope.get("client")
        address = peer[0] if peer else None
        if not self._proxies.trusts(address):
            return
        told: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _FORWARDED:
                told.setdefault(name, []).append(value)
        client = self._proxies.client(address, told.get(b"x-forwarded-for", ()))
        if client is not None and client != address:
            scope["client"] = (client, 0)
        proto = _last(told.get(b"x-forwarded-proto"))
        if proto in {b"http", b"https"}:
            secure = proto == b"https"
            scope["scheme"] = ("wss" if secure else "ws") if scope["type"] == "websocket" else proto.decode()
        host = _last(told.get(b"x-forwarded-host"))
        if host is not None and host_name(host) is not None:
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"] + [(b"host", host)]


def unknown_host(host: bytes | None) -> RequestError:
    """We are not asked by a name of ours."""
    shown = (host_name(host or b"") or "?")[:100]
    return RequestError(
        f"This gateway is not known as {shown!r}.",
        status=421,
        type="permission_error",
        code="unknown_host",
        next_step="Set server.public_url to the URL that people use, or list the name in server.allowed_hosts.",
    )


def _last(values: list[bytes] | None) -> bytes | None:
    """The value that the nearest proxy wrote."""
    return values[-1].rpartition(b",")[2].strip().lower() if values else None


def _lasting(host: bytes | None) -> bool:
    """Whether browsers may remember something for this host: other programs of one's machine share `localhost`."""
    name = host_name(host) if host is not None else None
    return name is not None and not name.endswith("localhost") and not name.replace(".", "").isdigit() and ":" not in name


def _with(send: Any, extra: Headers) -> Any:
    async def adding(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return adding


async def _refuse(scope: dict[str, Any], receive: Any, send: Any, error: RequestError) -> None:
    if scope["type"] == "http":
        await refuse(send, error, "-")
        return
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": error.code})  # before it is accepted: answered as 403

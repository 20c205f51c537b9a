"""Who asks, over HTTP and WebSocket: a key, or the session cookie with its protection against foreign sites."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from lamplighter.core.errors import RequestError
from lamplighter.gateway.auth import Identity, Keyring
from lamplighter.gateway.control.parts import Parts, parts_of

COOKIE = "lamplighter_session"
ADMIN = "lamplighter.admin"
"""In the scope: False on a public port whose admin port is another one."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS: Mapping[str, int] = {"http": 80, "https": 443, "ws": 80, "wss": 443}


async def identify(keyring: Keyring, connection: HTTPConnection) -> Identity:
    """The identity behind a request, with the powers that it has on this port. Raises RequestError 401."""
    return powers(await _identify(keyring, connection), connection)


def powers(identity: Identity, connection: HTTPConnection) -> Identity:
    """What `identity` may do by this way: where the admin API has a port of its own, nobody is an admin on the public one."""
    return replace(identity, admin=False) if connection.scope.get(ADMIN) is False else identity


async def _identify(keyring: Keyring, connection: HTTPConnection) -> Identity:
    """The identity behind a request: of its key, else of its session. Raises RequestError 401.

    A proxy in front that asks for a password of its own leaves `Authorization: Basic` in the page's requests: one that is no key of ours
    does not hide the session.
    """
    headers = dict(connection.headers.raw)
    cookie = connection.cookies.get(COOKIE)
    if b"authorization" in headers or b"x-api-key" in headers:
        try:
            return keyring.identify(headers)
        except RequestError:
            if cookie is None or not headers.get(b"authorization", b"").lower().startswith(b"basic "):
                raise
    return await keyring.verify_session(cookie)


async def _anyone(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Identity:
    check_csrf(request)
    return await identify(parts.services.keyring, request)


async def _admin(request: Request, identity: Annotated[Identity, Depends(_anyone)]) -> Identity:
    if request.scope.get(ADMIN) is False:
        raise RequestError(
            "Admin calls are not answered on this port.", status=403, type="permission_error", code="admin_port",
            next_step="Ask on the admin port (server.admin).",
        )  # fmt: skip
    if not identity.admin:
        raise RequestError(
            "This needs an admin key.", status=403, type="permission_error", code="admin_required", next_step="Use an admin key."
        )
    return identity


Anyone = Annotated[Identity, Depends(_anyone)]
Admin = Annotated[Identity, Depends(_admin)]


def check_csrf(request: Request) -> None:
    """A request that carries the cookie and changes something must show that our own page sent it. Raises RequestError 403."""
    if request.method in _SAFE or COOKIE not in request.cookies:
        return
    if request.headers.get("x-lamplighter") != "1":
        raise RequestError(
            "This request carries a session but does not come from the page.",
            status=403,
            type="permission_error",
            code="csrf",
            next_step="Send the header `X-Lamplighter: 1`, or use a key instead of the session.",
        )


def check_origin(connection: HTTPConnection, public_url: str | None) -> None:
    """A WebSocket that names an origin must come from the page of this very host. Raises RequestError 403.

    Browsers always name it; programs need not.
    """
    origin = connection.headers.get("origin")
    if origin is None:
        return
    asked = _host(origin, origin)
    own = {_host(f"{connection.url.scheme}://{connection.headers.get('host', '')}", origin)}
    if public_url is not None:
        own.add(_host(public_url, origin))
    if asked is None or asked not in own:
        raise RequestError(
            "This page may not open a connection here.", status=403, type="permission_error", code="foreign_origin",
            next_step="Open Lamplighter's own page; behind a proxy, let it pass the Host header on or set server.public_url.",
        )  # fmt: skip


def _host(url: str, origin: str) -> tuple[str, int] | None:
    """Host and port. A port that is not written is that of the origin's scheme: a proxy may speak TLS before us."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(urlsplit(origin).scheme)
        return (parts.hostname.lower(), port) if parts.hostname and port else None
    except ValueError:
        return None


def secure(request: Request, public_url: str | None) -> bool:
    """Whether the browser reached us over TLS, so that the cookie may never travel without."""
    if request.url.scheme == "https":
        return True
    if public_url is None or not public_url.startswith("https://"):
        return False
    return urlsplit(public_url).netloc.lower() == request.headers.get("host", "").lower()

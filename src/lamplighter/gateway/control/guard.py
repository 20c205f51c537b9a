"""Stands before the control API: bounds bodies, insists on JSON, and adds the headers that every answer carries.

Who may do what is decided behind it.
"""

import asyncio

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamplighter.core.errors import RequestError

MAX_BODY = 1_000_000
"""Bytes of a request's body."""
BODY_SECONDS = 30.0
"""Longest pause while a client sends its body."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""For the page and for everything else: nothing but our own origin."""
PERMISSIONS_POLICY = (
    "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), "
    "usb=(), clipboard-write=(self)"
)
"""What the page may ask of the browser: to copy an answer."""

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", PERMISSIONS_POLICY.encode()),
)
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class RefusedBody(HTTPException):
    """A body that is not read to its end; `error` is the answer. Of this class, because FastAPI lets no other pass while it reads one."""

    def __init__(self, status: int, code: str, message: str, next_step: str) -> None:
        super().__init__(status, message)
        # The rest of the body stays unread, so the connection cannot be used again.
        headers = (("connection", "close"),)
        self.error = RequestError(message, status=status, code=code, next_step=next_step, headers=headers)


class Guard:
    """ASGI middleware around the control API."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                names = {name.lower() for name, _ in message.get("headers", ())}
                added = [(name, value) for name, value in SECURITY_HEADERS if name not in names]
                if b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            _check(scope)
            await self._app(scope, _bounded(receive), send_guarded)
        except RefusedBody as refused:
            if begun:
                raise
            await _answer(send_guarded, refused.error)


def _check(scope: Scope) -> None:
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    has_body = length not in (b"0", b"") or b"transfer-encoding" in headers
    if scope["method"] in _CHANGING and has_body:
        # A form of a foreign site can be sent without asking us first; JSON cannot.
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedBody(
                415, "not_json", "The body must be JSON and say so.", "Send the header `Content-Type: application/json`."
            )


def _bounded(receive: Receive) -> Receive:
    received = 0
    whole = False

    async def bounded() -> Message:
        nonlocal received, whole
        if whole:  # only the news of the client's leaving can come now, and that has no time limit
            return await receive()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise RefusedBody(408, "body_timeout", "The body did not come in time.", "Try again.") from None
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                raise _too_large()
            whole = not message.get("more_body", False)
        return message

    return bounded


def _too_large() -> RefusedBody:
    return RefusedBody(413, "body_too_large", f"The body is larger than {MAX_BODY:,} bytes.", "Send less at once.")


async def _answer(send: Send, error: RequestError) -> None:
    body = msgspec.json.encode(error.body())
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

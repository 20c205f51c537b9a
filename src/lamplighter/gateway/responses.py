"""Heads and bodies that are the same for all our own answers: JSON, errors, security headers; and short answers over ASGI."""

import re
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.wire import Headers, Wire, header_lines

JSON_TYPE = (b"content-type", b"application/json")
NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
STREAM_HEADERS: Headers = [  # beside the content type, which is the dialect's
    NOSNIFF,
    NO_STORE,
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect the events
]
JSON_HEADERS: Headers = [JSON_TYPE, NOSNIFF, NO_STORE]
_CLOSE = ("connection", "close")

_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def valid_request_id(value: bytes | None) -> str | None:
    """A client's own request id, if it is one that may be repeated in headers and logs."""
    if value is not None and _VALID_ID.fullmatch(value):
        return value.decode()
    return None


def error_headers(error: RequestError, request_id: str) -> Headers:
    """The response headers of an error."""
    headers = [*JSON_HEADERS, (b"x-request-id", request_id.encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers]
    return headers


def send_error(wire: Wire, error: RequestError, request_id: str, body: bytes, *, lines: bytes = b"", linger: float = 0.0) -> None:
    """Answer with `error`, whole. `body`: it in the client's dialect. `lines`: more header lines. `linger`: see `Wire.finish`."""
    close = _CLOSE in error.headers
    headers = [header for header in error_headers(error, request_id) if header[0] != b"connection"]
    wire.start(error.status, header_lines(headers) + lines, length=len(body), close=close)
    wire.finish(body, linger=linger)


async def answer(send: Any, status: int, headers: Headers, body: bytes) -> None:
    """Answer an ASGI request, whole."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_json(send: Any, value: Any, *, status: int = 200, headers: Headers | None = None) -> None:
    """Answer an ASGI request with `value` as JSON."""
    await answer(send, status, [*JSON_HEADERS, *(headers or [])], msgspec.json.encode(value))


async def refuse(send: Any, error: RequestError, request_id: str, *, body: bytes | None = None) -> None:
    """Answer an ASGI request with `error`. `body`: it in the client's dialect; None: in OpenAI's shape."""
    body = msgspec.json.encode(error.body()) if body is None else body
    await answer(send, error.status, error_headers(error, request_id), body)

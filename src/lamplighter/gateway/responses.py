"""Heads and bodies that are the same for all our own answers: JSON, errors, security headers."""

import re
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.wire import Headers, Wire

JSON_TYPE = (b"content-type", b"application/json")
NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
STREAM_HEADERS: Headers = [  # beside the content type, which is the dialect's
    NOSNIFF,
    NO_STORE,
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect the events
]
JSON_HEADERS: Headers = [JSON_TYPE, NOSNIFF, NO_STORE]

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


def send_error(wire: Wire, error: RequestError, request_id: str, body: bytes, *, extra: Headers | None = None) -> None:
    """Answer with `error`, whole. `body`: it in the client's dialect."""
    wire.start(error.status, [*error_headers(error, request_id), *(extra or [])], length=len(body))
    wire.finish(body)


def send_json(wire: Wire, value: Any, *, status: int = 200, headers: Headers | None = None) -> None:
    """Answer with `value` as JSON, whole."""
    body = msgspec.json.encode(value)
    wire.start(status, [*JSON_HEADERS, *(headers or [])], length=len(body))
    wire.finish(body)

"""Turns what engines say and do wrong into errors in OpenAI's shape, so that every engine fails alike for a client."""

from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.connection import Cause, Head, UpstreamFailure
from lamplighter.gateway.hold import UNKNOWN_RETRY_AFTER, unreachable
from lamplighter.gateway.routing import Lane

_MOST_TEXT = 500
_TYPES = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_NO_ROUTE = frozenset({"not found", "file not found", "404 page not found", "method not allowed", "405 method not allowed"})
"""How servers say that they have no such path; a model that is missing is said otherwise."""
_OVERFLOW = ("exceed_context_size_error", "context_length_exceeded")
_OVERFLOW_WORDS = (
    "maximum context length",
    "exceeds the available context size",
    "context length exceeded",
    "exceed context window",
)


def from_failure(failure: UpstreamFailure, lane: Lane) -> RequestError:
    """What a client is told when an exchange failed before anything of the answer was passed on."""
    if failure.cause is Cause.CONNECT and lane.static:
        return unreachable(lane, failure.detail)
    if failure.cause is Cause.BUSY:
        return RequestError(
            f"The engine of `{lane.name}` is busy: {failure.detail}.",
            status=503,
            type="service_unavailable",
            code="engine_busy",
            next_step="Ask again in a moment, or raise gateway.max_upstream_connections.",
            retry_after=UNKNOWN_RETRY_AFTER,
        )
    status, code = {
        Cause.CONNECT: (502, "upstream_unreachable"),
        Cause.LOST: (502, "upstream_lost"),
        Cause.TIMEOUT: (504, "upstream_timeout"),
        Cause.DEADLINE: (504, "deadline_exceeded"),
        Cause.PROTOCOL: (502, "upstream_protocol"),
        Cause.STALLED: (502, "upstream_lost"),
    }[failure.cause]
    return RequestError(
        f"The engine of `{lane.name}` failed: {failure.detail}.",
        status=status,
        type="upstream_error",
        code=code,
        next_step="Ask again; if it lasts, read the engine's log.",
    )


def defect() -> RequestError:
    """Something that should never happen, happened in us; the log has it."""
    return RequestError(
        "The gateway failed at this request in a way that it was not made for.",
        status=500,
        type="server_error",
        code="internal_error",
        next_step="Ask again; if it lasts, report it with the line of the gateway's log that has this request's id.",
    )


def not_json(lane: Lane) -> RequestError:
    """A whole answer that is none."""
    return _nonsense(f"The engine of `{lane.name}` sent an answer that is not whole JSON.")


def no_stream(lane: Lane) -> RequestError:
    """A stream was promised to the client, and a whole answer came."""
    return _nonsense(f"The engine of `{lane.name}` does not stream.")


def _nonsense(message: str) -> RequestError:
    return RequestError(
        message,
        status=502,
        type="upstream_error",
        code="upstream_protocol",
        next_step="Ask again; if it lasts, read the engine's log.",
    )


def lost(detail: str) -> RequestError:
    """An answer that broke off after its first byte. Its body is what an error event carries."""
    return RequestError(
        f"The answer broke off: {detail}. What came before is incomplete.",
        status=502,
        type="upstream_error",
        code="upstream_lost",
        next_step="Ask again.",
    )


def from_answer(head: Head, lane: Lane) -> RequestError:
    """An engine's error answer (status 400 and above, or one that cannot be understood), in OpenAI's shape."""
    status = head.status
    inner = _inner(head.body or b"")
    message = (
        _text(inner.get("message")) or _plain(head.body or b"") or f"The engine of `{lane.name}` answered with status {status}."
    )
    kind, code = _text(inner.get("type")), inner.get("code")
    if status in {401, 403, 407}:
        return RequestError(
            f"The engine of `{lane.name}` refused the gateway's key.",
            status=502,
            type="upstream_error",
            code="upstream_auth",
            next_step="Correct the pool's `key` in the configuration.",
        )
    if kind in _OVERFLOW or code in _OVERFLOW or any(words in message for words in _OVERFLOW_WORDS):
        return RequestError(message, status=400, code="context_length_exceeded", param=_text(inner.get("param")) or "messages")
    if status == 501 or (status in {404, 405} and message.strip(" .").lower() in _NO_ROUTE):
        return RequestError(
            f"The engine of `{lane.name}` does not serve this route.",
            code="unsupported_operation",
            param="model",
            next_step="Ask another model, or name in the model's `capabilities` what its server has.",
        )
    if status >= 500:
        passed = status if status in {502, 503, 504} else 502
        return RequestError(
            message,
            status=passed,
            type="upstream_error",
            code=code if isinstance(code, str) else "upstream_error",
            retry_after=_seconds(head.retry_after) if passed == 503 else None,
        )
    if status < 400:
        return RequestError(
            f"The engine of `{lane.name}` answered with status {status}, which makes no sense here.",
            status=502,
            type="upstream_error",
            code="upstream_protocol",
        )
    return RequestError(
        message,
        status=status,
        type=kind if kind and kind.endswith("_error") else _TYPES.get(status, "invalid_request_error"),
        code=code if isinstance(code, str) else (kind or "upstream_refused"),
        param=_text(inner.get("param")),
        retry_after=_seconds(head.retry_after) if status == 429 else None,
    )


def _inner(body: bytes) -> dict[str, Any]:
    """The error object, in the shapes that engines are known to use."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    if not isinstance(decoded, dict):
        return {}
    error = decoded.get("error", decoded)
    if isinstance(error, str):  # Ollama
        return {"message": error}
    if not isinstance(error, dict):
        return {}
    if "message" not in error and isinstance(error.get("detail"), str):  # FastAPI
        return {**error, "message": error["detail"]}
    return error


def _plain(body: bytes) -> str:
    text = body[: _MOST_TEXT * 4].decode(errors="replace").strip()
    return text[:_MOST_TEXT] if text and not text.startswith(("<", "{", "[")) else ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(value: bytes | None) -> int:
    if value is not None and value.strip().isdigit():
        return min(60, max(1, int(value)))
    return UNKNOWN_RETRY_AFTER

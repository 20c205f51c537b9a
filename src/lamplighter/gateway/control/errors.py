"""Turns everything that goes wrong in the control API into the one shape that the contract names."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lamplighter.core.errors import ConfigError, LamplighterError, RequestError, SourceError, StoreError, StoreFull
from lamplighter.gateway.control.guard import RefusedBody
from lamplighter.store.principals import FixedKey, LastAdminKey, UnknownKey

_log = structlog.get_logger(__name__)

_STATUS: tuple[tuple[type[LamplighterError], int], ...] = (
    (UnknownKey, 404),
    (LastAdminKey, 409),
    (FixedKey, 409),
    (ConfigError, 400),
    (SourceError, 400),
    (StoreFull, 507),
    (StoreError, 503),
)


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(LamplighterError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


def as_request_error(error: LamplighterError) -> RequestError:
    """The same error with a status for a client."""
    if isinstance(error, RequestError):
        return error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return RequestError(
        error.message,
        status=status,
        type="invalid_request_error" if status < 500 else "server_error",
        code=error.code,
        next_step=error.next_step,
        retry_after=5 if status == 503 else None,
    )


def response(error: RequestError) -> JSONResponse:
    """The answer that tells a client of `error`."""
    body = error.body()
    body["error"].setdefault("next_step", None)
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse(body, status_code=error.status, headers=headers)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LamplighterError)  # noqa: S101 - registered for this class alone
    return response(as_request_error(error))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class alone
    first: Mapping[str, Any] = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(where) or None
    if first["type"] == "json_invalid":
        return response(RequestError("The body is not JSON.", code="invalid_json", next_step="Check its syntax."))
    message = str(first["msg"]).removeprefix("Value error, ")
    return response(RequestError(f"{param}: {message}" if param else message, code="invalid_request", param=param))


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    if isinstance(error, RefusedBody):
        return response(error.error)
    sentences = {
        404: ("There is no such route.", "not_found", "docs/reference/control-api.md lists them."),
        405: ("This route does not know this method.", "method_not_allowed", "docs/reference/control-api.md lists them."),
    }
    phrase = HTTPStatus(error.status_code).phrase
    message, code, next_step = sentences.get(
        error.status_code, (str(error.detail or phrase), phrase.lower().replace(" ", "_"), "")
    )
    return response(
        RequestError(
            message, status=error.status_code, code=code, next_step=next_step, headers=tuple((error.headers or {}).items())
        )
    )


async def _defect(request: Request, error: Exception) -> JSONResponse:
    _log.error("control_api_failed", method=request.method, path=request.url.path, exc_info=error)
    return response(
        RequestError(
            "Something went wrong inside Lamplighter.",
            status=500,
            type="server_error",
            code="internal_error",
            next_step="Try again; if it happens again, the log says more.",
        )
    )

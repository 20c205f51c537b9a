"""Ollama's routes that are not inference: lists, details, and the refusal of what is not a client's to change.

Reading makes no demand. Inference goes through `inference.operations`.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from lamplighter import __version__
from lamplighter.core.errors import RequestError
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.dispatch import unknown_model
from lamplighter.gateway.inference.models import check_method
from lamplighter.gateway.ollama import listing
from lamplighter.gateway.ollama.answers import CHAT
from lamplighter.gateway.responses import JSON_HEADERS, NO_STORE, NOSNIFF, error_headers
from lamplighter.gateway.routing import Lane, Lanes
from lamplighter.gateway.services import Services
from lamplighter.gateway.wire import Headers

_READ = {"/api/version": ("GET", "HEAD"), "/api/tags": ("GET", "HEAD"), "/api/ps": ("GET", "HEAD"), "/api/show": ("POST",)}
_INFERENCE = {"/api/chat": ("POST",), "/api/generate": ("POST",), "/api/embed": ("POST",), "/api/embeddings": ("POST",)}
_CHANGES = {
    "/api/pull": ("POST",),
    "/api/push": ("POST",),
    "/api/create": ("POST",),
    "/api/copy": ("POST",),
    "/api/delete": ("DELETE",),
}
_METHODS = {**_READ, **_INFERENCE, **_CHANGES}
_BLOBS = "/api/blobs/"
_MOST_BODY = 1024 * 1024
_PATIENCE = 30.0
"""Seconds that a body may take."""


def claims(path: str, scope: Mapping[str, Any]) -> bool:
    """Whether a request for `path` is one of Ollama's: those paths, and `/` when one of its own clients asks."""
    if path in _METHODS or path.startswith(_BLOBS):
        return True
    if path != "/" or scope["method"] not in {"GET", "HEAD"}:
        return False
    return any(name == b"user-agent" and value.lower().startswith(b"ollama") for name, value in scope["headers"])


class OllamaApp:
    """ASGI application of one gateway."""

    def __init__(self, services: Services, lanes: Lanes) -> None:
        self._services = services
        self._lanes = lanes

    async def __call__(self, path: str, scope: dict[str, Any], receive: Any, send: Any, request_id: str) -> None:
        """Answer one request."""
        headers: Headers = [*JSON_HEADERS, (b"x-request-id", request_id.encode())]
        status = 200
        try:
            if path == "/":  # a client looks whether anybody is there, before it has a key
                headers = [(b"content-type", b"text/plain; charset=utf-8"), NOSNIFF, NO_STORE]
                body = b"Ollama is running"
            else:
                identity = self._services.keyring.identify(dict(scope["headers"]))
                check_method(scope["method"], *_METHODS.get(path, ("HEAD", "POST")))
                body = msgspec.json.encode(await self._answer(path, identity, receive))
        except RequestError as error:
            status, headers, body = error.status, error_headers(error, request_id), CHAT.error(error)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body, "more_body": False})

    async def _answer(self, path: str, identity: Identity, receive: Any) -> dict[str, Any]:
        services = self._services
        if path == "/api/version":
            return {"version": listing.VERSION, "lamplighter": __version__}
        if path == "/api/tags":
            return listing.tags(self._offered(identity), services.started_at)
        if path == "/api/ps":
            return listing.running(self._offered(identity), services.config, services.clock.time())
        if path == "/api/show":
            name = _name(await _body(receive))
            return listing.show(self._lane(name, identity), services.started_at)
        if path == "/api/pull":
            self._lane(_name(await _body(receive)), identity)
            return {"status": "success"}  # it is here, and its weights come by themselves when it wakes
        raise RequestError(
            "Models are not changed through Ollama's API.",
            status=403,
            code="not_changeable",
            next_step="They stand in lamplighter.yaml; an administrator adds one with `lamplighter models add`.",
        )

    def _offered(self, identity: Identity) -> Iterable[Lane]:
        names = (name for name in self._lanes.names() if identity.may_use(name))
        return (lane for name in names if (lane := self._lanes.find(name)) is not None)

    def _lane(self, name: str, identity: Identity) -> Lane:
        lane = self._lanes.find(name)
        if lane is None or not identity.may_use(lane.name):
            raise unknown_model(name, [one.name for one in self._offered(identity)])
        return lane


async def _body(receive: Any) -> dict[str, Any]:
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > _MOST_BODY:
                    raise RequestError("The request's body is too large.", status=413, code="body_too_large")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RequestError("The request's body did not arrive.", status=408, code="body_timeout") from None
    try:
        found = msgspec.json.decode(b"".join(parts))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RequestError("The request's body is not valid JSON.", code="invalid_json") from None
    if not isinstance(found, dict):
        raise RequestError("The request's body must be a JSON object.", code="invalid_body")
    return found


def _name(body: Mapping[str, Any]) -> str:
    found = body.get("model") or body.get("name")
    if not isinstance(found, str):
        raise RequestError("The field `model` is missing.", param="model", code="missing_required_parameter")
    return found

"""The emulator's HTTP front before moto: only dummy keys come in, a node may do what its role allows, and `/_emulator/` is for whoever drives it.

One lock around all but SQS (whose receivers wait): moto was made for one request at a time.
"""

import io
import json
from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from lamplighter.testing.aws import callers, policy
from lamplighter.testing.aws.callers import DeniedError
from lamplighter.testing.aws.guard import NotEmulatedError
from lamplighter.testing.aws.prices import price_list
from lamplighter.testing.aws.world import current

CONTROL = "/_emulator/"
Control = Callable[[str, str, dict[str, Any]], Any]
Start = Callable[..., Any]
_XML = "application/xml"


class Front:
    """A WSGI application around moto's. `control(method, path, body)` answers what is below `/_emulator/`."""

    def __init__(self, control: Control) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._control = control

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = _body(environ)
        path = environ.get("PATH_INFO", "")
        if path.startswith(CONTROL):
            return self._drive(environ["REQUEST_METHOD"], path.removeprefix(CONTROL), body, start)
        service = _service(environ)
        world = current()
        if service == "pricing":
            return answer_prices(body, start)
        if world.cut_off and not callers.signed_by_node(environ):
            return _refuse(environ, start, service, "AccessDenied", "Nobody but nodes reaches AWS: it was cut off.")
        try:
            with current().lock:
                caller = callers.identify(environ, body)
                if caller is not None:
                    policy.check(caller, environ, body)
                elif world.keeper_policy is not None:
                    policy.check(policy.Keeper(world.keeper_policy, service, _region(environ)), environ, body)
        except NotEmulatedError as error:
            return _refuse(environ, start, service, "InvalidClientTokenId", str(error))
        except DeniedError as error:
            current().denied.append(error.message)
            return _refuse(environ, start, service, error.code, error.message)
        callers.act_as(caller)
        try:
            if service == "sqs":
                return list(self._moto(environ, start))
            with world.lock:
                return list(self._moto(environ, start))
        finally:
            callers.act_as(None)
            if caller is None:
                _count(policy.action_of(environ, body, service))

    def _drive(self, method: str, path: str, body: bytes, start: Start) -> Iterable[bytes]:
        try:
            answer, status = self._control(method, path, json.loads(body or b"{}")), "200 OK"
        except (KeyError, ValueError, TypeError) as error:
            answer, status = {"error": f"{type(error).__name__}: {error}"}, "400 Bad Request"
        start(status, [("content-type", "application/json")])
        return [json.dumps(answer).encode()]


def answer_prices(body: bytes, start: Start) -> Iterable[bytes]:
    """GetProducts of the price list service, which moto does not have."""
    filters = {one["Field"]: one["Value"] for one in json.loads(body or b"{}").get("Filters", [])}
    start("200 OK", [("content-type", "application/x-amz-json-1.1")])
    return [json.dumps({"FormatVersion": "aws_v1", "PriceList": price_list(filters)}).encode()]


def _count(action: str) -> None:
    """Remember what a person asked, and cut the connection behind it if a test wants that."""
    world = current()
    world.calls.append(action)
    if world.cut_after is not None and action.endswith(world.cut_after[0]):
        name, left = world.cut_after
        world.cut_after = (name, left - 1) if left > 1 else None
        world.cut_off = left <= 1


def _body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        body = bytes(stream.read())
    else:
        body = bytes(stream.read(int(environ.get("CONTENT_LENGTH") or 0)))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _service(environ: dict[str, Any]) -> str:
    header = environ.get("HTTP_AUTHORIZATION", "")
    try:
        return str(header.split("Credential=", 1)[1].split(",")[0].split("/")[3])
    except IndexError:
        return "s3"


def _region(environ: dict[str, Any]) -> str:
    header = environ.get("HTTP_AUTHORIZATION", "")
    try:
        return str(header.split("Credential=", 1)[1].split("/")[2])
    except IndexError:
        return ""


def _refuse(environ: dict[str, Any], start: Start, service: str, code: str, message: str) -> Iterable[bytes]:
    """An error in the form that the service's clients understand."""
    status, kind = "403 Forbidden", _XML
    if environ.get("HTTP_X_AMZ_TARGET"):
        kind = environ.get("CONTENT_TYPE") or "application/x-amz-json-1.1"
        body = json.dumps({"__type": code if code.endswith("Exception") else f"{code}Exception", "message": message})
    elif service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    elif service == "ec2":
        body = f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors></Response>"
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>"
    start(status, [("content-type", kind), ("content-length", str(len(body.encode())))])
    return [body.encode()]

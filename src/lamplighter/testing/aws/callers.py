"""Who calls: a person with the dummy keys, or an instance with the credentials of its role, whose signature is checked as AWS checks it.

A node's signing is our own code; a mistake in it would only show on the real AWS. And SQS's SenderId comes from here.
"""

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote

from moto.sqs.models import SQSBackend

from lamplighter.testing.aws import guard, machines
from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import Record, current

_LIFE = timedelta(hours=6)
_SKEW = 900
_ALGORITHM = "AWS4-HMAC-SHA256"
_send_message = SQSBackend.send_message
_local = threading.local()


class DeniedError(Exception):
    """A request that AWS would refuse. `code`: as AWS calls it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Caller:
    """An instance that calls. `sender`: `<role id>:<instance id>`, which is also IAM's `aws:userid`."""

    record: Record
    role: Any
    service: str
    region: str

    @property
    def sender(self) -> str:
        """As SQS tells the receiver."""
        return f"{self.role.id}:{self.record.instance.id}"


def credentials(record: Record) -> dict[str, str]:
    """What the instance's metadata hands out: keys of its role, for some hours."""
    if not record.credentials:
        record.credentials = {
            "AccessKeyId": "ASIA" + secrets.token_hex(8).upper(),
            "SecretAccessKey": secrets.token_urlsafe(30),
            "Token": secrets.token_urlsafe(90),
        }
    now = current().moment()
    fixed = {"Code": "Success", "Type": "AWS-HMAC"}
    stamps = {"LastUpdated": _iso(now), "Expiration": _iso(now + _LIFE)}
    return fixed | record.credentials | stamps


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def identify(environ: dict[str, Any], body: bytes) -> Caller | None:
    """The instance that signed the request; None: a person with the dummy keys. Raises DeniedError, NotEmulatedError."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    if not header.startswith(_ALGORITHM):
        _unsigned(environ)
        return None
    parts = dict(part.strip().split("=", 1) for part in header.removeprefix(_ALGORITHM).split(","))
    key, date, region, service, _ = parts["Credential"].split("/")
    record = next((one for one in current().records.values() if one.credentials.get("AccessKeyId") == key), None)
    if record is None:
        if key.startswith("ASIA"):
            raise DeniedError("InvalidClientTokenId", "The security token included in the request is invalid.")
        guard.check_key(key)
        return None
    if environ.get("HTTP_X_AMZ_SECURITY_TOKEN") != record.credentials["Token"]:
        raise DeniedError("InvalidClientTokenId", "The security token included in the request is invalid.")
    _check_time(environ.get("HTTP_X_AMZ_DATE", ""))
    names = parts["SignedHeaders"].split(";")
    for needed in ("host", "x-amz-date", "x-amz-security-token"):
        if needed not in names:
            raise DeniedError("SignatureDoesNotMatch", f"{needed} is not among the signed headers.")
    wanted = _signature(environ, body, record.credentials["SecretAccessKey"], date, region, service, names)
    if not hmac.compare_digest(wanted, parts["Signature"]):
        message = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."
        raise DeniedError("SignatureDoesNotMatch", message)
    role = machines.role_of(record)
    if role is None or record.instance.state not in machines.LIVE:
        raise DeniedError("ExpiredToken", "The security token included in the request is expired")
    return Caller(record, role, service, region)


def signed_by_node(environ: dict[str, Any]) -> bool:
    """Whether some instance's key is used, rightly or not."""
    return "Credential=ASIA" in environ.get("HTTP_AUTHORIZATION", "")


def _unsigned(environ: dict[str, Any]) -> None:
    """Presigned and anonymous requests are a person's; a presigned one by an instance is not needed by anybody."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    if credential := query.get("X-Amz-Credential") or query.get("AWSAccessKeyId"):
        guard.check_key(credential.split("/")[0])


def _check_time(stamp: str) -> None:
    try:
        signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise DeniedError("IncompleteSignature", "Date must be in ISO-8601 'basic format'.") from None
    if abs((datetime.now(UTC) - signed).total_seconds()) > _SKEW:
        raise DeniedError("RequestExpired", "Request has expired.")


def _signature(environ: dict[str, Any], body: bytes, secret: str, date: str, region: str, service: str, names: list[str]) -> str:
    path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or quote(environ.get("PATH_INFO", "/"), safe="/-_.~")
    path = path.split("?", 1)[0] or "/"
    if service != "s3":
        path = quote(path, safe="/-_.~")
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    )
    query = "&".join(f"{name}={value}" for name, value in pairs)
    headers = "".join(f"{name}:{_header(environ, name)}\n" for name in names)
    payload = environ.get("HTTP_X_AMZ_CONTENT_SHA256") if service == "s3" else None
    digest = hashlib.sha256(body).hexdigest()
    if payload is not None and payload not in (digest, "UNSIGNED-PAYLOAD") and not payload.startswith("STREAMING-"):
        raise DeniedError(
            "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    request = "\n".join((environ["REQUEST_METHOD"], path, query, headers, ";".join(names), payload or digest))
    scope = f"{date}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, environ["HTTP_X_AMZ_DATE"], scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _header(environ: dict[str, Any], name: str) -> str:
    variable = name.upper().replace("-", "_")
    value = environ.get(variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}", "")
    return " ".join(str(value).split())


def acting() -> Caller | None:
    """The instance whose request this thread serves."""
    return getattr(_local, "caller", None)


def act_as(caller: Caller | None) -> None:
    """From now on this thread serves a request of `caller`."""
    _local.caller = caller


def _send(self: Any, *arguments: Any, **options: Any) -> Any:
    message = _send_message(self, *arguments, **options)
    if caller := acting():
        message.sender_id = caller.sender
    return message


def install() -> None:
    """Put these in the place of moto's."""
    replace(SQSBackend, send_message=_send)

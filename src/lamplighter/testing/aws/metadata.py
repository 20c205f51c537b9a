"""The instance metadata service (version 2 only) of one emulated instance: a token first, then what the machine may know of itself.

Bound to a loopback port, or to any socket, such as one on 169.254.169.254 inside of a network namespace. Answers nothing once the machine stops.
"""

import base64
import json
import secrets
import socket
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lamplighter.testing.aws import callers, machines
from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.aws.world import Record

_TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105 - a header's name
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_LONGEST = 21_600


class MetadataServer:
    """One instance's service. `silent`: it does not answer, as when the link-local route is broken."""

    def __init__(self, record: Record, host: str = "127.0.0.1", port: int = 0, *, listening: socket.socket | None = None) -> None:
        self.record = record
        self.silent = False
        self.tokens: set[str] = set()
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = _Server((host, port), handler, bind_and_activate=listening is None)
        if listening is not None:
            self._server.socket.close()
            self._server.socket = listening
            self._server.server_address = listening.getsockname()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name=f"imds-{record.instance.id}"
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> "MetadataServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A machine that vanishes while it asks is no news."""


class _Handler(BaseHTTPRequestHandler):
    service: MetadataServer
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """A token."""
        ttl = self.headers.get(_TTL, "")
        if self._dead():
            return
        token = secrets.token_urlsafe(40)
        if self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= _LONGEST:
            self._say(400, "")
        else:
            self.service.tokens.add(token)
            self._say(200, token, {_TTL: ttl})

    def do_GET(self) -> None:
        """One path."""
        if self._dead():
            return
        if self.headers.get(_TOKEN) not in self.service.tokens:
            self._say(401, "")
        else:
            found = look_up(self.service.record, self.path.split("?")[0])
            self._say(404 if found is None else 200, found or "")

    def _dead(self) -> bool:
        """A machine that is gone has no metadata: the connection just ends."""
        if self.service.silent or self.service.record.instance.state in ("terminated", "stopped"):
            self.close_connection = True
            return True
        return False

    def _say(self, status: int, text: str | bytes, headers: dict[str, str] | None = None) -> None:
        body = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in {"content-type": "text/plain", "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output stays readable."""


def look_up(record: Record, path: str) -> str | bytes | None:
    """What one path tells; None: 404."""
    instance = record.instance
    path = path.rstrip("/").removeprefix("/latest/")
    if path == "user-data":
        return user_data(record) or None
    if path == "dynamic/instance-identity/document":
        return json.dumps(_document(record))
    path = path.removeprefix("meta-data/")
    role = machines.role_of(record)
    plain = {
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "ami-id": instance.image_id,
        "instance-life-cycle": record.market,
        "placement/availability-zone": instance.placement.zone,
        "placement/region": record.region,
        "local-ipv4": instance.private_ip,
        "public-ipv4": instance.public_ip,
        "local-hostname": instance.private_dns_name,
        "hostname": instance.private_dns_name,
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
        "autoscaling/target-lifecycle-state": "InService",
    }
    if path in plain:
        return str(plain[path])
    if path.startswith("iam/") and role is not None:
        if path == "iam/security-credentials":
            return str(role.name)
        if path == f"iam/security-credentials/{role.name}":
            return json.dumps(callers.credentials(record))
        if path == "iam/info":
            return json.dumps(
                {
                    "Code": "Success",
                    "InstanceProfileArn": f"arn:aws:iam::{ACCOUNT}:instance-profile/{role.name}",
                    "InstanceProfileId": "AIPA",
                }
            )
    if path.startswith("tags/instance") and instance.metadata_options.instance_metadata_tags == "enabled":
        tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
        return "\n".join(tags) if path == "tags/instance" else tags.get(path.removeprefix("tags/instance/"))
    return _notices(record, path)


def _notices(record: Record, path: str) -> str | None:
    if record.notice is not None and path == "spot/instance-action":
        return json.dumps({"action": "terminate", "time": _iso(record.notice)})
    if record.notice is not None and path == "spot/termination-time":
        return _iso(record.notice)
    if record.rebalance is not None and path == "events/recommendations/rebalance":
        return json.dumps({"noticeTime": _iso(record.rebalance)})
    return None


def user_data(record: Record) -> bytes:
    """What the instance was given to run, decoded from base64."""
    data = record.instance.user_data
    return b"" if data is None else base64.b64decode(str(data))


def _document(record: Record) -> dict[str, Any]:
    instance = record.instance
    return {
        "accountId": ACCOUNT, "region": record.region, "availabilityZone": instance.placement.zone, "instanceId": instance.id,
        "instanceType": instance.instance_type, "imageId": instance.image_id, "privateIp": instance.private_ip,
        "architecture": "x86_64", "version": "2017-09-30", "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["MetadataServer", "look_up", "user_data"]

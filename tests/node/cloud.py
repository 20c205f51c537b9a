"""A few square metres of AWS for one node, on loopback: metadata, SQS, S3, Auto Scaling, EC2, Secrets Manager, ECR.

Small on purpose: it records what the node asks and gives what a test put there. Signatures are checked against botocore elsewhere; here
only that each call carries one.
"""

import base64
import http.server
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

INSTANCE = "i-0123456789abcdef0"
ROLE = "AROAEXAMPLEEXAMPLE12"
TOKEN = "metadata-token"
CREDENTIALS = {
    "AccessKeyId": "ASIAEXAMPLE",
    "SecretAccessKey": "secret",
    "Token": "session",
    "Expiration": "2030-01-01T00:00:00Z",
}


@dataclass
class Cloud:
    """`metadata`: paths below `meta-data/`. `objects`: what S3 holds. `broken`: services that answer 503."""

    host: str = "127.0.0.1"
    metadata: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[float, str, dict[str, str]]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    unsigned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metadata |= {
            "instance-id": INSTANCE,
            "iam/security-credentials/": "node-role",
            "iam/security-credentials/node-role": json.dumps(CREDENTIALS),
        }

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"world": self})
        self._server = http.server.ThreadingHTTPServer((self.host, 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The base of all services."""
        return f"http://{self.host}:{self._server.server_port}"

    def node_json(self, **changes: Any) -> dict[str, Any]:
        """What Terraform would fill in, with the addresses of this cloud."""
        testing = {
            f"{name}_url": f"{self.url}/{name}" for name in ("metadata", "s3", "autoscaling", "ec2", "secretsmanager", "ecr")
        }
        testing["sqs_url"] = f"{self.url}/sqs"
        given = {
            "version": 1,
            "stack": "lamplighter",
            "installation": "test",
            "pool": "spot",
            "region": "eu-central-1",
            "account": "123456789012",
            "nodes_queue_url": "https://sqs.eu-central-1.amazonaws.com/123456789012/lamplighter-nodes",
            "bucket": "lamplighter-bucket",
            "node_role_id": ROLE,
            "boot_deadline": 900,
            "lease": 300,
            "drain": 120,
            "agent_port": 7443,
            "mesh_interface": "nebula1",
            "model_storage": {"kind": "none", "volume_id": None, "snapshot_id": None, "bucket_prefix": None},
            "baked": False,
            "testing": testing,
        }
        more = changes.pop("testing", {})
        return given | changes | {"testing": testing | more}

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """The messages of one kind."""
        return [message for message in list(self.messages) if message["kind"] == kind]

    def terminated(self) -> list[dict[str, str]]:
        """The calls that ended an instance."""
        return [form for _, action, form in list(self.calls) if action == "TerminateInstanceInAutoScalingGroup"]

    def assign(self, assignment: dict[str, Any]) -> None:
        """Put the assignment where the node looks."""
        self.objects[f"nodes/{ROLE}:{INSTANCE}/assignment.json"] = json.dumps(assignment).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    world: Cloud

    def _do(self) -> None:
        world, path = self.world, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service, _, rest = path.lstrip("/").partition("/")
        if service in world.broken:
            return self._answer(503, b"out of order")
        if service != "metadata" and not self.headers.get("Authorization", "").startswith(
            "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/"
        ):
            world.unsigned.append(self.path)
            return self._answer(403, b"unsigned")
        if service == "metadata":
            return self._metadata(rest)
        if service == "s3":
            return self._s3(rest.partition("/")[2], body)
        if service in ("secretsmanager", "ecr"):
            return self._json(json.loads(body or b"{}"))
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action = form.pop("Action")
        world.calls.append((time.monotonic(), action, form))
        if action == "SendMessage":
            world.messages.append(json.loads(form["MessageBody"]))
        return self._answer(200, b"<ok/>")

    def _metadata(self, path: str) -> None:
        if path == "latest/api/token" and self.command == "PUT":
            return self._answer(200, TOKEN.encode())
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return self._answer(401, b"")
        found = self.world.metadata.get(path.removeprefix("latest/meta-data/"))
        return self._answer(404, b"") if found is None else self._answer(200, found.encode())

    def _s3(self, key: str, body: bytes) -> None:
        if self.command == "PUT":
            self.world.objects[key] = body
            return self._answer(200, b"")
        found = self.world.objects.get(key)
        return self._answer(403, b"") if found is None else self._answer(200, found)

    def _json(self, document: dict[str, Any]) -> None:
        target = self.headers["x-amz-target"]
        self.world.calls.append((time.monotonic(), target, document))
        if target.endswith("GetAuthorizationToken"):
            token = base64.b64encode(b"AWS:registry-password").decode()
            return self._answer(200, json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode())
        value = self.world.secrets.get(document["SecretId"])
        if value is None:
            return self._answer(400, b'{"__type":"ResourceNotFoundException"}')
        return self._answer(200, json.dumps({"SecretString": value}).encode())

    do_GET = do_PUT = do_POST = _do  # noqa: N815 - the library's names

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def assignment(overlay: str = "127.77.128.7", **engine: Any) -> dict[str, Any]:
    """As the keeper writes it."""
    return {
        "version": 1,
        "instance": INSTANCE,
        "replica": "aws-01",
        "model": "llama",
        "overlay": overlay,
        "nebula": {"config.yml": "pki: {}\n", "ca.crt": "ca\n", "node.crt": "crt\n"},
        "agent_token": "a-token-of-some-length",
        "engine": {
            "kind": "vllm",
            "image": "vllm/vllm-openai:v0",
            "arguments": ["--port", "8000"],
            "environment": {"DO_NOT_TRACK": "1"},
            "key": "engine-key",
            "secrets": {"VLLM_API_KEY": "key", "HF_TOKEN": "hub_token"},
            "port": 8000,
            "weights": "/models",
            "health": "/health",
            "prepare": [],
        }
        | engine,
        "hub_token_secret": None,
        "lease": 300,
        "boot_deadline": 900,
        "drain": 120,
    }

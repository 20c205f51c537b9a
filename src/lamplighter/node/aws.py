"""The few calls to AWS that a node makes, signed by its role's credentials from the metadata service. No AWS library is on the machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from lamplighter.node.basics import BODY_LIMIT, Settings

METADATA = "http://169.254.169.254"


def fetch(method: str, url: str, headers: Mapping[str, str], body: bytes = b"", timeout: float = 5.0) -> tuple[int, bytes]:
    """One request. Raises OSError when there is no answer."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, parts.path or "/", body or None, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(4 * BODY_LIMIT)
    except http.client.HTTPException as error:
        raise OSError(f"{parts.hostname}: {error!r}") from error
    finally:
        connection.close()


class Metadata:
    """The instance metadata service, version 2."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._token, self._token_until = "", 0.0
        self._credentials: tuple[float, dict[str, str]] = (0.0, {})

    def get(self, path: str) -> str | None:
        """None when there is no such thing. Raises OSError."""
        if time.monotonic() > self._token_until:
            status, body = fetch(
                "PUT", f"{self._base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "3600"}, timeout=2
            )
            if status != 200:
                raise OSError(f"the metadata service answers {status}")
            self._token, self._token_until = body.decode(), time.monotonic() + 3000
        status, body = fetch("GET", f"{self._base}/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}, timeout=2)
        if status == 404:
            return None
        if status != 200:
            self._token_until = 0.0
            raise OSError(f"the metadata service answers {status}")
        return body.decode()

    def credentials(self) -> dict[str, str]:
        """Of the node's role. Raises OSError."""
        if time.monotonic() > self._credentials[0]:
            role = (self.get("iam/security-credentials/") or "").split("\n")[0]
            found = json.loads((self.get(f"iam/security-credentials/{role}") if role else None) or "{}")
            if "AccessKeyId" not in found:
                raise OSError("the instance has no role")
            self._credentials = (time.monotonic() + 120, found)
        return self._credentials[1]


def sign(
    method: str, url: str, headers: Mapping[str, str], body: bytes, keys: Mapping[str, str], region: str, service: str, at: float
) -> dict[str, str]:
    """`headers` completed by Signature Version 4. The URL has no query, and its path is encoded already."""
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    digest = hashlib.sha256(body).hexdigest()
    signed = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc, "x-amz-date": stamp}
    if keys.get("Token"):
        signed["x-amz-security-token"] = keys["Token"]
    if service == "s3":
        signed["x-amz-content-sha256"] = digest
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = "\n".join((method, parts.path or "/", "", lines, names, digest))
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    key = b"AWS4" + keys["SecretAccessKey"].encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    mark = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    value = f"AWS4-HMAC-SHA256 Credential={keys['AccessKeyId']}/{scope}, SignedHeaders={names}, Signature={mark}"
    return signed | {"authorization": value}


class Aws:
    """The few calls that a node may make. Every method raises OSError."""

    def __init__(self, settings: Settings, metadata: Metadata) -> None:
        self._settings, self._metadata = settings, metadata
        self._suffix = "amazonaws.com" + (".cn" if settings.region.startswith("cn-") else "")

    def send(self, message: Mapping[str, Any], timeout: float = 5.0) -> None:
        """Into the nodes' queue; AWS itself tells the keeper which instance sent it."""
        parts = urlsplit(self._settings.nodes_queue_url)
        base = self._settings.url("sqs", f"{parts.scheme}://{parts.netloc}")
        form = {"Action": "SendMessage", "Version": "2012-11-05", "MessageBody": json.dumps(message)}
        self._query("sqs", f"{base}{parts.path}", form, timeout)

    def get(self, key: str) -> bytes | None:
        """An object of the stack's bucket; None when it is not there. (S3 answers 403 to those who may not list.)"""
        status, body = self._call("GET", self._object(key), {}, b"", "s3")
        if status in (403, 404):
            return None
        if status != 200:
            raise OSError(f"s3 answers {status}")
        return body

    def put(self, key: str, body: bytes, timeout: float = 5.0) -> None:
        """Into the stack's bucket."""
        status, answer = self._call("PUT", self._object(key), {"content-type": "text/plain; charset=utf-8"}, body, "s3", timeout)
        if status != 200:
            raise OSError(f"s3 answers {status}: {answer[:200]!r}")

    def terminate(self, instance: str) -> None:
        """End this instance, and launch none in its place."""
        form = {"InstanceId": instance, "ShouldDecrementDesiredCapacity": "true"}
        call = {"Action": "TerminateInstanceInAutoScalingGroup", "Version": "2011-01-01"}
        self._query("autoscaling", self._endpoint("autoscaling"), call | form)

    def attach(self, volume: str, instance: str) -> None:
        """Attach a volume to this instance."""
        form = {
            "Action": "AttachVolume",
            "Version": "2016-11-15",
            "VolumeId": volume,
            "InstanceId": instance,
            "Device": "/dev/sdf",
        }
        self._query("ec2", self._endpoint("ec2"), form)

    def secret(self, name: str) -> str:
        """A value of Secrets Manager."""
        found = self._json(
            "secretsmanager", self._endpoint("secretsmanager"), "secretsmanager.GetSecretValue", {"SecretId": name}
        )
        return str(found["SecretString"])

    def registry_password(self) -> str:
        """For `docker login` at the account's own registry in this region, user `AWS`."""
        base = self._settings.url("ecr", f"https://api.ecr.{self._settings.region}.{self._suffix}")
        found = self._json("ecr", base, "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken", {})
        return base64.b64decode(found["authorizationData"][0]["authorizationToken"]).decode().partition(":")[2]

    def _endpoint(self, service: str) -> str:
        return self._settings.url(service, f"https://{service}.{self._settings.region}.{self._suffix}")

    def _object(self, key: str) -> str:
        bucket = self._settings.bucket
        base = self._settings.url("s3", "")
        base = f"{base}/{bucket}" if base else f"https://{bucket}.s3.{self._settings.region}.{self._suffix}"
        return f"{base}/{quote(key, safe='/-_.~')}"

    def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, service: str, timeout: float = 5.0
    ) -> tuple[int, bytes]:
        keys = self._metadata.credentials()
        return fetch(
            method, url, sign(method, url, headers, body, keys, self._settings.region, service, time.time()), body, timeout
        )

    def _query(self, service: str, url: str, form: Mapping[str, str], timeout: float = 5.0) -> None:
        self._post(service, url, {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}, urlencode(form), timeout)

    def _json(self, service: str, url: str, target: str, document: Mapping[str, Any]) -> Any:
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
        return json.loads(self._post(service, url, headers, json.dumps(document)))

    def _post(self, service: str, url: str, headers: Mapping[str, str], body: str, timeout: float = 5.0) -> bytes:
        status, answer = self._call("POST", url, headers, body.encode(), service, timeout)
        if status != 200:
            raise OSError(f"{service} answers {status}: {answer[:400]!r}")
        return answer

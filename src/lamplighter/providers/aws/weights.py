"""Models in an S3 bucket, as a `Mirror` of `engines.sources`: read with the permissions that the pod or the machine has anyway.

`s3://BUCKET/PREFIX` has a folder for each model: `OWNER/REPO/` (or `OWNER/REPO@REVISION/`) with the files of the repository and, so that they can be
checked, a `SHA256SUMS`; Ollama's folder lies under `ollama/`. Implements the protocol by its shape: a provider knows no engine.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*?))?/?")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_CHUNK = 2**20
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One object. `sha256`, `md5`: of its content in hex, when S3 tells."""

    size: int
    sha256: str | None = None
    md5: str | None = None


class Bucket:
    """A prefix of a bucket. `client`: an S3 client of boto3; default: made from the environment."""

    def __init__(self, url: str, client: Any = None) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise SourceError(
                f"{url!r} is not the address of a bucket.",
                reason=WakeFailure.MODEL_NOT_FOUND,
                next_step="Write s3://BUCKET/PREFIX.",
            )
        self.address = url.rstrip("/")
        self._bucket, self._prefix = match[1], match[2] or ""
        self._client = client or _client()

    def entries(self, folder: str) -> Mapping[str, Entry]:
        """The files under `folder`, by their names inside."""
        prefix = self._key(folder) + "/"
        found: dict[str, Entry] = {}
        with _Told(self.address):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for one in page.get("Contents", ()):
                    name = one["Key"].removeprefix(prefix)
                    if name and not name.endswith("/"):
                        found[name] = self._entry(one)
        return found

    def _entry(self, one: Mapping[str, Any]) -> Entry:
        """With the checksum that S3 keeps: of the whole object, if it has one; else an ETag that is an MD5, which one of several parts is not."""
        head = self._client.head_object(Bucket=self._bucket, Key=one["Key"], ChecksumMode="ENABLED")
        sha256 = head.get("ChecksumSHA256") if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" else None
        plain = _MD5.fullmatch(one.get("ETag", "")) if head.get("ServerSideEncryption", "AES256") == "AES256" else None
        whole = base64.b64decode(sha256).hex() if sha256 and "-" not in sha256 else None
        return Entry(int(one["Size"]), whole, plain[1] if plain else None)

    def read(self, name: str) -> bytes:
        """A small file's content."""
        with _Told(f"{self.address}/{name}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            return bytes(answer["Body"].read())

    def download(self, name: str, part: Path, progress: Callable[[int], None]) -> None:
        """Complete `part`, beginning where it ends; goes on after a broken connection as long as bytes come."""
        with _Told(f"{self.address}/{name}"):
            size = int(self._client.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"])
            failures = 0
            while (have := part.stat().st_size if part.exists() else 0) < size:
                try:
                    self._go_on(name, part, have, progress)
                except _broken():
                    failures = 0 if part.exists() and part.stat().st_size > have else failures + 1
                    if failures >= _TRIES:
                        raise

    def _go_on(self, name: str, part: Path, have: int, progress: Callable[[int], None]) -> None:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name), Range=f"bytes={have}-")
        with part.open("ab") as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=15, read_timeout=60))


def _broken() -> tuple[type[Exception], ...]:
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    return (HTTPClientError, IncompleteReadError, ResponseStreamingError)


class _Told:
    """What boto3 raises becomes a SourceError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        if isinstance(error, ClientError):
            raise self._client_error(error) from error
        if isinstance(error, NoCredentialsError):
            raise SourceError(
                f"{self._what} cannot be read: there are no credentials of AWS.",
                reason=WakeFailure.DOWNLOAD_FAILED,
                next_step="Give the pods a service_account with a role that may read the bucket (IRSA or EKS Pod Identity).",
            ) from error
        if isinstance(error, BotoCoreError):
            raise SourceError(
                f"{self._what} cannot be read: {error}.",
                reason=WakeFailure.DOWNLOAD_FAILED,
                next_step="Check the network and the region.",
            ) from error

    def _client_error(self, error: Any) -> SourceError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("404", "NoSuchKey", "NoSuchBucket"):
            return SourceError(
                f"{self._what} does not exist.",
                reason=WakeFailure.MODEL_NOT_FOUND,
                next_step="Correct the address of the mirror.",
            )
        if code in ("403", "AccessDenied"):
            return SourceError(
                f"{self._what} may not be read.",
                reason=WakeFailure.DOWNLOAD_FAILED,
                next_step="The role needs s3:ListBucket on the bucket, and s3:GetObject on its objects.",
            )
        return SourceError(
            f"{self._what} cannot be read: S3 says {code}.", reason=WakeFailure.DOWNLOAD_FAILED, next_step="Try again later."
        )

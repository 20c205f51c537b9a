"""`providers.aws.weights`: a bucket as a mirror of models, as S3 answers (a pretended client: the calls and fields that boto3 documents)."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ResponseStreamingError

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.mirror import Mirror
from lamplighter.providers.aws.weights import Bucket


class Body(io.BytesIO):
    """An object's content that may break off."""

    breaks: int | None = None

    def iter_chunks(self, size: int) -> Any:
        while chunk := self.read(min(size, 100)):
            yield chunk
            if self.breaks is not None and self.tell() >= self.breaks:
                raise ResponseStreamingError(error="broken")


class S3:
    """The client."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.heads: dict[str, dict[str, Any]] = {}
        self.breaks: list[int] = []
        self.ranges: list[str] = []
        self.refuse: str | None = None
        self.error: Exception | None = None

    def get_paginator(self, _name: str) -> "S3":
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Any:  # noqa: N803 - boto3's names
        self._maybe("ListObjectsV2")
        found = [
            {"Key": key, "Size": len(data), "ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'}
            for key, data in self.objects.items()
            if key.startswith(Prefix)
        ]
        yield {"Contents": found[:1]}
        yield {"Contents": found[1:]} if found[1:] else {}

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        self._maybe("HeadObject")
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")
        return {"ContentLength": len(self.objects[Key]), **self.heads.get(Key, {})}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "bytes=0-") -> dict[str, Any]:  # noqa: N803
        self._maybe("GetObject")
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        self.ranges.append(Range)
        body = Body(self.objects[Key][int(Range.removeprefix("bytes=").rstrip("-")) :])
        body.breaks = self.breaks.pop(0) if self.breaks else None
        return {"Body": body}

    def _maybe(self, call: str) -> None:
        if self.error is not None:
            raise self.error
        if self.refuse is not None:
            raise ClientError({"Error": {"Code": self.refuse}}, call)


def test_it_is_a_mirror() -> None:
    """A provider knows no engine, so only its shape makes it one."""
    mirror: Mirror = Bucket("s3://bucket/models", S3({}))
    assert mirror.address == "s3://bucket/models"


def test_files_are_listed_with_what_s3_knows_of_them() -> None:
    """An ETag is an MD5 only of an object that came in one part and is not encrypted by a key of one's own."""
    data = b"weights"
    client = S3(
        {
            "models/a/b/x.safetensors": data,
            "models/a/b/y": data,
            "models/a/b/z": data,
            "models/a/bc/no": b"",
            "models/a/b/dir/": b"",
        }
    )
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    client.heads["models/a/b/x.safetensors"] = {"ChecksumSHA256": digest, "ChecksumType": "FULL_OBJECT"}
    client.heads["models/a/b/y"] = {"ChecksumSHA256": f"{digest}-3", "ChecksumType": "COMPOSITE"}
    client.heads["models/a/b/z"] = {"ServerSideEncryption": "aws:kms"}
    found = Bucket("s3://bucket/models", client).entries("a/b")
    assert set(found) == {"x.safetensors", "y", "z"}
    assert found["x.safetensors"].sha256 == hashlib.sha256(data).hexdigest()
    assert found["y"].sha256 is None
    assert found["y"].md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert found["z"].md5 is None


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    """A hundred gigabytes are not begun again."""
    client = S3({"a": b"0123456789" * 100})
    client.breaks = [300, 200]
    told: list[int] = []
    part = tmp_path / "part"
    Bucket("s3://bucket", client).download("a", part, told.append)
    assert part.read_bytes() == b"0123456789" * 100
    assert client.ranges == ["bytes=0-", "bytes=300-", "bytes=500-"]
    assert told[-1] == 1000


def test_a_download_that_gets_nowhere_ends(tmp_path: Path) -> None:
    """It says so, and does not try for ever."""
    client = S3({"a": b"x" * 1000})
    client.get_object = lambda **_: (_ for _ in ()).throw(ResponseStreamingError(error="broken"))  # type: ignore[method-assign]
    with pytest.raises(SourceError) as caught:
        Bucket("s3://bucket", client).download("a", tmp_path / "part", lambda _have: None)
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        ("AccessDenied", WakeFailure.DOWNLOAD_FAILED, "s3:GetObject"),
        ("NoSuchBucket", WakeFailure.MODEL_NOT_FOUND, "address"),
        ("SlowDown", WakeFailure.DOWNLOAD_FAILED, "again"),
    ],
)
def test_a_refusal_names_what_to_do(code: str, reason: WakeFailure, said: str) -> None:
    """A pod's log is all that a person sees."""
    client = S3({})
    client.refuse = code
    with pytest.raises(SourceError) as caught:
        Bucket("s3://bucket", client).entries("a/b")
    assert caught.value.reason is reason
    assert said in caught.value.next_step


def test_missing_credentials_name_the_service_account() -> None:
    """The usual mistake in a cluster."""
    client = S3({})
    client.error = NoCredentialsError()
    with pytest.raises(SourceError) as caught:
        Bucket("s3://bucket", client).read("a")
    assert "service_account" in caught.value.next_step


@pytest.mark.parametrize("url", ["http://bucket/a", "s3://", "s3://UPPER/x", "bucket"])
def test_another_address_is_refused(url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(SourceError):
        Bucket(url, S3({}))

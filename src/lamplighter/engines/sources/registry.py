"""Ollama's registry: a model's manifest and layers, in the layout that an Ollama server reads, without a server.

    FOLDER/manifests/HOST/NAMESPACE/MODEL/TAG, FOLDER/blobs/sha256-DIGEST

The registry speaks the OCI distribution protocol; a layer's name is its SHA-256. The manifest comes last: a server sees a whole model or none.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.download import (
    Progress,
    Target,
    client,
    digest,
    disk_problem,
    download,
    error_sentence,
    room_for,
)
from lamplighter.engines.sources.lease import held
from lamplighter.engines.sources.mirror import Mirror

HOST = "registry.ollama.ai"
_NAME = re.compile(
    r"(?:(?P<host>[A-Za-z0-9.-]+\.[A-Za-z]+(?::\d+)?)/)?(?:(?P<space>[\w.-]+)/)?(?P<model>[\w.-]+)(?::(?P<tag>[\w.-]+))?"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ACCEPT = {"accept": "application/vnd.docker.distribution.manifest.v2+json"}


@dataclass(frozen=True, slots=True)
class Name:
    """A model as Ollama names it: `llama3.2:3b`, `user/model`, `hf.co/user/model:Q4_K_M`."""

    host: str
    space: str
    model: str
    tag: str

    @property
    def manifest(self) -> str:
        """Its manifest inside the folder."""
        return f"manifests/{self.host}/{self.space}/{self.model}/{self.tag}"

    @property
    def address(self) -> str:
        """The root of its repository in the registry."""
        return f"https://{self.host}/v2/{self.space}/{self.model}"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is now there. `fetched`: bytes that came just now."""

    name: str
    folder: Path
    files: int
    size: int
    fetched: int


def parse(text: str) -> Name:
    """Raises SourceError."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in text:
        raise SourceError(
            f"{text!r} is not a model of Ollama.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Write NAME or NAME:TAG, such as llama3.2:3b.",
        )
    return Name(match["host"] or HOST, match["space"] or "library", match["model"], match["tag"] or "latest")


def pull(
    text: str,
    folder: Path,
    progress: Progress,
    *,
    mirror: Mirror | None = None,
    verify: bool = False,
    address: str | None = None,
    waiting: Callable[[str], None] = lambda _holder: None,
) -> Pulled:
    """Bring a model into the folder of an Ollama server (`OLLAMA_MODELS`). Blocks; resumes. `address`: another root of its repository.

    Raises SourceError.
    """
    name = parse(text)
    root = address or name.address
    try:
        with held(folder / ".locks" / f"lamplighter-{name.space}-{name.model}", waiting), client() as http:
            content = (
                mirror.read(f"ollama/{name.manifest}")
                if mirror is not None
                else _manifest(http, f"{root}/manifests/{name.tag}", text)
            )
            layers = _layers(content, text)
            total, done, fetched = sum(size for _, size in layers), 0, 0
            missing = {sha256 for sha256, size in layers if not _there(folder, sha256, size, verify)}
            room_for(folder, sum(size for sha256, size in layers if sha256 in missing), text)
            for sha256, size in layers:
                if sha256 in missing:

                    def told(have: int, before: int = done) -> None:
                        progress(before + have, total)

                    _layer(http, mirror, root, folder, sha256, size, text, told)
                    fetched += size
                done += size
                progress(done, total)
            path = folder / name.manifest
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(content)
            aside.replace(path)
    except OSError as error:
        raise disk_problem(error, folder, text) from error
    return Pulled(text, folder, len(layers) + 1, total, fetched)


def _manifest(http: httpx.Client, url: str, what: str) -> bytes:
    try:
        answer = http.get(url, headers=_ACCEPT)
    except httpx.TransportError as error:
        raise SourceError(
            f"{what} cannot be looked up: {error_sentence(error)}.",
            reason=WakeFailure.DOWNLOAD_FAILED,
            next_step="Check the network and proxy settings.",
        ) from error
    if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.UNAUTHORIZED, httpx.codes.BAD_REQUEST):
        raise SourceError(
            f"Ollama's registry has no model {what}.", reason=WakeFailure.MODEL_NOT_FOUND, next_step="Correct its name or tag."
        )
    if not answer.is_success:
        raise SourceError(
            f"Ollama's registry answered {answer.status_code}.", reason=WakeFailure.DOWNLOAD_FAILED, next_step="Try again later."
        )
    return answer.content


def _layers(content: bytes, what: str) -> list[tuple[str, int]]:
    """(SHA-256, bytes) of everything that the manifest names."""
    try:
        manifest: dict[str, Any] = json.loads(content)
        found = [(_DIGEST.fullmatch(one["digest"]), int(one["size"])) for one in (*manifest["layers"], manifest["config"])]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"The manifest of {what} makes no sense.", reason=WakeFailure.DOWNLOAD_FAILED) from error
    if any(match is None for match, _ in found):
        raise SourceError(
            f"The manifest of {what} names layers by something else than SHA-256.", reason=WakeFailure.DOWNLOAD_FAILED
        )
    return list(dict.fromkeys((match[1], size) for match, size in found if match is not None))


def _blob(folder: Path, sha256: str) -> Path:
    return folder / "blobs" / f"sha256-{sha256}"


def _there(folder: Path, sha256: str, size: int, verify: bool) -> bool:
    path = _blob(folder, sha256)
    if not path.is_file() or path.stat().st_size != size:
        return False
    return not verify or digest(path) == sha256


def _layer(
    http: httpx.Client,
    mirror: Mirror | None,
    root: str,
    folder: Path,
    sha256: str,
    size: int,
    what: str,
    told: Callable[[int], None],
) -> None:
    path = _blob(folder, sha256)
    part = path.with_name(f"{path.name}.lamplighter-part")  # an Ollama that runs may clean up its own -partial files
    part.parent.mkdir(parents=True, exist_ok=True)
    if mirror is None:
        target = Target(f"{root}/blobs/sha256:{sha256}")
        download(http, lambda: target, part, what=what, progress=lambda have, _total: told(have), size=size, sha256=sha256)
    else:
        mirror.download(f"ollama/blobs/{path.name}", part, told)
        if part.stat().st_size != size or digest(part) != sha256:
            part.unlink()
            raise SourceError(f"{mirror.address}/ollama/blobs/{path.name} is damaged.", reason=WakeFailure.MODEL_CORRUPT)
    part.replace(path)

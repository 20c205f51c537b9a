"""Models from the Hugging Face hub: which file of a repository, may we have it, where are its bytes.

The hub's own library answers the questions (names, tokens, licences, signed addresses); the bytes come through our download, because the
library throws a part away when it is interrupted, and these files have gigabytes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.download import Progress, Target, client, download, room_for
from lamplighter.engines.sources.files import CHOICE, Kind, Source, parts, repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from lamplighter.engines.sources.repository import Wanted

PREFERENCE = (
    "Q4_K_M",
    "Q4_0",
    "Q4_K_S",
    "IQ4_XS",
    "IQ4_NL",
    "Q4_1",
    "MXFP4",
    "Q5_K_M",
    "Q5_K_S",
    "Q6_K",
    "Q8_0",
    "Q3_K_M",
    "BF16",
    "F16",
    "F32",
)
"""Quantisations in the order in which we take them: the best compromise of size and quality first."""
_NOT_THE_MODEL = re.compile(r"mmproj|imatrix|\bmtp\b|vocab|adapter|lora", re.IGNORECASE)
_REACHABLE_SECONDS = 10.0
_SMALL = 4 * 2**20
"""Bytes of a configuration that are read at most."""
_FIRST_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    sha256: str | None
    blob: str | None = None


def choose(names: Sequence[str]) -> str | None:
    """The file to take from a repository when the source names none; None when there is no model in GGUF format."""
    models = [name for name in names if name.lower().endswith(".gguf") and not _NOT_THE_MODEL.search(name)]
    firsts = [name for name in models if not (match := _FIRST_PART.search(name)) or match[1] == "00001"]
    for wanted in PREFERENCE:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){wanted}(?![A-Za-z0-9_])", re.IGNORECASE)
        for name in sorted(firsts, key=lambda name: ("/" in name, len(name), name)):
            if pattern.search(name):
                return name
    return min(firsts, key=lambda name: (len(name), name), default=None)


def fetch(source: Source, models_folder: Path, progress: Progress, *, endpoint: str | None = None) -> Path:
    """The (first) file of `source`, complete on this disk. Raises SourceError."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its retries are not for a person to read
    api = HfApi(endpoint=endpoint, library_name="lamplighter")
    folder = repository(source, models_folder)
    _check_reachable(api, source)
    files = _files(api, source)
    name = source.file or choose(list(files))
    if name is None:
        raise SourceError(
            f"hf:{source.repo} has no model in GGUF format.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Look for a repository whose name ends in -GGUF.",
        )
    wanted = parts(Path(name))
    missing = [str(part) for part in wanted if str(part) not in files]
    if missing:
        raise SourceError(
            f"hf:{source.repo} has no file {missing[0]}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step=f"It has: {', '.join(sorted(file for file in files if file.endswith('.gguf'))[:12]) or 'no GGUF file'}.",
        )
    todo = [files[str(part)] for part in wanted]
    total, done = sum(file.size for file in todo), 0
    here = sum(_here(folder, file) for file in todo)
    room_for(folder, total - here, f"hf:{source.repo}")
    with client() as http:
        for file in todo:
            path = folder / file.name
            if not path.is_file():
                _fetch_file(api, http, source, file, path, lambda part, _, base=done: progress(base + part, total))  # type: ignore[misc]  # mypy cannot type a lambda's default
            done += file.size
    if source.file is None:
        (folder / CHOICE).write_text(name)
    return folder / name


def small_file(repo: str, name: str, *, revision: str | None = None, endpoint: str | None = None, most: int = _SMALL) -> bytes:
    """The content of one file of a repository, or its first `most` bytes. Raises SourceError."""
    url, headers = _address(repo, name, revision, endpoint)
    what = f"hf:{repo}:{name}"
    try:
        with (
            client() as http,
            http.stream("GET", url, headers={**headers, "range": f"bytes=0-{most - 1}"}, timeout=_REACHABLE_SECONDS) as answer,
        ):
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise _status(what, answer.status_code)
            content = bytearray()
            for chunk in answer.iter_raw():
                content += chunk
                if len(content) >= most:
                    break
            return bytes(content[:most])
    except httpx.TransportError as error:
        raise _unavailable(what, "the hub cannot be reached (is there a network?)") from error


def file_size(repo: str, name: str, *, revision: str | None = None, endpoint: str | None = None) -> int | None:
    """Bytes of one file of a repository; None when the hub does not tell."""
    url, headers = _address(repo, name, revision, endpoint)
    try:
        with client() as http:
            answer = http.head(url, headers=headers, timeout=_REACHABLE_SECONDS, follow_redirects=False)
    except httpx.TransportError:
        return None
    text = answer.headers.get("x-linked-size") or (answer.headers.get("content-length") if answer.is_success else None) or ""
    return int(text) if text.isdigit() else None


def _address(repo: str, name: str, revision: str | None, endpoint: str | None) -> tuple[str, dict[str, str]]:
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in its __all__

    api = HfApi(endpoint=endpoint, library_name="lamplighter")
    url = hf_hub_url(repo, name, revision=revision, endpoint=api.endpoint)
    return url, build_hf_headers(token=api.token, library_name="lamplighter")


def _status(what: str, status: int) -> SourceError:
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return _gated(what)
    if status == httpx.codes.NOT_FOUND:
        return SourceError(
            f"{what} does not exist.", reason=WakeFailure.MODEL_NOT_FOUND, next_step="Correct the name, or its revision."
        )
    return _unavailable(what, f"the hub answered {status}")


def _check_reachable(api: HfApi, source: Source) -> None:
    """Without a network the library would go on trying for half a minute. Raises SourceError."""
    try:
        with client() as http:
            http.head(api.endpoint, timeout=_REACHABLE_SECONDS, follow_redirects=False)
    except httpx.TransportError as error:
        raise _unavailable(f"hf:{source.repo}", "the hub cannot be reached (is there a network?)") from error


def _here(folder: Path, file: _File) -> int:
    for path in (folder / file.name, folder / f"{file.name}.part"):
        if path.is_file():
            return path.stat().st_size
    return 0


def _files(api: HfApi, source: Source) -> dict[str, _File]:
    """The repository's files by name. Raises SourceError."""
    from huggingface_hub import RepoFile

    with _asked(source):
        tree = api.list_repo_tree(source.repo, recursive=True, revision=source.revision)
        return {
            entry.path: _File(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        }


@contextlib.contextmanager
def _asked(source: Source) -> Iterator[None]:
    """What the hub's library raises becomes a SourceError."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"hf:{source.repo}" + (f" at {source.revision}" if source.revision else "")
    try:
        yield
    except GatedRepoError as error:
        raise _gated(what) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"hf:{source.repo} has no revision {source.revision}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Name a branch, a tag or a commit of that repository.",
        ) from error
    except (RepositoryNotFoundError, DisabledRepoError, HFValidationError) as error:
        # The hub answers a private repository like a missing one.
        raise SourceError(
            f"{what} does not exist, or is private.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Correct the model's source, or set HF_TOKEN to a token that may read it.",
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise _status(what, error.response.status_code) from error
        raise _unavailable(what, f"the hub answered {error.response.status_code}") from error
    except OfflineModeIsEnabled as error:
        raise _unavailable(what, "the hub's library is in offline mode (HF_HUB_OFFLINE)") from error
    except Exception as error:  # the library's transport differs between its versions (requests, httpx, httpx2)
        if type(error).__module__.partition(".")[0] not in ("requests", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3"):
            raise
        raise _unavailable(what, "the hub cannot be reached (is there a network?)") from error


def _fetch_file(api: HfApi, http: httpx.Client, source: Source, file: _File, path: Path, progress: Progress) -> None:
    part = path.with_name(f"{path.name}.part")
    download_file(
        http, source.repo, source.revision, file.name, part, progress, size=file.size, sha256=file.sha256, endpoint=api.endpoint
    )
    part.replace(path)


def download_file(
    http: httpx.Client,
    repo: str,
    revision: str | None,
    name: str,
    part: Path,
    progress: Progress,
    *,
    size: int,
    sha256: str | None,
    endpoint: str | None = None,
) -> None:
    """Complete `part`, one file of a repository. Raises SourceError."""
    url, headers = _address(repo, name, revision, endpoint)
    part.parent.mkdir(parents=True, exist_ok=True)
    # httpx drops the Authorization header when the hub redirects to its storage on another host.
    download(http, lambda: Target(url, headers), part, what=f"hf:{repo}:{name}", progress=progress, size=size, sha256=sha256)


def listing(repo: str, revision: str | None, endpoint: str | None = None) -> tuple[str, list[Wanted]]:
    """The commit behind a revision, and all its files. Raises SourceError."""
    from huggingface_hub import HfApi

    from lamplighter.engines.sources.repository import Wanted

    api = HfApi(endpoint=endpoint, library_name="lamplighter")
    source = Source(Kind.HUB, repo=repo, revision=revision)
    _check_reachable(api, source)
    with _asked(source):
        commit = api.model_info(repo, revision=revision).sha
    if not commit:
        raise _unavailable(f"hf:{repo}", "the hub does not say which commit its main branch is")
    files = _files(api, replace(source, revision=commit))
    return commit, [Wanted(one.name, one.size, one.sha256 or one.blob, git=one.sha256 is None) for one in files.values()]


def series(file: str) -> list[str]:
    """All files of a model: one, or those that it was split into."""
    return [part.as_posix() for part in parts(Path(file))]


def _gated(what: str) -> SourceError:
    return SourceError(
        f"{what} may only be downloaded after its owner's licence was accepted.",
        reason=WakeFailure.GATED_MODEL,
        next_step="Accept it on the hub's page of the model and set HF_TOKEN, or use another model.",
    )


def _unavailable(what: str, why: str) -> SourceError:
    return SourceError(
        f"{what} cannot be looked up: {why}.",
        reason=WakeFailure.DOWNLOAD_FAILED,
        next_step="Check the network and proxy settings; the download resumes where it stopped.",
    )

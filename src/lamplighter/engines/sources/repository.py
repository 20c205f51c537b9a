"""A whole model of the hub in the layout of the hub's own cache, where vLLM and llama.cpp look for it: prefetched, checked, and complete or absent.

    CACHE/models--OWNER--NAME/{blobs/DIGEST, snapshots/COMMIT/FILE -> ../../blobs/DIGEST, refs/REVISION}

Each file is written aside, checked against its digest and renamed; the reference comes last, so an engine sees all of a model or nothing of it.
Single GGUF files for the embedded engine have another place: see `fetch`. Not responsible for who may fill the folder: see `lease`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources import hub
from lamplighter.engines.sources.download import Progress, client, digest, disk_problem, room_for
from lamplighter.engines.sources.lease import held

if TYPE_CHECKING:
    from lamplighter.engines.sources.mirror import Mirror

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SUMS = "SHA256SUMS"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".mlmodel")
_FOLDERS = ("original/", "onnx/", "openvino/", "coreml/", "metal/", ".git")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file. `digest`: SHA-256, or the hash that git gives a small file; None when nobody knows one, and its size must do."""

    name: str
    size: int
    digest: str | None
    git: bool = False
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is now there. `fetched`: bytes that came just now; `unverified`: files of which only the size could be checked."""

    repo: str
    revision: str
    commit: str
    folder: Path
    files: int
    size: int
    fetched: int
    unverified: tuple[str, ...] = ()


def pull(
    repo: str,
    cache: Path,
    progress: Progress,
    *,
    revision: str | None = None,
    file: str | None = None,
    gguf: bool = False,
    mirror: Mirror | None = None,
    endpoint: str | None = None,
    verify: bool = False,
    waiting: Callable[[str], None] = lambda _holder: None,
) -> Pulled:
    """Bring a model into `cache`, or find that all of it is there. Blocks; resumes what an earlier call left. Raises SourceError.

    `file`: this GGUF file alone; `gguf`: the one that suits best. `verify`: check again what is there already.
    """
    base = cache / f"models--{repo.replace('/', '--')}"
    name = revision or "main"
    try:
        with held(cache / ".locks" / f"lamplighter-{base.name}", waiting):
            if not verify and _COMMIT.fullmatch(name) and (known := _complete(base, repo, name, name, file)):
                return known  # a commit never changes: nobody need be asked
            try:
                commit, files = _ask(repo, revision, mirror, endpoint)
            except SourceError as error:
                here = _complete(base, repo, name, _reference(base, name), file)
                if here is None or verify or error.reason is not WakeFailure.DOWNLOAD_FAILED:
                    raise
                return here
            chosen = _choose(repo, files, file, gguf)
            return _fill(base, repo, name, commit, chosen, progress, mirror, endpoint, verify)
    except OSError as error:
        raise disk_problem(error, cache, f"hf:{repo}") from error


def _ask(repo: str, revision: str | None, mirror: Mirror | None, endpoint: str | None) -> tuple[str, list[Wanted]]:
    """The commit behind the revision, and its files."""
    if mirror is None:
        return hub.listing(repo, revision, endpoint)
    folder = _folder(repo, revision)
    entries = dict(mirror.entries(folder))
    if not entries:
        raise SourceError(
            f"{mirror.address}/{folder} has no files.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Copy the model there; docs/guides/model-cache.md says how.",
        )
    sums = _sums(mirror.read(f"{folder}/{_SUMS}")) if entries.pop(_SUMS, None) else {}
    found = [Wanted(name, one.size, sums.get(name, one.sha256), md5=one.md5) for name, one in entries.items()]
    if revision and _COMMIT.fullmatch(revision):
        return revision, found
    listed = "\n".join(sorted(f"{one.name} {one.size} {one.digest or one.md5}" for one in found))
    return hashlib.sha1(listed.encode(), usedforsecurity=False).hexdigest(), found


def _folder(repo: str, revision: str | None) -> str:
    """Where a mirror has a model."""
    return repo if revision is None else f"{repo}@{revision.replace('/', '--')}"


def _sums(content: bytes) -> dict[str, str]:
    """The lines of `sha256sum`."""
    lines = (line.split(maxsplit=1) for line in content.decode("utf-8", "replace").splitlines())
    return {parts[1].lstrip("*").removeprefix("./"): parts[0].lower() for parts in lines if len(parts) == 2}


def _choose(repo: str, files: Iterable[Wanted], file: str | None, gguf: bool) -> list[Wanted]:
    """What an engine loads: the weights in one format, and everything small beside them."""
    by_name = {one.name: one for one in files}
    if file is None and gguf:
        file = hub.choose(list(by_name))
    if file is not None or gguf:
        names = hub.series(file) if file is not None else []
        if not names or any(name not in by_name for name in names):
            raise SourceError(f"hf:{repo} has no file {file or 'in GGUF format'}.", reason=WakeFailure.MODEL_NOT_FOUND)
        return [by_name[name] for name in names]
    usual = [one for one in by_name.values() if not one.name.startswith(_FOLDERS) and "consolidated" not in one.name]
    formats = [ending for ending in (".safetensors", ".bin", ".pt", ".pth") if any(one.name.endswith(ending) for one in usual)]
    if not formats:
        raise SourceError(
            f"hf:{repo} has no weights that vLLM loads.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="A repository of GGUF files is for the engine llamacpp: write hf:OWNER/REPO:FILE.gguf.",
        )
    return [one for one in usual if one.name.endswith(formats[0]) or not one.name.lower().endswith(_WEIGHTS)]


def _fill(
    base: Path,
    repo: str,
    revision: str,
    commit: str,
    files: list[Wanted],
    progress: Progress,
    mirror: Mirror | None,
    endpoint: str | None,
    verify: bool,
) -> Pulled:
    snapshot = base / "snapshots" / commit
    total, done, fetched = sum(one.size for one in files), 0, 0
    missing = [one for one in files if not _there(snapshot, one, verify)]
    room_for(base.parent, sum(one.size - _begun(base, one) for one in missing), f"hf:{repo}")
    with client() as http:
        for one in files:
            if one in missing:
                part = _part(base, one)
                part.parent.mkdir(parents=True, exist_ok=True)

                def told(have: int, _total: int | None = None, before: int = done) -> None:
                    progress(before + have, total)

                if mirror is not None:
                    _from_mirror(mirror, f"{_folder(repo, None if revision == 'main' else revision)}/{one.name}", one, part, told)
                else:
                    hub.download_file(
                        http,
                        repo,
                        commit,
                        one.name,
                        part,
                        told,
                        size=one.size,
                        sha256=None if one.git else one.digest,
                        endpoint=endpoint,
                    )
                _check(one, part, f"hf:{repo}:{one.name}")
                _place(snapshot, one, part)
                fetched += one.size
            done += one.size
            progress(done, total)
    unverified = tuple(one.name for one in files if one.digest is None and one.md5 is None)
    found = Pulled(repo, revision, commit, snapshot, len(files), total, fetched, unverified)
    listed = {"files": [asdict(one) for one in files]}
    _write(base / f"lamplighter-{commit}-{len(files)}.json", json.dumps(listed))
    if revision != commit:
        _write(base / "refs" / revision, commit)
    return found


def _there(snapshot: Path, one: Wanted, verify: bool) -> bool:
    path = snapshot / one.name
    try:
        if path.stat().st_size != one.size:
            return False
    except OSError:
        return False
    if verify and not _right(one, path):
        path.unlink()
        return False
    return True


def _part(base: Path, one: Wanted) -> Path:
    return base / "blobs" / f"{_blob(one)}.part"


def _blob(one: Wanted) -> str:
    return one.digest or hashlib.sha256(f"{one.name} {one.size} {one.md5}".encode()).hexdigest()


def _begun(base: Path, one: Wanted) -> int:
    try:
        return min(one.size, _part(base, one).stat().st_size)
    except OSError:
        return 0


def _from_mirror(mirror: Mirror, name: str, one: Wanted, part: Path, told: Callable[[int], None]) -> None:
    """Twice at most: the first part may have been of another file."""
    for again in (True, False):
        resumed = part.exists()
        mirror.download(name, part, told)
        if part.stat().st_size == one.size and _right(one, part):
            return
        part.unlink()
        if not (again and resumed):
            break
    raise SourceError(
        f"{mirror.address}/{name} came whole, but its checksum is wrong.",
        reason=WakeFailure.MODEL_CORRUPT,
        next_step="Copy the file to the mirror again, with its SHA256SUMS.",
    )


def _check(one: Wanted, part: Path, what: str) -> None:
    if part.stat().st_size == one.size and _right(one, part):
        return
    part.unlink()
    raise SourceError(f"{what} came, but its checksum is wrong: it was changed on the way.", reason=WakeFailure.MODEL_CORRUPT)


def _right(one: Wanted, path: Path) -> bool:
    """Whether the content has its digest; True when nobody knows one."""
    if one.digest is not None and one.git:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == one.digest
    if one.digest is not None:
        return digest(path) == one.digest
    if one.md5 is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == one.md5
    return True


def _place(snapshot: Path, one: Wanted, part: Path) -> None:
    """The blob under its digest and a link to it; where a file system knows no links, the file itself."""
    blob, path = part.with_suffix(""), snapshot / one.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(blob)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        blob.replace(path)


def _reference(base: Path, revision: str) -> str | None:
    with contextlib.suppress(OSError):
        return (base / "refs" / revision).read_text().strip()
    return None


def _complete(base: Path, repo: str, revision: str, commit: str | None, file: str | None) -> Pulled | None:
    """What an earlier pull left, when all of it is still there."""
    for listed in sorted(base.glob(f"lamplighter-{commit}-*.json")) if commit else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            files = [Wanted(**one) for one in json.loads(listed.read_text())["files"]]
            snapshot = base / "snapshots" / str(commit)
            if (file is None or any(one.name == file for one in files)) and all(_there(snapshot, one, False) for one in files):
                unverified = tuple(one.name for one in files if one.digest is None and one.md5 is None)
                return Pulled(repo, revision, str(commit), snapshot, len(files), sum(one.size for one in files), 0, unverified)
    return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)


def located(repo: str, cache: Path, revision: str | None = None) -> Path | None:
    """The folder of a model that was pulled whole; None else."""
    base = cache / f"models--{repo.replace('/', '--')}"
    name = revision or "main"
    found = _complete(base, repo, name, name if _COMMIT.fullmatch(name) else _reference(base, name), None)
    return found.folder if found else None

"""What a model's `source` means and where its weights lie on this disk, without touching the network.

Imported by every engine process before it loads: nothing heavy here. Fetching is `lamplighter.engines.sources.fetch`.
"""

import contextlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure

BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_SIZE = 98_362_432
"""Bytes; the digest is checked when it is unpacked."""

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<file>\w[\w./-]*\.gguf))?")
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
CHOICE = ".choice"
"""Beside a repository's files: the name of the file that was chosen when the source named none."""


class Kind(StrEnum):
    """The kinds of sources."""

    BUNDLED = "bundled"
    HUB = "hf"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source. `repo`, `file` (None: choose one) and `revision` (None: the main branch) for the hub, `path` for a file."""

    kind: Kind
    repo: str = ""
    file: str | None = None
    path: Path | None = None
    revision: str | None = None


def parse(text: str, revision: str | None = None) -> Source:
    """What `text` means; `revision` counts for the hub only. Raises SourceError, reason MODEL_NOT_FOUND, with what to write instead."""
    if text == Kind.BUNDLED:
        return Source(Kind.BUNDLED)
    kind, _, rest = text.partition(":")
    if kind == "catalogue":
        from lamplighter.engines.catalogue import CATALOGUE

        entry = CATALOGUE.get(rest)
        if entry is None:
            raise _wrong(f"The catalogue has no model {rest!r}.", f"It has: {', '.join(CATALOGUE)}.")
        return parse(entry.source, revision)
    if kind == "hf":
        match = _HUB.fullmatch(rest)
        if match is None or ".." in rest:
            raise _wrong(f"{text!r} is not a model on the hub.", "Write hf:OWNER/REPO or hf:OWNER/REPO:FILE.gguf.")
        return Source(Kind.HUB, repo=match["repo"], file=match["file"], revision=revision)
    if kind == "file":
        path = Path(rest)
        with contextlib.suppress(RuntimeError):  # no home folder: then it stays relative and is refused
            path = path.expanduser()
        if not path.is_absolute():
            raise _wrong(f"{text!r} is a relative path.", "Write file:/absolute/path.gguf or file:~/path.gguf.")
        return Source(Kind.FILE, path=path)
    raise _wrong(f"{text!r} is not a source.", "Write bundled, catalogue:NAME, hf:OWNER/REPO[:FILE.gguf] or file:PATH.")


def locate(source: Source, models_folder: Path) -> Path | None:
    """The file to load, when all of it is here; None when it must be fetched. Raises SourceError for a missing `file:`."""
    if source.kind is Kind.FILE:
        assert source.path is not None  # noqa: S101 - the parser's invariant, for the type checker
        if not source.path.is_file():
            raise SourceError(
                f"There is no file {source.path}.", reason=WakeFailure.MODEL_NOT_FOUND, next_step="Correct the model's source."
            )
        return source.path
    path = target(source, models_folder)
    if path is None or not all(part.is_file() for part in parts(path)):
        return None
    if source.kind is Kind.BUNDLED and path.stat().st_size != BUNDLED_SIZE:
        return None
    return path


def target(source: Source, models_folder: Path) -> Path | None:
    """Where the weights of `source` belong; None when the hub was not yet asked which file that is."""
    if source.kind is Kind.BUNDLED:
        return models_folder / "bundled" / BUNDLED_FILE
    folder = repository(source, models_folder)
    name = source.file
    if name is None:
        try:
            name = (folder / CHOICE).read_text().strip()
        except OSError:
            return None
    return folder / name


def repository(source: Source, models_folder: Path) -> Path:
    """The folder of one repository of the hub; each revision that was asked for has its own, so that none stands in for another."""
    plain = models_folder / "hf" / source.repo
    return plain if source.revision is None else plain.with_name(f"{plain.name}@{source.revision.replace('/', '--')}")


def parts(path: Path) -> list[Path]:
    """All files of a model: one, or the whole series of a split one (`-00001-of-00003.gguf`)."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["parts"])
    return [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _wrong(message: str, next_step: str) -> SourceError:
    return SourceError(message, reason=WakeFailure.MODEL_NOT_FOUND, next_step=next_step)

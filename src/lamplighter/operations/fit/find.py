"""Finds a model's configuration: a folder or a GGUF file here, the hub, or the shipped table when there is no network.

Only small files are fetched: `config.json`, the index of the weights, the beginning of a GGUF file. Not responsible for what they mean.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.llamacpp import gguf
from lamplighter.engines.sizing import architecture, known
from lamplighter.engines.sizing.architecture import Architecture
from lamplighter.engines.sources import hub
from lamplighter.engines.sources.files import Kind, Source, locate, parse

_INDEX = "model.safetensors.index.json"
_ONE_FILE = "model.safetensors"
_GGUF_START = 24 * 2**20
"""Bytes of a GGUF file in which its header lies: the tokenizer's words, and the names of all tensors."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model. `origin`: where its configuration came from, for a person. Either `model` or `header` is there. `checkpoint`: bytes of its weights'
    files, when they are known."""

    name: str
    origin: str
    model: Architecture | None = None
    header: gguf.Header | None = None
    checkpoint: int | None = None


def find(
    what: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    endpoint: str | None = None,
    models_folder: Path | None = None,
) -> Found:
    """What `what` is: a folder with a config.json, a .gguf file, `hf:OWNER/REPO[:FILE.gguf]`, `OWNER/REPO`, or a name of the catalogue.

    `offline`: ask nobody. `models_folder`: where fetched GGUF files may be. Raises SourceError.
    """
    path = Path(what.removeprefix("file:")).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".gguf" and path.is_file():
        return Found(path.name, str(path), header=_header(path))
    if what.startswith(("/", "./", "../", "~")):
        raise SourceError(
            f"There is no folder and no .gguf file {what}.", reason=WakeFailure.MODEL_NOT_FOUND, next_step="Correct the path."
        )
    source = _source(what)
    if source.kind is not Kind.HUB or source.file is not None:
        return _gguf(what, replace(source, revision=revision), offline, endpoint, models_folder)
    shipped = known.find(source.repo) if revision is None else None
    if offline and shipped is None:
        raise _unknown(source.repo)
    if not offline:
        try:
            return _on_hub(source.repo, revision, endpoint)
        except SourceError as error:
            if shipped is None or error.reason not in (WakeFailure.DOWNLOAD_FAILED, WakeFailure.GATED_MODEL):
                raise
    return Found(source.repo, "the table that comes with Lamplighter", model=shipped)


def _source(what: str) -> Source:
    if what.startswith(("hf:", "catalogue:", "file:")) or what == Kind.BUNDLED:
        return parse(what)
    return parse(f"hf:{what}") if "/" in what else parse(f"catalogue:{what}")


def _folder(path: Path) -> Found:
    try:
        config = json.loads((path / "config.json").read_text())
    except OSError as error:
        raise SourceError(
            f"{path} has no config.json that can be read.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Name the folder of a model in the format of the transformers library, or a .gguf file.",
        ) from error
    except ValueError as error:
        raise _damaged(str(path)) from error
    total = sum(file.stat().st_size for file in path.glob("*.safetensors")) or None
    return Found(path.name, str(path), model=_read(config), checkpoint=total)


def _on_hub(repo: str, revision: str | None, endpoint: str | None) -> Found:
    config = _json(hub.small_file(repo, "config.json", revision=revision, endpoint=endpoint), repo)
    checkpoint = None
    try:
        index = _json(hub.small_file(repo, _INDEX, revision=revision, endpoint=endpoint), repo)
        checkpoint = int(index["metadata"]["total_size"])
    except (SourceError, KeyError, TypeError, ValueError):
        checkpoint = hub.file_size(repo, _ONE_FILE, revision=revision, endpoint=endpoint)
    origin = f"hf:{repo}" + (f" at {revision}" if revision else "")
    return Found(repo, origin, model=_read(config), checkpoint=checkpoint)


def _gguf(what: str, source: Source, offline: bool, endpoint: str | None, models_folder: Path | None) -> Found:
    here = locate(source, models_folder) if models_folder is not None or source.kind is Kind.FILE else None  # type: ignore[arg-type]  # a FILE needs no folder
    if here is not None:
        return Found(what, str(here), header=_header(here))
    if source.kind is not Kind.HUB or offline or source.file is None:
        raise SourceError(
            f"{what} is not on this machine, so its header cannot be read.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step=f"`lamplighter models pull {what}` fetches it.",
        )
    size = hub.file_size(source.repo, source.file, revision=source.revision, endpoint=endpoint)
    start = hub.small_file(source.repo, source.file, revision=source.revision, endpoint=endpoint, most=_GGUF_START)
    with tempfile.TemporaryDirectory(prefix="lamplighter-fit-") as folder:
        path = Path(folder) / "start.gguf"
        path.write_bytes(start)
        with path.open("r+b") as file:
            file.truncate(max(size or 0, len(start)))  # as long as the real one, but empty: the reader compares
        return Found(what, f"hf:{source.repo}", header=_header(path))


def _header(path: Path) -> gguf.Header:
    try:
        return gguf.read(path)
    except gguf.NotAModel as error:
        raise SourceError(str(error), reason=WakeFailure.MODEL_CORRUPT) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.", reason=WakeFailure.MODEL_NOT_FOUND) from error


def _json(data: bytes, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _damaged(name) from error
    if not isinstance(value, dict):
        raise _damaged(name)
    return value


def _read(config: Mapping[str, Any]) -> Architecture:
    try:
        return architecture.read(config)
    except architecture.Unreadable as error:
        raise SourceError(
            f"This model cannot be sized: {error}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Start the engine once and read its log: vLLM prints its weights and the room for the cache.",
        ) from error


def _damaged(name: str) -> SourceError:
    return SourceError(f"The configuration of {name} is damaged.", reason=WakeFailure.MODEL_CORRUPT)


def _unknown(repo: str) -> SourceError:
    return SourceError(
        f"{repo} is not in the table that comes with Lamplighter.",
        reason=WakeFailure.MODEL_NOT_FOUND,
        next_step="Ask without --offline, or name a folder with its config.json.",
    )

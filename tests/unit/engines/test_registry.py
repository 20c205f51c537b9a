"""`engines.sources.registry`: an Ollama's folder filled without an Ollama, from a pretended registry."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources import registry
from lamplighter.engines.sources.registry import Pulled
from tests.unit.engines.origin import Origin
from tests.unit.engines.test_repository import Bucket

CONFIG, WEIGHTS = b'{"model_format": "gguf"}', b"GGUF" + b"w" * 100_000


def named(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "config": {"digest": named(CONFIG), "size": len(CONFIG)},
        "layers": [{"digest": named(WEIGHTS), "size": len(WEIGHTS)}],
    }
).encode()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as server:
        server.files = {"/manifests/3b": MANIFEST, **{f"/blobs/{named(data)}": data for data in (CONFIG, WEIGHTS)}}
        yield server


async def pull(origin: Origin | None, folder: Path, text: str = "llama3.2:3b", **options: Any) -> Pulled:
    address = origin.url if origin is not None else None
    return await asyncio.to_thread(registry.pull, text, folder, lambda _done, _total: None, address=address, **options)


async def test_a_server_finds_the_model_where_it_looks(origin: Origin, tmp_path: Path) -> None:
    """The folder's layout is Ollama's own; anything else would be pulled again at the first wake."""
    found = await pull(origin, tmp_path)
    assert found.files == 3 - 1 + 1
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "llama3.2" / "3b"
    assert manifest.read_bytes() == MANIFEST
    blob = tmp_path / "blobs" / named(WEIGHTS).replace(":", "-")
    assert blob.read_bytes() == WEIGHTS
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == sorted(
        named(data).replace(":", "-") for data in (CONFIG, WEIGHTS)
    )


async def test_layers_that_are_there_are_kept(origin: Origin, tmp_path: Path) -> None:
    """Two models share layers, and pods start often."""
    await pull(origin, tmp_path)
    origin.seen.clear()
    assert (await pull(origin, tmp_path)).fetched == 0
    assert [request.path for request in origin.seen] == ["/manifests/3b"]
    blob = tmp_path / "blobs" / named(WEIGHTS).replace(":", "-")
    blob.write_bytes(b"x" * len(WEIGHTS))
    assert (await pull(origin, tmp_path, verify=True)).fetched == len(WEIGHTS)
    assert blob.read_bytes() == WEIGHTS


async def test_a_broken_connection_goes_on(origin: Origin, tmp_path: Path) -> None:
    """Weights have gigabytes."""
    origin.breaks = [len(MANIFEST) + 1000, 50_000]
    assert (await pull(origin, tmp_path)).fetched == len(CONFIG) + len(WEIGHTS)


async def test_a_damaged_layer_never_becomes_a_model(origin: Origin, tmp_path: Path) -> None:
    """The manifest comes last: a server sees the whole model or none."""
    origin.files[f"/blobs/{named(WEIGHTS)}"] = b"x" * len(WEIGHTS)
    with pytest.raises(SourceError, match="checksum"):
        await pull(origin, tmp_path)
    assert not (tmp_path / "manifests").exists()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("llama2", "manifests/registry.ollama.ai/library/llama2/latest"),
        ("codellama:13b", "manifests/registry.ollama.ai/library/codellama/13b"),
        ("somebody/model:q4", "manifests/registry.ollama.ai/somebody/model/q4"),
        ("hf.co/somebody/model-GGUF:Q4_K_M", "manifests/hf.co/somebody/model-GGUF/Q4_K_M"),
    ],
)
def test_names_are_ollamas(text: str, path: str) -> None:
    """As people type them."""
    assert registry.parse(text).manifest == path


@pytest.mark.parametrize("text", ["", "a b", "../../etc/passwd", "a/b/c/d", "x:y:z"])
def test_no_name_leads_out_of_the_folder(text: str) -> None:
    """A name comes from a configuration or a request, and becomes a path."""
    with pytest.raises(SourceError):
        registry.parse(text)


async def test_a_model_that_does_not_exist_is_said_so(origin: Origin, tmp_path: Path) -> None:
    """Not a network problem, so nobody tries again for an hour."""
    with pytest.raises(SourceError) as caught:
        await pull(origin, tmp_path, "llama3.2:99b")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND
    origin.files["/manifests/99b"] = b'{"layers": [{"digest": "md5:1", "size": 1}], "config": {"digest": "md5:1", "size": 1}}'
    with pytest.raises(SourceError, match="SHA-256"):
        await pull(origin, tmp_path, "llama3.2:99b")


async def test_a_mirror_has_ollamas_own_folder(tmp_path: Path) -> None:
    """`aws s3 sync` of an Ollama's folder is all that a person needs to do."""
    objects = {f"ollama/blobs/{named(data).replace(':', '-')}": data for data in (CONFIG, WEIGHTS)}
    bucket = Bucket({"ollama/manifests/registry.ollama.ai/library/llama3.2/3b": MANIFEST, **objects})
    assert (await pull(None, tmp_path, mirror=bucket)).fetched == len(CONFIG) + len(WEIGHTS)
    for name in objects:
        bucket.objects[name] = b"x"
    with pytest.raises(SourceError, match="damaged"):
        await pull(None, tmp_path / "other", mirror=bucket)

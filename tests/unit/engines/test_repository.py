"""`engines.sources.repository`: a whole model in the layout of the hub's cache, against a pretended hub and a pretended mirror."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources import repository
from lamplighter.engines.sources.repository import Pulled, located
from tests.unit.engines.origin import Origin

COMMIT = "c0ffee" + "0" * 34
OLD = "0ddba11" + "0" * 33


class Hub(Origin):
    """The routes of the hub that a whole model needs. A small file is known by git's hash, a large one by its SHA-256."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: list[dict[str, Any]] = []

    async def __aenter__(self) -> "Hub":
        await super().__aenter__()
        return self

    def add(self, name: str, content: bytes, *, large: bool = False) -> None:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git}
        if large:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        self.tree.append(entry)
        for commit in (COMMIT, OLD):
            self.files[f"/a/b/resolve/{commit}/{name}"] = content
            self.json(f"/api/models/a/b/tree/{commit}", self.tree)
        self.json("/api/models/a/b", {"id": "a/b", "sha": COMMIT, "siblings": []})
        self.json("/api/models/a/b/revision/v1", {"id": "a/b", "sha": OLD, "siblings": []})
        self.json(f"/api/models/a/b/revision/{COMMIT}", {"id": "a/b", "sha": COMMIT, "siblings": []})

    def json(self, path: str, value: object) -> None:
        self.files[path] = json.dumps(value).encode()
        self.types[path] = "application/json"

    def model(self) -> None:
        """What a repository for vLLM looks like, with what nobody should download."""
        self.add("config.json", b'{"model_type": "llama"}')
        self.add("tokenizer.json", b"{}")
        self.add("model-00001-of-00002.safetensors", b"first" * 1000, large=True)
        self.add("model-00002-of-00002.safetensors", b"second" * 1000, large=True)
        self.add("pytorch_model.bin", b"the same again", large=True)
        self.add("original/consolidated.00.pth", b"and again", large=True)
        self.add("onnx/model.onnx", b"and again", large=True)
        self.add("README.md", b"# words")


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as server:
        server.model()
        yield server


async def pull(hub: Hub | None, cache: Path, told: list[tuple[int, int | None]] | None = None, **options: Any) -> Pulled:
    def progress(done: int, total: int | None) -> None:
        if told is not None:
            told.append((done, total))

    endpoint = hub.url if hub is not None else "http://127.0.0.1:9"
    return await asyncio.to_thread(repository.pull, "a/b", cache, progress, endpoint=endpoint, **options)


def downloads(hub: Hub) -> list[str]:
    return [request.path.rpartition("/")[2] for request in hub.seen if "/resolve/" in request.path]


async def test_what_vllm_loads_comes_in_the_hubs_own_layout(hub: Hub, tmp_path: Path) -> None:
    """vLLM looks for exactly these names; a second copy in another format would double the download."""
    told: list[tuple[int, int | None]] = []
    found = await pull(hub, tmp_path, told)
    base = tmp_path / "models--a--b"
    assert (base / "refs" / "main").read_text() == COMMIT
    assert found.folder == base / "snapshots" / COMMIT
    names = sorted(path.name for path in found.folder.iterdir())
    assert names == [
        "README.md",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
    ]
    shard = found.folder / "model-00001-of-00002.safetensors"
    assert shard.is_symlink()
    assert shard.resolve().name == hashlib.sha256(b"first" * 1000).hexdigest()
    assert shard.read_bytes() == b"first" * 1000
    assert told[-1] == (found.size, found.size)
    assert found.unverified == ()
    assert list(base.rglob("*.part")) == []


async def test_the_hubs_own_library_finds_it_without_a_network(hub: Hub, tmp_path: Path) -> None:
    """The layout is somebody else's: whether it is right, only that library can tell."""
    from huggingface_hub import try_to_load_from_cache

    found = await pull(hub, tmp_path)
    for name in ("config.json", "model-00002-of-00002.safetensors"):
        assert try_to_load_from_cache("a/b", name, cache_dir=tmp_path) == str(found.folder / name)


async def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    """An init container runs at every start of a pod."""
    await pull(hub, tmp_path)
    hub.seen.clear()
    again = await pull(hub, tmp_path)
    assert again.fetched == 0
    assert downloads(hub) == []


async def test_a_pinned_model_that_is_there_needs_nobody(hub: Hub, tmp_path: Path) -> None:
    """A pod must start although the hub is down: a commit never changes."""
    await pull(hub, tmp_path, revision=COMMIT)
    hub.seen.clear()
    assert (await pull(hub, tmp_path, revision=COMMIT)).commit == COMMIT
    assert hub.seen == []
    assert located("a/b", tmp_path, COMMIT) is not None


async def test_a_branch_that_was_pulled_serves_while_the_hub_is_away(hub: Hub, tmp_path: Path) -> None:
    """What is complete here is better than a pod that does not start."""
    await pull(hub, tmp_path)
    assert (await pull(None, tmp_path)).commit == COMMIT
    with pytest.raises(SourceError) as caught:
        await pull(None, tmp_path / "elsewhere")
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED


async def test_a_revision_is_another_snapshot(hub: Hub, tmp_path: Path) -> None:
    """A canary and the stable model share one volume."""
    first, second = await pull(hub, tmp_path), await pull(hub, tmp_path, revision="v1")
    assert (first.commit, second.commit) == (COMMIT, OLD)
    assert (tmp_path / "models--a--b" / "refs" / "v1").read_text() == OLD


async def test_an_interrupted_pull_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    """A pod that was evicted at 60 of 140 GB must not begin again, and until it is whole no engine may see the model."""

    class Evicted(Exception):
        pass

    def evict(done: int, _total: int | None) -> None:
        if done > 200_000:
            raise Evicted

    hub.add("model-00003-of-00003.safetensors", b"large" * 100_000, large=True)
    with pytest.raises(Evicted):
        await asyncio.to_thread(repository.pull, "a/b", tmp_path, evict, endpoint=hub.url)
    assert not (tmp_path / "models--a--b" / "refs").exists()
    assert located("a/b", tmp_path) is None
    hub.seen.clear()
    found = await pull(hub, tmp_path)
    ranges = [request.headers.get("range") for request in hub.seen if request.headers.get("range")]
    assert ranges, "it began again from the start"
    assert (found.folder / "model-00001-of-00002.safetensors").read_bytes() == b"first" * 1000


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "config.json"])
async def test_what_was_changed_on_the_way_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    """A proxy's error page, or worse, in place of weights: small files are checked, too."""
    hub.files[f"/a/b/resolve/{COMMIT}/{name}"] = b"x" * len(hub.files[f"/a/b/resolve/{COMMIT}/{name}"])
    with pytest.raises(SourceError):
        await pull(hub, tmp_path)
    assert located("a/b", tmp_path) is None


async def test_what_was_damaged_here_is_found_and_fetched_again_when_asked(hub: Hub, tmp_path: Path) -> None:
    """A volume that lost a block: `--force` checks every byte."""
    found = await pull(hub, tmp_path)
    shard = (found.folder / "model-00001-of-00002.safetensors").resolve()
    shard.write_bytes(b"y" * shard.stat().st_size)
    assert (await pull(hub, tmp_path)).fetched == 0, "sizes alone tell nothing"
    assert (await pull(hub, tmp_path, verify=True)).fetched == 5000
    assert (found.folder / "model-00001-of-00002.safetensors").read_bytes() == b"first" * 1000


async def test_one_file_of_many_for_llama_cpp(hub: Hub, tmp_path: Path) -> None:
    """A repository of GGUF files has twenty versions of one model."""
    hub.tree.clear()
    for name in ("x-Q4_K_M.gguf", "x-Q8_0.gguf", "y-00001-of-00002.gguf", "y-00002-of-00002.gguf"):
        hub.add(name, name.encode(), large=True)
    assert (await pull(hub, tmp_path, gguf=True)).files == 1
    assert (await pull(hub, tmp_path, file="y-00001-of-00002.gguf")).files == 2
    with pytest.raises(SourceError, match="nope"):
        await pull(hub, tmp_path, file="nope.gguf")
    with pytest.raises(SourceError, match="weights"):
        await pull(hub, tmp_path)


async def test_a_file_system_without_links_gets_the_files_themselves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes over SMB and S3 know none."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    found = await pull(hub, tmp_path)
    path = found.folder / "config.json"
    assert path.is_file()
    assert not path.is_symlink()
    assert (await pull(hub, tmp_path)).fetched == 0


async def test_a_full_disk_is_said_before_anything_is_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a model on a full volume helps nobody."""
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(SourceError) as caught:
        await pull(hub, tmp_path)
    assert caught.value.reason is WakeFailure.DISK_FULL
    assert downloads(hub) == []


async def test_a_revision_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    """A typo in a tag must not look like a missing model."""
    with pytest.raises(SourceError) as caught:
        await pull(hub, tmp_path, revision="v9")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND


@dataclass(frozen=True)
class Object:
    size: int
    sha256: str | None = None
    md5: str | None = None


@dataclass
class Bucket:
    """A mirror in memory."""

    objects: dict[str, bytes]
    known: dict[str, Object] = field(default_factory=dict)
    address: str = "s3://bucket/models"

    def entries(self, folder: str) -> Mapping[str, Object]:
        inside = {name.removeprefix(f"{folder}/"): data for name, data in self.objects.items() if name.startswith(f"{folder}/")}
        return {name: self.known.get(name, Object(len(data))) for name, data in inside.items()}

    def read(self, name: str) -> bytes:
        return self.objects[name]

    def download(self, name: str, part: Path, progress: Callable[[int], None]) -> None:
        have = part.stat().st_size if part.exists() else 0
        with part.open("ab") as file:
            file.write(self.objects[name][have:])
        progress(len(self.objects[name]))


async def test_a_mirror_with_sums_is_checked_by_them(tmp_path: Path) -> None:
    """A company's own bucket: no hub is asked, and a damaged object is refused."""
    weights, config = b"weights" * 100, b"{}"
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  ./{name}\n" for name, data in (("m.safetensors", weights), ("config.json", config))
    )
    bucket = Bucket({"a/b/m.safetensors": weights, "a/b/config.json": config, "a/b/SHA256SUMS": sums.encode()})
    found = await pull(None, tmp_path, mirror=bucket)
    assert found.unverified == ()
    assert sorted(path.name for path in found.folder.iterdir()) == ["config.json", "m.safetensors"]
    assert (tmp_path / "models--a--b" / "refs" / "main").read_text() == found.commit
    bucket.objects["a/b/m.safetensors"] = b"damaged" * 100
    with pytest.raises(SourceError, match="checksum") as caught:
        await pull(None, tmp_path / "other", mirror=bucket)
    assert caught.value.reason is WakeFailure.MODEL_CORRUPT


async def test_a_mirror_without_sums_says_what_could_not_be_checked(tmp_path: Path) -> None:
    """Silence would look like a check."""
    bucket = Bucket(
        {"a/b/m.safetensors": b"w", "a/b/config.json": b"{}"},
        {"config.json": Object(2, md5=hashlib.md5(b"{}", usedforsecurity=False).hexdigest())},
    )
    assert (await pull(None, tmp_path, mirror=bucket)).unverified == ("m.safetensors",)


async def test_a_pinned_model_has_its_own_folder_in_a_mirror(tmp_path: Path) -> None:
    """The folder of the main branch may be of another version."""
    bucket = Bucket({"a/b@v1/m.safetensors": b"old", "a/b/m.safetensors": b"new"})
    found = await pull(None, tmp_path, mirror=bucket, revision="v1")
    assert (found.folder / "m.safetensors").read_bytes() == b"old"
    with pytest.raises(SourceError, match="a/b@v2"):
        await pull(None, tmp_path, mirror=bucket, revision="v2")


async def test_a_part_of_another_version_does_not_spoil_a_mirrors_file(tmp_path: Path) -> None:
    """What an earlier pod left may be the beginning of something else: once more from the start."""
    data = b"weights" * 100
    digest = hashlib.sha256(data).hexdigest()
    bucket = Bucket({"a/b/m.safetensors": data}, {"m.safetensors": Object(len(data), digest)})
    part = tmp_path / "models--a--b" / "blobs" / f"{digest}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    assert ((await pull(None, tmp_path, mirror=bucket)).folder / "m.safetensors").read_bytes() == data

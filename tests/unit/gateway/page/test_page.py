"""The built page is served as browsers want it, and nothing else of the disk ever is."""

import gzip
from pathlib import Path

import httpx
import pytest

from lamplighter.gateway.page import Page, build_page

SCRIPT = "console.log('lit');\n" * 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A built page, with things around it that must not be served."""
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html><title>Lamp</title>")
    (page / "assets" / "index-abc123.js").write_text(SCRIPT)
    (page / "assets" / "font-1.woff2").write_bytes(b"\0" * 5_000)
    (page / "favicon.svg").write_text("<svg/>")
    (page / ".secret.json").write_text("{}")
    (page / "notes.py").write_text("x = 1")
    (tmp_path / "store.json").write_text("private")
    (page / "link.json").symlink_to(tmp_path / "store.json")
    return page


def client(folder: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(Page(folder)), base_url="http://lamp.test")


async def test_the_page_is_served_under_all_its_addresses(folder: Path) -> None:
    """If this fails, reloading a chat's address shows an error."""
    async with client(folder) as browser:
        for path in ("/", "/index.html", "/c/cht_1", "/login", "/a%2fb"):
            response = await browser.get(path, headers={"accept": "text/html,*/*;q=0.8"})
            assert (response.status_code, response.text) == (200, "<!doctype html><title>Lamp</title>")
            assert response.headers["cache-control"] == "no-cache"
            assert "default-src 'self'" in response.headers["content-security-policy"]
            assert "script-src" not in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["x-frame-options"] == "DENY"


async def test_assets_are_kept_for_ever_and_the_page_is_asked_for(folder: Path) -> None:
    """If this fails, every visit loads everything again, or an update is never seen."""
    async with client(folder) as browser:
        asset = await browser.get("/assets/index-abc123.js")
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert asset.headers["content-type"] == "text/javascript; charset=utf-8"
        index = await browser.get("/")
        for known in (index.headers["etag"], f"W/{index.headers['etag']}", f'"x", {index.headers["etag"]}', "*"):
            unchanged = await browser.get("/", headers={"if-none-match": known})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert (await browser.get("/", headers={"if-none-match": '"old"'})).status_code == 200


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip, br", True),
        ("*", True),
        ("gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.00", False),
        ("br", False),
        ("", False),
    ],
)
async def test_compression_is_what_the_browser_takes(folder: Path, accepts: str, packed: bool) -> None:
    """If this fails, a phone downloads three times as much, or an old client gets bytes it cannot read."""
    async with (
        client(folder) as browser,
        browser.stream("GET", "/assets/index-abc123.js", headers={"accept-encoding": accepts}) as response,
    ):
        body = b"".join([chunk async for chunk in response.aiter_raw()])
    assert (response.headers.get("content-encoding") == "gzip") is packed
    assert (gzip.decompress(body) if packed else body) == SCRIPT.encode()
    assert int(response.headers["content-length"]) == len(body)
    assert response.headers["vary"] == "accept-encoding"


async def test_fonts_are_not_packed_again(folder: Path) -> None:
    """If this fails, time is spent on making files larger."""
    async with client(folder) as browser:
        font = await browser.get("/assets/font-1.woff2")
        assert font.headers["content-type"] == "font/woff2"
        assert "content-encoding" not in font.headers


async def test_head_and_other_methods(folder: Path) -> None:
    """If this fails, monitors and link previews get errors, or a POST looks successful."""
    async with client(folder) as browser:
        head = await browser.head("/")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len("<!doctype html><title>Lamp</title>")
        posted = await browser.post("/")
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
        assert posted.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/../store.json", "/..%2fstore.json", "/%2e%2e/store.json", "/assets/../../store.json", "//etc/passwd", "/link.json",
        "/.secret.json", "/notes.py", "/assets/missing.js", "/assets/", "/favicon.svg/",
    ],
)  # fmt: skip
async def test_nothing_else_is_ever_served(folder: Path, path: str) -> None:
    """If this fails, strangers read files of this machine."""
    app = Page(folder)
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    decoded = httpx.URL(f"http://x{path}").path if path != "//etc/passwd" else path
    for raw in {path, decoded}:
        sent.clear()
        scope = {"type": "http", "method": "GET", "path": raw, "headers": [(b"accept", b"application/json")]}
        await app(scope, receive, send)  # type: ignore[arg-type] # the plainest transport, which decodes nothing
        assert sent[0]["status"] == 404
        assert b"private" not in sent[1]["body"]  # type: ignore[operator] # always bytes


async def test_without_a_page_people_are_told_how_to_build_it(tmp_path: Path) -> None:
    """If this fails, a person who runs from the sources sees a bare error."""
    async with client(tmp_path / "nothing") as browser:
        shown = await browser.get("/", headers={"accept": "text/html"})
        assert shown.status_code == 503
        assert "make setup" in shown.text
        assert (await browser.get("/x", headers={"accept": "application/json"})).status_code == 404


def test_the_installed_page_can_be_loaded() -> None:
    """If this fails, a build of the page breaks the start of the gateway."""
    assert build_page().built in (True, False)

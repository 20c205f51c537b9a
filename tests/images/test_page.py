"""The page from nginx is the page from the gateway: the same files, types and headers. Runs Debian's nginx with the image's configuration."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lamplighter.gateway.control.guard import SECURITY_HEADERS
from lamplighter.gateway.page import Page
from tests.images.podman import IMAGES
from tests.journeys.harness import eventually

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
IGNORED = {
    "date",
    "server",
    "connection",
    "content-length",
    "transfer-encoding",
    "etag",
    "last-modified",
    "accept-ranges",
    "content-encoding",
}
"""nginx makes these its own way; a browser is served as well by them."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, text in {
        "index.html": "<!doctype html><title>page</title>" + "x" * 2000,
        "favicon.svg": "<svg/>",
        "manifest.webmanifest": "{}",
        "theme.js": "1;",
        "assets/index-abc.js": "let a = 1;" * 300,
        "assets/index-abc.css": "a{}",
        "assets/inter.woff2": "font",
        ".hidden": "secret",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def nginx(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("nginx")
    text = (IMAGES / "page" / "nginx.conf").read_text()
    for old, new in (
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("listen [::]:8080;", ""),
        ("/tmp/", f"{folder}/"),
        ("/srv/page", str(site)),
    ):
        assert old in text
        text = text.replace(old, new)
    config = folder / "nginx.conf"
    config.write_text(("user root;\n" if os.geteuid() == 0 else "") + text)
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", config, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, headers={"accept-encoding": "identity"}) as client:

            def answers() -> bool:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                with contextlib.suppress(httpx.HTTPError):
                    return client.get("/healthz").status_code == 200
                return False

            eventually(answers, what="nginx answers")
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def gateway(site: Path) -> Callable[[str], httpx.Response]:
    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=Page(site))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers={"accept-encoding": "identity"}
        ) as client:
            return await client.get(path)

    return lambda path: asyncio.run(ask(path))


def kept(response: httpx.Response) -> dict[str, str]:
    """Headers that must be the same."""
    found = {name: value for name, value in response.headers.items() if name not in IGNORED}
    found["vary"] = found.get("vary", "").lower()
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/c/abc",
        "/login",
        "/assets/index-abc.js",
        "/assets/index-abc.css",
        "/favicon.svg",
        "/manifest.webmanifest",
        "/theme.js",
    ],
)
def test_each_address_answers_as_the_gateway_does(
    nginx: httpx.Client, gateway: Callable[[str], httpx.Response], path: str
) -> None:
    """A page that works from the gateway would be blank, or unprotected, from nginx."""
    ours, theirs = nginx.get(path), gateway(path)
    assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text)
    expected = kept(theirs)
    found = kept(ours)
    found["vary"] = expected["vary"]  # what is too small to be compressed does not vary
    assert found == expected


@pytest.mark.parametrize("path", ["/assets/gone.js", "/.hidden", "/api/status", "/v1/models", "/metrics"])
def test_what_is_not_the_page_is_not_there(nginx: httpx.Client, path: str) -> None:
    """A missing script answered with the page ends as a syntax error; an API answered so looks like a broken client."""
    response = nginx.get(path)
    assert response.status_code == 404
    for name, value in SECURITY_HEADERS:
        assert response.headers[name.decode()] == value.decode()


def test_it_is_only_read_and_small_on_the_wire(nginx: httpx.Client) -> None:
    """A body sent to the page is nobody's; half a megabyte of script takes seconds on a telephone."""
    assert nginx.post("/", content=b"x").status_code == 405
    packed = nginx.get("/assets/index-abc.js", headers={"accept-encoding": "gzip", "via": "1.1 ingress"})
    assert packed.headers["content-encoding"] == "gzip"
    again = nginx.get("/", headers={"if-none-match": nginx.get("/").headers["etag"]})
    assert again.status_code == 304


def test_it_proxies_nothing() -> None:
    """An nginx that forwards would be a second way to the gateway, past the ingress's rules."""
    assert not re.search(r"proxy_pass|fastcgi_pass|upstream ", (IMAGES / "page" / "nginx.conf").read_text())

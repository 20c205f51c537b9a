"""Serves the built page from memory: read and compressed once, looked up by exact path, so no request ever touches the disk.

Not responsible for building it (`make setup`), nor for `/api` and `/v1`, which never reach this module.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.types import Receive, Scope, Send

from lamplighter.core.errors import RequestError
from lamplighter.gateway.control.guard import SECURITY_HEADERS

FOLDER = Path(__file__).parent.parent / "page"
"""Where the build puts it."""
_INDEX = "/index.html"
_HASHED = "/assets/"
_COMPRESSED_FROM = 1_000
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_PACKED = frozenset({".woff", ".woff2", ".png", ".jpg", ".webp"})

_NOT_BUILT = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Lamplighter</title>
<h1>The page is not built</h1>
<p>The API works. To build the page, run <code>make setup</code> in Lamplighter's folder, then start it again.</p>
</html>
"""

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes | None
    etag: bytes
    headers: tuple[Header, ...]


class Page:
    """The ASGI application of everything that is not an API."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = _read(folder)

    @property
    def built(self) -> bool:
        """Whether there is a page to serve."""
        return _INDEX in self._files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        head = scope["method"] == "HEAD"
        if not head and scope["method"] != "GET":
            await _refuse(send, 405, "method_not_allowed", "The page is only read.", ((b"allow", b"GET, HEAD"),))
            return
        file = self._find(scope["path"], headers)
        if file is None:
            if not self.built and _wants_html(headers):
                body_headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")]
                await _send(send, 503, [*body_headers, *SECURITY_HEADERS], _NOT_BUILT, head=head)
                return
            await _refuse(send, 404, "not_found", "There is nothing here.", head=head)
            return
        if _matches(headers.get(b"if-none-match"), file.etag):
            await _send(send, 304, [*file.headers], b"", head=True)
            return
        if file.packed is not None and _takes_gzip(headers.get(b"accept-encoding", b"")):
            await _send(send, 200, [*file.headers, (b"content-encoding", b"gzip")], file.packed, head=head)
        else:
            await _send(send, 200, [*file.headers], file.body, head=head)

    def _find(self, path: str, headers: dict[bytes, bytes]) -> _File | None:
        if file := self._files.get(_INDEX if path == "/" else path):
            return file
        # The page's own addresses (/c/..., /login) are drawn by its script; a missing file stays missing.
        if "." in path.rpartition("/")[2] or not _wants_html(headers):
            return None
        return self._files.get(_INDEX)


def build_page(folder: Path = FOLDER) -> Page:
    """The page of this installation."""
    return Page(folder)


def _read(folder: Path) -> dict[str, _File]:
    files = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = "/" + path.relative_to(folder).as_posix()
        kind = _TYPES.get(path.suffix)
        if path.is_symlink() or not path.is_file() or kind is None or "/." in name:
            continue
        body = path.read_bytes()
        packed = None
        if path.suffix not in _PACKED and len(body) >= _COMPRESSED_FROM:
            packed = gzip.compress(body, 6, mtime=0)  # level 9: 1 % smaller, three times as long at every start
        etag = b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
        lasting = name.startswith(_HASHED)
        files[name] = _File(
            body,
            packed,
            etag,
            (
                (b"content-type", kind.encode()),
                (b"etag", etag),
                (b"vary", b"accept-encoding"),
                (b"cache-control", b"public, max-age=31536000, immutable" if lasting else b"no-cache"),
                *SECURITY_HEADERS,
            ),
        )
    return files


def _wants_html(headers: dict[bytes, bytes]) -> bool:
    accept = headers.get(b"accept", b"*/*")
    return b"text/html" in accept or b"*/*" in accept


def _takes_gzip(accepted: bytes) -> bool:
    for part in accepted.lower().split(b","):
        name, _, parameters = part.partition(b";")
        if name.strip() in (b"gzip", b"*"):
            return parameters.replace(b" ", b"").rstrip(b"0") not in (b"q=", b"q=0.")
    return False


def _matches(known: bytes | None, etag: bytes) -> bool:
    if known is None:
        return False
    return known.strip() == b"*" or etag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]


async def _refuse(
    send: Send, status: int, code: str, message: str, headers: tuple[Header, ...] = (), *, head: bool = False
) -> None:
    body = msgspec.json.encode(RequestError(message, status=status, code=code).body())
    all_headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), *headers, *SECURITY_HEADERS]
    await _send(send, status, all_headers, body, head=head)


async def _send(send: Send, status: int, headers: list[Header], body: bytes, *, head: bool) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})

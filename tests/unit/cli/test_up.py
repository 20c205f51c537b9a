"""`up` and `dev` as real processes, on pretended models: how they start, refuse to start, end, and come back after `kill -9`."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.operations.client import Client
from lamplighter.operations.datafolder import DataFolder

PATIENCE = 30.0
CONFIG = """
models: {pretended: {engine: fake, pool: cloud}}
pools: {cloud: {kind: fake, stages: {boot: 60s, load: 60s}}}
server: {shutdown_grace: 5s}
"""


def environment(**extra: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LAMPLIGHTER_")}
    return {**plain, "NO_COLOR": "1", **extra}


def as_from_a_terminal() -> None:
    """In the new process: signals as a terminal's shell leaves them. Who runs the tests with `nohup` or in the background ignores some."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def start(*arguments: str | Path, **extra: str) -> subprocess.Popen[str]:
    program = "from lamplighter.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(**extra), start_new_session=True,
        preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - sets signals, nothing else
    )  # fmt: skip


def refused(*arguments: str | Path, **extra: str) -> tuple[int, str]:
    """The exit status and the errors of a start that must fail."""
    process = start(*arguments, **extra)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


class Running:
    """One process that serves, and its folder."""

    def __init__(self, process: subprocess.Popen[str], folder: DataFolder) -> None:
        self.process = process
        self.folder = folder
        self.out = self.err = ""

    def ready(self) -> "Running":
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.end()
                raise AssertionError(f"it ended with {self.process.returncode}: {self.out} {self.err}")
            info = self.folder.read_server()
            if info is not None and info.pid == self.process.pid:
                try:
                    if httpx.get(f"{info.url}/ready").status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
            time.sleep(0.02)
        raise AssertionError("it did not become ready")

    @property
    def url(self) -> str:
        info = self.folder.read_server()
        assert info is not None
        return info.url

    def status(self) -> Any:
        with Client.of_folder(self.folder) as client:
            return client.get("/api/status")

    def until(self, name: str, state: str) -> None:
        end = time.monotonic() + PATIENCE
        while next(model["state"] for model in self.status()["models"] if model["name"] == name) != state:
            assert time.monotonic() < end, f"{name} did not become {state}"
            time.sleep(0.02)

    def end(self, *signals: signal.Signals) -> int:
        """Send `signals`, wait for the end; the exit status. Keeps what was printed."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3 if len(signals) > 1 else 0)
        out, err = self.process.communicate(timeout=PATIENCE)
        self.out += out or ""
        self.err += err or ""
        return self.process.returncode


@contextmanager
def serving(folder: DataFolder, *arguments: str | Path, **extra: str) -> Iterator[Running]:
    process = start(*arguments, "--port", "0", "--data", folder.root, **extra)
    try:
        yield Running(process, folder).ready()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pretended.yaml"
    path.write_text(CONFIG)
    return path


def test_a_first_start_gives_everything_a_newcomer_needs(folder: DataFolder) -> None:
    """A key that works, a link that opens, an answer; and nothing of it is shown again at the second start."""
    with serving(folder, "dev", "--speed", "200") as server:
        url = server.url
        assert server.folder.root.stat().st_mode & 0o777 == 0o700
        assert server.folder.cli_key.stat().st_mode & 0o777 == 0o600
        body = {"model": "quick", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
        key = server.folder.read_cli_key()
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        assert server.end(signal.SIGTERM) == 0
    printed = re.findall(r"^  (lk-\S+)$", server.out, re.MULTILINE)
    assert len(printed) == 1
    link = re.findall(r"#login=(\S+)", server.out)
    assert len(link) == 1
    assert printed[0] not in server.err
    assert link[0] not in server.err
    with serving(folder, "dev", "--speed", "200") as again:
        models = httpx.get(f"{again.url}/v1/models", headers={"authorization": f"Bearer {printed[0]}"})
        assert models.status_code == 200
        opened = httpx.post(f"{again.url}/api/session", json={"login_token": link[0]})
        assert opened.status_code == 200
        assert httpx.post(f"{again.url}/api/session", json={"login_token": link[0]}).status_code == 401
        assert again.folder.read_cli_key() == key
        assert again.end(signal.SIGINT) == 0
    assert "lk-" not in again.out
    assert "#login=" in again.out


def test_a_preset_key_is_used_and_never_printed(folder: DataFolder, config: Path) -> None:
    """In a container the key comes from a secret."""
    with serving(folder, "up", "--config", config, LAMPLIGHTER_ADMIN_KEY="lk-preset-0123456789") as server:
        headers = {"authorization": "Bearer lk-preset-0123456789"}
        assert httpx.get(f"{server.url}/api/status", headers=headers).status_code == 200
        assert server.end(signal.SIGTERM) == 0
    assert "lk-preset" not in server.out + server.err
    assert "shown this once" not in server.out


def test_a_pod_puts_no_login_link_into_its_log(folder: DataFolder, config: Path) -> None:
    """Whoever may read the pods' logs, or the store that collects them, would be an administrator for a quarter of an hour after each start."""
    extra = {"LAMPLIGHTER_ADMIN_KEY": "lk-preset-0123456789", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    with serving(folder, "up", "--config", config, **extra) as server:
        server.end(signal.SIGTERM)
    assert "#login=" not in server.out + server.err
    assert "sign in with a key" in server.out


def test_json_for_log_collectors(folder: DataFolder, config: Path) -> None:
    """Every line of both streams is an object."""
    with serving(folder, "up", "--config", config, "--log-format", "json") as server:
        server.end(signal.SIGTERM)
    for line in (server.out + server.err).splitlines():
        assert isinstance(json.loads(line), dict), line
    assert json.loads(server.out.splitlines()[0])["event"] == "listening"


def test_an_occupied_port_is_status_4(folder: DataFolder, config: Path) -> None:
    """The person learns which port, and how to choose another; nothing of the start stays behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = refused("up", "--config", config, "--port", str(port), "--data", folder.root)
    assert code == 4
    assert f"port {port} on 127.0.0.1 is already in use" in err
    assert "--port" in err
    assert not folder.server.exists()
    assert not folder.store.exists()


def test_a_second_start_on_the_same_folder_is_status_4(folder: DataFolder, config: Path) -> None:
    """Two keepers on one store would fight; the first one is named and goes on."""
    with serving(folder, "up", "--config", config) as server:
        code, err = refused("up", "--config", config, "--port", "0", "--data", folder.root)
        assert code == 4
        assert f"process {server.process.pid}" in err
        assert server.url in err
        assert server.status()["models"]
        assert server.end(signal.SIGTERM) == 0


def test_a_file_instead_of_the_folder_is_status_3(tmp_path: Path, config: Path) -> None:
    """Root may write anywhere, so this stands for every folder that cannot be used."""
    (tmp_path / "file").write_text("")
    code, err = refused("up", "--config", config, "--port", "0", "--data", tmp_path / "file")
    assert code == 3
    assert err.startswith("error: the data folder")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("server: {port: 0}", "server.port"),
        ("pools: {x: {kind: static, url: 'http://x', key: 'env:LAMPLIGHTER_NO_SUCH'}}", "LAMPLIGHTER_NO_SUCH is not set"),
        ("models: {m: {engine: llamacpp, pool: p, source: bundled}}", "there is no pool 'p'"),
    ],
)
def test_a_bad_configuration_is_status_3(folder: DataFolder, config: Path, text: str, says: str) -> None:
    """Found before anything is begun: a typo must not stop at the first request."""
    config.write_text(text)
    code, err = refused("up", "--config", config, "--data", folder.root)
    assert code == 3
    assert says in err
    assert not folder.root.exists()


def test_a_preset_key_that_is_too_short_is_status_3(folder: DataFolder, config: Path) -> None:
    """A guessable key would open the machine to anybody."""
    code, err = refused("up", "--config", config, "--port", "0", "--data", folder.root, LAMPLIGHTER_ADMIN_KEY="short")
    assert code == 3
    assert "16 characters" in err
    assert not folder.server.exists()


def test_a_damaged_store_is_a_sentence(folder: DataFolder, config: Path) -> None:
    """After a bad disk the person learns what is broken."""
    folder.prepare()
    folder.store.write_bytes(b"this is no database" * 500)
    code, err = refused("up", "--config", config, "--port", "0", "--data", folder.root)
    assert code == 1
    assert "store" in err.splitlines()[0]
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_a_wake_ends_at_once_and_cleanly(folder: DataFolder, config: Path, number: signal.Signals) -> None:
    """Stopping must not wait for a machine that takes minutes, nor leave anything behind; who waited is told."""
    with serving(folder, "up", "--config", config) as server:
        body = {"model": "pretended", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"authorization": f"Bearer {folder.read_cli_key()}"}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE) as answer:
            assert answer.status_code == 200
            server.until("pretended", "waking")
            began = time.monotonic()
            server.process.send_signal(number)
            rest = b"".join(answer.iter_bytes())
        assert server.end() == 0
        assert time.monotonic() - began < 5
    assert b'"error"' in rest
    assert b"[DONE]" not in rest
    assert not folder.server.exists()
    assert "Traceback" not in server.err


def test_a_running_answer_may_finish(folder: DataFolder) -> None:
    """SIGTERM is how deployments replace us: an answer under way must reach its end."""
    with serving(folder, "dev", "--speed", "200") as server:
        body = {"model": "quick", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 60}
        headers = {"authorization": f"Bearer {folder.read_cli_key()}"}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE) as answer:
            chunks = answer.iter_bytes()
            while b"content" not in next(chunks):
                pass
            server.process.send_signal(signal.SIGTERM)
            rest = b"".join(chunks)
        assert server.end() == 0
    assert rest.endswith(b"data: [DONE]\n\n")


def test_a_second_signal_ends_at_once(folder: DataFolder) -> None:
    """An impatient person must not need `kill -9`."""
    with serving(folder, "dev", "--speed", "200") as server:
        body = {"model": "quick", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 10_000}
        headers = {"authorization": f"Bearer {folder.read_cli_key()}"}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE) as answer:
            chunks = answer.iter_bytes()
            while b"content" not in next(chunks):
                pass
            assert server.end(signal.SIGINT, signal.SIGINT) == 130


def test_after_kill_9_the_next_start_just_works(folder: DataFolder, config: Path) -> None:
    """No lock to delete, no port that stays taken, no file that misleads."""
    with serving(folder, "up", "--config", config) as server:
        url, port = server.url, server.url.rpartition(":")[2]
        server.process.kill()
        server.end()
    assert folder.server.exists()
    process = start("up", "--config", config, "--port", port, "--data", folder.root)
    try:
        again = Running(process, folder).ready()
        assert again.url == url
        assert again.end(signal.SIGTERM) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_dead_wake_nothing(folder: DataFolder, config: Path) -> None:
    """After `kill -9` in the middle of a wake, the next start would wake the model again although everybody who asked is gone."""
    import sqlite3

    with serving(folder, "up", "--config", config) as server:
        body = {"model": "pretended", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"authorization": f"Bearer {folder.read_cli_key()}"}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE):
            server.until("pretended", "waking")
            server.process.kill()
            server.process.wait(PATIENCE)
    with serving(folder, "up", "--config", config) as again:
        again.until("pretended", "asleep")
        with sqlite3.connect(f"file:{folder.root / 'lamplighter.db'}?mode=ro", uri=True) as connection:
            assert connection.execute("SELECT count(*) FROM events WHERE to_state = 'launching'").fetchone() == (1,)
        connection.close()
        assert again.end(signal.SIGTERM) == 0


def test_a_crash_of_the_keeper_is_survived(folder: DataFolder) -> None:
    """The control plane comes back by itself; the data plane never noticed. Provoked by taking its tables away and giving them back."""
    import sqlite3

    with serving(folder, "dev", "--speed", "200") as server:
        connection = sqlite3.connect(folder.store)
        connection.execute("ALTER TABLE replicas RENAME TO hidden")
        connection.commit()
        time.sleep(0.5)
        connection.execute("ALTER TABLE hidden RENAME TO replicas")
        connection.commit()
        connection.close()
        with Client.of_folder(folder) as client:
            client.post("/api/models/big/wake")
        server.until("big", "awake")
        assert server.end(signal.SIGTERM) == 0


def test_a_closed_terminal_does_not_end_the_server(folder: DataFolder, config: Path) -> None:
    """`lamplighter up | head -1`, or a log disk that is full, must not take the service down."""
    program = "from lamplighter.cli.main import main; main()"
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "up", "--config", config, "--port", "0", "--data", folder.root],
            stdout=full, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:
        assert Running(process, folder).ready().end(signal.SIGTERM) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_end_of_the_terminal_is_no_reason_under_nohup(folder: DataFolder, config: Path) -> None:
    """Whoever starts it with `nohup` wants it to stay."""
    program = "from lamplighter.cli.main import main; main()"
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*ignoring, sys.executable, "-c", program, "up", "--config", config, "--port", "0", "--data", folder.root],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    try:
        server = Running(process, folder).ready()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert server.status()["models"]
        assert server.end(signal.SIGTERM) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def bundled_only(tmp_path: Path) -> Path:
    path = tmp_path / "bundled.yaml"
    path.write_text("models: {small: {engine: llamacpp, pool: here, source: bundled}}\npools: {here: {kind: process}}\n")
    return path


def test_without_a_network_it_serves_and_says_what_to_do(folder: DataFolder, tmp_path: Path) -> None:
    """The page and the API work; the model comes when the network does."""
    with serving(
        folder, "up", "--config", bundled_only(tmp_path), PIP_INDEX_URL="http://127.0.0.1:1/simple", PIP_CONFIG_FILE=os.devnull
    ) as server:
        assert server.status()["models"][0]["state"] == "asleep"
        lines: list[str] = []
        assert server.process.stderr is not None
        while not any("next:" in line for line in lines):
            lines.append(server.process.stderr.readline())
            assert lines[-1], lines
        assert server.end(signal.SIGTERM) == 0
    said = "".join(lines)
    assert "error: " in said
    assert "Traceback" not in said


def test_ctrl_c_during_the_download_ends_at_once(folder: DataFolder, tmp_path: Path) -> None:
    """Nobody waits for a network that hangs, least of all to stop."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        with serving(folder, "up", "--config", bundled_only(tmp_path), PIP_INDEX_URL=index, PIP_CONFIG_FILE=os.devnull) as server:
            silent.settimeout(PATIENCE)
            connection, _ = silent.accept()
            began = time.monotonic()
            assert server.end(signal.SIGINT) == 0
            assert time.monotonic() - began < 5
            connection.close()
    assert "Traceback" not in server.err


def test_ctrl_c_in_a_chat_stops_the_answer_and_not_the_program(folder: DataFolder) -> None:
    """On a real terminal: the engine is free at once, and the talk goes on."""
    import pty

    with serving(folder, "dev", "--speed", "200") as server:
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover - the other process
            as_from_a_terminal()
            program = "from lamplighter.cli.main import main; main()"
            words = ["chat", "--model", "quick", "--data", str(folder.root)]
            os.execve(sys.executable, [sys.executable, "-c", program, *words], environment(TERM="dumb"))  # noqa: S606 - it must be the terminal's own process
        said = b""

        def until(text: bytes) -> None:
            nonlocal said
            end = time.monotonic() + PATIENCE
            while text not in said:
                readable, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
                assert readable, said
                said += os.read(terminal, 65_536)

        until(b"> ")
        os.write(terminal, b"hello\r")
        until(b"lamp is lit")
        os.write(terminal, b"\x03")
        until(b"(stopped)")
        end = time.monotonic() + PATIENCE
        while any(model["in_flight"] for model in server.status()["models"]):
            assert time.monotonic() < end, "the engine is still busy"
            time.sleep(0.02)
        said = b""
        os.write(terminal, b"/models\r")
        until(b"big, quick")
        os.write(terminal, b"/quit\r")
        _, status = os.waitpid(child, 0)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == 0
        assert server.end(signal.SIGTERM) == 0

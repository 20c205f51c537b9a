"""What was used is told by the real program: exactly, after a restart too, and without a word of what was said."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.harness import ADMIN_KEY, PROGRAM, Server, eventually, running

ROOT = Path(__file__).parents[3]
WORDS = 12


@pytest.fixture
def engine() -> Iterator[str]:
    """A pretended engine as a process of its own: its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lamplighter.testing.engine", "--tokens", str(WORDS), "--tokens-per-second", "100"],
        stdout=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)


def config(url: str) -> str:
    return f"models: {{big: {{engine: openai, pool: nas, source: fake}}}}\npools: {{nas: {{kind: static, url: '{url}'}}}}\n"


def ask(lamplighter: Server, *, key: str = ADMIN_KEY, stream: bool = False, said: str = "Say something.") -> None:
    body = {"model": "big", "messages": [{"role": "user", "content": said}], "stream": stream}
    with lamplighter.http() as client:
        client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}).raise_for_status()


def usage(lamplighter: Server, *arguments: str) -> Any:
    done = subprocess.run(
        [PROGRAM, "usage", "--data", lamplighter.data, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_usage_is_told_by_key_model_and_day(server: Callable[..., Server], engine: str) -> None:
    """Whoever pays could not say for whom."""
    with running(server(config(engine))) as lamplighter:
        with lamplighter.http() as client:
            ada = client.post("/api/keys", json={"name": "ada"}).raise_for_status().json()
        ask(lamplighter)
        for _ in range(2):
            ask(lamplighter, key=ada["key"], stream=True)
        by_key = {total["label"]: total for total in usage(lamplighter, "--by", "key")["totals"]}
        assert (by_key["ada"]["requests"], by_key["ada"]["completion_tokens"], by_key["ada"]["estimated"]) == (2, 2 * WORDS, 0)
        (by_model,) = usage(lamplighter, "--by", "model", "--since", "1h")["totals"]
        assert (by_model["name"], by_model["requests"], by_model["completion_tokens"]) == ("big", 3, 3 * WORDS)
        (by_day,) = usage(lamplighter, "--by", "day")["totals"]
        assert by_day["requests"] == 3
        newest, *_ = usage(lamplighter, "--requests", "10")["requests"]
        assert (newest["key"], newest["status"], newest["outcome"]) == ("ada", 200, "ok")
        assert newest["ttft"] is not None
        assert 20 < newest["tokens_per_second"] < 2000
        text = subprocess.run(
            [PROGRAM, "usage", "--data", lamplighter.data, "--by", "key"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "ada" in text


def test_nothing_is_lost_by_a_restart(server: Callable[..., Server], engine: str) -> None:
    """The last requests before every upgrade would be free."""
    lamplighter = server(config(engine))
    with running(lamplighter):
        for _ in range(5):
            ask(lamplighter, stream=True)
        # No waiting: what was answered a moment ago is only in memory when the program is told to end.
    with running(lamplighter):
        (total,) = usage(lamplighter)["totals"]
        assert (total["requests"], total["completion_tokens"]) == (5, 5 * WORDS)


def test_a_kill_loses_a_second_at_the_most(server: Callable[..., Server], engine: str) -> None:
    """A crash would take the day's accounts with it, or leave a store that cannot be opened."""
    lamplighter = server(config(engine)).start()
    for _ in range(3):
        ask(lamplighter)

    def written() -> bool:
        with lamplighter.http() as client:
            return "lamplighter_accounts_waiting 0.0" in client.get("/metrics").text

    eventually(written, what="the accounts are written")
    lamplighter.kill()
    with running(lamplighter):
        (total,) = usage(lamplighter)["totals"]
        assert total["requests"] == 3


def test_no_prompt_and_no_key_is_left_anywhere(server: Callable[..., Server], engine: str) -> None:
    """Whoever reads the log, or a copy of the data folder, would read what people ask."""
    secret = "open-sesame-in-the-prompt"
    with running(server(config(engine), "--log-level", "debug")) as lamplighter:
        for stream in (False, True):
            ask(lamplighter, stream=stream, said=secret)
    for file in [*lamplighter.data.glob("*"), *(lamplighter.data / "run").rglob("*")]:
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            assert secret.encode() not in content, file
            assert b"lamp is lit" not in content, file
            assert ADMIN_KEY.encode() not in content, file

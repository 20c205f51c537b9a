"""An operator: `lamplighter check` against the real server, its first question a wake, with an inference key alone."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.journeys.harness import PROGRAM, Server, running

pytestmark = pytest.mark.model


def run(*arguments: str, url: str, key: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LAMPLIGHTER_URL": url, "LAMPLIGHTER_KEY": key, "NO_COLOR": "1"}
    return subprocess.run(
        [PROGRAM, "check", *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_one_real_question_is_measured(tmp_path: Path, models: object) -> None:
    """What `helm test` and a person behind an ingress run: a wrong exit status would hide an endpoint that does not answer."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "models").symlink_to(str(models))
    with running(
        Server(
            data,
            "models: {small: {engine: llamacpp, pool: here, source: bundled, context: 1024}}\npools: {here: {kind: process}}",
        )
    ) as server:
        with server.http() as client:
            key = client.post("/api/keys", json={"name": "probe"}).raise_for_status().json()["key"]
        first = run("--json", "--max-tokens", "24", url=server.url, key=key)
        assert first.returncode == 0, first.stderr
        told = json.loads(first.stdout)["answers"][0]
        assert told["model"] == "small"
        assert told["woken_for_s"] is not None or told["ttft_s"] < 30
        assert 0 < told["headers_s"] <= told["ttft_s"] <= told["total_s"]
        assert told["tokens_counted"]
        again = run("-n", "2", "--model", "small", url=server.url, key=key)
        assert again.stdout.count("TTFT") == 2
        assert "tokens/s" in again.stdout
        wrong = run(url=server.url, key="lk-wrong")
        assert wrong.returncode == 7
        assert "next:" in wrong.stderr
        assert run("--model", "absent", url=server.url, key=key).returncode == 1
        url = server.url
    assert run(url=url, key=key).returncode == 6

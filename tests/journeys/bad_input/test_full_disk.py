"""A disk that is full: said clearly, survived, and everything goes on when there is room again."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.harness import Server, eventually, running

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
FAKE = (
    "models: {small: {engine: fake, pool: quick}}\npools: {quick: {kind: fake, stages: {load: 10ms}, tokens_per_second: 1000}}\n"
)
REAL = "models: {small: {engine: llamacpp, pool: here, source: bundled}}\npools: {here: {kind: process}}\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB, really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here (needs root): {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_no_room_for_the_model(small_disk: Path) -> None:
    """The download would fill the disk to the last byte and end in a traceback."""
    with running(Server(small_disk / "data", REAL)) as lamplighter, lamplighter.http() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "disk_full"
        assert "MB" in answer.json()["error"]["message"], "it says how much is needed"


def test_the_disk_fills_up_while_it_serves(small_disk: Path) -> None:
    """A log or a download beside it would take the whole service down."""
    with running(Server(small_disk / "data", FAKE)) as lamplighter, lamplighter.http() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as out:
            block = b"\0" * 4096
            try:
                while True:
                    out.write(block)
            except OSError:
                pass
        for _ in range(5):  # an awake model needs no store
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        refused = client.post("/api/keys", json={"name": "x" * 60_000, "admin": False})
        assert refused.status_code in {400, 422, 503, 507}
        assert refused.json()["error"]["message"]
        assert client.get("/health").status_code == 200
        assert lamplighter.process is not None
        assert lamplighter.process.poll() is None
        filler.unlink()
        eventually(
            lambda: client.post("/api/keys", json={"name": "after", "admin": False}).status_code == 201,
            what="it goes on with room again",
        )
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200

"""What the images' small programs do before they become the engine or Lamplighter. Run here as they are, without a container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.podman import IMAGES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def script(tmp_path: Path, name: str, fixed: str) -> Path:
    """The entry point with the one folder that it has at the root of an image moved here."""
    copy = tmp_path / "entrypoint.sh"
    copy.write_text((IMAGES / name / "entrypoint.sh").read_text().replace(f" /{fixed}/", f" {tmp_path}/{fixed}/"))
    return copy


def test_a_baked_model_is_linked_where_the_engine_looks(tmp_path: Path) -> None:
    """The volume at /models hides the weights in the image: the engine would download them again, or fail without a network."""
    baked = tmp_path / "baked" / "models--Qwen--Qwen2.5-0.5B-Instruct" / "snapshots"
    baked.mkdir(parents=True)
    models = tmp_path / "models"
    models.mkdir()
    for _ in range(2):  # a container that starts again finds its own link
        done = subprocess.run(
            ["sh", script(tmp_path, "baked", "baked"), "sh", "-c", "echo became $0", "engine"],
            env={"PATH": os.defpath, "LAMPLIGHTER_MODELS": str(models)},
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        assert done.stdout == "became engine\n"
    assert (models / baked.parent.name).resolve() == baked.parent
    assert [path.name for path in models.iterdir()] == [baked.parent.name]


def test_what_a_volume_has_already_stays(tmp_path: Path) -> None:
    """A volume with the person's own downloads would lose them to a link."""
    name = "models--a--b"
    (tmp_path / "baked" / name).mkdir(parents=True)
    own = tmp_path / "models" / name
    own.mkdir(parents=True)
    subprocess.run(
        ["sh", script(tmp_path, "baked", "baked"), "true"],
        env={"PATH": os.defpath, "LAMPLIGHTER_MODELS": str(own.parent)},
        check=True,
        timeout=10,
    )
    assert not own.is_symlink()


@pytest.mark.parametrize(
    ("words", "where"),
    [(("up", "--host", "0.0.0.0"), "variable"), (("up", "--data", "given", "--host", "0.0.0.0"), "given"), (("status",), None)],
)
def test_a_trial_finds_the_bundled_model_in_its_data_folder(tmp_path: Path, words: tuple[str, ...], where: str | None) -> None:
    """Without it the first chat of a machine without a network ends in a failed download."""
    bundled = tmp_path / "bundled" / "small.gguf"
    bundled.parent.mkdir()
    bundled.write_bytes(b"weights")
    program = tmp_path / "bin" / "lamplighter"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "lamplighter $*"\n')
    program.chmod(0o755)
    words = tuple(str(tmp_path / "given") if word == "given" else word for word in words)
    for _ in range(2):
        done = subprocess.run(
            ["sh", script(tmp_path, "trial", "bundled"), *words],
            env={"PATH": f"{program.parent}:{os.defpath}", "LAMPLIGHTER_DATA": str(tmp_path / "variable")},
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        assert done.stdout == f"lamplighter {' '.join(words)}\n"
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.glob("*/models/bundled/small.gguf")}
    assert found == ({where} if where else set())


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT[:12], COMMIT.upper()])
def test_a_branch_cannot_be_baked(revision: str, tmp_path: Path) -> None:
    """Two images with the same label would hold different weights."""
    command: list[str | Path] = [sys.executable, IMAGES / "baked" / "fetch.py", "owner/model", revision, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "40 hex digits" in done.stderr


@pytest.mark.long
def test_a_model_that_cannot_be_had_is_said_so(tmp_path: Path) -> None:
    """The build would end in a traceback of fifty lines, or bake an empty image."""
    command: list[str | Path] = [sys.executable, IMAGES / "baked" / "fetch.py", "owner/model", COMMIT, tmp_path]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 1
    assert f"fetch: owner/model at {COMMIT}" in done.stderr
    assert "Traceback" not in done.stderr

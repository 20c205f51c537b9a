"""A mesh folder with both authorities, keys that open quickly, and the real `nebula-cert` where it is installed."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys
from lamplighter.mesh.administration import make_authority
from lamplighter.mesh.storage import MeshFolder

PASSPHRASE = "correct horse battery staple"
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _cheap_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 with the least memory: what it costs is tested once."""
    monkeypatch.setattr(keys, "DEFAULT_COST", keys.Argon2(memory=32, iterations=1, lanes=1))


@pytest.fixture
def config() -> MeshConfig:
    """The defaults."""
    return MeshConfig.model_validate({})


@pytest.fixture
def folder(tmp_path: Path, config: MeshConfig) -> MeshFolder:
    """A folder with both authorities, made at NOW."""
    found = MeshFolder(tmp_path / "mesh")
    make_authority(found, config, "online", PASSPHRASE, NOW)
    make_authority(found, config, "offline", PASSPHRASE, NOW)
    return found


NebulaCert = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def nebula_cert() -> NebulaCert:
    """Runs the real program; skips the test where there is none."""
    program = shutil.which("nebula-cert")
    if program is None:
        pytest.skip("nebula-cert is not installed: Debian has it in the package nebula")

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30)

    return run


def printed(nebula_cert: NebulaCert, path: Path) -> dict[str, Any]:
    """What `nebula-cert print -json` says of the first certificate in a file; 1.10 and newer print a list."""
    said = nebula_cert("print", "-json", "-path", path)
    assert said.returncode == 0, said.stdout + said.stderr
    first = json.loads(said.stdout.splitlines()[0])
    found: dict[str, Any] = first[0] if isinstance(first, list) else first
    return found

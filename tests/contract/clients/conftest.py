"""One `lamplighter up` with the real embedded engine for all client libraries, and Node with its packages."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamplighter.engines.sources.fetch import fetch
from tests.journeys.harness import ADMIN_KEY, PATIENCE, Server, running
from tools.build_page import PageError, _node_home

CACHE = Path(__file__).parents[3] / ".cache" / "models"
NODE = Path(__file__).parent / "node"
CONFIG = """
models:
  small: {engine: llamacpp, pool: here, source: bundled, context: 1024}
  scarce: {engine: openai, pool: nowhere, limits: {requests_per_minute: 1}}
pools:
  here: {kind: process}
  nowhere: {kind: static, url: "http://127.0.0.1:9"}
"""


@pytest.fixture(scope="session")
def lamplighter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that all clients talk to. `scarce` answers nothing, and refuses the second request of a minute."""
    fetch("bundled", CACHE, lambda done, total: None)
    data = tmp_path_factory.mktemp("clients") / "data"
    data.mkdir(mode=0o700)
    (data / "models").symlink_to(CACHE)
    with running(Server(data, CONFIG)) as server:
        yield server


@pytest.fixture(scope="session")
def node(lamplighter: Server) -> Callable[[str], None]:
    """Runs one file of `node --test` against the server; its packages are installed first, once for each lock file."""
    try:
        home = _node_home()
    except PageError as error:
        pytest.skip(str(error))
    _install(home)

    def run(name: str) -> None:
        environment = {
            **os.environ,
            "LAMPLIGHTER_URL": lamplighter.url,
            "LAMPLIGHTER_KEY": ADMIN_KEY,
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        done = subprocess.run(
            [str(home / "bin" / "node"), "--test", "--test-reporter=tap", name],
            cwd=NODE, env=environment, capture_output=True, text=True, timeout=4 * PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    return run


def _install(home: Path) -> None:
    wanted = hashlib.sha256(b"".join((NODE / name).read_bytes() for name in ("package.json", "package-lock.json"))).hexdigest()
    stamp = NODE / "node_modules" / ".lamplighter-installed"
    with (CACHE.parent / "node-clients.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # several workers may want it at the same time
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        script = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        environment = {**os.environ, "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        done = subprocess.run(
            [str(home / "bin" / "node"), str(script), "ci", "--ignore-scripts", "--loglevel=error"],
            cwd=NODE, env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            pytest.skip(f"npm could not install the client libraries: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted)

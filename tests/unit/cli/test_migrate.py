"""`lamplighter migrate`: the step before an update, on a real PostgreSQL."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
from typer.testing import CliRunner, Result

from lamplighter.cli import migrate
from lamplighter.cli.invocation import Invocation
from lamplighter.core.errors import ConfigError
from lamplighter.store.migrate import newest
from tests.services import Postgres

FILE = "store: {url: env:DATABASE_URL}\n"


def _run(*words: str) -> Result:
    app = typer.Typer()
    migrate.register(app)
    return CliRunner().invoke(app, list(words), obj=Invocation(), catch_exceptions=False)


def test_an_empty_database_gets_the_newest_schema(
    shared_postgres: Postgres, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pod of an update would else change the schema under the feet of those that still run the old program."""
    config = tmp_path / "lamplighter.yaml"
    config.write_text(FILE, encoding="utf-8")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    for _ in range(2):  # and a second time, as a Job that is tried again
        done = _run("--config", str(config), "--data", str(tmp_path / "data"), "--json")
        assert json.loads(done.stdout) == {"schema": newest()}
    database = urlsplit(postgres_url).path.strip("/")
    assert shared_postgres.query("SELECT version_num FROM alembic_version", database) == [(newest(),)]


def test_sqlite_needs_no_step_before(tmp_path: Path) -> None:
    """Who runs it by mistake learns that nothing was done."""
    with pytest.raises(ConfigError, match="nothing to migrate ahead"):
        _run("--config", str(_empty(tmp_path)), "--data", str(tmp_path))


def _empty(folder: Path) -> Path:
    path = folder / "lamplighter.yaml"
    path.write_text("{}\n", encoding="utf-8")
    return path

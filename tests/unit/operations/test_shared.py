"""The doctor and the services that several gateways share: real PostgreSQL, real Redis."""

import asyncio
from pathlib import Path

import pytest

from lamplighter.core.clock import SystemClock
from lamplighter.core.findings import Finding, Verdict
from lamplighter.operations.datafolder import DataFolder
from lamplighter.operations.doctor import examine
from lamplighter.store import principals
from lamplighter.store.postgres import Access
from lamplighter.store.store import Store


def found(tmp_path: Path, config: str) -> dict[str, Finding]:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    path = tmp_path / "lamplighter.yaml"
    path.write_text(f"server: {{port: 39999}}\n{config}")
    return {finding.name: finding for finding in examine(folder, path, {})}


def test_postgresql_is_looked_at_and_not_changed(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs several gateways would be told of an SQLite file that nobody uses."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    config = "store: {url: env:DATABASE_URL}\n"
    empty = found(tmp_path, config)["store"]
    assert (empty.verdict, "empty" in empty.message) == (Verdict.OK, True)
    assert "empty" in found(tmp_path, config)["store"].message  # looking made nothing

    async def begin() -> None:
        store = await Store.connect(Access(url=postgres_url), SystemClock())
        await principals.ensure_first_key(store)
        await store.close()

    asyncio.run(begin())
    used = found(tmp_path, config)
    assert used["store"].verdict is Verdict.OK
    assert "sound" in used["store"].message
    assert used["keys"].message == "1 admin key"


def test_a_database_that_is_gone_is_a_failure_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 3 a.m. the doctor must name the part that fails, and its words end in tickets."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hush-hush@127.0.0.1:1/nowhere")
    gone = found(tmp_path, "store: {url: env:DATABASE_URL}\n")["store"]
    assert gone.verdict is Verdict.FAIL
    assert "hush" not in gone.message + gone.next_step
    assert gone.next_step


def test_redis_is_asked(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits would be counted by each gateway alone, and nobody would know why."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert found(tmp_path, "redis: {url: env:REDIS_URL}\n")["redis"].verdict is Verdict.OK
    gone = found(tmp_path, "redis: {url: 'redis://127.0.0.1:1/0'}\n")["redis"]
    assert gone.verdict is Verdict.FAIL
    assert "redis-gone" in gone.next_step
    assert "redis" not in found(tmp_path, "")

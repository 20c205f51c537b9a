"""Secrets come by reference, are resolved when used, and what is missing is said before anything starts."""

from pathlib import Path

import pytest

from lamplighter.config import parse
from lamplighter.config.secrets import ADMIN_KEY, admin_key, check, resolve
from lamplighter.core.errors import ConfigError


def test_a_variable_and_a_file_are_read_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated secret counts at its next use; an editor's final newline is no part of it."""
    monkeypatch.setenv("LAMPLIGHTER_TEST_SECRET", "one")
    assert resolve("env:LAMPLIGHTER_TEST_SECRET") == "one"
    monkeypatch.setenv("LAMPLIGHTER_TEST_SECRET", "two")
    assert resolve("env:LAMPLIGHTER_TEST_SECRET") == "two"
    (tmp_path / "secret").write_text("three\n")
    assert resolve(f"file:{tmp_path / 'secret'}") == "three"


@pytest.mark.parametrize(
    "reference", ["env:LAMPLIGHTER_TEST_NO_SUCH", "file:/no/such/file", "file:/", "file:{empty}", "file:{binary}"]
)
def test_a_missing_secret_is_a_sentence_with_its_setting(tmp_path: Path, reference: str) -> None:
    """An empty key would be sent to a server that then refuses everything."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        resolve(reference.format(empty=tmp_path / "empty", binary=tmp_path / "binary"), where="pools.x.key")
    assert caught.value.where == "pools.x.key"


def test_all_missing_secrets_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to start three times to learn of three variables."""
    config = parse(
        "pools:\n  a: {kind: static, url: 'http://a', key: 'env:LAMPLIGHTER_TEST_A'}\n"
        "  b: {kind: static, url: 'http://b', key: 'env:LAMPLIGHTER_TEST_B'}\n  c: {kind: static, url: 'http://c'}\n"
    )
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert len(caught.value.message.splitlines()) == 2
    monkeypatch.setenv("LAMPLIGHTER_TEST_A", "x")
    monkeypatch.setenv("LAMPLIGHTER_TEST_B", "x")
    check(config)


def test_a_secret_is_never_part_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """`config show`, logs and errors print the tree."""
    monkeypatch.setenv("LAMPLIGHTER_TEST_A", "the-secret")
    config = parse("pools: {a: {kind: static, url: 'http://a', key: 'env:LAMPLIGHTER_TEST_A'}}")
    assert "the-secret" not in repr(config) + str(config.model_dump())


def test_the_preset_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is none: compose files often pass one."""
    monkeypatch.delenv(ADMIN_KEY, raising=False)
    assert admin_key() is None
    monkeypatch.setenv(ADMIN_KEY, "  ")
    assert admin_key() is None
    monkeypatch.setenv(ADMIN_KEY, "lk-x\n")
    assert admin_key() == "lk-x"

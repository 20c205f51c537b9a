"""The generated references are those of this very code, and the check that says so can fail."""

from pathlib import Path

import pytest

from tools import generate_docs


@pytest.mark.parametrize("name", generate_docs.GENERATED)
def test_a_reference_is_up_to_date(name: str) -> None:
    """A reference that describes another version misleads; `make docs` writes it anew."""
    assert (generate_docs.REFERENCE / name).read_text(encoding="utf-8") == generate_docs.GENERATED[name]()


@pytest.mark.parametrize("name", generate_docs.GENERATED)
def test_generating_twice_gives_the_same(name: str) -> None:
    """Otherwise the check would fail on another machine, or tomorrow."""
    assert generate_docs.GENERATED[name]() == generate_docs.GENERATED[name]()


def test_the_check_sees_what_is_missing_and_what_is_old(tmp_path: Path) -> None:
    """A check that never fails protects nothing."""
    assert generate_docs.stale(tmp_path) == list(generate_docs.GENERATED)
    assert generate_docs.write(tmp_path) == list(generate_docs.GENERATED)
    assert generate_docs.stale(tmp_path) == []
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    assert generate_docs.stale(tmp_path) == ["cli.md"]
    assert generate_docs.write(tmp_path) == ["cli.md"]


def test_wrong_arguments_are_refused() -> None:
    """`--chek` must not write."""
    assert generate_docs.main(["--chek"]) == 2

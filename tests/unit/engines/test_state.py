"""`engines.state`."""

import stat
from pathlib import Path

import pytest

from lamplighter.engines.state import SPEC, STATE, ProcessState, Spec, StageState, claim, replace_file, touch


def a_spec() -> Spec:
    return Spec("prc_1", "ins_1", "here", "small", "/models", 12.5, key="secret", config={"context": 4096})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A new keeper could not adopt what the one before it started."""
    spec = a_spec()
    spec.write(tmp_path)
    assert Spec.read(tmp_path) == spec
    state = ProcessState(1, 2.0, url="http://127.0.0.1:1", stages=(StageState("load", 3.0, 4.0, 1.0, "x"),), exit=-9)
    state.write(tmp_path)
    assert ProcessState.read(tmp_path) == state


def test_the_key_is_for_the_owner_alone(tmp_path: Path) -> None:
    """Other users of the machine could read the engine's key and use it."""
    a_spec().write(tmp_path)
    assert stat.S_IMODE((tmp_path / SPEC).stat().st_mode) == 0o600
    assert "secret" not in repr(a_spec())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1}', '{"version": 1, "stages": [{"x": 1}]}'])
def test_half_written_or_foreign_files_are_nothing(tmp_path: Path, content: str) -> None:
    """A crash between two writes would stop the keeper for ever."""
    (tmp_path / SPEC).write_text(content)
    (tmp_path / STATE).write_text(content)
    assert Spec.read(tmp_path) is None
    assert ProcessState.read(tmp_path) is None


def test_a_failed_write_leaves_the_old_and_no_litter(tmp_path: Path) -> None:
    """A full disk would corrupt the state that it was to replace."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_one_claims(tmp_path: Path) -> None:
    """A slow process and a provider that gave it up would both go on: an engine that nobody knows."""
    assert claim(tmp_path, "one")
    assert claim(tmp_path, "one")
    assert not claim(tmp_path, "two")
    assert not claim(tmp_path / "vanished", "one")


def test_touch_sets_the_time(tmp_path: Path) -> None:
    """Leases are times of files."""
    touch(tmp_path / "lease", 1000.0)
    assert (tmp_path / "lease").stat().st_mtime == 1000.0

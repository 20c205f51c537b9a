"""`engines.sources.files`."""

from pathlib import Path

import pytest

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sources.files import BUNDLED_FILE, CHOICE, Kind, Source, locate, parse, parts


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("bundled", Source(Kind.BUNDLED)),
        ("hf:Qwen/Qwen3-0.6B-GGUF", Source(Kind.HUB, "Qwen/Qwen3-0.6B-GGUF")),
        ("hf:a/b:sub/dir/x-Q4_0.gguf", Source(Kind.HUB, "a/b", "sub/dir/x-Q4_0.gguf")),
        ("file:/models/x.gguf", Source(Kind.FILE, path=Path("/models/x.gguf"))),
        ("file:~/x.gguf", Source(Kind.FILE, path=Path("~/x.gguf").expanduser())),
        ("catalogue:smollm2-135m", Source(Kind.BUNDLED)),
    ],
)
def test_sources_are_understood(text: str, source: Source) -> None:
    """A model of the configuration could not be loaded."""
    assert parse(text) == source


@pytest.mark.parametrize(
    "text",
    ["", "Bundled", "hf:", "hf:one", "hf:a/b/c", "hf:a/../b", "hf:a/b:x.bin", "hf:a/b:../../x.gguf", "file:x.gguf", "file:", "s3:x", "catalogue:no"],
)  # fmt: skip
def test_what_is_no_source_is_explained(text: str) -> None:
    """A typing error would read like a network failure, or a path would lead out of the models' folder."""
    with pytest.raises(SourceError) as caught:
        parse(text)
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND
    assert caught.value.next_step


def test_a_model_is_here_only_when_all_of_it_is(tmp_path: Path) -> None:
    """An interrupted download of a split model would be loaded and fail."""
    source = parse("hf:a/b:x-00001-of-00002.gguf")
    folder = tmp_path / "hf" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x-00001-of-00002.gguf").write_text("")
    assert locate(source, tmp_path) is None
    (folder / "x-00002-of-00002.gguf").write_text("")
    assert locate(source, tmp_path) == folder / "x-00001-of-00002.gguf"
    assert len(parts(folder / "x-00001-of-00002.gguf")) == 2


def test_a_choice_made_once_holds_without_a_network(tmp_path: Path) -> None:
    """`hf:OWNER/REPO` would ask the hub at every wake, and not start offline."""
    source = parse("hf:a/b")
    assert locate(source, tmp_path) is None
    folder = tmp_path / "hf" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / CHOICE).write_text("x-Q4_K_M.gguf\n")
    assert locate(source, tmp_path) is None
    (folder / "x-Q4_K_M.gguf").write_text("")
    assert locate(source, tmp_path) == folder / "x-Q4_K_M.gguf"


def test_a_cut_bundled_model_is_not_here(tmp_path: Path) -> None:
    """A crash while unpacking would leave a model that never loads."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / BUNDLED_FILE).write_text("GGUF")
    assert locate(parse("bundled"), tmp_path) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The person would look for a network problem."""
    with pytest.raises(SourceError, match=str(tmp_path)) as caught:
        locate(parse(f"file:{tmp_path}/x.gguf"), tmp_path)
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND

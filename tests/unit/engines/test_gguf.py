"""`engines.llamacpp.gguf`."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.engines.llamacpp import gguf
from tests.unit.engines.ggufs import LLAMA, make


def test_a_whole_model_tells_its_sizes(tmp_path: Path) -> None:
    """Memory would be estimated wrongly: models that fit refused, others killed while they load."""
    header = gguf.read(make(tmp_path / "model.gguf"))
    assert header.architecture == "llama"
    assert header.trained_context == 2048
    assert header.weights == 256
    # 30 layers x 3 heads x (64 + 64) x 2 bytes, per token.
    assert header.cache_bytes(1000) == 1000 * 30 * 3 * 128 * 2


def test_key_and_value_lengths_win_over_the_embedding(tmp_path: Path) -> None:
    """Gemma and Qwen3 state head lengths of their own; without them the estimate is off by a factor."""
    values = {**LLAMA, "llama.attention.key_length": 128, "llama.attention.value_length": 32}
    assert gguf.read(make(tmp_path / "model.gguf", values=values)).cache_bytes(1) == 30 * 3 * 160 * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"GG", "not a GGUF"),
        (b"<html>Access denied</html>", "not a GGUF"),
        (b"GGUF", "damaged"),
        (b"GGUF" + struct.pack("<I", 1) + b"\0" * 100, "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**63), "damaged"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    """A person would read llama.cpp's "failed to load" and not know that the download was an error page."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(gguf.NotAModel, match=says):
        gguf.read(path)


def test_a_file_cut_short_is_named_with_both_sizes(tmp_path: Path) -> None:
    """A full disk or a broken copy leaves such files; llama.cpp crashes on some of them."""
    with pytest.raises(gguf.NotAModel, match="cut short"):
        gguf.read(make(tmp_path / "model.gguf", whole=False))


def test_a_quantised_tensor_counts_its_blocks(tmp_path: Path) -> None:
    """A cut in the last tensor of a quantised model would go unnoticed."""
    path = make(tmp_path / "model.gguf", elements=256, kind=12)  # Q4_K: 144 bytes for 256 elements
    assert gguf.read(path).weights == 144


def test_an_unknown_tensor_type_is_no_damage(tmp_path: Path) -> None:
    """A new quantisation must not be refused by us when llama.cpp knows it."""
    assert gguf.read(make(tmp_path / "model.gguf", kind=99)).architecture == "llama"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """A damaged file would end the engine with a traceback instead of a sentence."""
    path = tmp_path_factory.mktemp("fuzz") / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + content)
    with pytest.raises(gguf.NotAModel):
        gguf.read(path)

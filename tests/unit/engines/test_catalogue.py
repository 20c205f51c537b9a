"""`engines.catalogue`."""

import pytest

from lamplighter.config import ModelConfig
from lamplighter.engines.catalogue import CATALOGUE, catalogue_markdown, suggest, weak_note
from lamplighter.engines.sources.files import Kind, parse

GB = 10**9


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: object) -> None:
    """A person would pull gigabytes of the wrong thing."""
    from lamplighter.engines.catalogue import Entry

    assert isinstance(entry, Entry)
    source = parse(entry.source)
    assert source.kind is Kind.BUNDLED or source.file is not None  # pinned to one file: its size is what we tell
    assert entry.memory_bytes > entry.file_bytes > 0
    assert parse(f"catalogue:{entry.name}") == source
    assert entry.licence in ("Apache-2.0", "MIT") or entry.licence.startswith("LicenseRef-")


def test_a_suggestion_fits_and_grows_with_the_machine() -> None:
    """`up` would recommend what brings the machine to its knees."""
    ranks = []
    for memory, cores in ((4, 2), (8, 4), (16, 8), (32, 8), (64, 16)):
        entry = suggest(memory * GB, cores)
        assert entry is not None
        assert entry.memory_bytes <= memory * GB / 2
        ranks.append(entry.rank)
    assert ranks == sorted(ranks)
    assert suggest(GB, 1) is None


def test_few_cores_get_a_small_model_however_much_memory_there_is() -> None:
    """One token a second is no answer."""
    entry = suggest(256 * GB, 2)
    assert entry is not None
    assert entry.active < 2


def test_only_the_bundled_model_is_called_weak() -> None:
    """The person would think that a good model of theirs is bad, or that the tiny one is all there is."""
    bundled = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled"})
    note = weak_note(bundled, 8 * GB, 4)
    assert note is not None
    assert "\n" not in note
    assert "lamplighter models pull qwen3-4b" in note
    assert "pull" not in str(weak_note(bundled, GB, 1))
    assert weak_note(bundled.model_copy(update={"source": "catalogue:qwen3-4b"}), 8 * GB, 4) is None


def test_the_table_has_every_entry() -> None:
    """The reference would lack a model."""
    lines = [line for line in catalogue_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == len(CATALOGUE) + 2
    assert {line.count("|") for line in lines} == {10}

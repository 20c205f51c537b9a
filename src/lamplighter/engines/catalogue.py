"""A curated dozen of good models for laptops and GPUs, and which of them suits a machine.

Sizes are those of the named files; memory is what the embedded engine asks for with the default settings (two answers at a time of 4096 tokens
each). Not responsible for fetching anything, nor for keeping up with every new model: any other one works as `hf:OWNER/REPO:FILE.gguf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an engine process reads the catalogue too, and must not load the whole configuration for it
    from lamplighter.config import ModelConfig

_DEFAULT_TOKENS = 2 * 4096
_OVERHEAD = 150 * 10**6
_COMFORTABLE = 0.5
"""Share of a machine's memory that a suggested model may take: people have a browser open."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. `parameters` as people write it; `active`: billions of parameters that work on one token, what its speed depends on.

    `file_bytes`: the download. `memory_bytes`: weights, cache and engine with default settings. `context`: tokens it was trained for.
    `licence`: SPDX identifier, or `LicenseRef-...` for a maker's own terms. `rank`: higher answers better; 0 is never suggested.
    """

    name: str
    title: str
    parameters: str
    active: float
    file_bytes: int
    memory_bytes: int
    licence: str
    source: str
    context: int
    good_for: str
    languages: str
    notes: str
    rank: int


def _entry(
    name: str,
    title: str,
    parameters: str,
    active: float,
    file_bytes: int,
    cache_per_token: int,
    licence: str,
    source: str,
    context: int,
    good_for: str,
    languages: str,
    notes: str,
    rank: int,
) -> Entry:
    memory = file_bytes + cache_per_token * _DEFAULT_TOKENS + _OVERHEAD
    return Entry(name, title, parameters, active, file_bytes, memory, licence, source, context, good_for, languages, notes, rank)


# cache_per_token: layers x key-value heads x head length x 2 (key, value) x 2 bytes, from each model's published configuration.
_ENTRIES = (
    _entry("smollm2-135m", "SmolLM2 135M Instruct", "135M", 0.135, 98_362_432, 23_040, "Apache-2.0", "bundled", 8_192,
           "seeing that everything works", "English", "comes with Lamplighter; its answers are weak", 0),
    _entry("qwen3-0.6b", "Qwen3 0.6B", "0.6B", 0.6, 639_446_688, 114_688, "Apache-2.0", "hf:Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf", 32_768,
           "the smallest laptop", "100 languages", "thinks before it answers", 10),
    _entry("gemma-3-1b", "Gemma 3 1B", "1B", 1.0, 806_058_240, 26_624, "LicenseRef-Gemma",
           "hf:ggml-org/gemma-3-1b-it-GGUF:gemma-3-1b-it-Q4_K_M.gguf", 32_768,
           "small laptops, quick answers", "mainly English", "the maker's own terms of use", 15),
    _entry("qwen3-1.7b", "Qwen3 1.7B", "1.7B", 1.7, 1_107_409_472, 114_688, "Apache-2.0",
           "hf:unsloth/Qwen3-1.7B-GGUF:Qwen3-1.7B-Q4_K_M.gguf", 32_768, "laptops with two cores", "100 languages", "thinks before it answers", 20),
    _entry("smollm3-3b", "SmolLM3 3B", "3B", 3.1, 1_915_305_312, 73_728, "Apache-2.0", "hf:ggml-org/SmolLM3-3B-GGUF:SmolLM3-Q4_K_M.gguf", 65_536,
           "laptops", "six European languages", "open data, open training", 30),
    _entry("llama-3.2-3b", "Llama 3.2 3B Instruct", "3.2B", 3.2, 2_019_377_696, 114_688, "LicenseRef-Llama-3.2",
           "hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Llama-3.2-3B-Instruct-Q4_K_M.gguf", 131_072,
           "laptops", "eight languages", "the maker's own terms of use", 28),
    _entry("gemma-3-4b", "Gemma 3 4B", "4B", 3.9, 2_489_757_856, 139_264, "LicenseRef-Gemma",
           "hf:ggml-org/gemma-3-4b-it-GGUF:gemma-3-4b-it-Q4_K_M.gguf", 131_072,
           "laptops, writing", "140 languages", "the maker's own terms of use", 38),
    _entry("qwen3-4b", "Qwen3 4B Instruct 2507", "4B", 4.0, 2_497_281_120, 147_456, "Apache-2.0",
           "hf:unsloth/Qwen3-4B-Instruct-2507-GGUF:Qwen3-4B-Instruct-2507-Q4_K_M.gguf", 262_144,
           "laptops with four cores, tools", "100 languages", "the best of its size; answers at once", 40),
    _entry("phi-4-mini", "Phi-4 mini Instruct", "3.8B", 3.8, 2_491_874_272, 131_072, "MIT",
           "hf:unsloth/Phi-4-mini-instruct-GGUF:Phi-4-mini-instruct-Q4_K_M.gguf", 131_072,
           "laptops, mathematics and logic", "mainly English", "", 36),
    _entry("qwen2.5-coder-7b", "Qwen2.5 Coder 7B Instruct", "7.6B", 7.6, 4_683_073_536, 57_344, "Apache-2.0",
           "hf:Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:qwen2.5-coder-7b-instruct-q4_k_m.gguf", 32_768,
           "programming", "90 programming languages", "", 0),
    _entry("qwen3-8b", "Qwen3 8B", "8B", 8.2, 5_027_783_488, 147_456, "Apache-2.0", "hf:Qwen/Qwen3-8B-GGUF:Qwen3-8B-Q4_K_M.gguf", 32_768,
           "8 cores, or a GPU with 8 GB", "100 languages", "thinks before it answers", 50),
    _entry("ministral-3-8b", "Ministral 3 8B Instruct", "8B", 8.5, 5_198_911_904, 139_264, "Apache-2.0",
           "hf:mistralai/Ministral-3-8B-Instruct-2512-GGUF:Ministral-3-8B-Instruct-2512-Q4_K_M.gguf", 262_144,
           "8 cores, or a GPU with 8 GB", "European and Asian languages", "answers at once", 52),
    _entry("gpt-oss-20b", "gpt-oss 20B", "21B", 3.6, 12_109_566_560, 49_152, "Apache-2.0",
           "hf:ggml-org/gpt-oss-20b-GGUF:gpt-oss-20b-mxfp4.gguf", 131_072,
           "much memory, or a GPU with 16 GB", "mainly English", "mixture of experts: as fast as a 4B", 60),
    _entry("mistral-small-24b", "Mistral Small 3.2 24B", "24B", 24.0, 14_333_922_848, 163_840, "Apache-2.0",
           "hf:unsloth/Mistral-Small-3.2-24B-Instruct-2506-GGUF:Mistral-Small-3.2-24B-Instruct-2506-Q4_K_M.gguf", 131_072,
           "a GPU with 24 GB", "24 languages", "", 65),
    _entry("qwen3-30b-a3b", "Qwen3 30B A3B Instruct 2507", "30B", 3.3, 18_556_686_912, 98_304, "Apache-2.0",
           "hf:unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf", 262_144,
           "much memory, or a GPU with 24 GB", "100 languages", "mixture of experts: as fast as a 4B", 70),
)  # fmt: skip

CATALOGUE = {entry.name: entry for entry in _ENTRIES}
"""All entries by name, small ones first."""


def suggest(memory_bytes: int, cores: int) -> Entry | None:
    """The best model that runs comfortably with so much memory (in all) and so many cores; None when not even the smallest does."""
    fitting = [
        entry
        for entry in _ENTRIES
        if entry.rank and entry.memory_bytes <= memory_bytes * _COMFORTABLE and entry.active <= _fast_enough(cores)
    ]
    return max(fitting, key=lambda entry: entry.rank, default=None)


def _fast_enough(cores: int) -> float:
    """Billions of active parameters with which a CPU still writes about as fast as a person reads (four-bit weights)."""
    if cores <= 2:
        return 1.7
    return 4.0 if cores <= 4 else 8.5 if cores <= 12 else 24.0


def weak_note(model: ModelConfig, memory_bytes: int, cores: int) -> str | None:
    """One line for people who use the bundled model, with the better one for this machine; None for every other model."""
    if model.source not in ("bundled", "catalogue:smollm2-135m"):
        return None
    weak = "This model is tiny (135M parameters): enough to see that everything works, weak as an assistant."
    better = suggest(memory_bytes, cores)
    if better is None:
        return weak
    return f"{weak} {better.title} fits this machine: `lamplighter models pull {better.name}` ({better.file_bytes / 1e9:.1f} GB)."


def catalogue_markdown() -> str:
    """The generated reference `docs/reference/models.md`."""
    lines = [
        "# Models",
        "",
        "A curated dozen, small ones first. `lamplighter models catalogue` marks the one that suits your machine, `lamplighter models pull NAME`",
        "fetches one, and `source: catalogue:NAME` uses it in `lamplighter.yaml`. Any other model in GGUF format works as well: see the",
        "[guide](../guides/models.md).",
        "",
        "*Memory* is what the embedded engine asks for with the default settings: weights, and the cache of two answers at a time with 4096 tokens",
        "each. All sizes are about right, not exact.",
        "",
        "| name | model | parameters | download | memory | licence | good for | languages | notes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{entry.name}` | {_linked(entry)} | {entry.parameters} | {_gigabytes(entry.file_bytes)} | {_gigabytes(entry.memory_bytes)} "
        f"| {entry.licence.removeprefix('LicenseRef-')} | {entry.good_for} | {entry.languages} | {entry.notes} |"
        for entry in _ENTRIES
    ]
    return "\n".join(lines) + "\n"


def _linked(entry: Entry) -> str:
    if not entry.source.startswith("hf:"):
        return entry.title
    return f"[{entry.title}](https://huggingface.co/{entry.source.split(':')[1]})"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

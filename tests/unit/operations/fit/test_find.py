"""Where `lamplighter fit` takes a model's configuration from: a folder, the hub, a GGUF file's beginning, the shipped table."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lamplighter.core.errors import LamplighterError, SourceError
from lamplighter.core.gpus import GPUS
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.sizing import weights
from lamplighter.engines.sizing.known import configuration
from lamplighter.engines.sizing.plan import Machines, Wish
from lamplighter.operations.fit import answer
from lamplighter.operations.fit.find import Found, find
from lamplighter.operations.fit.machines import machines, others
from tests.unit.engines import ggufs
from tests.unit.engines.origin import Origin
from tests.unit.engines.sizing.published import model

NOWHERE = "http://127.0.0.1:9"
SMALL = "meta-llama/Llama-3.2-3B-Instruct"


@pytest.fixture
async def hub() -> AsyncIterator[Origin]:
    async with Origin() as server:
        yield server


async def ask(origin: Origin | None, what: str, **options: Any) -> Found:
    endpoint = origin.url if origin is not None else NOWHERE
    return await asyncio.to_thread(find, what, endpoint=endpoint, **options)


async def test_the_hubs_own_configuration_counts_first(hub: Origin) -> None:
    """A model that its owner changed is sized as it is now, not as it was when we shipped."""
    hub.files[f"/{SMALL}/resolve/main/config.json"] = json.dumps({**configuration(SMALL), "num_hidden_layers": 2}).encode()
    hub.files[f"/{SMALL}/resolve/main/model.safetensors.index.json"] = b'{"metadata": {"total_size": 123}}'
    found = await ask(hub, SMALL)
    assert found.model is not None
    assert found.model.layers == 2
    assert found.checkpoint == 123
    assert found.origin == f"hf:{SMALL}"


async def test_without_a_network_the_shipped_table_answers() -> None:
    """A person on a train, and every test."""
    found = await ask(None, f"hf:{SMALL}")
    assert "table" in found.origin
    assert found.model is not None
    assert weights.parameters(found.model) == 3_212_749_824


async def test_a_gated_model_is_sized_from_the_table(hub: Origin) -> None:
    """Llama's configuration needs an accepted licence, and its size is no secret."""
    hub.statuses = [401]
    assert "table" in (await ask(hub, SMALL)).origin
    hub.statuses = [403]
    with pytest.raises(SourceError) as caught:
        await ask(hub, "somebody/gated")
    assert caught.value.reason is WakeFailure.GATED_MODEL


async def test_an_unknown_model_needs_the_hub(hub: Origin) -> None:
    """And a revision is never taken from the table: it may be another model."""
    with pytest.raises(SourceError) as caught:
        await ask(hub, "somebody/unknown")
    assert caught.value.reason is WakeFailure.MODEL_NOT_FOUND
    with pytest.raises(SourceError, match="table"):
        await ask(None, "somebody/unknown", offline=True)
    with pytest.raises(SourceError):
        await ask(None, SMALL, revision="v2")


async def test_a_single_file_of_weights_is_measured(hub: Origin) -> None:
    """Small models have no index; their size is that of the one file."""
    hub.files["/a/b/resolve/main/config.json"] = json.dumps({**configuration(SMALL), "model_type": "brand_new"}).encode()
    hub.files["/a/b/resolve/main/model.safetensors"] = b"x" * 77
    assert (await ask(hub, "a/b")).checkpoint == 77


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    """A model of one's own that is on no hub."""
    (tmp_path / "config.json").write_text(json.dumps(configuration(SMALL)))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
    found = find(str(tmp_path))
    assert found.checkpoint == 10
    assert found.model == model(SMALL)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match="damaged"):
        find(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(SourceError, match="mamba"):
        find(f"file:{tmp_path}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(SourceError, match=r"config\.json"):
        find(str(tmp_path))
    with pytest.raises(SourceError, match="no folder"):
        find(f"{tmp_path}/nothing")


def test_a_gguf_file_is_sized_by_its_header(tmp_path: Path) -> None:
    """llama.cpp's models carry everything in one file."""
    found = find(str(ggufs.make(tmp_path / "m.gguf")))
    assert found.header is not None
    made = answer.gguf(found, Machines(GPUS["T4"]), Wish())
    assert made["fits"]
    assert made["settings"] == {"context": 2048, "slots": made["parallel"]}
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(SourceError) as caught:
        find(str(broken))
    assert caught.value.reason is WakeFailure.MODEL_CORRUPT


async def test_only_the_beginning_of_a_gguf_on_the_hub_is_fetched(hub: Origin, tmp_path: Path) -> None:
    """Its header is enough: nobody downloads 40 GB to learn that they do not fit."""
    whole = ggufs.make(tmp_path / "m.gguf", elements=10_000).read_bytes()
    hub.files["/a/b/resolve/main/m.gguf"] = whole
    found = await ask(hub, "hf:a/b:m.gguf")
    assert found.header is not None
    assert found.header.weights == 40_000
    with pytest.raises(SourceError) as caught:
        await ask(None, "hf:a/b:m.gguf", offline=True)
    assert "models pull" in caught.value.next_step


def test_a_gguf_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    """llama.cpp reserves the whole cache when it starts."""
    values = {**ggufs.LLAMA, "llama.context_length": 2_000_000, "llama.block_count": 80, "llama.attention.head_count_kv": 9}
    found = find(str(ggufs.make(tmp_path / "m.gguf", values=values)))
    made = answer.gguf(found, Machines(GPUS["T4"]), Wish(context=1_000_000, parallel=4))
    assert not made["fits"]
    assert made["lacks_bytes"] == 4 * 1_000_000 * made["cache"]["bytes_per_token"] - made["memory"]["room"]
    assert made["others"][0]["machine"].startswith("p")
    longest = answer.gguf(found, Machines(GPUS["T4"]), Wish())
    assert longest["context"] % 256 == 0
    assert longest["context"] * longest["cache"]["bytes_per_token"] <= longest["memory"]["room"]


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("g5.12xlarge", "A10G", 4),
        ("A10G", "A10G", 1),
        ("2xL4", "L4", 2),
        ("8 x H100", "H100", 8),
        ("L40S x4", "L40S", 4),
        ("RTX 4090", "RTX4090", 1),
    ],
)
def test_what_people_call_a_gpu(text: str, name: str, count: int) -> None:
    """A machine of AWS, a GPU, or several."""
    found = machines(text)
    assert (found.gpu.name, found.count) == (name, count)


def test_an_unknown_gpu_names_the_known_ones() -> None:
    """A typo is one look away from right."""
    with pytest.raises(LamplighterError) as caught:
        machines("A10000")
    assert "A10G" in caught.value.next_step


def test_what_does_not_fit_is_told_where_it_would() -> None:
    """The next question is always: then what do I rent?"""
    made = answer.vllm(
        Found("x", "here", model=model("meta-llama/Llama-3.3-70B-Instruct")), machines("g5.12xlarge"), Wish(), None
    )
    assert not made["fits"]
    assert made["lacks_bytes"] > 10 * 2**30
    assert [one["quantization"] for one in made["hints"]] == ["fp8", "awq"]
    assert made["others"][0]["machine"] == "g6.48xlarge"
    assert made["flags"] == []


def test_a_model_larger_than_any_machine_gets_several() -> None:
    """DeepSeek in 16 bits: two machines with eight H200, tensor parallel inside and pipeline parallel between them."""
    from dataclasses import replace

    plain = replace(model("deepseek-ai/DeepSeek-V3"), quantization=None)
    name, made = next(others(plain, Wish()))
    assert name.startswith("2 x p")
    assert (made.tensor, made.pipeline) == (8, 2)
    assert made.fits


def test_words_for_a_person() -> None:
    """What is printed must say the same as what is counted."""
    found = Found(SMALL, "the table", model=model(SMALL))
    made = answer.vllm(found, machines("g5.xlarge"), Wish(), None)
    said = " ".join(answer.lines(made))
    assert f"{made['context']:,} tokens" in said
    assert "A10G" in said
    rows = {row[0]: row[1] for row in answer.rows(made)}
    assert rows["weights"] == f"{made['memory']['weights'] / 2**30:.2f}"
    lacking = answer.vllm(found, machines("g5.xlarge"), Wish(context=131_072, parallel=9), None)
    assert "It does not fit" in " ".join(answer.lines(lacking))
    assert "2 machines with 8 x H100 each" in next(
        answer.lines(answer.vllm(found, machines("p5.48xlarge", nodes=2), Wish(), None))
    )

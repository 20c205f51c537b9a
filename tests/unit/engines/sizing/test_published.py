"""What we count, beside what others published: parameters exactly, memory within 5 %."""

from dataclasses import replace

import pytest

from lamplighter.core.gpus import GIB, GPUS
from lamplighter.engines.sizing import weights
from lamplighter.engines.sizing.budget import Step, budget
from lamplighter.engines.sizing.cache import BLOCK, layout
from lamplighter.engines.sizing.known import names
from tests.unit.engines.sizing import published
from tests.unit.engines.sizing.published import CACHE, LAYOUTS, PARAMETERS, ROOM, WEIGHTS

WITHIN = 0.05


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_models_card(name: str) -> None:
    """Every figure of `fit` begins with this number: one forgotten matrix, and a model is promised to a GPU that cannot hold it."""
    assert weights.parameters(published.model(name)) == PARAMETERS[name]


@pytest.mark.parametrize("one", WEIGHTS, ids=lambda one: f"{one.model} on {one.tensor * one.pipeline} x {one.gpu}")
def test_weights_take_what_vllm_logged(one: published.Weights) -> None:
    """Sharding and quantisation decide which machine a person pays for."""
    counted = weights.on_gpu(published.model(one.model, one.config), tensor=one.tensor, pipeline=one.pipeline) / GIB
    assert counted == pytest.approx(one.gib, rel=WITHIN), one.source


@pytest.mark.parametrize("one", ROOM, ids=lambda one: f"{one.model} on {one.tensor * one.pipeline} x {one.gpu}, {one.batched}")
def test_as_much_is_left_for_the_cache_as_vllm_logged(one: published.Room) -> None:
    """The whole sum, from the GPU to the cache: what it promises is what vLLM starts with, or refuses to."""
    model = published.model(one.model)
    made = budget(
        model, GPUS[one.gpu], Step(one.batched, one.sequences, graphs=one.graphs), tensor=one.tensor, pipeline=one.pipeline,
        machines=one.machines, utilisation=one.utilisation,
    )  # fmt: skip
    if one.gib is not None:
        assert made.room / GIB == pytest.approx(one.gib, rel=WITHIN), one.source
    if one.blocks is not None:
        page = layout(model, tensor=one.tensor, pipeline=one.pipeline).page
        assert made.room / page == pytest.approx(one.blocks, rel=WITHIN), one.source


@pytest.mark.parametrize("one", CACHE, ids=lambda one: one.model)
def test_tokens_take_what_vllm_logged(one: published.Cache) -> None:
    """The context that fits is this number's inverse."""
    model = published.model(one.model)
    if one.whole:
        model = replace(model, window=None, windowed=0)
    counted = layout(model, tensor=one.tensor).token * one.tokens * one.requests / GIB
    assert counted == pytest.approx(one.gib, rel=WITHIN), one.source


def test_enough_is_compared() -> None:
    """Ten models and GPUs are what the promise of 5 % rests on; fewer would prove little."""
    pairs = {(one.model, one.gpu, one.tensor * one.pipeline) for one in (*WEIGHTS, *ROOM) if one.gpu != "unnamed"}
    assert len(pairs) >= 10
    assert len({one.gpu for one in ROOM}) >= 6


def test_a_concurrency_that_vllm_printed() -> None:
    """4.84 requests of 32,768 tokens in 158,656 tokens, of Llama 3.1 8B on an L40S (vllm-project/vllm/pull/17122)."""
    cache = layout(published.model("meta-llama/Llama-3.1-8B-Instruct"))
    room = 158_656 // BLOCK * cache.page
    assert room / cache.request(32_768) == pytest.approx(4.84, abs=0.01)


@pytest.mark.parametrize(("name", "gib", "context", "groups", "blocks", "concurrency"), LAYOUTS)
def test_windows_are_laid_out_as_vllm_does(
    name: str, gib: float, context: int, groups: int, blocks: int, concurrency: float
) -> None:
    """Which layers share a block, and what a window keeps, decides how many requests fit: here the engine's own code is the judge."""
    cache = layout(published.model(name), batched=1024)  # two steps of 1024 tokens are in flight
    found = int(gib * GIB) // cache.page
    assert (cache.full + cache.windowed, found) == (groups, blocks)
    assert found * cache.page / cache.request(context) == pytest.approx(concurrency, abs=0.001)


def test_every_model_that_is_shipped_can_be_read() -> None:
    """A mistake in the table would be found by a person whose model does not wake."""
    assert len(names()) > 60
    for name in names():
        assert weights.parameters(published.model(name)) > 10**8

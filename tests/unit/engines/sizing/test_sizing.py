"""The rules of sizing: what splits over GPUs, what a window saves, what a GPU can compute in, what fits and by how much it does not."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.gpus import GIB, GPUS, find
from lamplighter.engines.sizing import architecture, quantization, weights
from lamplighter.engines.sizing.architecture import Unreadable, read
from lamplighter.engines.sizing.budget import Step, budget, usual
from lamplighter.engines.sizing.cache import BLOCK, layout
from lamplighter.engines.sizing.instances import INSTANCES, by_memory
from lamplighter.engines.sizing.known import configuration, names
from lamplighter.engines.sizing.plan import Machines, Wish, plan, promised, split
from lamplighter.providers.aws import machines as aws
from tests.unit.engines.sizing.published import model

SMALL = "meta-llama/Llama-3.2-3B-Instruct"
A10G = Machines(GPUS["A10G"])


def on(gpu: str, count: int = 1, nodes: int = 1) -> Machines:
    """So many of a GPU."""
    return Machines(GPUS[gpu], count, nodes)


@pytest.mark.parametrize(
    "text",
    ["A10G", "a10g", "NVIDIA A10G", "NVIDIA-A10G"],
)
def test_a_gpu_is_found_as_people_and_kubernetes_write_it(text: str) -> None:
    """Node labels say NVIDIA-A10G, people say a10g: one GPU, not an unknown one that gets no flags."""
    assert find(text) is GPUS["A10G"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("A100", "A100-40"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("L40S", "L40S"),
    ],
)
def test_names_of_drivers_lead_to_the_right_memory(text: str, name: str) -> None:
    """An A100 with 40 GB taken for one with 80 would be promised twice what it has."""
    assert find(text) is GPUS[name]


def test_the_aws_pool_and_fit_know_the_same_machines() -> None:
    """A machine that `fit` recommends and the pool does not know would run without the flags that `fit` shows."""
    for name, instance in INSTANCES.items():
        known = aws.accelerator(name)
        assert known is not None, name
        assert (known.count, known.bf16) == (instance.count, instance.gpu.bf16), name
        assert find(known.name) is instance.gpu, name


def test_machines_are_offered_smallest_first_and_once() -> None:
    """A person wants the cheapest that fits, not five sizes of one GPU."""
    listed = by_memory()
    sizes = [one.gpu.memory * one.count for one in listed]
    assert sizes == sorted(sizes)
    assert len({(one.gpu.name, one.count) for one in listed}) == len(listed)
    assert listed[0].name == "g4dn.xlarge"


def test_a_t4_gets_half_precision_and_gemma_on_it_single() -> None:
    """vLLM refuses to start otherwise; in 32 bits the weights are twice as large, and that must be counted."""
    assert plan(model(SMALL), on("T4")).dtype == "half"
    gemma = plan(model("google/gemma-3-1b-it"), on("T4"))
    assert gemma.dtype == "float32"
    assert gemma.budget.weights == pytest.approx(2 * plan(model("google/gemma-3-1b-it"), A10G).budget.weights, rel=0.01)
    assert any("bfloat16" in note for note in gemma.notes)
    assert plan(model(SMALL), A10G).dtype is None


def test_what_is_promised_never_exceeds_the_room() -> None:
    """A context that does not fit makes vLLM refuse to start, on a machine that is already paid for."""
    made = plan(model(SMALL), A10G)
    assert made.fits
    assert made.layout.request(made.context) <= promised(made.budget) < made.budget.room
    assert made.context % 1024 == 0
    assert made.context < made.model.context


@given(st.sampled_from(names()), st.sampled_from(sorted(GPUS)), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
def test_every_plan_is_possible(name: str, gpu: str, count: int, nodes: int) -> None:
    """Whatever model and GPUs: heads divide, nothing is promised that is not there, and what lacks is more than nothing."""
    one = model(name)
    made = plan(one, on(gpu, count, nodes))
    assert made.tensor * made.pipeline == count * nodes
    assert one.heads % made.tensor == 0
    assert made.fits == (made.lacks == 0 and made.context > 0)
    if made.fits:
        assert made.parallel >= 1
        assert made.layout.request(made.context) <= made.room
        assert 0 < made.context <= one.context
    else:
        assert made.lacks > 0


@given(st.sampled_from(names()), st.sampled_from(sorted(GPUS)), st.integers(16, 300_000), st.integers(1, 64))
def test_what_lacks_is_just_enough(name: str, gpu: str, context: int, parallel: int) -> None:
    """ "1.2 GiB more" must be true: with so much more memory, the same wish fits."""
    wish = Wish(context, parallel)
    one = replace(GPUS[gpu], name="A100-like")  # however large, vLLM's step stays the same
    made = plan(model(name), Machines(one), wish)
    if made.fits:
        return
    larger = replace(one, memory=one.memory + int((made.lacks + 2) / wish.utilisation) + 2)
    assert plan(model(name), Machines(larger), wish).fits


def test_a_wish_is_answered_with_what_it_lacks() -> None:
    """Sixteen full contexts of Llama 3.2 do not fit an A10G."""
    made = plan(model(SMALL), A10G, Wish(context=131_072, parallel=16))
    assert not made.fits
    assert made.lacks > 100 * GIB
    small = plan(model(SMALL), A10G, Wish(context=4096, parallel=16))
    assert small.fits
    assert (small.context, small.step.sequences) == (4096, 16)


def test_heads_decide_how_gpus_share_a_model() -> None:
    """28 heads do not divide by eight GPUs: the rest is shared by layers, as vLLM advises."""
    assert split(model("Qwen/Qwen2.5-7B-Instruct"), on("A10G", 8)) == (4, 2)
    assert split(model(SMALL), on("A10G", 4)) == (4, 1)
    assert split(model(SMALL), on("A10G", 8, nodes=2)) == (8, 2)


def test_fewer_heads_than_gpus_are_copied() -> None:
    """Each GPU keeps a whole key-value head: eight GPUs and four heads hold twice the cache that dividing would give."""
    one = model("Qwen/Qwen3-30B-A3B")
    assert layout(one, tensor=8).token == layout(one, tensor=4).token
    assert layout(one, tensor=4).token == layout(one).token / 4


def test_latent_attention_keeps_one_small_vector_on_every_gpu() -> None:
    """DeepSeek's cache is 576 numbers a layer, and is not divided between GPUs."""
    one = model("deepseek-ai/DeepSeek-V3")
    assert layout(one).token == 61 * 576 * 2
    assert layout(one, tensor=8).token == layout(one).token


def test_a_window_saves_what_lies_behind_it() -> None:
    """Gemma 3's long contexts cost a sixth; a sum without windows would refuse what fits."""
    one = model("google/gemma-3-27b-it")
    cache = layout(one)
    whole = layout(replace(one, window=None, windowed=0))
    assert cache.request(100_000) < whole.request(100_000) / 3
    assert (cache.full, cache.windowed) == (1, 6), "52 windowed layers in groups of 10, as vLLM makes them"
    assert layout(model("openai/gpt-oss-20b")).windowed == 1


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    """`--kv-cache-dtype fp8` is the cheapest way to a longer context."""
    plain, half = plan(model(SMALL), A10G), plan(model(SMALL), A10G, Wish(cached=1))
    assert half.tokens == pytest.approx(2 * plain.tokens, rel=0.1)
    assert half.flags(Wish(cached=1))[-2:] == ("--kv-cache-dtype", "fp8")


@pytest.mark.parametrize(("method", "low", "high"), [("awq", 0.50, 0.56), ("fp8", 1.0, 1.01), ("bitsandbytes", 0.55, 0.57)])
def test_quantised_weights_take_their_scales_with_them(method: str, low: float, high: float) -> None:
    """Half a byte is not all of a four-bit weight."""
    scheme = quantization.named(method)
    assert scheme is not None
    assert low <= scheme.each <= high
    with pytest.raises(ValueError, match="awq"):
        quantization.named("magic")
    assert quantization.named("none") is None


def test_parts_that_a_checkpoint_leaves_alone_keep_their_size() -> None:
    """Meta's FP8 of 405B leaves attention in 16 bits: 40 GiB that would be forgotten. A router's name does not mean the experts."""
    skips = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn.q_proj", "model.layers.*.mlp.router"]}
    scheme = quantization.read({"quantization_config": skips})
    assert scheme is not None
    assert not scheme.covers(0, "self_attn")
    assert scheme.covers(1, "self_attn")
    assert scheme.covers(0, "mlp")
    by_expression = quantization.read({"quantization_config": {"quant_method": "fp8", "ignore": ["re:.*self_attn.*", "lm_head"]}})
    assert by_expression is not None
    assert not by_expression.covers(7, "self_attn")
    assert by_expression.covers(7, "mlp")


@pytest.mark.parametrize(
    ("section", "each"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 0.5 + 2 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, 1.0),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": 4, "group_size": 32}}}},
            0.5 + 2 / 32,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": 4, "type": "float"}}}},
            0.5 + 1 / 16,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_algo": "NVFP4"}, 0.5 + 1 / 16),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0),
    ],
)
def test_the_ways_in_which_checkpoints_say_how_they_are_quantised(section: dict[str, Any], each: float) -> None:
    """Every tool writes it differently."""
    found = quantization.read({"quantization_config": section})
    assert found is not None
    assert found.each == pytest.approx(each, rel=0.01)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "hidden_size"),
        ({"model_type": "mamba", "hidden_size": 1}, "mamba"),
        ({"model_type": "qwen3_next"}, "qwen3_next"),
        ({"model_type": "deepseek_v32"}, "deepseek_v32"),
        ({**configuration(SMALL), "quantization_config": {"quant_method": "magic"}}, "magic"),
        ({**configuration(SMALL), "quantization_config": {"quant_method": "compressed-tensors"}}, "how wide"),
    ],
)
def test_what_is_not_understood_is_said_and_not_guessed(config: dict[str, Any], said: str) -> None:
    """A wrong number is worse than none: a person would buy a machine by it."""
    with pytest.raises(Unreadable, match=said):
        read(config)


def test_an_unknown_kind_with_the_usual_fields_is_a_guess_and_says_so() -> None:
    """Most new models are Llamas by another name; but nobody has counted this one."""
    one = read({**configuration(SMALL), "model_type": "brand_new"})
    assert not one.exact
    assert any("guess" in note for note in plan(one, A10G).notes)
    files = plan(one, A10G, checkpoint=9 * GIB)
    assert files.budget.weights == 9 * GIB, "the files' size is the better figure"


def test_every_shipped_family_is_counted_exactly() -> None:
    """A typo in a model type would turn a count into a guess."""
    assert all(model(name).exact for name in names())


def test_vllms_own_step_depends_on_the_gpu() -> None:
    """`arg_utils.py`: 8192 tokens from 70 GiB on, but not for an A100."""
    assert (usual(GPUS["H100"]), usual(GPUS["A100-80"]), usual(GPUS["T4"])) == (
        Step(8192, 1024),
        Step(2048, 256),
        Step(2048, 256),
    )


def test_the_choice_of_sequences_follows_the_cache() -> None:
    """More sequences than the cache can hold only take its memory for sampling."""
    tight, roomy = (
        plan(model("meta-llama/Llama-3.1-8B-Instruct"), A10G),
        plan(model("meta-llama/Llama-3.1-8B-Instruct"), on("H100")),
    )
    assert tight.step.sequences < roomy.step.sequences == 256
    assert tight.step.sequences <= tight.tokens // 1024


def test_longer_contexts_are_listed_before_shorter_ones() -> None:
    """The table that a person chooses from."""
    listed = list(plan(model(SMALL), A10G).choices())
    assert listed == sorted(listed, reverse=True)
    assert all(parallel >= 1 for _, parallel in listed)
    assert listed[0][0] > 65_536


def test_gpus_of_one_machine_and_several_machines_cost_their_libraries() -> None:
    """NCCL's buffers are memory that the cache does not get."""
    one = model("meta-llama/Llama-3.1-8B-Instruct")
    alone = budget(one, GPUS["H100"], Step(2048, 8)).libraries
    linked = budget(one, GPUS["H100"], Step(2048, 8), tensor=8).libraries
    far = budget(one, GPUS["H100"], Step(2048, 8), tensor=8, pipeline=2, machines=2).libraries
    assert alone < linked < far


def test_a_mixture_works_with_few_of_its_parameters() -> None:
    """What its speed depends on: 22 of 235 billion."""
    assert weights.active(model("Qwen/Qwen3-235B-A22B")) == pytest.approx(22.2e9, rel=0.02)
    assert weights.active(model(SMALL)) == weights.parameters(model(SMALL))


def test_blocks_are_whole() -> None:
    """Seventeen tokens take two blocks."""
    cache = layout(model(SMALL))
    assert cache.request(BLOCK + 1) == 2 * cache.page
    assert cache.longest(cache.page, 4096) == BLOCK
    assert cache.longest(cache.page - 1, 4096) == 0


def test_windows_that_never_matter_are_none() -> None:
    """Qwen 2.5 names a window and does not use it; Mistral's equals its context."""
    qwen = {**configuration("Qwen/Qwen2.5-7B-Instruct"), "sliding_window": 4096, "use_sliding_window": False}
    assert architecture.read(qwen).windowed == 0
    mistral = {**configuration("mistralai/Mistral-7B-Instruct-v0.3"), "sliding_window": 32_768}
    assert architecture.read(mistral).windowed == 0
    old = {**configuration("mistralai/Mistral-7B-Instruct-v0.3"), "sliding_window": 4096}
    assert architecture.read(old).windowed == 32
    typed = {**configuration("openai/gpt-oss-20b"), "layer_types": ["sliding_attention", "full_attention"] * 12}
    assert architecture.read(typed).windowed == 12

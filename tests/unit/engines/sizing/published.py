"""Figures that others published: parameters on the models' cards, and what vLLM logged when it started. Each with where it was read.

Nothing here was made by us, and nothing in `engines.sizing` was fitted to it. GiB as vLLM prints them (older versions print "GB" and mean GiB).
"""

from dataclasses import dataclass
from typing import Any

from lamplighter.engines.sizing.architecture import Architecture, read
from lamplighter.engines.sizing.known import find

VLLM = "https://github.com/vllm-project/vllm"

PARAMETERS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-chat-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-405B-Instruct": 405_853_388_800,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "deepseek-ai/DeepSeek-V2-Lite-Chat": 15_706_484_224,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
}
"""By repository: the sum that its page on the hub shows of its safetensors files (for DeepSeek V3 without the multi-token prediction, for gpt-oss
before quantisation; a tied output layer once)."""


@dataclass(frozen=True)
class Weights:
    """What vLLM logged that the weights took on one of `tensor` x `pipeline` GPUs, in GiB."""

    model: str
    gpu: str
    gib: float
    source: str
    tensor: int = 1
    pipeline: int = 1
    config: dict[str, Any] | None = None
    """What differs from the configuration that is shipped."""


_W8A8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}}},
    "ignore": ["lm_head"],
}
_405B_SKIPS = [f"model.layers.{layer}.self_attn.{one}_proj" for layer in range(126) for one in "qkvo"]
_405B_FP8 = {
    "quant_method": "fbgemm_fp8",
    "modules_to_not_convert": [*_405B_SKIPS, "model.layers.0.mlp.down_proj", "model.layers.125.mlp.down_proj", "lm_head"],
}

WEIGHTS = (
    Weights("meta-llama/Meta-Llama-3-8B", "H100", 14.96, f"{VLLM}/pull/10511"),
    Weights("meta-llama/Meta-Llama-3-8B", "H100", 7.48, f"{VLLM}/pull/10511", tensor=2),
    Weights("meta-llama/Llama-3.1-8B-Instruct", "RTX3090", 14.9888, f"{VLLM}/issues/10517"),
    Weights("meta-llama/Llama-3.1-8B-Instruct", "L40S", 14.9889, f"{VLLM}/pull/17122"),
    Weights("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "RTX4090", 13.9476, f"{VLLM}/issues/13061", tensor=2),
    Weights("Qwen/Qwen2.5-32B-Instruct", "L40S", 30.71, f"{VLLM}/issues/15815", tensor=2),
    Weights("Qwen/Qwen2.5-7B-Instruct-AWQ", "RTX4060", 5.2032, f"{VLLM}/issues/13882"),
    Weights("Qwen/Qwen3-30B-A3B", "unnamed", 14.2474, f"{VLLM}/issues/17327", tensor=4),
    Weights("deepseek-ai/DeepSeek-R1", "H20-141", 39.66, f"{VLLM}/issues/13074", tensor=8, pipeline=2),
    Weights("openai/gpt-oss-20b", "A100-80", 13.72, "https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/ (vLLM 0.19)"),
    Weights("google/gemma-3-27b-it", "unnamed", 13.1665, f"{VLLM}/issues/15676", tensor=4),
    Weights(
        "meta-llama/Llama-3.1-70B-Instruct", "H100", 67.7229, f"{VLLM}/pull/12569 (w8a8)", config={"quantization_config": _W8A8}
    ),
    Weights(
        "meta-llama/Llama-3.1-405B-Instruct", "H100", 57.752, f"{VLLM}/issues/6746 (FP8)", tensor=8,
        config={"quantization_config": _405B_FP8},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Room:
    """What vLLM logged that was left for the cache: GiB of it, or blocks of 16 tokens. `batched`: tokens of the profiled step; `sequences` 0: the
    run did not sample (chunked prefill of old versions, or a pipeline's first stage). `graphs`: the version counts CUDA graphs (0.21 and later).
    """

    model: str
    gpu: str
    utilisation: float
    batched: int
    sequences: int
    source: str
    gib: float | None = None
    blocks: int | None = None
    tensor: int = 1
    pipeline: int = 1
    machines: int = 1
    graphs: bool = False


ROOM = (
    Room("meta-llama/Meta-Llama-3-8B", "H100", 0.9, 8192, 256, f"{VLLM}/pull/10511", gib=53.29),
    Room("meta-llama/Llama-3.1-8B-Instruct", "RTX3090", 0.9, 20_000, 256, f"{VLLM}/issues/10517", blocks=1952),
    Room("meta-llama/Llama-3.1-8B-Instruct", "RTX3090", 0.9, 29_000, 256, f"{VLLM}/issues/10517", blocks=1478),
    Room("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "RTX4090", 0.98, 2048, 0, f"{VLLM}/issues/13061", gib=8.69, tensor=2),
    Room("Qwen/Qwen2.5-32B-Instruct", "L40S", 0.9, 10_000, 256, f"{VLLM}/issues/15815", gib=7.71, blocks=3947, tensor=2),
    Room(
        "deepseek-ai/DeepSeek-R1", "H200", 1.0, 2048, 0, f"{VLLM}/issues/13074 (H20 of 141 GB; its step is not told: 2048)", gib=97.29, tensor=8,
        pipeline=2, machines=2,
    ),
    Room("openai/gpt-oss-20b", "A100-80", 0.65, 2048, 256, "https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/", gib=36.56),
    Room("meta-llama/Llama-2-7b-chat-hf", "A100-80", 0.9, 4096, 256, f"{VLLM}/pull/2031", blocks=7351),
)  # fmt: skip


@dataclass(frozen=True)
class Cache:
    """How many tokens vLLM said that so many GiB hold, or how many GiB so many tokens take."""

    model: str
    gib: float
    tokens: int
    source: str
    tensor: int = 1
    requests: int = 1
    whole: bool = False
    """Whether layers with a window were given room for everything, as without the hybrid cache manager."""


CACHE = (
    Cache("Qwen/Qwen3-235B-A22B-FP8", 8.11, 178_880, f"{VLLM}/issues/21348 (4 x H100)", tensor=4),
    Cache("deepseek-ai/DeepSeek-V2-Lite-Chat", 0.95, 32_768, f"{VLLM}/issues/15871 (22 GB GPUs)"),
    Cache("meta-llama/Llama-3.1-8B-Instruct", 3.81, 1952 * 16, f"{VLLM}/issues/10517"),
    Cache("Qwen/Qwen2.5-32B-Instruct", 7.71, 3947 * 16, f"{VLLM}/issues/15815", tensor=2),
    Cache("openai/gpt-oss-20b", 12.0, 8192, "https://github.com/alvarobartt/hf-mem/pull/70", requests=32, whole=True),
)


LAYOUTS = (
    ("meta-llama/Llama-3.1-8B-Instruct", 19.3671875, 32_768, 1, 9916, 4.842),
    ("google/gemma-3-27b-it", 20.0, 131_072, 7, 16_384, 1.752),
    ("openai/gpt-oss-20b", 36.56, 131_072, 2, 99_833, 11.986),
    ("google/gemma-2-27b-it", 10.0, 8192, 2, 3561, 3.97),
    ("google/gemma-3-1b-it", 5.0, 32_768, 7, 81_920, 27.18),
)
"""What vLLM 0.32's own code says (`get_kv_cache_groups`, `get_kv_cache_config_from_groups`, `get_max_concurrency_for_kv_cache_config`, called with
these models' layers): model, GiB, context, groups of layers, blocks, concurrency; with 2048 tokens in flight."""


def model(name: str, more: dict[str, Any] | None = None) -> Architecture:
    """A shipped configuration, with what differs from it."""
    from lamplighter.engines.sizing.known import configuration

    found = find(name)
    assert found is not None, name
    return found if more is None else read({**configuration(name), **more})

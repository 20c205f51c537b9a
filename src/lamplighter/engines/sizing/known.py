"""Configurations of well-known models, so that they can be sized without a network. What sizing needs of each `config.json`, and nothing else.

From the models' own repositories on the hub (each owner's `config.json`); a test compares every parameter count with the one that the model's
card shows. A model that is not here is asked for on the hub.
"""

from collections.abc import Mapping
from typing import Any

from lamplighter.engines.sizing.architecture import Architecture, read

_K = 1024


def _dense(
    kind: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocabulary: int,
    context: int,
    *,
    tied: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **more,
    }


def _experts(count: int, active: int, width: int, **more: Any) -> dict[str, Any]:
    return {"num_experts": count, "num_experts_per_tok": active, "moe_intermediate_size": width, **more}


def _latent(queries: int | None) -> dict[str, Any]:
    return {"q_lora_rank": queries, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}


def _gemma3(*text: int, vocabulary: int = 262_208) -> dict[str, Any]:
    hidden, layers, heads, kv_heads, intermediate, head = text
    inner = _dense(
        "gemma3_text",
        hidden,
        layers,
        heads,
        kv_heads,
        intermediate,
        vocabulary,
        128 * _K,
        tied=True,
        head_dim=head,
        sliding_window=1024,
    )
    return {"model_type": "gemma3", "vision_config": {}, "text_config": inner}


_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
_MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
}
_DEEPSEEK = {"topk_method": "noaux_tc", "first_k_dense_replace": 3, "n_routed_experts": 256, "n_shared_experts": 1}

_LLAMA31_8B = _dense("llama", 4096, 32, 32, 8, 14_336, 128_256, 128 * _K)
_LLAMA31_70B = _dense("llama", 8192, 80, 64, 8, 28_672, 128_256, 128 * _K)
_LLAMA32_1B = _dense("llama", 2048, 16, 32, 8, 8192, 128_256, 128 * _K, tied=True, head_dim=64)
_LLAMA32_3B = _dense("llama", 3072, 28, 24, 8, 8192, 128_256, 128 * _K, tied=True, head_dim=128)
_QWEN25 = {
    "0.5B": _dense("qwen2", 896, 24, 14, 2, 4864, 151_936, 32 * _K, tied=True),
    "1.5B": _dense("qwen2", 1536, 28, 12, 2, 8960, 151_936, 32 * _K, tied=True),
    "3B": _dense("qwen2", 2048, 36, 16, 2, 11_008, 151_936, 32 * _K, tied=True),
    "7B": _dense("qwen2", 3584, 28, 28, 4, 18_944, 152_064, 32 * _K),
    "14B": _dense("qwen2", 5120, 48, 40, 8, 13_824, 152_064, 32 * _K),
    "32B": _dense("qwen2", 5120, 64, 40, 8, 27_648, 152_064, 32 * _K),
    "72B": _dense("qwen2", 8192, 80, 64, 8, 29_568, 152_064, 32 * _K),
}
_QWEN3 = {
    "0.6B": _dense("qwen3", 1024, 28, 16, 8, 3072, 151_936, 40_960, tied=True, head_dim=128),
    "1.7B": _dense("qwen3", 2048, 28, 16, 8, 6144, 151_936, 40_960, tied=True, head_dim=128),
    "4B": _dense("qwen3", 2560, 36, 32, 8, 9728, 151_936, 40_960, tied=True, head_dim=128),
    "8B": _dense("qwen3", 4096, 36, 32, 8, 12_288, 151_936, 40_960, head_dim=128),
    "14B": _dense("qwen3", 5120, 40, 40, 8, 17_408, 151_936, 40_960, head_dim=128),
    "32B": _dense("qwen3", 5120, 64, 64, 8, 25_600, 151_936, 40_960, head_dim=128),
    "30B-A3B": _dense("qwen3_moe", 2048, 48, 32, 4, 6144, 151_936, 40_960, head_dim=128, **_experts(128, 8, 768)),
    "235B-A22B": _dense("qwen3_moe", 4096, 94, 64, 4, 12_288, 151_936, 40_960, head_dim=128, **_experts(128, 8, 1536)),
}
_LONG = {"max_position_embeddings": 256 * _K}


def _gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    return _dense(
        "gpt_oss", 2880, layers, 64, 8, 2880, 201_088, 128 * _K, head_dim=64, sliding_window=128, attention_bias=True,
        num_local_experts=experts, num_experts_per_tok=4, quantization_config=_MXFP4,
    )  # fmt: skip


_MODELS: dict[str, Mapping[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _dense("llama", 576, 30, 9, 3, 1536, 49_152, 8 * _K, tied=True),
    "meta-llama/Llama-2-7b-chat-hf": _dense("llama", 4096, 32, 32, 32, 11_008, 32_000, 4 * _K),
    "meta-llama/Llama-2-13b-chat-hf": _dense("llama", 5120, 40, 40, 40, 13_824, 32_000, 4 * _K),
    "meta-llama/Llama-2-70b-chat-hf": _dense("llama", 8192, 80, 64, 8, 28_672, 32_000, 4 * _K),
    "meta-llama/Meta-Llama-3-8B": {**_LLAMA31_8B, "max_position_embeddings": 8 * _K},
    "meta-llama/Meta-Llama-3-8B-Instruct": {**_LLAMA31_8B, "max_position_embeddings": 8 * _K},
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA31_8B,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": _LLAMA31_8B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA31_70B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA31_70B,
    "meta-llama/Llama-3.1-405B-Instruct": _dense("llama", 16_384, 126, 128, 8, 53_248, 128_256, 128 * _K),
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA32_1B,
    "meta-llama/Llama-3.2-3B-Instruct": _LLAMA32_3B,
    "mistralai/Mistral-7B-Instruct-v0.3": _dense("mistral", 4096, 32, 32, 8, 14_336, 32_768, 32 * _K),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _dense(
        "mixtral", 4096, 32, 32, 8, 14_336, 32_000, 32 * _K, num_local_experts=8, num_experts_per_tok=2
    ),
    **{f"Qwen/Qwen2.5-{size}-Instruct": config for size, config in _QWEN25.items()},
    **{f"Qwen/Qwen2.5-{size}-Instruct-AWQ": {**config, "quantization_config": _AWQ} for size, config in _QWEN25.items()},
    **{f"Qwen/Qwen2.5-Coder-{size}-Instruct": _QWEN25[size] for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B")},
    **{f"Qwen/Qwen3-{size}": config for size, config in _QWEN3.items()},
    **{f"Qwen/Qwen3-{size}-AWQ": {**_QWEN3[size], "quantization_config": _AWQ} for size in ("4B", "8B", "14B", "32B")},
    **{f"Qwen/Qwen3-{size}-FP8": {**config, "quantization_config": _FP8} for size, config in _QWEN3.items()},
    **{f"Qwen/Qwen3-{size}-Instruct-2507": {**_QWEN3[size], **_LONG} for size in ("4B", "30B-A3B", "235B-A22B")},
    **{
        f"Qwen/Qwen3-{size}-Instruct-2507-FP8": {**_QWEN3[size], **_LONG, "quantization_config": _FP8}
        for size in ("4B", "30B-A3B", "235B-A22B")
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": {**_QWEN25["14B"], "max_position_embeddings": 128 * _K},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": {**_QWEN25["32B"], "max_position_embeddings": 128 * _K},
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA31_8B,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": _LLAMA31_70B,
    "deepseek-ai/DeepSeek-V2-Lite-Chat": _dense(
        "deepseek_v2", 2048, 27, 16, 16, 10_944, 102_400, 160 * _K,
        **_experts(64, 6, 1408, n_routed_experts=64, n_shared_experts=2, first_k_dense_replace=1), **_latent(None),
    ),
    **{
        f"deepseek-ai/DeepSeek-{name}": _dense(
            "deepseek_v3", 7168, 61, 128, 128, 18_432, 129_280, 160 * _K, **_experts(256, 8, 2048, **_DEEPSEEK), **_latent(1536), quantization_config=_FP8
        )
        for name in ("V3", "V3-0324", "V3.1", "R1", "R1-0528")
    },
    "google/gemma-2-9b-it": _dense("gemma2", 3584, 42, 16, 8, 14_336, 256_000, 8 * _K, tied=True, head_dim=256, sliding_window=4096),
    "google/gemma-2-27b-it": _dense("gemma2", 4608, 46, 32, 16, 36_864, 256_000, 8 * _K, tied=True, head_dim=128, sliding_window=4096),
    "google/gemma-3-1b-it": _dense(
        "gemma3_text", 1152, 26, 4, 1, 6912, 262_144, 32 * _K, tied=True, head_dim=256, sliding_window=512
    ),
    "google/gemma-3-4b-it": _gemma3(2560, 34, 8, 4, 10_240, 256),
    "google/gemma-3-12b-it": _gemma3(3840, 48, 16, 8, 15_360, 256),
    "google/gemma-3-27b-it": _gemma3(5376, 62, 32, 16, 21_504, 128),
    "microsoft/Phi-3-mini-4k-instruct": _dense("phi3", 3072, 32, 32, 32, 8192, 32_064, 4 * _K),
    "microsoft/phi-4": _dense("phi3", 5120, 40, 40, 10, 17_920, 100_352, 16 * _K),
    "microsoft/Phi-4-mini-instruct": _dense("phi3", 3072, 32, 24, 8, 8192, 200_064, 128 * _K, tied=True),
    "openai/gpt-oss-20b": _gpt_oss(24, 32),
    "openai/gpt-oss-120b": _gpt_oss(36, 128),
}  # fmt: skip

_BY_NAME = {name.lower(): name for name in _MODELS}


def names() -> tuple[str, ...]:
    """The repositories that are known."""
    return tuple(_MODELS)


def configuration(repository: str) -> Mapping[str, Any]:
    """What is known of the `config.json` of a repository. Raises KeyError."""
    return _MODELS[_BY_NAME[repository.strip().lower()]]


def find(repository: str) -> Architecture | None:
    """The architecture of a repository on the hub; None when it is not known here."""
    name = _BY_NAME.get(repository.strip().lower())
    return read(_MODELS[name]) if name is not None else None

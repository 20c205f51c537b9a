"""What a model is made of, read from its `config.json` (the format of the transformers library).

Families whose parameters are counted exactly are in `_EXACT`; anything else with the fields of a Llama is taken for one, and `exact` says no.
Not responsible for bytes: see `weights` and `cache`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.engines.sizing import quantization
from lamplighter.engines.sizing.quantization import Quantization

_EXACT = frozenset(
    (
        *("llama", "smollm3", "granite", "mistral", "mistral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3"),
        *("gemma", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "deepseek_v2", "deepseek_v3", "kimi_k2"),
    )
)
_RECURRENT = (
    "mamba",
    "jamba",
    "qwen3_next",
    "qwen3_5",
    "falcon_h1",
    "nemotron_h",
    "bamba",
    "zamba",
    "lfm2",
    "kimi_linear",
    "granitemoehybrid",
    "rwkv",
)
"""Model types with layers that keep a state instead of keys and values: neither their weights nor their cache are known here."""
_NOT_HERE = (
    *_RECURRENT,
    "deepseek_v32",
    "deepseek_v4",
    "bert",
    "roberta",
    "t5",
    "whisper",
    "gpt2",
    "opt",
    "bloom",
    "falcon",
    "mpt",
    "minicpm3",
)
_SIGLIP = 416_866_032
"""Parameters of Gemma 3's vision tower: SigLIP So400m at 896 pixels without its pooling head, by its configuration (27 layers of 1152)."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts. `count` of width `width`, `active` of them for a token; `shared`: width of the one that always works, 0 without one.

    `first`: how many layers at the beginning are dense. `gated_shared`: the shared expert has a gate of its own. `bias`: experts have biases.
    """

    count: int
    active: int
    width: int
    shared: int = 0
    first: int = 0
    gated_shared: bool = False
    bias: bool = False
    corrected: bool = False


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek). Ranks and head lengths; `queries` 0: queries are not compressed."""

    queries: int
    rank: int
    rope: int
    nope: int
    value: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model. `window`: tokens that `windowed` of the layers look back, None without. `context`: tokens it was made for.

    `norms`: norm vectors of a layer; `head_norms`: parameters of the norms of queries and keys in a layer. `vision`: parameters beside the
    language model. `dtype`: bytes of an unquantised weight. `exact`: its parameters are counted, not guessed.
    """

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    intermediate: int
    context: int
    tied: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    norms: int = 2
    head_norms: int = 0
    sinks: bool = False
    window: int | None = None
    windowed: int = 0
    experts: Experts | None = None
    latent: Latent | None = None
    vision: int = 0
    dtype: int = 2
    quantization: Quantization | None = None
    exact: bool = True

    @property
    def full(self) -> int:
        """Layers that look back over everything."""
        return self.layers - self.windowed


class Unreadable(Exception):
    """The configuration is not understood. The message is one plain sentence."""


def read(config: Mapping[str, Any]) -> Architecture:
    """The architecture that `config` describes. Raises Unreadable."""
    kind = str(config.get("model_type", ""))
    text = config.get("text_config")
    inner = {**config, **text} if isinstance(text, Mapping) else dict(config)
    inner_kind = str(inner.get("model_type") or kind)
    if any(name in (kind, inner_kind) or kind.startswith(name) for name in _NOT_HERE):
        raise Unreadable(f"models of the type {kind!r} are not known here")
    try:
        return _Reader(kind, inner_kind, inner, multimodal=isinstance(text, Mapping) or "vision_config" in config).architecture()
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise Unreadable(f"the configuration of this {kind or 'model'} lacks {error}") from error
    except ValueError as error:
        raise Unreadable(str(error)) from error


class _Reader:
    def __init__(self, kind: str, inner: str, config: Mapping[str, Any], *, multimodal: bool) -> None:
        self.kind = kind
        self.family = inner.removesuffix("_text") if inner != "gemma3_text" else inner
        self.config = config
        self.multimodal = multimodal

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of the names that is there. Raises KeyError."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        if default is None:
            raise KeyError(names[0])
        return default

    def architecture(self) -> Architecture:
        config, family = self.config, self.family
        hidden, layers = self.number("hidden_size"), self.number("num_hidden_layers")
        heads = self.number("num_attention_heads")
        kv_heads = self.number("num_key_value_heads", default=heads)
        head = self.number("head_dim", default=hidden // heads)
        qwen2, gemma = family in ("qwen2", "qwen2_moe"), family.startswith("gemma")
        bias = bool(config.get("attention_bias")) or qwen2
        window, windowed = self.window(layers)
        head_norms = 2 * head if family in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text") else 0
        return Architecture(
            kind=self.kind,
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head=head,
            vocabulary=self.number("vocab_size"),
            intermediate=self.number("intermediate_size", default=0),
            context=self.number("max_position_embeddings", "model_max_length", default=0) or 4096,
            tied=bool(config.get("tie_word_embeddings", gemma)),
            qkv_bias=bias,
            out_bias=bias and not qwen2,
            mlp_bias=bool(config.get("mlp_bias")),
            norms=4 if family in ("gemma2", "gemma3", "gemma3_text") else 2,
            head_norms=head_norms,
            sinks=family == "gpt_oss",
            window=window,
            windowed=windowed,
            experts=self.experts(),
            latent=self.latent(),
            vision=self.vision(hidden),
            dtype=4 if str(config.get("torch_dtype") or config.get("dtype")) == "float32" else 2,
            quantization=quantization.read(config),
            exact=family in _EXACT and (not self.multimodal or self.kind == "gemma3"),
        )

    def window(self, layers: int) -> tuple[int | None, int]:
        """How far how many of the layers look back."""
        config, window = self.config, self.config.get("sliding_window")
        if not isinstance(window, int) or config.get("use_sliding_window") is False:
            return None, 0
        kinds = config.get("layer_types")
        if isinstance(kinds, list):
            windowed = sum(kind == "sliding_attention" for kind in kinds)
            return (window, windowed) if windowed else (None, 0)
        pattern = config.get("sliding_window_pattern")
        if self.family in ("gemma3", "gemma3_text"):
            every = pattern if isinstance(pattern, int) else 6
            return window, layers - layers // every
        if self.family in ("gemma2", "gpt_oss"):
            return window, -(-layers // 2)
        if window >= self.number("max_position_embeddings", default=window + 1):
            return None, 0  # it never matters
        return window, layers

    def experts(self) -> Experts | None:
        config, family = self.config, self.family
        count = self.number("n_routed_experts", "num_local_experts", "num_experts", default=0)
        if count <= 1:
            return None
        width = self.number("moe_intermediate_size", "intermediate_size")
        shared = 0
        if family in ("deepseek_v2", "deepseek_v3", "kimi_k2"):
            shared = self.number("n_shared_experts", default=0) * width
        elif family == "qwen2_moe":
            shared = self.number("shared_expert_intermediate_size")
        return Experts(
            count=count,
            active=self.number("num_experts_per_tok", "num_experts_per_token", "experts_per_token"),
            width=width,
            shared=shared,
            first=self.number("first_k_dense_replace", default=len(config.get("mlp_only_layers") or ())),
            gated_shared=family == "qwen2_moe",
            bias=family == "gpt_oss",
            corrected=config.get("topk_method") == "noaux_tc",
        )

    def latent(self) -> Latent | None:
        if not isinstance(self.config.get("kv_lora_rank"), int):
            return None
        return Latent(
            queries=self.number("q_lora_rank", default=0),
            rank=self.number("kv_lora_rank"),
            rope=self.number("qk_rope_head_dim"),
            nope=self.number("qk_nope_head_dim"),
            value=self.number("v_head_dim"),
        )

    def vision(self, hidden: int) -> int:
        """Gemma 3's vision tower and what joins it to the language model (a 1152-wide norm and a matrix); others are not counted."""
        return _SIGLIP + 1152 * hidden + 1152 if self.kind == "gemma3" and self.multimodal else 0

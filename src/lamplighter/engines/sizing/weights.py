"""Parameters of a model, and the bytes of its weights on one GPU when several share it.

Tensor parallelism as vLLM does it (its `parallel_state` and linear layers): projections are split by heads and by the width of the feed-forward
part, the vocabulary by rows; norms, routers and the compressing matrices of latent attention are on every GPU, and so is a key-value head when
there are fewer of them than GPUs. Pipeline parallelism gives each stage its share of the layers, the first the embedding, the last the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lamplighter.engines.sizing.architecture import Architecture

_VOCABULARY_PAD = 64
"""vLLM pads the vocabulary to a multiple of this."""
_SPLIT, _WHOLE = True, False


@dataclass(frozen=True, slots=True)
class _Part:
    """Parameters of one layer that are treated alike. `split`: shared between the GPUs. `name`: `self_attn`, `mlp` or `norm`."""

    name: str
    count: int
    split: bool
    quantised: bool = True
    expert: bool = False


def parameters(model: Architecture) -> int:
    """All parameters, as a model's card on the hub counts them (a tied output layer once)."""
    layers = sum(part.count for layer in range(model.layers) for part in _layer(model, layer, 1))
    ends = model.vocabulary * model.hidden * (1 if model.tied else 2)
    return layers + ends + model.hidden + model.vision


def active(model: Architecture) -> int:
    """Parameters that work on one token: what a mixture of experts is as fast as."""
    if model.experts is None:
        return parameters(model)
    idle = (model.experts.count - model.experts.active) * 3 * model.hidden * model.experts.width
    return parameters(model) - idle * (model.layers - model.experts.first)


def on_gpu(model: Architecture, *, tensor: int = 1, pipeline: int = 1, dtype: int | None = None) -> int:
    """Bytes on the fullest GPU of `tensor` x `pipeline`. `dtype`: bytes of an unquantised weight, when it differs from the model's own."""
    if dtype is not None:
        model = replace(model, dtype=dtype)
    each = -(-model.layers // pipeline)
    fullest = 0.0
    for stage in range(pipeline):
        begin = stage * each
        total = sum(_layer_bytes(model, layer, tensor) for layer in range(begin, min(begin + each, model.layers)))
        rows = -(-model.vocabulary // (_VOCABULARY_PAD * tensor)) * _VOCABULARY_PAD
        first, last = stage == 0, stage == pipeline - 1
        ends = (first + last) if not (model.tied and pipeline == 1) else 1
        total += ends * rows * model.hidden * model.dtype
        total += (model.hidden * model.dtype if last else 0) + (_vision(model, tensor) if first else 0)
        fullest = max(fullest, total)
    return round(fullest)


def _vision(model: Architecture, tensor: int) -> float:
    """A vision tower's projections are split like the others; its embeddings (a tenth and less) are not."""
    return model.vision * model.dtype / tensor


def _layer_bytes(model: Architecture, layer: int, tensor: int) -> float:
    total = 0.0
    for part in _layer(model, layer, tensor):
        each: float = model.dtype
        scheme = model.quantization
        if scheme is not None and part.quantised and (part.expert or not scheme.experts_only) and scheme.covers(layer, part.name):
            each = scheme.each
        count = part.count * (_padded(model) if part.expert and scheme is not None and scheme.experts_only else 1.0)
        total += count * each / (tensor if part.split else 1)
    if (
        model.latent is not None
    ):  # vLLM keeps the two halves of kv_b once more, unquantised, to absorb them into queries and outputs
        total += model.latent.rank * model.heads * (model.latent.nope + model.latent.value) * 2 / tensor
    return total


def _padded(model: Architecture) -> float:
    """vLLM's MXFP4 kernels (Marlin) pad an expert to multiples of 256 by 128: `mxfp4.py`, `maybe_roundup_sizes`."""
    assert model.experts is not None  # noqa: S101 - only models with experts are quantised so, for the type checker
    hidden, width = -(-model.hidden // 256) * 256, -(-model.experts.width // 128) * 128
    return hidden * width / (model.hidden * model.experts.width)


def _layer(model: Architecture, layer: int, tensor: int) -> Iterator[_Part]:
    yield _Part("norm", model.norms * model.hidden + model.head_norms, _WHOLE, quantised=False)
    yield from _latent(model) if model.latent is not None else _attention(model, tensor)
    experts = model.experts
    if experts is None or layer < experts.first:
        width = model.intermediate
        yield _Part("mlp", 3 * model.hidden * width, _SPLIT)
        if model.mlp_bias:
            yield _Part("mlp", 2 * width + model.hidden, _WHOLE, quantised=False)
        return
    router = model.hidden * experts.count + (experts.count if experts.bias or experts.corrected else 0)
    yield _Part("mlp", router + (model.hidden if experts.gated_shared else 0), _WHOLE, quantised=False)
    yield _Part("mlp", experts.count * 3 * model.hidden * experts.width, _SPLIT, expert=True)
    if experts.bias:
        yield _Part("mlp", experts.count * (2 * experts.width + model.hidden), _WHOLE, quantised=False)
    if experts.shared:
        yield _Part("mlp", 3 * model.hidden * experts.shared, _SPLIT)


def _attention(model: Architecture, tensor: int) -> Iterator[_Part]:
    wide = model.heads * model.head
    yield _Part("self_attn", 2 * model.hidden * wide, _SPLIT)
    copies = max(1, tensor // model.kv_heads)  # a GPU has at least one key-value head
    yield _Part("self_attn", 2 * model.hidden * model.kv_heads * model.head * copies, _SPLIT)
    biases = (wide + 2 * model.kv_heads * model.head if model.qkv_bias else 0) + (model.hidden if model.out_bias else 0)
    if biases or model.sinks:
        yield _Part("self_attn", biases + (model.heads if model.sinks else 0), _WHOLE, quantised=False)


def _latent(model: Architecture) -> Iterator[_Part]:
    one = model.latent
    assert one is not None  # noqa: S101 - asked only then, for the type checker
    query = model.heads * (one.nope + one.rope)
    if one.queries:
        yield _Part("self_attn", model.hidden * one.queries, _WHOLE)
        yield _Part("norm", one.queries, _WHOLE, quantised=False)
        yield _Part("self_attn", one.queries * query, _SPLIT)
    else:
        yield _Part("self_attn", model.hidden * query, _SPLIT)
    yield _Part("self_attn", model.hidden * (one.rank + one.rope), _WHOLE)
    yield _Part("norm", one.rank, _WHOLE, quantised=False)
    yield _Part("self_attn", one.rank * model.heads * (one.nope + one.value), _SPLIT)
    yield _Part("self_attn", model.heads * one.value * model.hidden, _SPLIT)

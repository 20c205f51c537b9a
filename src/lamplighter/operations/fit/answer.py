"""The answer of `lamplighter fit`, as JSON and as lines for a person. Pure; the sums are `engines.sizing`'s."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lamplighter.core.gpus import GIB
from lamplighter.engines.llamacpp import sizing as llamacpp
from lamplighter.engines.sizing import quantization, weights
from lamplighter.engines.sizing.architecture import Architecture
from lamplighter.engines.sizing.instances import by_memory
from lamplighter.engines.sizing.plan import MARGIN, Machines, Plan, Wish, plan
from lamplighter.operations.fit.find import Found
from lamplighter.operations.fit.machines import others

_MOST_OTHERS = 3
_HINTS = ("fp8", "awq")
"""Quantisations that are tried for a hint when the model does not fit as it is."""


def vllm(found: Found, machines: Machines, wish: Wish, method: str | None) -> dict[str, Any]:
    """The answer for vLLM. `method`: pretend that the model were quantised so. Raises ValueError for an unknown one."""
    assert found.model is not None  # noqa: S101 - the caller has looked, for the type checker
    model = found.model if method is None else replace(found.model, quantization=quantization.named(method))
    checkpoint = found.checkpoint if method is None else None
    made = plan(model, machines, wish, checkpoint=checkpoint)
    answer = {
        "model": found.name,
        "origin": found.origin,
        "engine": "vllm",
        "parameters": weights.parameters(model),
        "active_parameters": weights.active(model),
        "quantization": model.quantization.method if model.quantization else None,
        "exact": model.exact,
        "trained_context": model.context,
        "gpu": _gpu(machines),
        "split": {"tensor": made.tensor, "pipeline": made.pipeline},
        "fits": made.fits,
        "lacks_bytes": made.lacks,
        "memory": _memory(made),
        "cache": {"bytes_per_token": round(made.layout.token), "tokens": made.tokens, "request_bytes": _request(made)},
        "context": made.context,
        "parallel": made.parallel,
        "choices": [{"context": context, "parallel": parallel} for context, parallel in made.choices()],
        "flags": list(made.flags(wish)) if made.fits else [],
        "others": [],
        "hints": [],
        "notes": list(made.notes),
    }
    if not made.fits:
        answer["hints"] = list(_hints(model, machines, wish))
        answer["others"] = [
            {"machine": name, "context": one.context, "parallel": one.parallel, "flags": list(one.flags(wish))}
            for name, one in others(model, wish, checkpoint=checkpoint)
        ]
    return answer


def gguf(found: Found, machines: Machines, wish: Wish) -> dict[str, Any]:
    """The answer for llama.cpp."""
    assert found.header is not None  # noqa: S101 - the caller has looked, for the type checker
    made = llamacpp.fit(found.header, machines.gpu, gpus=machines.count, context=wish.context, slots=wish.parallel)
    fits = made.lacks == 0 and made.context > 0
    return {
        "model": found.name,
        "origin": found.origin,
        "engine": "llamacpp",
        "trained_context": found.header.trained_context,
        "gpu": _gpu(machines),
        "fits": fits,
        "lacks_bytes": made.lacks,
        "memory": {
            "gpu": made.memory, "usable": made.usable, "weights": made.weights, "activations": made.buffers, "room": made.room
        },
        "cache": {"bytes_per_token": made.cache_per_token, "tokens": made.context * made.slots},
        "context": made.context,
        "parallel": made.slots,
        "flags": ["--ctx-size", str(made.context * made.slots), "--parallel", str(made.slots)] if fits else [],
        "settings": {"context": made.context, "slots": made.slots} if fits else {},
        "others": [] if fits else list(_gguf_others(found, wish)),
        "notes": [],
    }  # fmt: skip


def _gguf_others(found: Found, wish: Wish) -> Iterator[dict[str, Any]]:
    """The smallest machines on which it would fit."""
    assert found.header is not None  # noqa: S101 - the caller has looked, for the type checker
    count = 0
    for instance in by_memory():
        made = llamacpp.fit(found.header, instance.gpu, gpus=instance.count, context=wish.context, slots=wish.parallel)
        if made.lacks == 0 and made.context > 0:
            yield {"machine": instance.name, "context": made.context, "parallel": made.slots}
            count += 1
            if count == _MOST_OTHERS:
                return


def _gpu(machines: Machines) -> dict[str, Any]:
    gpu = machines.gpu
    return {
        "name": gpu.name, "count": machines.count, "nodes": machines.nodes, "memory_bytes": gpu.memory, "source": gpu.source,
        "bf16": gpu.bf16, "fp8": gpu.fp8,
    }  # fmt: skip


def _memory(made: Plan) -> dict[str, int]:
    one = made.budget
    return {
        "gpu": one.memory, "usable": one.usable, "weights": one.weights, "activations": one.activations, "graphs": one.graphs,
        "libraries": one.libraries, "room": one.room,
    }  # fmt: skip


def _request(made: Plan) -> int:
    return made.layout.request(made.context) if made.context else 0


def _hints(model: Architecture, machines: Machines, wish: Wish) -> Iterator[dict[str, Any]]:
    """What a quantised version would change on the same machine."""
    if model.quantization is not None:
        return
    for method in _HINTS:
        scheme = quantization.named(method)
        if scheme is None or scheme.needs > machines.gpu.capability:
            continue
        made = plan(replace(model, quantization=scheme), machines, wish)
        if made.fits:
            yield {"quantization": method, "context": made.context, "parallel": made.parallel}


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """What a person reads first, and last."""
    gpu = answer["gpu"]
    many = f"{gpu['count']} x {gpu['name']}" if gpu["count"] > 1 else gpu["name"]
    if gpu["nodes"] > 1:
        many = f"{gpu['nodes']} machines with {many} each"
    yield f"{answer['model']} on {many} ({gpu['memory_bytes'] / GIB:.2f} GiB each); configuration: {answer['origin']}"
    if answer["fits"]:
        yield f"It fits: {each(answer)}."
        return
    each_gpu = " on each GPU" if answer["engine"] == "vllm" else ""
    yield f"It does not fit: {answer['lacks_bytes'] / GIB:.2f} GiB more would be needed{each_gpu}."


def each(found: dict[str, Any]) -> str:
    """`context` and `parallel` in words."""
    if found["parallel"] == 1:
        return f"{found['context']:,} tokens, for one request of that length at a time"
    return f"{found['context']:,} tokens for each of {found['parallel']} requests at once"


def rows(answer: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what, GiB, why) of one GPU's memory."""
    memory, gpu = answer["memory"], answer["gpu"]
    words = {
        "gpu": ("the GPU", gpu["source"]),
        "usable": ("for the engine", f"{memory['usable'] / memory['gpu']:.0%} of it"),
        "weights": ("weights", f"{answer['parameters']:,} parameters" if "parameters" in answer else "the file's tensors"),
        "activations": ("one step at its peak", "of the feed-forward part or of sampling, the larger"),
        "graphs": ("CUDA graphs", "measured by others, see the guide"),
        "libraries": ("CUDA and libraries", "measured by others, see the guide"),
        "room": ("left for the cache", _why(answer)),
    }
    for key, count in memory.items():
        yield words[key][0], f"{count / GIB:.2f}", words[key][1]


def _why(answer: dict[str, Any]) -> str:
    token = answer["cache"]["bytes_per_token"]
    promised = f"; {1 - MARGIN:.0%} of it are promised" if answer["engine"] == "vllm" else ""
    return f"{token / 1024:,.1f} KiB for a token: {answer['cache']['tokens']:,} tokens{promised}"

"""The largest context and the most parallel requests of a model on given GPUs, and the engine's flags for it. Pure.

Not responsible for where a configuration comes from, nor for showing anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lamplighter.core.gpus import Gpu
from lamplighter.engines.sizing import budget as budgets
from lamplighter.engines.sizing.architecture import Architecture
from lamplighter.engines.sizing.budget import Budget, Step
from lamplighter.engines.sizing.cache import Layout, layout

MARGIN = 0.05
"""Share of the cache that is not promised: the sum agrees with published figures within it."""
_MOST_SEQUENCES = 256
_SHORT = 1024
"""Tokens of a short request. More sequences than the cache could hold of these only cost memory for sampling."""
_NO_HALF = frozenset(("gemma2", "gemma3", "gemma3_text", "glm4"))
"""vLLM refuses 16-bit floats for these (`config/model.py`, numerical instability), so a GPU without bfloat16 needs 32 bits."""


@dataclass(frozen=True, slots=True)
class Machines:
    """What serves one replica. `count`: GPUs of one machine; `nodes`: machines."""

    gpu: Gpu
    count: int = 1
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for; None: as much as fits. `utilisation`: share of the GPU that the engine may take. `cached`: bytes of a cached number."""

    context: int | None = None
    parallel: int | None = None
    utilisation: float = budgets.UTILISATION
    cached: int = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model fits. `tensor` x `pipeline`: how it is split. `dtype`: `half` or `float32` when its own type cannot be used.

    `context`: tokens of one request, 0 when not even one fits. `parallel`: requests of that length at once. `tokens`: the cache's, for all of them.
    `lacks`: bytes that are missing on one GPU for what was asked, 0 when it fits. `notes`: what a person should know.
    """

    model: Architecture
    machines: Machines
    tensor: int
    pipeline: int
    dtype: str | None
    budget: Budget
    layout: Layout
    step: Step
    context: int
    parallel: int
    tokens: int
    lacks: int
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.lacks == 0 and self.context > 0

    @property
    def room(self) -> int:
        """Bytes of cache that are promised."""
        return promised(self.budget)

    def flags(self, wish: Wish | None = None) -> tuple[str, ...]:
        """Arguments of `vllm serve` for it."""
        found: tuple[str, ...] = ()
        if self.dtype is not None:
            found += ("--dtype", self.dtype)
        if self.tensor > 1:
            found += ("--tensor-parallel-size", str(self.tensor))
        if self.pipeline > 1:
            found += ("--pipeline-parallel-size", str(self.pipeline))
        if self.context:
            found += ("--max-model-len", str(self.context), "--max-num-seqs", str(self.step.sequences))
        found += ("--gpu-memory-utilization", f"{wish.utilisation if wish else budgets.UTILISATION:g}")
        return (*found, "--kv-cache-dtype", "fp8") if wish is not None and wish.cached == 1 else found

    def choices(self) -> Iterator[tuple[int, int]]:
        """(context, parallel requests of that length), from the longest that fits downwards."""
        context = _round(self.layout.longest(self.room, self.model.context), self.model)
        lengths = [context] if context and context & (context - 1) else []
        lengths += [1 << power for power in range(24, 10, -1) if 1 << power <= context]
        for length in lengths:
            yield length, self.room // self.layout.request(length)


def promised(found: Budget) -> int:
    """Bytes of the cache that are promised; 0 when there is none."""
    return max(0, int(found.room * (1 - MARGIN)))


def split(model: Architecture, machines: Machines) -> tuple[int, int]:
    """(tensor, pipeline): over the GPUs of a machine by heads as far as they divide, over the rest and over machines by layers.

    vLLM's own advice: tensor parallel within a machine, pipeline parallel over machines, or where heads do not divide.
    """
    for tensor in range(machines.count, 0, -1):
        if machines.count % tensor == 0 and _divides(model, tensor):
            return tensor, machines.count // tensor * machines.nodes
    return 1, machines.count * machines.nodes


def _divides(model: Architecture, tensor: int) -> bool:
    keys = model.kv_heads % tensor == 0 or tensor % model.kv_heads == 0 or model.latent is not None
    width = model.intermediate if model.experts is None else model.experts.width
    return model.heads % tensor == 0 and keys and width % tensor == 0


def plan(model: Architecture, machines: Machines, wish: Wish | None = None, *, checkpoint: int | None = None) -> Plan:
    """How `model` fits on `machines`. `checkpoint`: bytes of its weights' files, which count where its architecture is not known exactly."""
    wish = wish or Wish()
    gpu = machines.gpu
    tensor, pipeline = split(model, machines)
    dtype, width = _type(model, gpu)
    notes = tuple(_notes(model, gpu, dtype))

    def spent(step: Step) -> Budget:
        files = None if model.exact else checkpoint
        return budgets.budget(
            model, gpu, step, tensor=tensor, pipeline=pipeline, machines=machines.nodes, utilisation=wish.utilisation, dtype=width, checkpoint=files
        )  # fmt: skip

    step = budgets.usual(gpu)
    cache = layout(model, tensor=tensor, pipeline=pipeline, bytes_each=wish.cached, batched=step.batched)
    step = replace(step, sequences=wish.parallel or 1)
    if wish.parallel is None:
        for _ in range(4):  # each more sequence takes memory for sampling from the cache that they share
            step = replace(step, sequences=_sequences(promised(spent(step)), cache))
    found = spent(step)
    context, parallel, lacks = _choose(model, cache, found, wish)
    parallel = min(parallel, step.sequences)
    return Plan(
        model, machines, tensor, pipeline, dtype, found, cache, step, context, parallel,
        int(promised(found) / cache.token), lacks, notes,
    )  # fmt: skip


def _sequences(room: int, cache: Layout) -> int:
    most = min(_MOST_SEQUENCES, room // cache.request(_SHORT))
    return max(1, most - most % 8 if most > 8 else most)


def _choose(model: Architecture, cache: Layout, found: Budget, wish: Wish) -> tuple[int, int, int]:
    """(context, parallel, bytes that are missing)."""
    room = promised(found)
    at_once = wish.parallel or 1
    if wish.context is None:
        context = _round(cache.longest(room, model.context, at_once), model)
        least = cache.request(min(_SHORT, model.context)) * at_once
        if context < min(_SHORT, model.context):
            return context, at_once if context else 0, _missing(found, least)
        return context, max(at_once, room // cache.request(context)), 0
    needed = cache.request(wish.context) * at_once
    if needed > room:
        return cache.longest(room, wish.context, at_once), at_once, _missing(found, needed)
    return wish.context, room // cache.request(wish.context), 0


def _round(context: int, model: Architecture) -> int:
    """Down to a number that a person would write, unless it is the model's own."""
    return context if context >= model.context else context - context % (_SHORT if context >= _SHORT else 16)


def _missing(found: Budget, needed: int) -> int:
    """Bytes that the GPU lacks for a cache of `needed` bytes, the margin included."""
    return int(needed / (1 - MARGIN)) - found.room + 1


def _type(model: Architecture, gpu: Gpu) -> tuple[str | None, int | None]:
    """What `--dtype` must say on this GPU, and how many bytes a weight then has; (None, None): the model's own."""
    if gpu.bf16:
        return None, None
    if model.kind in _NO_HALF:
        return "float32", 4
    return "half", None if model.dtype == 2 else 2


def _notes(model: Architecture, gpu: Gpu, dtype: str | None) -> Iterator[str]:
    scheme = model.quantization
    if dtype == "float32":
        yield f"{gpu.name} has no bfloat16 and this model cannot use half precision: its weights take twice their size."
    if scheme is not None and scheme.needs > gpu.capability:
        yield f"vLLM does not run {scheme.method} weights on a {gpu.name}."
    if scheme is not None and scheme.method in ("fp8", "fbgemm_fp8") and not gpu.fp8:
        yield f"{gpu.name} does not compute in fp8: the weights stay small, but it is no faster."
    if not model.exact:
        yield f"Models of the type {model.kind!r} are not counted exactly here: take the figures as a guess."
    if model.vision:
        yield "Its vision tower is counted; the memory of images while they are read is not."

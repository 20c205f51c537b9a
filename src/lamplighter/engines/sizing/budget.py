"""What the memory of one GPU goes to under vLLM. Every figure has its source beside it; none was fitted to a result.

vLLM takes `--gpu-memory-utilization` of the GPU, loads the weights, measures the peak of one step, what the libraries took and (since 0.21) what
CUDA graphs will take, and gives the rest to the cache (`gpu_worker.py`, `determine_available_memory`). The same sum is made here.
"""

from dataclasses import dataclass

from lamplighter.core.gpus import GIB, Gpu
from lamplighter.engines.sizing import weights
from lamplighter.engines.sizing.architecture import Architecture

UTILISATION = 0.90
"""Said explicitly, since vLLM's own default has changed (0.9, and 0.92 in 0.32)."""
_BIG = 70 * GIB
_LOGIT = 38
"""Bytes that sampling holds at its peak for each sequence and word of the vocabulary: logits in 32 bits, their sorted copy with 64-bit indices, the
probabilities and sums made of them. Measured in vLLM's logs, where nothing else explains the peak: 35 (issues/15815), 38 (pull/13109), 39
(issues/13882), 41 (pull/10511); newer versions need less."""
_GRAPHS = int(0.65 * GIB)
"""CUDA graphs: 0.64 GiB (a model of 3 billion, github.com/generative-computing/granite-switch/issues/128), 0.41 GiB (27 billion, 16 sequences)."""
_ALONE = int(0.35 * GIB)
"""CUDA's context and libraries beside PyTorch's own memory: 0.16 to 0.35 GiB (vLLM pull/12126, issues/10517, issues/15815); the most."""
_LINKED = int(1.0 * GIB)
"""The same with NCCL's buffers over NVLink within one machine; 0.25 to 0.43 GiB were seen over PCIe (issues/13061, 15815, 16570)."""
_MANY = int(2.6 * GIB)
"""The same over several machines: 2.53 to 2.57 GiB (issues/13074)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the engine may hold: `batched` tokens of `sequences` requests. `graphs`: CUDA graphs are captured and counted."""

    batched: int
    sequences: int
    graphs: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes on the fullest GPU. `room`: what is left for the cache; negative when the rest does not even fit."""

    memory: int
    usable: int
    weights: int
    activations: int
    graphs: int
    libraries: int

    @property
    def room(self) -> int:
        return self.usable - self.weights - self.activations - self.graphs - self.libraries


def usual(gpu: Gpu) -> Step:
    """vLLM's own step for a server on this GPU: `arg_utils.py`, by memory; an A100 counts as a small one."""
    big = gpu.memory >= _BIG and not gpu.name.startswith("A100")
    return Step(8192 if big else 2048, 1024 if big else 256)


def budget(
    model: Architecture,
    gpu: Gpu,
    step: Step,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    machines: int = 1,
    utilisation: float = UTILISATION,
    dtype: int | None = None,
    checkpoint: int | None = None,
) -> Budget:
    """Where one GPU's memory goes. `checkpoint`: bytes of all weights when the files are known and the architecture is not exactly."""
    own = weights.on_gpu(model, tensor=tensor, pipeline=pipeline, dtype=dtype)
    if checkpoint is not None:
        own = -(-checkpoint // (tensor * pipeline))
    libraries = _MANY if machines > 1 else _LINKED if tensor * pipeline > 1 and gpu.linked else _ALONE
    return Budget(
        memory=gpu.memory,
        usable=int(gpu.memory * utilisation),
        weights=own,
        activations=peak(model, step, tensor),
        graphs=_GRAPHS if step.graphs else 0,
        libraries=libraries,
    )


def peak(model: Architecture, step: Step, tensor: int = 1) -> int:
    """Bytes at the peak of one step: of the feed-forward part, or of sampling, whichever is more.

    Feed-forward: both halves of the gated layer, their product, and three hidden states, in 16 bits. (vLLM issues/10517: 2.06 GiB of 2.07 and 2.987
    of 2.991 for Llama 3.1 8B with 20,000 and 29,000 tokens.) Experts: the buffers of `fused_moe.py`, for each expert that a token goes to.
    """
    if model.experts is None:
        width = 3 * model.intermediate // tensor
    else:
        one = model.experts.width // tensor
        width = model.experts.active * (max(2 * one, model.hidden) + one) + 3 * model.experts.shared // tensor
    forward = step.batched * (width + 3 * model.hidden) * 2
    return max(forward, step.sequences * model.vocabulary * _LOGIT)

"""What a GGUF model takes of a GPU under llama.cpp, from the file's header. Pure.

llama.cpp reserves the whole cache at its start: context x slots. Beside it: a buffer for one batch of 512 tokens, whose largest part are the
logits (llama.cpp's log for Llama 3 8B: 258.5 MiB, of which 512 x 128,256 x 4 bytes are 250.5), and CUDA's own context.
"""

from dataclasses import dataclass

from lamplighter.core.gpus import GIB, Gpu
from lamplighter.engines.llamacpp.gguf import Header

_BATCH = 512
_BESIDE_LOGITS = 16 * 2**20
_LIBRARIES = int(0.35 * GIB)
_KEPT_FREE = 0.03
"""Share of the GPU that is left alone: nothing measures what is free before the cache is reserved."""
_WORDS = 262_144
"""Size of the vocabulary where the header does not tell: the largest that is common."""
_STEP = 256


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes, summed over all GPUs. `context`: tokens of one request, `slots`: answers at once; `lacks`: bytes that are missing, 0 when it fits."""

    memory: int
    usable: int
    weights: int
    buffers: int
    cache_per_token: int
    context: int
    slots: int
    lacks: int

    @property
    def room(self) -> int:
        """What is left for the cache."""
        return self.usable - self.weights - self.buffers


def fit(header: Header, gpu: Gpu, *, gpus: int = 1, context: int | None = None, slots: int | None = None) -> Fit:
    """The largest context for `slots` answers (1), or whether `context` fits for so many; all layers on the GPUs."""
    memory = gpu.memory * gpus
    usable = int(memory * (1 - _KEPT_FREE))
    words = header.metadata.get(f"{header.architecture}.vocab_size")
    logits = _BATCH * (words if isinstance(words, int) else _WORDS) * 4
    buffers = (logits + _BESIDE_LOGITS + _LIBRARIES) * gpus
    token = header.cache_bytes(_STEP) / _STEP
    room = usable - header.weights - buffers
    most, at_once = header.trained_context or 4096, slots or 1
    if context is None:
        fits = int(room // (token * at_once)) if token and room > 0 else 0
        context = min(most, fits - fits % _STEP)
        needed = 0 if context else int(token * at_once * _STEP)
        lacks = max(0, needed - room) if not context else 0
    else:
        lacks = max(0, int(token * context * at_once) - room)
    if slots is None and not lacks and context and token:
        at_once = max(1, int(room // (token * context)))
    return Fit(memory, usable, header.weights, buffers, round(token), context, at_once, lacks)

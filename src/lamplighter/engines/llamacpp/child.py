"""The engine process: `python -m lamplighter.engines.llamacpp.child FOLDER`. Brings the weights, checks them, and becomes llama.cpp's server.

Everything it is told stands in the folder's `spec.json`, everything it tells in `state.json`; `engines.supervisor` decides when it ends.
Environment: `OMP_WAIT_POLICY=passive` must be set before this process exists (OpenMP reads it when it is loaded).
Not responsible for HTTP: that is llama.cpp's own C++ server, on a port of loopback that the kernel chose, behind this run's key.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines.supervisor import Failure, Life, run

_OVERHEAD = 150 * 10**6
"""Bytes that llama.cpp needs beside weights and cache: compute buffers, the tokenizer, itself (94 MB measured with SmolLM2-135M)."""

_MIN_BATCH = 512

_BUNDLED_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful English-speaking assistant. Be concise.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The bundled model's own template with another default system message.

With its own, or with "Answer in English.", the first word about the capital of France is as likely French as English (log-probabilities -1.8
to -1.9); with this one English is ahead by 1.6, and at the low temperature that decides.
"""


def main() -> int:
    """Run the engine of the folder given as the one argument."""
    if len(sys.argv) != 2:
        print("usage: python -m lamplighter.engines.llamacpp.child FOLDER", file=sys.stderr)  # noqa: T201 - a program's usage line
        return 2
    return run(Path(sys.argv[1]), _serve)


def _serve(life: Life) -> None:
    config = life.spec.config
    path = _weights(life, str(config["source"]), config.get("revision"))
    life.stage("start")
    xlc = _import()
    context, slots = _check(path, xlc, context=int(config["context"]), slots=int(config["slots"]), gpu=config["gpu_layers"] != 0)
    params = _params(xlc, life, path, context=context, slots=slots)
    life.stage("load")
    try:
        # Kept alive by the module: its destructor holds the interpreter's lock and waits for requests in flight. This process ends hard instead.
        globals()["_server"] = server = xlc.Server(params)
    except MemoryError as error:
        raise Failure(WakeFailure.OUT_OF_MEMORY, "There was not enough memory to load the model.") from error
    except RuntimeError as error:
        raise _judge(life.folder, path) from error
    life.ready(str(server.listening_address), context)


def _weights(life: Life, source: str, revision: str | None) -> Path:
    """The file to load, pulled when it is not here."""
    from lamplighter.engines.sources.files import locate, parse

    models_folder = Path(life.spec.models_folder)
    try:
        path = locate(parse(source, revision), models_folder)
        if path is None:
            life.stage("pull")
            from lamplighter.engines.sources.fetch import fetch

            path = fetch(source, models_folder, life.progress, revision=revision)
    except SourceError as error:
        raise Failure(error.reason, error.message) from error
    return path


def _import() -> ModuleType:
    try:
        import xllamacpp
    except (ImportError, OSError) as error:
        missing = "the system library libgomp" if "libgomp" in str(error) else f"a part of it ({error})"
        raise Failure(
            WakeFailure.ENGINE_MISSING, f"The embedded engine cannot be loaded: {missing} is missing on this machine."
        ) from error
    module: ModuleType = xllamacpp
    return module


def _check(path: Path, xlc: ModuleType, *, context: int, slots: int, gpu: bool) -> tuple[int, int]:
    """Whether the file is whole and fits into memory; returns (context, slots), the context cut to what the model was trained for."""
    from lamplighter.engines import memory
    from lamplighter.engines.llamacpp import gguf
    from lamplighter.engines.sources.files import parts

    try:
        headers = [gguf.read(part) for part in parts(path)]
    except gguf.NotAModel as error:
        raise Failure(WakeFailure.MODEL_CORRUPT, str(error)) from error
    except OSError as error:
        raise Failure(WakeFailure.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}.") from error
    header = headers[0]
    context = min(context, header.trained_context or context)
    if gpu and _has_gpu(xlc):
        return context, slots  # llama.cpp itself fits the layers into the GPU's memory
    weights, cache = sum(part.weights for part in headers), header.cache_bytes(context * slots)
    needed, free = weights + cache + _OVERHEAD, memory.available()
    if needed > free:
        raise Failure(
            WakeFailure.OUT_OF_MEMORY,
            f"The model needs about {needed / 1e9:.1f} GB of memory (weights {weights / 1e9:.1f}, "
            f"{slots} x {context} tokens of context {cache / 1e9:.1f}); {free / 1e9:.1f} GB are free.",
        )
    return context, slots


def _has_gpu(xlc: ModuleType) -> bool:
    kind = xlc.ggml_backend_dev_type
    cpu = {kind.GGML_BACKEND_DEVICE_TYPE_CPU, kind.GGML_BACKEND_DEVICE_TYPE_ACCEL}
    return any(device["type"] not in cpu for device in xlc.get_device_info())


def _params(xlc: ModuleType, life: Life, path: Path, *, context: int, slots: int) -> Any:
    config = life.spec.config
    p = xlc.CommonParams()
    p.model.path = str(path)
    p.model_alias = {base(life.spec.model)}
    p.hostnames, p.port = ["127.0.0.1"], 0  # 0: the kernel chooses, so no port is ever taken
    p.api_keys = [life.spec.key]
    p.n_ctx, p.n_parallel = context * slots, slots
    threads = int(config["threads"] or max(1, _cores() // 2))
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.n_gpu_layers = int(config["gpu_layers"])
    p.fit_params = _has_gpu(xlc)  # fitting to a GPU costs a third of a small model's load time, for nothing on a CPU
    rerank = "rerank" in (config.get("capabilities") or ())
    if rerank or config["embeddings"]:
        kinds = xlc.llama_pooling_type
        p.embedding = True
        p.pooling_type = kinds.LLAMA_POOLING_TYPE_RANK if rerank else kinds.LLAMA_POOLING_TYPE_MEAN
        p.n_batch = p.n_ubatch = max(_MIN_BATCH, context)  # a text is embedded in one physical batch, or refused
    p.use_jinja = True
    p.endpoint_metrics, p.endpoint_slots, p.ui = True, False, False
    p.cors_origins = "http://127.0.0.1"
    p.cache_ram_mib = 0  # its default grows to 8 GiB of old prompts
    p.sse_ping_interval = 1  # how soon a silent stream notices that its client left
    p.verbosity = 1
    if config["source"] in ("bundled", "catalogue:smollm2-135m"):  # what so small a model needs in order to answer sensibly
        p.sampling.temp, p.sampling.penalty_repeat = 0.2, 1.1
        # DRY ends the loops ("green, green, green ...") in which it was now and then caught; a stronger repeat penalty made it ramble.
        p.sampling.dry_multiplier, p.sampling.dry_penalty_last_n = 0.8, 512
        p.chat_template = _BUNDLED_TEMPLATE
    return p


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _judge(folder: Path, path: Path) -> Failure:
    """llama.cpp says only that it failed; its log has the reason."""
    from lamplighter.engines.state import LOG

    try:
        log = (folder / LOG).read_text(errors="replace")[-20_000:]
    except OSError:
        log = ""
    lowered = log.lower()
    if any(
        sign in lowered for sign in ("bad_alloc", "failed to allocate", "out of memory", "unable to allocate", "cannot allocate")
    ):
        return Failure(WakeFailure.OUT_OF_MEMORY, "There was not enough memory to load the model.")
    if "unknown model architecture" in lowered:
        return Failure(
            WakeFailure.ENGINE_MISSING, f"This version of the embedded engine does not know the architecture of {path.name}."
        )
    if "error loading model" in lowered or "failed to load model" in lowered:
        return Failure(WakeFailure.MODEL_CORRUPT, f"The engine cannot load {path.name}: {last_error(log)}")
    return Failure(WakeFailure.ENGINE_CRASHED, f"The engine could not start: {last_error(log)}")


def last_error(log: str) -> str:
    """The last line of llama.cpp's log that names an error, without its time and source."""
    for line in reversed(log.splitlines()):
        if " E " in line and "exiting due to" not in line:
            return line.split(" E ", 1)[1].split(":", 1)[-1].strip().rstrip(".") + "."
    return "its log tells no reason."


if __name__ == "__main__":
    sys.exit(main())

"""llama.cpp's server in a container: on a cloud node, or in a pod. Pure; it serves what the embedded engine serves (`child._params`), on a GPU.

What older builds may not know goes by `LLAMA_ARG_*`, which they ignore, and not by arguments, which they refuse. Its health says 503 until the
model is loaded. After SIGTERM it cuts off what it answers; the keeper drains before, and the gateway goes on with a cut stream elsewhere.
"""

from lamplighter.config import ModelConfig
from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Container
from lamplighter.engines.sources.files import Kind, Source, parse

IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda-b11206"
PORT = 8000
_MIN_BATCH = 512


def container(name: str, config: ModelConfig) -> Container:
    """What to run. Raises SourceError when the source is not on the hub: a node has no files of ours."""
    source = parse(config.source or "")
    if source.kind is not Kind.HUB:
        raise SourceError(
            f"llama.cpp in a container cannot load {config.source!r}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Write source: hf:OWNER/REPO:FILE.gguf or catalogue:NAME.",
        )
    arguments = _weights(source, config.revision)
    arguments += ["--alias", base(name), "--host", "0.0.0.0", "--port", str(PORT)]
    arguments += ["--ctx-size", str(config.context * config.slots), "--parallel", str(config.slots)]
    if config.gpu_layers >= 0:  # else as many as fit
        arguments += ["--n-gpu-layers", str(config.gpu_layers)]
    if config.threads is not None:
        arguments += ["--threads", str(config.threads)]
    rerank = "rerank" in (config.capabilities or ())
    if rerank or config.embeddings:
        batch = str(max(_MIN_BATCH, config.context))  # a text is embedded in one physical batch, or refused
        arguments += ["--rerank"] if rerank else ["--embeddings", "--pooling", "mean"]
        arguments += ["--batch-size", batch, "--ubatch-size", batch]
    return Container(
        image=config.image or IMAGE,
        arguments=tuple(arguments),
        environment={
            # Builds of 2026 keep the hub's own layout there, and ask this variable before HF_HUB_CACHE (their `hf-cache.cpp`).
            "LLAMA_CACHE": "/models",
            "HF_HOME": "/tmp/huggingface",  # noqa: S108 - inside the container
            "LLAMA_ARG_ENDPOINT_METRICS": "1",
            "LLAMA_ARG_UI": "0",
            "LLAMA_ARG_CORS_ORIGINS": "http://127.0.0.1",
            "LLAMA_ARG_CACHE_RAM": "0",  # its default grows to 8 GiB of old prompts
            "LLAMA_ARG_SSE_PING_INTERVAL": "1",  # how soon a silent stream notices that its client left
        },
        secrets={"LLAMA_API_KEY": "key", "HF_TOKEN": "hub_token"},
        port=PORT,
        health="/health",
        ready="/health",
        metrics="/metrics",  # behind the key, unlike /health
    )


def _weights(source: Source, revision: str | None) -> list[str]:
    """llama.cpp asks the hub for the main branch only, so another revision is given as the address of the file. Raises SourceError."""
    if revision is None:
        return ["--hf-repo", source.repo, *(("--hf-file", source.file) if source.file is not None else ())]
    if source.file is None:
        raise SourceError(
            f"llama.cpp cannot choose a file of hf:{source.repo} at the revision {revision}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Name the file in the source: hf:OWNER/REPO:FILE.gguf.",
        )
    return ["--model-url", f"https://huggingface.co/{source.repo}/resolve/{revision}/{source.file}"]

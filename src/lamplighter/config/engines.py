"""Which settings of a model belong to which engine, and what they must look like: cross-field rules of `ModelConfig`.

Not responsible for what the engines make of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lamplighter.config.model import ModelConfig, PoolConfig

CapabilityName = Literal["chat", "completions", "embeddings", "responses", "messages", "rerank", "tokenize"]

FITS: Mapping[str, tuple[str, ...]] = {
    "llamacpp": ("process", "kubernetes", "aws"),
    "vllm": ("process", "static", "command", "kubernetes", "aws"),
    "ollama": ("process", "static", "command", "kubernetes", "aws"),
    "openai": ("static", "command"),
    "fake": ("fake",),
}
"""The kinds of pool in which an engine runs."""

_STARTED = ("vllm", "ollama")
_OWN: Mapping[str, tuple[str, ...]] = {
    "program": _STARTED,
    "arguments": ("vllm",),
    "environment": _STARTED,
    "pull": ("ollama",),
}
_CONTAINERS = ("kubernetes", "aws")
"""Kinds of pool whose engines are containers, which have no files of this machine."""
_WHERE: Mapping[str, tuple[str, ...]] = {
    "program": ("process",),
    "image": _CONTAINERS,
    "hub_token": ("aws",),
    "gpus": ("kubernetes",),
    "cpu": ("kubernetes",),
    "memory": ("kubernetes",),
}
"""Settings that only make sense in some kinds of pool."""
_FOREIGN = ("static", "command")
"""Kinds of pool whose engine somebody else configures and starts."""
"""Settings that only some engines understand; anywhere else they would do nothing, in silence."""
_EMBEDDED: Mapping[str, str] = {
    "context": "arguments: [--max-model-len, ...], or environment: {OLLAMA_CONTEXT_LENGTH: ...}",
    "slots": "arguments: [--max-num-seqs, ...], or environment: {OLLAMA_NUM_PARALLEL: ...}",
    "threads": "environment: {OMP_NUM_THREADS: ...}",
    "gpu_layers": "arguments: [--cpu-offload-gb, ...]",
}
"""Settings of the embedded engine, and what says about the same for engines that we start but that have settings of their own."""
_OURS = ("--host", "--port", "--api-key", "--served-model-name", "--uds", "--ssl-keyfile", "--ssl-certfile", "--root-path")
"""Arguments of vLLM that belong to us: where it listens, behind which key, under which name."""


def check(name: str, model: "ModelConfig", pool: "PoolConfig") -> None:
    """Raises ValueError that begins with the setting's path."""
    where = f"models.{name}"
    fits = FITS[model.engine]
    if pool.kind not in fits:
        kinds = " or ".join(repr(kind) for kind in fits)
        raise ValueError(
            f"{where}.engine: engine {model.engine!r} runs in a pool of kind {kinds}, but {model.pool!r} is of kind {pool.kind!r}"
        )
    for setting, engines in _OWN.items():
        if _given(model, setting) and model.engine not in engines:
            raise ValueError(f"{where}.{setting}: only for engine {' or '.join(engines)}; {model.engine!r} does not use it")
    for setting, instead in _EMBEDDED.items():
        if _given(model, setting) and model.engine in _STARTED:
            raise ValueError(f"{where}.{setting}: only for engine 'llamacpp'; for {model.engine!r} write {instead}")
    for setting, places in _WHERE.items():
        if _given(model, setting) and pool.kind not in places:
            raise ValueError(
                f"{where}.{setting}: only in pools of kind {' or '.join(places)}; {model.pool!r} is of kind {pool.kind!r}"
            )
    if pool.kind in _FOREIGN:
        for setting in ("arguments", "environment"):
            if _given(model, setting):
                raise ValueError(f"{where}.{setting}: the server of a {pool.kind} pool is somebody else's to start; set it there")
    if pool.kind == "static":
        if model.pull and not pool.elastic:
            raise ValueError(f"{where}.pull: give the pool {model.pool!r} a sleep_after (`never` keeps what is loaded)")
        if pool.elastic and model.engine != "ollama":
            raise ValueError(
                f"pools.{model.pool}.sleep_after: only for pools whose models all have engine ollama; {name!r} has {model.engine!r}"
            )
    if model.capabilities == ():
        raise ValueError(f"{where}.capabilities: leave it out, or name at least one")
    if model.keep_warm and not pool.elastic:
        raise ValueError(f"{where}.keep_warm: the pool {model.pool!r} is always on")
    _check_source(where, model, pool)
    if model.revision is not None and not (model.source or "").startswith("hf:"):
        raise ValueError(f"{where}.revision: only with source: hf:OWNER/REPO")
    for argument in model.arguments:
        if argument.split("=", 1)[0] in _OURS:
            raise ValueError(f"{where}.arguments: {argument.split('=', 1)[0]} is set by Lamplighter")


def _given(model: "ModelConfig", setting: str) -> bool:
    """Whether it differs from its default. (What is merely written proves nothing: `lamplighter config show` writes everything.)"""
    field = type(model).model_fields[setting]
    return bool(getattr(model, setting) != field.get_default(call_default_factory=True))


def _check_source(where: str, model: "ModelConfig", pool: "PoolConfig") -> None:
    source = model.source
    if model.engine == "llamacpp":
        prefixes = ("catalogue:", "hf:", "file:")
        if source is None or not (source == "bundled" or source.startswith(prefixes)):
            raise ValueError(f"{where}.source: write bundled, catalogue:NAME, hf:OWNER/REPO[:FILE.gguf] or file:PATH")
        if pool.kind in _CONTAINERS and not source.startswith(("hf:", "catalogue:")):
            raise ValueError(
                f"{where}.source: a container has no files of yours; write hf:OWNER/REPO[:FILE.gguf] or catalogue:NAME"
            )
    elif model.engine == "vllm" and pool.kind in _CONTAINERS:
        if source is None or not source.startswith("hf:"):
            raise ValueError(f"{where}.source: write hf:OWNER/REPO")
    elif model.engine == "vllm" and pool.kind == "process":
        if source is None or not source.startswith(("hf:", "file:")):
            raise ValueError(f"{where}.source: write hf:OWNER/REPO or file:PATH")
    elif model.engine in ("vllm", "ollama") and source is not None and source.startswith(("hf:", "file:", "catalogue:")):
        raise ValueError(f"{where}.source: write the name by which the server itself knows the model")

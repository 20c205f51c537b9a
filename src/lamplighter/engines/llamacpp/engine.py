"""The engine kind `llamacpp`: llama.cpp embedded, as a process of this machine. What it is started with, and whether it is well."""

import sys
from pathlib import Path

import httpx

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Accelerator, Capability, Command, Container, Health, LaunchSpec, Probe, declared
from lamplighter.engines.continuing import Continues
from lamplighter.engines.llamacpp.container import container
from lamplighter.engines.probing import get
from lamplighter.engines.sources.files import parse


class LlamaCpp:
    """llama.cpp through its wheel `xllamacpp`, one process per replica."""

    kind = "llamacpp"
    continues = Continues.PREFILL

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """Its own name: the process serves the model under the name that clients use, at whatever revision."""
        return base(name)

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """All that generates, and tokenizing; embeddings when the model's setting says so. Not reranking: that wants a model made for it."""
        usual = set(Capability) - {Capability.RERANK}
        return declared(config, usual if config.embeddings else usual - {Capability.EMBEDDINGS})

    def command(self, spec: LaunchSpec) -> Command:
        """Our child process on the replica's folder. Raises SourceError for a source that cannot be understood."""
        parse(spec.config.source or "")
        argv = (sys.executable, "-P", "-m", "lamplighter.engines.llamacpp.child", str(spec.folder))
        # Spinning OpenMP threads collapse to a few tokens a second as soon as cores are shared with anything else.
        return Command(argv, env={"OMP_WAIT_POLICY": "passive"})

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        """See `Containerised`."""
        return container(name, config)

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """`/health`, and once that is well `/v1/models` with the key: another server on a reused port must not pass for ours."""
        health = await get(endpoint, "/health", timeout=timeout)
        if isinstance(health, Probe):
            return health
        if health.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return Probe(Health.LOADING, "the engine is loading the model")
        if health.status_code != httpx.codes.OK:
            return Probe(Health.DOWN, f"its health check answered {health.status_code}")
        models = await get(endpoint, "/v1/models", timeout=timeout)
        if isinstance(models, Probe):
            return models
        try:
            listed = {str(model["id"]): model for model in models.json()["data"]}
        except (ValueError, KeyError, TypeError):
            return Probe(Health.DOWN, f"its list of models makes no sense (status {models.status_code})")
        if name not in listed:
            return Probe(Health.DOWN, f"another server answers at {endpoint.url}: it serves {', '.join(listed) or 'nothing'}")
        meta = listed[name].get("meta")
        context = meta.get("n_ctx") if isinstance(meta, dict) else None
        return Probe(Health.READY, models=frozenset(listed), context=context if isinstance(context, int) else None)


def log_file(folder: Path) -> Path:
    """Where the process of the replica in `folder` writes its log."""
    return folder / "engine.log"

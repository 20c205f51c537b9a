"""The engine kind `openai`: any server that speaks OpenAI's API and is simply there (vLLM, Ollama, LM Studio). Never started by us."""

import httpx

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Capability, Command, Health, LaunchSpec, Probe, declared
from lamplighter.engines.probing import get

_NO_LIST = {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED}
_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


class OpenAICompatible:
    """A compatible server at a URL."""

    kind = "openai"

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """What the server calls it: the model's `source`, or the same name."""
        return config.source or name

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """All routes: the server itself refuses what it does not have."""
        return declared(config, frozenset(Capability))

    def command(self, spec: LaunchSpec) -> Command:
        """Always raises ProviderError: such a server is somebody else's to start."""
        raise ProviderError(
            f"The model {spec.model!r} has engine `openai`, which is never started here.",
            next_step="Put it into a pool of kind static with the server's URL.",
        )

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """`/v1/models`: the one route that every such server has and that wakes nothing."""
        answer = await get(endpoint, "/v1/models", timeout=timeout)
        if isinstance(answer, Probe):
            return answer
        status = answer.status_code
        if status in _REFUSED:
            detail = f"its key is refused (status {status})" if endpoint.key else f"it wants a key (status {status})"
            return Probe(Health.FAILED, detail, reason=WakeFailure.PROVIDER_ERROR)
        if status in _NO_LIST:
            return Probe(Health.READY, "it answers, but does not list its models")
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return Probe(Health.LOADING, "it says that it is not ready yet (status 503)")
        if status != httpx.codes.OK:
            return Probe(Health.DOWN, f"its list of models answered {status}")
        try:
            models = frozenset(str(model["id"]) for model in answer.json()["data"] or [])
        except (ValueError, KeyError, TypeError):
            return Probe(Health.DOWN, "its list of models makes no sense: is this an OpenAI-compatible server?")
        wanted = self.upstream_model(name, config)
        if models and wanted not in models and f"{wanted}:latest" not in models:  # Ollama lists tags and accepts bare names
            return Probe(
                Health.FAILED,
                f"it has no model {wanted!r}; it has: {', '.join(sorted(models)[:10])}",
                reason=WakeFailure.MODEL_NOT_FOUND,
                models=models,
            )
        return Probe(Health.READY, models=models)

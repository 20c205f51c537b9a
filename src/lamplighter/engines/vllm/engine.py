"""The engine kind `vllm`: in a process pool a `vllm serve` of our own, in a static pool a server that is there. Its health, queue and routes."""

import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines import program
from lamplighter.engines.base import Accelerator, Capability, Command, Container, Health, LaunchSpec, Probe, declared
from lamplighter.engines.continuing import Continues
from lamplighter.engines.probing import get
from lamplighter.engines.vllm.container import container
from lamplighter.engines.vllm.log import judge

_ROUTES: Mapping[str, Capability] = {
    "/v1/chat/completions": Capability.CHAT,
    "/v1/completions": Capability.COMPLETIONS,
    "/v1/embeddings": Capability.EMBEDDINGS,
    "/v1/responses": Capability.RESPONSES,
    "/v1/messages": Capability.MESSAGES,
    "/v1/rerank": Capability.RERANK,
    "/tokenize": Capability.TOKENIZE,
}
_ROUTES_FOR = 60.0
"""Seconds for which a server's routes are not asked for again."""
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
_SAMPLE = re.compile(
    r"^vllm:(?P<name>num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc|engine_sleep_state)"
    r"(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)",
    re.MULTILINE,
)


class Vllm:
    """vLLM."""

    kind = "vllm"
    continues = Continues.FLAG

    def __init__(self) -> None:
        self._known: dict[Endpoint, tuple[float, frozenset[Capability] | None]] = {}
        """Routes by endpoint, and until when (monotonic seconds): the document is large, and changes only with the server's restart."""

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """Its own name where we start it; else what the server calls it: the model's `source`, or the same name."""
        ours = config.source is not None and config.source.startswith(("hf:", "file:"))
        return base(name) if ours or config.source is None else config.source

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """Those of a model that generates. One that embeds or ranks tells it once it runs (`Probe.capabilities`), or its configuration does."""
        return declared(config, set(Capability) - {Capability.EMBEDDINGS, Capability.RERANK})

    def command(self, spec: LaunchSpec) -> Command:
        """Our child process on the replica's folder. Raises SourceError when there is no `vllm` to start."""
        program.find(spec.config.program, "vllm")
        return Command((sys.executable, "-P", "-m", "lamplighter.engines.vllm.child", str(spec.folder)))

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        """See `Containerised`."""
        return container(name, config, accelerator)

    def judge(self, log: str, code: int) -> tuple[WakeFailure, str]:
        """See `Judging`."""
        found = judge(log, code)
        return found.reason, found.detail

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """Its health, whether it sleeps, and whether it serves the model; with its queue, its context and its routes."""
        health = await get(endpoint, "/health", timeout=timeout)
        if isinstance(health, Probe):
            return health
        if health.status_code in _REFUSED:
            return _refused(endpoint, health.status_code)
        if health.status_code >= 500:
            return Probe(Health.DOWN, f"it says that its engine is dead (status {health.status_code})")
        metrics = await get(endpoint, "/metrics", timeout=timeout)
        load = _load(metrics.text) if isinstance(metrics, httpx.Response) and metrics.is_success else Probe(Health.READY)
        if load.health is Health.ASLEEP or await _sleeps(endpoint, timeout):
            return replace(load, health=Health.ASLEEP, detail="it sleeps: its weights are unloaded (POST /wake_up wakes it)")
        return await self._listed(endpoint, name, config, load, timeout)

    async def _listed(self, endpoint: Endpoint, name: str, config: ModelConfig, load: Probe, timeout: float) -> Probe:
        answer = await get(endpoint, "/v1/models", timeout=timeout)
        if isinstance(answer, Probe):
            return answer
        if answer.status_code in _REFUSED:
            return _refused(endpoint, answer.status_code)
        try:
            models = {str(model["id"]): model for model in answer.json()["data"]}
        except (ValueError, KeyError, TypeError):
            return Probe(Health.DOWN, f"its list of models makes no sense (status {answer.status_code}): is this vLLM?")
        wanted = self.upstream_model(name, config)
        if wanted not in models:
            has = ", ".join(sorted(models)[:10]) or "none"
            return Probe(
                Health.FAILED,
                f"it has no model {wanted!r}; it has: {has}",
                reason=WakeFailure.MODEL_NOT_FOUND,
                models=frozenset(models),
            )
        context = models[wanted].get("max_model_len")
        return replace(
            load,
            models=frozenset(models),
            context=context if isinstance(context, int) else None,
            capabilities=await self._capabilities(endpoint, timeout),
        )

    async def _capabilities(self, endpoint: Endpoint, timeout: float) -> frozenset[Capability] | None:
        now = time.monotonic()
        until, known = self._known.get(endpoint, (0.0, None))
        if now < until:
            return known
        found = await _routes(endpoint, timeout)
        self._known = {one: kept for one, kept in self._known.items() if kept[0] > now}
        self._known[endpoint] = (now + _ROUTES_FOR, found)
        return found


def _refused(endpoint: Endpoint, status: int) -> Probe:
    detail = f"its key is refused (status {status})" if endpoint.key else f"it wants a key (status {status})"
    return Probe(Health.FAILED, detail, reason=WakeFailure.PROVIDER_ERROR)


async def _sleeps(endpoint: Endpoint, timeout: float) -> bool:
    """What versions without the metric say, in development mode alone; without that mode nobody can put it to sleep."""
    answer = await get(endpoint, "/is_sleeping", timeout=timeout)
    if isinstance(answer, Probe) or answer.status_code != httpx.codes.OK:
        return False
    try:
        value: Any = answer.json()
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("is_sleeping") is True


async def _routes(endpoint: Endpoint, timeout: float) -> frozenset[Capability] | None:
    """From its own OpenAPI document; None when it has none. vLLM offers the routes that its model can serve, and no others."""
    answer = await get(endpoint, "/openapi.json", timeout=timeout)
    if isinstance(answer, Probe) or answer.status_code != httpx.codes.OK:
        return None
    try:
        paths = answer.json()["paths"]
        return frozenset(capability for path, capability in _ROUTES.items() if path in paths) or None
    except (ValueError, KeyError, TypeError):
        return None


def _load(text: str) -> Probe:
    """Its queue, summed over its engines, from its Prometheus metrics; READY, or ASLEEP when an engine of it sleeps."""
    sums = dict[str, float]()
    asleep = False
    for match in _SAMPLE.finditer(text):
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if not math.isfinite(value):
            continue
        name = match["name"]
        if name == "engine_sleep_state":
            asleep |= value > 0 and 'sleep_state="awake"' not in (match["labels"] or "")
        elif name.endswith("_perc"):
            sums["cache"] = max(sums.get("cache", 0.0), value)
        else:
            sums[name] = sums.get(name, 0.0) + value
    running, waiting = sums.get("num_requests_running"), sums.get("num_requests_waiting")
    return Probe(
        Health.ASLEEP if asleep else Health.READY,
        running=None if running is None else round(running),
        waiting=None if waiting is None else round(waiting),
        cache=sums.get("cache"),
    )

"""What there is to list in Ollama's shape: its models, those that are awake, and one in detail. Pure; asking wakes nothing."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from lamplighter.config import Config, ModelConfig
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Capability
from lamplighter.gateway.routing import Lane

VERSION = "0.12.6"
"""The version of Ollama whose API is followed; some programs refuse to talk to an older one."""
BUNDLED = ("bundled", "catalogue:smollm2-135m")
_CAPABILITIES = {Capability.CHAT: "completion", Capability.EMBEDDINGS: "embedding"}
_FOREVER = 100 * 365 * 86_400.0
"""Seconds that stand for never: Ollama's own way to say so."""


def tags(lanes: Iterable[Lane], started_at: float) -> dict[str, Any]:
    """`/api/tags`. `started_at`: Unix seconds."""
    return {"models": [_entry(lane, started_at) for lane in lanes]}


def running(lanes: Iterable[Lane], config: Config, now: float) -> dict[str, Any]:
    """`/api/ps`: models with a ready replica. `expires_at`: when each falls asleep if nobody asks any more."""
    found = []
    for lane in lanes:
        ready = [replica for replica in lane.replicas if replica.state is ReplicaState.READY]
        if not ready:
            continue
        entry = _entry(lane, now)
        del entry["modified_at"]
        pool = config.pools.get(lane.config.pool)
        last = lane.last_ended_at or max((replica.ready_at or now for replica in ready), default=now)
        left = _FOREVER if pool is None or pool.sleep_after is None else float(pool.sleep_after)
        expires = (now if lane.in_flight or lane.queued else last) + min(left, _FOREVER)
        context = next((replica.context for replica in ready if replica.context is not None), None)
        found.append({**entry, "expires_at": _when(max(now, expires)), "size_vram": 0, "context_length": context or 0})
    return {"models": found}


def show(lane: Lane, started_at: float) -> dict[str, Any]:
    """`/api/show`."""
    config = lane.config
    context = next((replica.context for replica in lane.replicas if replica.context is not None), None)
    if context is None and config.engine == "llamacpp":
        context = config.context
    info: dict[str, Any] = {"general.architecture": config.engine, "general.basename": lane.name}
    if context is not None:
        info[f"{config.engine}.context_length"] = context
    return {
        "modelfile": f"# Served by Lamplighter (engine {config.engine}); its settings are in lamplighter.yaml.\nFROM {lane.name}\n",
        "parameters": f"num_ctx {context}" if context is not None else "",
        "template": "",
        "details": _details(config),
        "model_info": info,
        "capabilities": _capabilities(lane),
        "modified_at": _when(started_at),
    }


def _capabilities(lane: Lane) -> list[str]:
    found = [name for capability, name in _CAPABILITIES.items() if capability in lane.capabilities]
    # The bundled model is too small to call tools: programs that ask for them should not pick it.
    if Capability.CHAT in lane.capabilities and lane.config.source not in BUNDLED:
        found.append("tools")
    return found


def _entry(lane: Lane, modified: float) -> dict[str, Any]:
    source = f"{lane.config.engine}:{lane.config.source or lane.name}"
    return {
        "name": lane.name,
        "model": lane.name,
        "modified_at": _when(modified),
        "size": 0,
        "digest": hashlib.sha256(source.encode()).hexdigest(),
        "details": _details(lane.config),
    }


def _details(config: ModelConfig) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf" if config.engine in {"llamacpp", "ollama"} else "",
        "family": config.engine,
        "families": [config.engine],
        "parameter_size": "",
        "quantization_level": "",
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

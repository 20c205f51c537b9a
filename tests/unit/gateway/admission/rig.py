"""A gate on a store of its own and a clock that a test moves, with keys and requests to try it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from lamplighter.config import Config, ModelConfig
from lamplighter.config.admission import KeyLimits
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.gateway.admission.base import Grant
from lamplighter.gateway.admission.gate import Gate
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.request import InferenceRequest, parse
from lamplighter.gateway.sse import Usage
from lamplighter.observability.metrics import Metrics
from lamplighter.store.store import Store
from lamplighter.testing.clock import START, VirtualClock

CONTEXT = 1000
"""Tokens of the models' context: what a request without `max_tokens` reserves at the most, and its prompt besides."""


def config_of(
    *, limits: Mapping[str, Any] | None = None, shared_timeout: str = "250ms", big: Mapping[str, Any] | None = None, **more: Any
) -> Config:
    """Two models: `big` costs a dollar for a million tokens of its answers, `free` costs nothing. `limits`: the defaults of keys."""
    return Config.model_validate(
        {
            "models": {
                "big": {
                    "engine": "fake", "pool": "cloud", "context": CONTEXT, "price": {"completion": "1 USD/Mtok"}, **(big or {}),
                },
                "free": {"engine": "fake", "pool": "cloud", "context": CONTEXT},
            },
            "pools": {"cloud": {"kind": "fake"}},
            "limits": {"default": dict(limits or {}), "shared_timeout": shared_timeout},
            **more,
        }
    )  # fmt: skip


def key(
    name: str = "key_1",
    *,
    models: frozenset[str] | None = None,
    inference: bool = True,
    by_model: Mapping[str, Any] | None = None,
    **limits: Any,
) -> Identity:
    """A key, with limits of its own if any are given."""
    if by_model is not None:
        limits["models"] = by_model
    own = KeyLimits.model_validate(limits) if limits else None
    return Identity("prn_1", "ada", name, False, models, inference=inference, limits=own)


def ask(model: str = "big", *, max_tokens: int | None = None, text: str = "Hello", **more: Any) -> InferenceRequest:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return parse("chat", json.dumps(body).encode())


@dataclass
class Rig:
    """A gate and what a test needs around it."""

    gate: Gate
    store: Store
    clock: VirtualClock
    config: Config
    aliases: dict[str, str] = field(default_factory=dict)

    async def admit(self, identity: Identity, request: InferenceRequest | None = None, model: str | None = None) -> Grant:
        """As the data path does it."""
        request = request or ask()
        model = model or self.aliases.get(request.model, request.model)
        return self.gate.admit_now(identity, request, model) or await self.gate.admit(identity, request, model)

    async def refused(self, identity: Identity, request: InferenceRequest | None = None) -> RequestError:
        """The error of a request that must not get through."""
        try:
            grant = await self.admit(identity, request)
        except RequestError as error:
            return error
        grant.settle(None, seconds=0.0)
        raise AssertionError("it was admitted")

    async def used(self, identity: Identity, prompt: int, completion: int, request: InferenceRequest | None = None) -> None:
        """One request that used so much."""
        (await self.admit(identity, request)).settle(Usage(prompt, completion), seconds=1.0)


@asynccontextmanager
async def gate_of(config: Config, store: Store, clock: Clock) -> AsyncIterator[Gate]:
    """A gate that runs."""

    def model_of(name: str) -> tuple[str, ModelConfig] | None:
        found = {"alias": "big"}.get(name, name)
        return (found, config.models[found]) if found in config.models else None

    gate = Gate(config, store, clock, Metrics(process=False), model_of=model_of)
    await gate.start()
    try:
        yield gate
    finally:
        await gate.stop()


@asynccontextmanager
async def rig(config: Config | None = None, *, start: float = START) -> AsyncIterator[Rig]:
    """A gate alone, checked at the end: nothing may stay reserved."""
    config = config or config_of()
    clock = VirtualClock(start)
    store = await Store.open(None, clock)
    try:
        async with gate_of(config, store, clock) as gate:
            yield Rig(gate, store, clock, config, {"alias": "big"})
            gate.assert_idle()
    finally:
        await store.close()

"""Which class an engine or a pool of the configuration is, by its kind: the one place that knows every kind.

What a kind brings with it is imported only where a pool of it exists: who has no cloud shall not pay for its library.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lamplighter.config import (
    AwsPool,
    CommandPool,
    Config,
    FakePool,
    KubernetesPool,
    ModelConfig,
    PoolConfig,
    ProcessPool,
    StaticPool,
)  # fmt: skip
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ConfigError, LamplighterError
from lamplighter.engines.base import Accelerator, Engine
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.ollama.engine import Ollama
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.providers.base import Provider
from lamplighter.providers.command.provider import CommandProvider
from lamplighter.providers.process.provider import ProcessProvider
from lamplighter.providers.resident import ResidentProvider
from lamplighter.providers.static import StaticProvider, endpoint


def engines() -> Mapping[str, Engine]:
    """Every kind of engine, by its name in the configuration."""
    from lamplighter.testing.provider import FakeEngineKind

    kinds: tuple[Engine, ...] = (LlamaCpp(), Vllm(), Ollama(), OpenAICompatible(), FakeEngineKind())
    return {engine.kind: engine for engine in kinds}


def accelerator(pool: str, text: str) -> Accelerator:
    """The GPU that the setting `accelerator` of a pool names. Raises ConfigError when no such GPU or machine is known."""
    from lamplighter.operations.fit.machines import machines

    try:
        found = machines(text)
    except LamplighterError as error:
        raise ConfigError(
            f"pools.{pool}.accelerator: {error.message}", where=f"pools.{pool}.accelerator", next_step=error.next_step
        ) from error
    return Accelerator(name=found.gpu.name, count=found.count, memory=found.gpu.memory, bf16=found.gpu.bf16)


def provider(
    name: str,
    pool: PoolConfig,
    *,
    config: Config,
    models: Callable[[], Mapping[str, ModelConfig]],
    data: Path,
    installation: str,
    kinds: Mapping[str, Engine],
    clock: Clock,
) -> Provider:
    """The provider of one pool of `config`, by its kind. Raises ConfigError for what only its kind can judge."""
    match pool:
        case ProcessPool():
            return ProcessProvider(name, models=models, engines=kinds, data=data, installation=installation, clock=clock)
        case StaticPool() if pool.elastic:
            return ResidentProvider(
                name, endpoint=partial(endpoint, name, pool), models=models, engine=Ollama(), data=data, clock=clock
            )
        case StaticPool():
            return StaticProvider(name, pool, models=models)
        case CommandPool():
            return CommandProvider(name, pool, models=models, engines=kinds, data=data, clock=clock)
        case KubernetesPool():
            from lamplighter.providers.kubernetes.provider import KubernetesProvider

            if pool.accelerator is not None:
                accelerator(name, pool.accelerator)  # a wrong name is told now, not at the first wake
            return KubernetesProvider(
                name,
                pool,
                models=models,
                engines=kinds,
                installation=installation,
                clock=clock,
                known=partial(accelerator, name),
            )
        case AwsPool(federation="liqo"):
            from lamplighter.federation.node_provider import FederatedProvider

            return FederatedProvider(
                name,
                pool,
                federation=config.federation,
                models=models,
                engines=kinds,
                mesh=config.mesh,
                data=data,
                installation=installation,
                clock=clock,
            )
        case AwsPool():
            from lamplighter.providers.aws.provider import AwsProvider

            return AwsProvider(
                name,
                pool,
                models=models,
                engines=kinds,
                mesh=config.mesh,
                data=data,
                installation=installation,
                clock=clock,
            )
        case FakePool():
            from lamplighter.testing.provider import FakeProvider

            return FakeProvider(name, pool, models=models, installation=installation, clock=clock)

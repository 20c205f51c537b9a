"""What a node is there for: to run the one engine in a container, or whatever else an assignment can say (a cluster, see `federation`).

Everything that every node gets alike (mesh, keys, deadlines) is `admission`'s. Nothing here asks AWS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, Protocol

from lamplighter.config import ModelConfig
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Containerised, Engine
from lamplighter.providers.aws.machines import accelerator


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of a node once it is let in. `kind`: its type of machine. `key`: its engine's, made for this node alone."""

    instance: str
    kind: str
    overlay: IPv4Address
    region: str
    account: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Work:
    """What one node will do. `port`: where its engine answers, open to home alone. `hub_token`: reference to the token that the node may read.

    `body`: what the assignment says of it, beside what every assignment says.
    """

    port: int
    hub_token: str | None
    body: Callable[[Given], Mapping[str, Any]]


class Duty(Protocol):
    """What the nodes of a pool are there for."""

    stages: tuple[str, ...]
    """Of a node, in order, after `capacity`; `boot` and `mesh` come first."""
    serves: bool
    """Whether an engine answers at the node's own address once the node is ready."""

    def prepare(self, model: str, kind: str) -> Work:
        """The work of a machine of type `kind` for a model; asks nobody. Raises ProviderError, SourceError when it can never work."""
        ...


class Contained:
    """The engine in a container, on the mesh's address."""

    stages: tuple[str, ...] = ("boot", "mesh", "pull", "load")
    serves = True

    def __init__(self, models: Callable[[], Mapping[str, ModelConfig]], engines: Mapping[str, Engine]) -> None:
        self._models = models
        self._engines = engines

    def prepare(self, model: str, kind: str) -> Work:
        """See `Duty`."""
        config = configured(self._models(), model)
        engine: object = self._engines.get(config.engine)  # whether it can be contained is no part of every engine
        if not isinstance(engine, Containerised):
            raise ProviderError(
                f"The engine {config.engine!r} of the model {model!r} cannot run on a cloud machine.",
                reason=WakeFailure.ENGINE_MISSING,
                next_step="Use the engine `vllm` or `ollama` there.",
            )
        container = engine.container(model, config, accelerator(kind))

        def body(given: Given) -> Mapping[str, Any]:
            return {
                "engine": {
                    "kind": config.engine,
                    "image": container.image,
                    "arguments": list(container.arguments),
                    "environment": dict(container.environment),
                    "key": given.key,
                    "secrets": dict(container.secrets),
                    "port": container.port,
                    "weights": container.weights,
                    "health": container.health,
                    "prepare": list(container.prepare),
                }
            }

        return Work(container.port, config.hub_token, body)


def configured(models: Mapping[str, ModelConfig], model: str) -> ModelConfig:
    """Raises ProviderError when there is no such model."""
    config = models.get(model)
    if config is None:
        raise ProviderError(f"There is no model {model!r} in the configuration.", reason=WakeFailure.MODEL_NOT_FOUND)
    return config

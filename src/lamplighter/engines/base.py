"""What an engine kind must answer. One contract suite (`lamplighter.testing.contracts`) runs against every kind and every fake."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import WakeFailure


class Capability(StrEnum):
    """Routes that an engine serves for a model."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    RERANK = "rerank"
    TOKENIZE = "tokenize"


class Health(StrEnum):
    """One health check's result."""

    READY = "ready"
    LOADING = "loading"
    """It answers and says that it is not ready yet."""
    DOWN = "down"
    """No answer, or one that makes no sense."""
    FAILED = "failed"
    """It answers and says that it will never be ready; `reason` tells why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one health check found. `models`: upstream names it serves, when it tells. `context`: tokens a request may use, when it tells.

    `running`, `waiting`: requests that the engine works on and that wait inside it, when it tells.
    """

    health: Health
    detail: str | None = None
    reason: WakeFailure | None = None
    progress: float | None = None
    models: frozenset[str] = frozenset()
    context: int | None = None
    running: int | None = None
    waiting: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What the provider gives an engine to make its command from.

    `folder`: the replica's own 0700 directory, where the engine process writes `state.json` (`ProcessState`) and reads `spec.json`.
    `models_folder`: where weights are kept, shared by all replicas. `key`: the bearer key that this run must demand.
    """

    model: str
    config: ModelConfig
    folder: Path
    models_folder: Path
    key: str = field(repr=False)
    installation: str = ""
    handle: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start the engine: `argv` (absolute program first), additions to the environment, stages it will report in order."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """One kind of engine. Stateless: everything that varies comes as an argument."""

    kind: str

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """The model's name as the engine itself knows it; spliced into requests when it differs from `name`."""
        ...

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """What `config` can be asked for, known without asking the engine."""
        ...

    def command(self, spec: LaunchSpec) -> Command:
        """The process to start. Raises SourceError when the configuration can never work, ProviderError for kinds that are never started."""
        ...

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """One health check that costs the engine nothing and never makes demand. Never raises for anything the network does."""
        ...

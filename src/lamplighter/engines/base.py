"""What an engine kind must answer. One contract suite (`lamplighter.testing.contracts`) runs against every kind and every fake."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

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
    ASLEEP = "asleep"
    """It answers, but its weights are unloaded (an engine's own sleep): a request would hang."""
    FAILED = "failed"
    """It answers and says that it will never be ready; `reason` tells why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one health check found. `models`: upstream names it serves, when it tells. `context`: tokens a request may use, when it tells.

    `running`, `waiting`: requests that the engine works on and that wait inside it, when it tells. `cache`: share 0..1 of its KV cache in use.
    `capabilities`: the routes that it has, when it tells.
    """

    health: Health
    detail: str | None = None
    reason: WakeFailure | None = None
    progress: float | None = None
    models: frozenset[str] = frozenset()
    context: int | None = None
    running: int | None = None
    waiting: int | None = None
    cache: float | None = None
    capabilities: frozenset[Capability] | None = None


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


def declared(config: ModelConfig, usual: Collection[Capability]) -> frozenset[Capability]:
    """What the configuration says that the model can be asked for, or else what its kind of engine usually has."""
    return frozenset(usual) if config.capabilities is None else frozenset(map(Capability, config.capabilities))


def capabilities_of(engine: "Engine", config: ModelConfig, found: Collection[str] | None) -> frozenset[Capability]:
    """The same, corrected by what a running engine told of itself (`Probe.capabilities`); what the configuration says still wins."""
    if config.capabilities is not None or found is None:
        return engine.capabilities(config)
    return frozenset(capability for capability in Capability if capability.value in found)


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


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The GPU of a machine that an engine will run on. `name`: NVIDIA's, such as `T4`. `memory`: bytes of one. `bf16`: whether it computes in it.

    `count`: in one machine. `nodes`: machines that serve one replica together (a LeaderWorkerSet's size).
    """

    name: str
    count: int
    memory: int
    bf16: bool
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Container:
    """How to run an engine in a container: on a machine of its own, or in a pod.

    `image`: to pull. `arguments`: of its entry point. `environment`: no secrets. `secrets`: variables to fill, by what they hold (`key`: the
    bearer key that it must demand; `hub_token`). `port`: on which it serves, on the mesh's address alone. `weights`: the folder inside in which
    it keeps weights, so that they outlive it. `health`: the path that answers 200 once it serves. `prepare`: a command to run inside once it
    answers, before it counts as loaded (an Ollama's pull).

    What a pod wants to know beside: `shared_memory`: bytes of `/dev/shm` that it needs, 0 for what a container has anyway. `ready`: the path that
    answers 200 only once the loaded model answers, without a key; None when there is no such path, and `prepare` with `health` has to do.
    `stop_grace`: seconds from SIGTERM in which it finishes what it answers. `writable`: folders that it writes to beside `weights`, when its
    root is read-only. `pre_stop`: a command to run inside before SIGTERM. `metrics`: the path of its Prometheus metrics. `member_arguments`: for
    the other members when several machines serve together (`Accelerator.nodes`), None else; both sets of arguments then name the variables
    that a LeaderWorkerSet gives to each pod, as `$(LWS_LEADER_ADDRESS)` and `$(LWS_WORKER_INDEX)`; only the first member answers requests.
    """

    image: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    port: int = 8000
    weights: str = "/models"
    health: str = "/health"
    prepare: tuple[str, ...] = ()
    shared_memory: int = 0
    ready: str | None = None
    stop_grace: float = 30.0
    writable: tuple[str, ...] = ("/tmp",)  # noqa: S108 - inside the container
    pre_stop: tuple[str, ...] = ()
    metrics: str | None = None
    member_arguments: tuple[str, ...] | None = None


@runtime_checkable
class Containerised(Protocol):
    """An ability of engines that can run as a container on a cloud node."""

    def container(self, name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
        """What to run there for the model `name`. Raises SourceError when the configuration can never work."""
        ...


@runtime_checkable
class Judging(Protocol):
    """An ability of engines whose log tells why they ended."""

    def judge(self, log: str, code: int) -> tuple[WakeFailure, str]:
        """Why one ended, as a reason and a sentence, from the end of its log and its exit status; ENGINE_CRASHED when the log does not tell."""
        ...


class Loading(Protocol):
    """Told by `Resident.load` how far it is."""

    def stage(self, name: str) -> None:
        """The stage `name` begins, which ends the one before."""
        ...

    def progress(self, share: float | None, detail: str | None) -> None:
        """How far the current stage is: 0..1 when known."""
        ...


@runtime_checkable
class Resident(Protocol):
    """An ability of engines whose server outlives its models: load and unload them there. Every method raises ProviderError."""

    async def load(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, loading: Loading) -> None:
        """Bring the model into the server's memory, where it stays for `keep` seconds after its last use. As long as that takes."""
        ...

    async def hold(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, timeout: float) -> None:
        """Let a loaded model stay for another `keep` seconds."""
        ...

    async def unload(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> None:
        """Free its memory once its answers are done. Succeeds when it is not loaded."""
        ...

    async def loaded(self, endpoint: Endpoint, *, timeout: float) -> frozenset[str]:
        """The upstream names of what is in memory now."""
        ...

    def same(self, name: str, config: ModelConfig, loaded: frozenset[str]) -> bool:
        """Whether the model is among what `loaded` gave: servers have several spellings for one model."""
        ...

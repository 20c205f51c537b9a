"""The tree of settings. Every field is documented beside itself; the generated reference and the JSON Schema come from here.

Cross-field rules live in `Config`. Secrets appear only as references (`env:NAME`, `file:PATH`), resolved by `config.secrets` when used.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from lamplighter.config import engines as engine_rules
from lamplighter.config import routing as routing_rules
from lamplighter.config.admission import Limits, LimitsConfig, RedisConfig, TokenPrice, one_currency
from lamplighter.config.cloud import CloudConfig
from lamplighter.config.engines import CapabilityName
from lamplighter.config.federation import FederationConfig
from lamplighter.config.kubernetes import Cpu, KubernetesPool
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool, CommandPool, FakePool, HttpUrl, ProcessPool, SecretRef, StaticPool
from lamplighter.config.routing import BreakerConfig, RoutingConfig
from lamplighter.config.schedule import HoursText
from lamplighter.config.section import Section
from lamplighter.config.security import AdminConfig, CorsConfig, HostName, Network, TlsConfig
from lamplighter.config.store import StoreConfig
from lamplighter.config.types import Bytes, Delay, Span, SpanOrNever
from lamplighter.core.units import Duration, Money, Size

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
PoolName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
EngineKind = Literal["llamacpp", "vllm", "ollama", "openai", "fake"]


class ServerConfig(Section):
    """Where the gateway listens. The command line's `--host` and `--port` win."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Anything but loopback requires keys, which exist from the first start on.",
    )
    port: int = Field(8080, ge=1, le=65535, description="TCP port to listen on.")
    public_url: HttpUrl | None = Field(
        None, description="The URL under which people reach the gateway, for links; default: made of host and port."
    )
    metrics_without_key: bool = Field(
        False, description="Let anybody who can reach the port read `/metrics`. On loopback no key is ever needed for it."
    )
    shutdown_grace: Span = Field(Duration(30), description="How long running answers may go on after SIGTERM.")
    shutdown_delay: Delay = Field(
        Duration(0),
        description="How long new requests are still taken after SIGTERM, while `/ready` already answers 503 and every answer closes its connection: "
        "the time that a load balancer needs to notice. 0 without one.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Gateway processes that share the port, for more than one core; needs PostgreSQL (`store.url`).",
    )
    cors: CorsConfig = Field(
        default_factory=lambda: CorsConfig.model_validate({}),
        description="Which web pages of other origins may call the gateway.",
    )
    allowed_hosts: list[HostName] | None = Field(
        None,
        description="Host names under which the gateway may be asked, `*.example.com` and `*` included; addresses and `localhost` always may. "
        "Default: on loopback the host of `public_url`, and the check spares requests that carry a key; elsewhere any.",
    )
    trusted_proxies: list[Network] = Field(
        [],
        description="Addresses or networks of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are believed. Default: nobody's.",
    )
    tls: TlsConfig | None = Field(None, description="Speak HTTPS with this certificate; default: plain HTTP.")
    admin: AdminConfig | None = Field(None, description="A port of its own for the admin API; default: one port for everything.")


class GatewayConfig(Section):
    """How requests are held, limited and forwarded."""

    hold: Span = Field(
        Duration(55),
        description="How long a request without streaming waits for a sleeping model, before 503 with Retry-After. Keep it below proxies' timeouts.",
    )
    max_held: int = Field(
        100,
        ge=1,
        le=100_000,
        description="How many requests may wait for one model in one gateway; one more gets 429 with Retry-After.",
    )
    max_wait: SpanOrNever = Field(Duration(3600), description="The longest that a streaming request is held, heartbeats or not.")
    heartbeat: Span = Field(Duration(10), description="A held or silent stream gets an SSE comment at least this often.")
    early_headers: Delay = Field(
        Duration(0.5),
        description="A held stream gets its status and headers after this long, so that a fast wake can still answer with a true HTTP error.",
    )
    max_body: Bytes = Field(Size(10 * 10**6), description="Largest request body; a larger one gets 413.")
    body_timeout: Span = Field(Duration(30), description="Longest pause while a client sends its body; then 408.")
    connect_timeout: Span = Field(Duration(5), description="Limit for connecting to an engine.")
    first_byte_timeout: Span = Field(
        Duration(600), description="Longest silence of an engine that works on an answer without streaming; then 504."
    )
    first_token_timeout: Span = Field(
        Duration(600), description="Limit for the first bytes of a streamed answer; then 504, or an error event after heartbeats."
    )
    idle_stream_timeout: Span = Field(
        Duration(120), description="Longest silence of an engine within a stream; then an error event."
    )
    deadline: SpanOrNever = Field(
        Duration(7200),
        description="Limit for a request as a whole, from its arrival to the last byte of its answer, waiting included; then 504, or an error event.",
    )
    max_upstream_connections: int = Field(
        1024, ge=1, le=65_536, description="Connections that may be open to one endpoint; more requests wait for one."
    )
    continue_streams: bool = Field(
        True,
        description="When an engine is lost in the middle of a streamed answer, let another replica go on where it stopped, if the engine can.",
    )
    remote_images: bool = Field(
        False,
        description="Let requests name images, audio, videos and files by URL: the engine then fetches them, from inside your network. "
        "`data:` URLs always may be sent.",
    )
    max_parallel: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Requests that one gateway has in hand at a time, waiting and running; one more gets 503.",
    )
    max_body_memory: Bytes = Field(
        Size(256 * 10**6), description="Memory for the bodies of requests that are being received or wait; one more gets 503."
    )
    retries: int = Field(
        2, ge=0, le=10, description="How often a request is tried again before its first byte (connection errors, 502, 503, 504)."
    )


class KeeperConfig(Section):
    """How the control plane looks and acts."""

    interval: Span = Field(
        Duration(2), description="How often everything is observed when nothing happens; events are acted upon at once."
    )
    probe_timeout: Span = Field(Duration(3), description="Limit for one health check of an engine.")
    unreachable_after: int = Field(
        3, ge=1, le=100, description="Failed health checks in a row before a replica counts as unreachable."
    )
    hung_after: Span = Field(Duration(60), description="An unreachable replica of ours is ended and replaced after this long.")
    backoff: Span = Field(Duration(2), description="Wait after a failed wake; doubles with each failure in a row.")
    backoff_max: Span = Field(Duration(120), description="The longest such wait.")
    steady_after: Span = Field(
        Duration(60), description="A replica that ends by itself sooner than this after it became ready counts as a failed wake."
    )
    drain_deadline: Span = Field(Duration(3600), description="The longest that a drain waits for running answers.")


class LogConfig(Section):
    """What is written to standard error. The command line's `--log-format` and `--log-level` win."""

    format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for one JSON object a line.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least important level that is written.")
    access: bool = Field(True, description="One line for each request to `/v1/*`: no prompt, no answer, no secret.")
    prompts: bool = Field(
        False,
        description="Also write what people ask: one line `prompt` for each request, with its messages, prompt or input as they came. "
        "For a short search on a machine of your own; never the answers, never keys.",
    )


class AccountsConfig(Section):
    """What is kept of each request once it is over; see `lamplighter usage`. Never what was asked or answered."""

    keep: SpanOrNever = Field(
        Duration(90 * 86_400), description="How long the single requests are kept. Their sums by day, key and model stay."
    )


class ModelConfig(Section):
    """A name that clients ask for, served by an engine in a pool."""

    engine: EngineKind = Field(
        description="The program that runs it: `llamacpp` (embedded), `vllm`, `ollama`, `openai` (any compatible URL), `fake` (development)."
    )
    pool: PoolName = Field(description="The pool in which it runs.")
    source: str | None = Field(
        None,
        min_length=1,
        description="Where its weights come from: `bundled`, `catalogue:NAME`, `hf:OWNER/REPO[:FILE.gguf]` or `file:PATH`. "
        "For `vllm` in a process pool: `hf:OWNER/REPO` or `file:PATH`. Else the name that the server itself uses, if it differs.",
    )
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")] | None = Field(
        None,
        description="With `source: hf:...`: the revision of the repository, a tag, a branch or best a commit; default: its main branch. "
        "`lamplighter models switch` changes it without downtime.",
    )
    while_waking: Name | None = Field(None, description="A model that answers at once while this one wakes; the answer says so.")
    aliases: list[Name] = Field([], description="Further names under which clients may ask for it, such as `gpt-4o`.")
    fallback: list[Name] = Field(
        [],
        description="Models that answer, in this order, when this one cannot be woken or fails before its first byte; the answer says so.",
    )
    max_parallel: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Requests that one replica is sent at the same time by one gateway; more wait their turn, fair between keys. "
        "Default: four for each of `slots` with the engine `llamacpp`, else `gateway.max_upstream_connections`.",
    )
    context: int = Field(
        4096,
        ge=128,
        le=2**22,
        description="Tokens that one request may use, prompt and answer together (engine `llamacpp`; less when the model was trained for less).",
    )
    slots: int = Field(2, ge=1, le=256, description="Answers that one replica writes at the same time (engine `llamacpp`).")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the engine; default: half of the cores.")
    embeddings: bool = Field(True, description="Also serve `/v1/embeddings` (engine `llamacpp`).")
    price: TokenPrice | None = Field(None, description="What its tokens cost; without it, they cost nothing.")
    limits: Limits | None = Field(None, description="What all keys together may ask of it.")
    limits_per_key: Limits | None = Field(None, description="What each key may ask of it, beside the key's own limits.")
    gpu_layers: int = Field(-1, ge=-1, description="Layers put on a GPU if the engine finds one; -1: as many as fit.")
    program: str | None = Field(
        None,
        min_length=1,
        description="Engines `vllm` and `ollama` in a process pool: the program to start; default: found on the PATH.",
    )
    arguments: tuple[str, ...] = Field(
        (),
        strict=False,
        max_length=256,
        description="Engine `vllm` in a process, kubernetes or aws pool: further arguments of `vllm serve`.",
    )
    environment: dict[EnvironmentName, str] = Field(
        default_factory=dict,
        description="Engines `vllm` and `ollama` in a process, kubernetes or aws pool: added to the engine's environment, such as "
        "CUDA_VISIBLE_DEVICES. No secrets.",
    )
    image: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="In a pool of kind `aws` or `kubernetes`: the engine's container image, by tag or digest; default: the one that this version "
        "was made for.",
    )
    gpus: int | None = Field(
        None, ge=0, le=64, description="In a pool of kind `kubernetes`: GPUs of one of its pods; default: the pool's."
    )
    cpu: Cpu | None = Field(
        None, description="In a pool of kind `kubernetes`: CPU that one of its pods requests; default: the pool's."
    )
    memory: Bytes | None = Field(
        None,
        description="In a pool of kind `kubernetes`: memory that one of its pods requests, and its limit; default: the pool's.",
    )
    hub_token: SecretRef | None = Field(
        None,
        description="In a pool of kind `aws`: reference to the hub's token for gated models; the node gets it through the stack's secret store.",
    )
    capabilities: tuple[CapabilityName, ...] | None = Field(
        None, strict=False, description="What the model can be asked for; default: what the engine says, or usually has."
    )
    pull: bool = Field(False, description="Engine `ollama`: let the server pull a model that it does not have.")
    keep_warm: tuple[HoursText, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="Hours in which it stays awake although nobody asks, such as `Mon-Fri 08:00-18:00 Europe/Berlin`; default: those of the pool.",
    )


PoolConfig = Annotated[ProcessPool | StaticPool | CommandPool | KubernetesPool | AwsPool | FakePool, Field(discriminator="kind")]

DEFAULT_MODELS = {"small": {"engine": "llamacpp", "pool": "here", "source": "bundled"}}
DEFAULT_POOLS = {"here": {"kind": "process"}}


class Config(Section):
    """The whole file. With no file at all, the model `small` is served by the pool `here`."""

    server: ServerConfig = Field(
        default_factory=lambda: ServerConfig.model_validate({}), description="Where the gateway listens."
    )
    gateway: GatewayConfig = Field(
        default_factory=lambda: GatewayConfig.model_validate({}), description="How requests are held, limited and forwarded."
    )
    keeper: KeeperConfig = Field(
        default_factory=lambda: KeeperConfig.model_validate({}), description="How the control plane looks and acts."
    )
    routing: RoutingConfig = Field(
        default_factory=lambda: RoutingConfig.model_validate({}), description="How requests find one of several replicas."
    )
    breaker: BreakerConfig = Field(
        default_factory=lambda: BreakerConfig.model_validate({}),
        description="The circuit breaker of each endpoint: one that fails is not asked for a while, and clients are told at once.",
    )
    store: StoreConfig = Field(
        default_factory=lambda: StoreConfig.model_validate({}), description="Where what must be remembered is kept."
    )
    log: LogConfig = Field(default_factory=lambda: LogConfig.model_validate({}), description="Logging.")
    accounts: AccountsConfig = Field(
        default_factory=lambda: AccountsConfig.model_validate({}), description="Accounts of requests."
    )
    limits: LimitsConfig = Field(
        default_factory=lambda: LimitsConfig.model_validate({}), description="Limits and budgets of keys."
    )
    redis: RedisConfig = Field(
        default_factory=lambda: RedisConfig.model_validate({}), description="Through which several gateways share limits."
    )
    mesh: MeshConfig = Field(
        default_factory=lambda: MeshConfig.model_validate({}),
        description="The Nebula mesh that joins home and the machines of cloud pools.",
    )
    cloud: CloudConfig = Field(
        default_factory=lambda: CloudConfig.model_validate({}),
        description="What `lamplighter cloud apply` builds in AWS beside the pools.",
    )
    federation: FederationConfig = Field(
        default_factory=lambda: FederationConfig.model_validate({}),
        description="The federation of clusters by Liqo, for pools with `federation: liqo`.",
    )
    models: dict[Name, ModelConfig] = Field(description="The models, by the name that clients ask for.")
    pools: dict[PoolName, PoolConfig] = Field(description="The pools, by name.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, model in self.models.items():
            self.check_model(name, model)
        light = self.cloud.lighthouse
        if light is not None and light.name not in {one.name for one in self.mesh.lighthouses}:
            raise ValueError(f"cloud.lighthouse.name: there is no lighthouse {light.name!r} in mesh.lighthouses")
        one_currency(self._moneys())
        return self

    def _moneys(self) -> Iterator[tuple[str, Money]]:
        """Every amount of money in the tree, by its path."""
        for field, money in self.limits.default.moneys():
            yield f"limits.default.{field}", money
        for name, pool in self.pools.items():
            if pool.price is not None:
                yield f"pools.{name}.price", pool.price.money
            if pool.budget is not None:
                yield f"pools.{name}.budget", pool.budget.limit
            if isinstance(pool, AwsPool):
                yield f"pools.{name}.kind", Money(Decimal(0), "USD")  # AWS bills in dollars, so its ledger is in dollars
        for name, model in self.models.items():
            for section in ("price", "limits", "limits_per_key"):
                if (part := getattr(model, section)) is not None:
                    for field, money in part.moneys():
                        yield f"models.{name}.{section}.{field}", money

    @property
    def currency(self) -> str | None:
        """The installation's one currency; None while nothing in the file has a price or a budget."""
        return one_currency(self._moneys())

    def hours(self, model: ModelConfig) -> tuple[str, ...]:
        """When `model` stays awake although nobody asks: its own hours, or else its pool's."""
        pool = self.pools.get(model.pool)
        return model.keep_warm or (pool.keep_warm if pool is not None else ())

    def check_model(self, name: str, model: ModelConfig) -> None:
        """Whether `model` fits the pools and models of this tree. Raises ValueError that begins with the setting's path."""
        pool = self.pools.get(model.pool)
        if pool is None:
            raise ValueError(f"models.{name}.pool: there is no pool {model.pool!r}; there are: {', '.join(self.pools) or 'none'}")
        engine_rules.check(name, model, pool)
        routing_rules.check(name, model, self.models)
        if model.while_waking is not None:
            if model.while_waking == name:
                raise ValueError(f"models.{name}.while_waking: a model cannot stand in for itself")
            if model.while_waking not in self.models:
                raise ValueError(f"models.{name}.while_waking: there is no model {model.while_waking!r}")
            if self.models[model.while_waking].while_waking is not None:
                raise ValueError(
                    f"models.{name}.while_waking: {model.while_waking!r} has a while_waking of its own; chains are not possible"
                )

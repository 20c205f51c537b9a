"""The kinds of pools, each with its settings. Rules that need the whole file live in `model`.

Not responsible for what a kind does: that is its provider.
"""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema, field_validator, model_validator

from lamplighter.config.admission import HourPrice, PoolBudget
from lamplighter.config.schedule import HoursText
from lamplighter.config.section import Section
from lamplighter.config.types import Delay, Span, SpanOrNever
from lamplighter.core.units import Duration

SecretRef = Annotated[str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
Weight = Annotated[float, Field(gt=0, le=1000)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d[a-z]$")]
InstanceType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$")]
StackName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$")]
_WORD_MOST = 8192
_WORDS_MOST = 256


def _command(value: object) -> str | tuple[str, ...]:
    """One message for both shapes: a union would complain about each of them."""
    if isinstance(value, str) and value.strip() and len(value) <= _WORD_MOST:
        return value
    if isinstance(value, list | tuple) and 0 < len(value) <= _WORDS_MOST:
        words = tuple(word for word in value if isinstance(word, str) and 0 < len(word) <= _WORD_MOST)
        if len(words) == len(value):
            return words
    raise ValueError("write a command: a text for the shell, or a list of words")


CommandLine = Annotated[
    str | tuple[str, ...],
    PlainValidator(_command),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"\S", "maxLength": _WORD_MOST},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": _WORD_MOST},
                    "minItems": 1,
                    "maxItems": _WORDS_MOST,
                },
            ]
        }
    ),
]
"""A command: a text for the shell, or a list of words that no shell sees."""


class _Priced(Section):
    price: HourPrice | None = Field(
        None, description="What one replica costs; each request is charged its time on the engine times this, over `price_share`."
    )
    price_share: int = Field(
        1,
        ge=1,
        le=10_000,
        description="How many requests are reckoned to share a replica's price. 1: nobody is ever charged too little.",
    )
    budget: PoolBudget | None = Field(
        None,
        description="What the pool's replicas may cost together in a day or a calendar month (UTC). A wake that cannot be paid is refused with "
        "402, and what runs is drained when the money is spent.",
    )


class PoolBase(_Priced):
    """What every pool has whose replicas Lamplighter itself starts and ends."""

    sleep_after: SpanOrNever = Field(
        Duration(600),
        description="Idle time after the end of the last answer until a replica is drained and stopped; `never` keeps it.",
    )
    min_replicas: int = Field(0, ge=0, le=1000, description="Replicas that run even when nobody asks.")
    max_replicas: int = Field(1, ge=1, le=1000, description="Replicas at the most; each holds one model.")
    boot_deadline: Span = Field(Duration(900), description="Limit for one wake; then it failed and is tried again.")
    swap_after: Span = Field(
        Duration(60),
        description="When the pool is full: idle time of a resident model until it makes room for another that is asked for.",
    )
    min_residency: Span = Field(
        Duration(120), description="A model once loaded stays at least this long before it makes room for another."
    )
    target_per_replica: int = Field(
        8,
        ge=1,
        le=100_000,
        description="Queued and running requests per replica above which another replica is added, up to max_replicas.",
    )
    scale_up_after: Delay = Field(
        Duration(3),
        description="How long a higher count must have been needed before more replicas are added; the first one comes at once.",
    )
    scale_down_after: Span = Field(
        Duration(300), description="How long a lower count must have been enough before a surplus replica is drained."
    )
    keep_warm: tuple[HoursText, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="Hours in which its models stay awake although nobody asks, such as `Mon-Fri 08:00-18:00 Europe/Berlin`.",
    )

    @property
    def elastic(self) -> bool:
        """Whether it wakes and sleeps."""
        return True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must not be larger than max_replicas")
        return self


class ProcessPool(PoolBase):
    """Engines as processes on this machine."""

    kind: Literal["process"] = Field(description="Engines as processes of this machine.")


class FakePool(PoolBase):
    """Pretended capacity with slow stages, for development and tests."""

    kind: Literal["fake"] = Field(description="Pretended capacity, for development.")
    stages: dict[str, Span] = Field(
        {"capacity": Duration(8), "boot": Duration(12), "mesh": Duration(4), "pull": Duration(10), "load": Duration(6)},
        description="The stages of a wake and how long each takes.",
    )
    tokens_per_second: float = Field(40, gt=0, le=100_000, description="Speed of the pretended engine.")


class ModelStorage(Section):
    """Where a cloud pool keeps the weights between wakes."""

    kind: Literal["none", "volume", "snapshot", "s3"] = Field(
        "volume",
        description="`volume`: one EBS volume in one zone, attached to the node (the fastest wake; one node at a time). `snapshot`: each node gets a "
        "volume from the newest snapshot (any zone). `s3`: copied from the stack's bucket. `none`: downloaded at every wake.",
    )
    size_gb: int = Field(100, ge=10, le=16_000, description="Size of the volume, in GB (gp3).")


class AwsPool(PoolBase):
    """GPU machines in AWS that join the mesh when they are asked for and end themselves when they are forgotten."""

    kind: Literal["aws"] = Field(description="Machines of AWS, through Auto Scaling groups that `lamplighter cloud apply` makes.")
    region: Region = Field(description="The AWS region, such as `eu-central-1`.")
    stack: StackName = Field("lamplighter", description="Name of the Terraform stack; pools of one region share it.")
    instance_types: tuple[InstanceType, ...] = Field(
        ("g4dn.xlarge", "g5.xlarge"),
        strict=False,
        max_length=20,
        description="Types of machine that can run its models; the cheapest that is to be had is taken.",
    )
    zones: tuple[Zone, ...] = Field(
        (), strict=False, max_length=10, description="Availability zones that may be used; default: all (one, with a `volume`)."
    )
    market: Literal["spot", "on-demand"] = Field("spot", description="What is asked for first.")
    on_no_capacity: Literal["fail", "on-demand"] = Field(
        "fail", description="When there is no spot capacity: fail and try again later, or take an on-demand machine."
    )
    spot_patience: Span = Field(
        Duration(60), description="How long a spot machine is waited for before that counts as no capacity."
    )
    allocation: Literal["price-capacity-optimized", "lowest-price"] = Field(
        "price-capacity-optimized", description="How AWS chooses among types and zones on the spot market."
    )
    max_price: HourPrice | None = Field(
        None, description="Never wake for more than this per machine and hour; default: no limit but the budget."
    )
    lease: Span = Field(Duration(300), description="A node that nobody renews for so long ends itself.")
    drain: Span = Field(Duration(120), description="How long running answers may go on on a node whose lease has run out.")
    at_exit: Literal["keep", "end"] = Field(
        "keep",
        description="When Lamplighter ends: `keep` leaves nodes to their lease, so that a restart within it costs no wake; `end` ends them at once.",
    )
    image: Annotated[str, StringConstraints(pattern=r"^(stock|baked|ami-[0-9a-f]{8,17})$")] = Field(
        "stock",
        description="`stock`: AWS's Deep Learning AMI; `baked`: the newest that `lamplighter cloud bake` made; or an AMI's id.",
    )
    model_storage: ModelStorage = Field(
        default_factory=lambda: ModelStorage.model_validate({}), description="Where weights are kept between wakes."
    )
    disk_gb: int = Field(100, ge=30, le=16_000, description="Size of a node's own disk, in GB (gp3).")
    federation: Literal["none", "liqo"] = Field(
        "none",
        description="`none`: the node runs the engine directly, which is the fastest. `liqo`: the node becomes a small cluster that joins the one of "
        "`federation:`, and the engine is a pod there.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_disk_for_pods(cls, given: Any) -> Any:
        """The default of `model_storage` is what serves containers; pods of a joined cluster have none of it, and it would only cost."""
        if isinstance(given, dict) and given.get("federation") == "liqo" and "model_storage" not in given:
            return {**given, "model_storage": {"kind": "none"}}
        return given

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.federation == "liqo" and self.model_storage.kind != "none":
            raise ValueError("model_storage: with federation liqo, pods fetch their weights themselves; leave it out")
        if not self.instance_types:
            raise ValueError("instance_types: name at least one")
        if self.lease < 60:
            raise ValueError("lease must be at least 1m: a short loss of the home's connection would end the machine")
        for zone in self.zones:
            if not zone.startswith(self.region):
                raise ValueError(f"zones: {zone} is not in {self.region}")
        if self.max_price is not None and self.max_price.money.currency != "USD":
            raise ValueError("max_price must be in USD, as AWS's prices are")
        return self


class CommandPool(_Priced):
    """A machine of your own that is woken and put to sleep by your own commands: Wake-on-LAN, ssh, a smart plug."""

    kind: Literal["command"] = Field(description="A machine that is woken and put to sleep by commands.")
    url: HttpUrl = Field(description="Base URL of the engine on it, with or without `/v1`.")
    key: SecretRef | None = Field(None, description="Reference to the engine's API key: `env:NAME` or `file:PATH`.")
    ca: str | None = Field(
        None,
        min_length=1,
        description="For https: PEM file with an authority that its certificate may come from, beside those that the system trusts.",
    )
    wake: CommandLine = Field(
        description="The command that wakes it: a text for the shell, or a list of words. Run again every `wake_every` until the engine answers.",
    )
    sleep: CommandLine = Field(description="The command that puts it to sleep once nothing runs on it any more.")
    running: CommandLine | None = Field(
        None,
        description="A command that exits with 0 when the machine is on; default: it counts as on when the engine's port answers.",
    )
    wake_every: Span = Field(
        Duration(30), description="How often the wake command is repeated while the machine does not answer."
    )
    command_timeout: Span = Field(Duration(60), description="Limit for one command; then it is killed.")
    sleep_after: SpanOrNever = Field(
        Duration(600),
        description="Idle time after the end of the last answer until the machine is put to sleep; `never` keeps it on.",
    )
    max_loaded: int = Field(3, ge=1, le=1000, description="Models that are in use on it at the same time, at the most.")
    boot_deadline: Span = Field(Duration(300), description="Limit for one wake; then it failed and is tried again.")
    swap_after: Span = Field(Duration(60), description="Idle time of a model until it makes room for another that is asked for.")
    min_residency: Span = Field(Duration(120), description="A model once loaded stays at least this long before it makes room.")
    keep_warm: tuple[HoursText, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="Hours in which its models stay awake although nobody asks, such as `Mon-Fri 08:00-18:00 Europe/Berlin`.",
    )

    @property
    def elastic(self) -> bool:
        """Whether it wakes and sleeps."""
        return True

    @field_validator("url")
    @classmethod
    def _reachable(cls, value: str) -> str:
        return base_url(value)


def base_url(value: str) -> str:
    """An engine's URL without `/v1` and without a slash at its end. Raises ValueError for an impossible port."""
    try:
        urlsplit(value).port  # noqa: B018 - reading it is what checks its range
    except ValueError as error:
        raise ValueError(f"{value!r} has an impossible port: {error}") from error
    return value.rstrip("/").removesuffix("/v1")


class StaticServer(Section):
    """One more server of an always-on pool."""

    url: HttpUrl = Field(description="Its base URL, with or without `/v1`.")
    weight: Weight = Field(1.0, description="Its share of the requests, relative to the other servers.")

    _reachable = field_validator("url")(base_url)


class StaticPool(_Priced):
    """A server that is always on: an existing vLLM, Ollama, LM Studio, or any OpenAI-compatible URL."""

    kind: Literal["static"] = Field(description="An always-on OpenAI-compatible server.")
    url: HttpUrl = Field(description="Its base URL, with or without `/v1`.")
    key: SecretRef | None = Field(None, description="Reference to its API key: `env:NAME` or `file:PATH`.")
    ca: str | None = Field(
        None,
        min_length=1,
        description="For https: PEM file with an authority that its certificate may come from, beside those that the system trusts.",
    )
    weight: Weight = Field(1.0, description="Its share of the requests when there are `servers` beside it.")
    servers: list[StaticServer] = Field(
        [],
        description="Further servers that serve the same models with the same key; requests are shared among all that are well.",
    )
    sleep_after: SpanOrNever | None = Field(
        None,
        description="Only where all models have engine `ollama`: load them when they are asked for and unload them after this idle time "
        "(`never` keeps them). Without it the server is only watched.",
    )
    max_loaded: int = Field(
        3, ge=1, le=1000, description="With sleep_after: models that are loaded at the same time, at the most."
    )
    boot_deadline: Span = Field(Duration(900), description="With sleep_after: limit for pulling and loading a model.")
    swap_after: Span = Field(
        Duration(60),
        description="With sleep_after: idle time of a loaded model until it makes room for another that is asked for.",
    )
    min_residency: Span = Field(
        Duration(120), description="With sleep_after: a model once loaded stays at least this long before it makes room."
    )
    keep_warm: tuple[HoursText, ...] = Field(
        (),
        strict=False,
        max_length=64,
        description="With sleep_after: hours in which its models stay loaded although nobody asks.",
    )

    @property
    def elastic(self) -> bool:
        """Whether models are loaded and unloaded there."""
        return self.sleep_after is not None

    _reachable = field_validator("url")(base_url)

    @property
    def weights(self) -> dict[str, float]:
        """Every server's URL with its weight."""
        return {self.url: self.weight} | {server.url: server.weight for server in self.servers}

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.weights) <= len(self.servers):
            raise ValueError("servers: a URL is written twice")
        if self.servers and self.elastic:
            raise ValueError("servers: not possible with sleep_after, which is about the models of one server")
        return self

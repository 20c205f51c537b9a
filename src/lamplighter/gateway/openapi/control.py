"""What the older routes of the control API answer, for their description: they give plain objects, and these say what is in them.

Newer routes name their answers themselves. A test holds all of it against a running server.
"""

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema


class Principal(BaseModel):
    """A person or a program."""

    id: str
    name: str


class Session(BaseModel):
    """Who is signed in."""

    principal: Principal
    admin: bool
    version: str


class LoginLink(BaseModel):
    """A one-time link. `expires_at`: Unix seconds."""

    url: str
    login_token: str
    expires_at: float


class Stage(BaseModel):
    """One stage of a wake. `progress`: 0..1."""

    name: str
    started_at: float | None
    ended_at: float | None
    progress: float | None
    detail: str | None


class Eta(BaseModel):
    """Seconds that a whole wake takes."""

    p50: float
    p90: float


class RunningCost(BaseModel):
    """What a replica costs. `hourly`: exact decimal. `since`: Unix seconds from which it costs."""

    hourly: str
    currency: str
    basis: str
    since: float


class PriceQuote(BaseModel):
    """What the next wake would cost, an estimate: `hourly` while it runs, `least` in all. Exact decimals. `at`: Unix seconds of the price."""

    hourly: str
    least: str
    currency: str
    basis: str | None
    source: str | None
    at: float | None


class BudgetStatus(BaseModel):
    """How much of a pool's budget is used. Exact decimals. `since`: Unix seconds at which the period began."""

    limit: str
    period: Literal["day", "month"]
    spent: str
    left: str
    currency: str
    since: float | None


class SpentStatus(BaseModel):
    """What a pool's machines cost since `since` (Unix seconds). Exact decimal."""

    amount: str
    currency: str
    since: float


class WakeProgress(BaseModel):
    """A wake under way."""

    id: str
    started_at: float
    stages: list[Stage]
    eta: Eta | None
    cost: RunningCost | None


class Failure(BaseModel):
    """Why a model cannot be woken."""

    reason: str
    message: str
    next_step: str | None
    retry_at: float | None


class LastWake(BaseModel):
    """The last wake that succeeded."""

    seconds: float
    at: float


class SwitchSummary(BaseModel):
    """Who serves a model's name, when it was changed or is being changed; or `of`: the model whose other revision this is. `weight`: percent."""

    target: str | None
    candidate: str | None
    weight: float | None
    phase: str | None
    of: str | None


class ModelStatus(BaseModel):
    """A model. `sleeping_at`: Unix seconds."""

    name: str
    engine: str
    pool: str
    pool_kind: str
    source: str
    state: str
    always_on: bool
    in_flight: int
    queued: int
    sleeping_at: float | None
    warm_until: float | None
    while_waking: str | None
    capabilities: list[str]
    context: int | None
    note: str | None
    wake: WakeProgress | None
    failure: Failure | None
    last_wake: LastWake | None
    quote: PriceQuote | None
    switch: SwitchSummary | None


class BreakerStatus(BaseModel):
    """The answering gateway's circuit to a replica. `failures`: in a row. Times are Unix seconds."""

    state: Literal["closed", "half_open", "open"]
    since: float
    failures: int
    retry_at: float | None
    reason: str | None


class ReplicaStatus(BaseModel):
    """One running engine."""

    id: str
    model: str | None
    models: list[str]
    state: str
    stage: str | None
    reason: str | None
    detail: str | None
    since: float
    in_flight: int
    breaker: BreakerStatus | None
    cost: RunningCost | None


class PoolStatus(BaseModel):
    """Identical capacity that wakes and sleeps together."""

    name: str
    kind: str
    state: str
    max_replicas: int
    budget: BudgetStatus | None
    spent: SpentStatus | None
    replicas: list[ReplicaStatus]


class Status(BaseModel):
    """Everything at a glance. Times are Unix seconds."""

    version: str
    now: float
    started_at: float
    installation: str
    models: list[ModelStatus]
    pools: list[PoolStatus]


class CatalogueEntry(BaseModel):
    """A model that is known to be good."""

    name: str
    title: str
    parameters: str | int | float
    file_bytes: int
    memory_bytes: int
    licence: str
    source: str
    context: int
    good_for: str
    languages: str | list[str]
    notes: str | None


class Machine(BaseModel):
    """What this machine has."""

    memory_bytes: int
    cores: int


class Catalogue(BaseModel):
    """The models that can be added by name."""

    models: list[CatalogueEntry]
    machine: Machine
    suggested: str | None


class Chat(BaseModel):
    """A conversation."""

    id: str
    title: str
    model: str | None
    system: str | None
    created_at: float
    updated_at: float


class Chats(BaseModel):
    """A page of chats; `next`: the cursor of the next one."""

    chats: list[Chat]
    next: str | None


class ChatMessage(BaseModel):
    """One message in the tree of a chat."""

    id: str
    parent_id: str | None
    role: str
    content: str
    model: str | None
    created_at: float
    status: str
    generation_id: str | None
    error: dict[str, Any] | None
    usage: dict[str, Any] | None
    siblings: list[str]


class Branch(BaseModel):
    """The messages of a chat's active branch, the oldest first."""

    chat: Chat
    messages: list[ChatMessage]
    more: bool


ANSWERS: dict[tuple[str, str], type[BaseModel]] = {
    ("get", "/api/session"): Session,
    ("post", "/api/session"): Session,
    ("post", "/api/login-links"): LoginLink,
    ("get", "/api/status"): Status,
    ("get", "/api/catalogue"): Catalogue,
    ("post", "/api/models"): ModelStatus,
    ("post", "/api/models/{name}/wake"): ModelStatus,
    ("post", "/api/models/{name}/sleep"): ModelStatus,
    ("get", "/api/chats"): Chats,
    ("get", "/api/chats/{chat_id}"): Branch,
    ("patch", "/api/chats/{chat_id}"): Chat,
}


def schemas() -> dict[str, Any]:
    """The component schemas of all answers."""
    kinds = sorted(set(ANSWERS.values()), key=lambda kind: kind.__name__)
    _, found = models_json_schema([(kind, "serialization") for kind in kinds], ref_template="#/components/schemas/{model}")
    return dict(found["$defs"])

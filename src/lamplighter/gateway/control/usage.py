"""Routes: what was used, summed and request by request. An admin sees everything, everybody else what is their own."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from lamplighter.core.errors import RequestError
from lamplighter.core.units import Duration
from lamplighter.gateway.control.access import Anyone
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.store import usage
from lamplighter.store.usage import Entry

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_Text = Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
_MOST_SINCE = 3650 * usage.DAY


class UsageTotal(BaseModel):
    """Sums over requests; durations in seconds. `cost_micros`: millionths of the installation's currency, 0 where no price is known."""

    name: str
    label: str
    requests: int
    failed: int
    estimated: int
    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    queue_seconds: float
    wake_seconds: float
    cost_micros: int


class UsageAnswer(BaseModel):
    """`since`: the Unix time from which the sums count."""

    by: Literal["key", "model", "day"]
    since: float
    totals: list[UsageTotal]


class RequestAccount(BaseModel):
    """One request that is over. Durations in seconds; `ttft` time to the first token, `itl` mean time between tokens."""

    id: str
    at: float
    request_id: str
    gateway_id: str
    key_id: str
    key: str
    principal_id: str
    route: str
    model: str
    asked: str | None
    replica_id: str | None
    status: int
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    seconds: float
    ttft: float | None
    itl: float | None
    tokens_per_second: float | None
    queue_seconds: float
    wake_seconds: float
    engine_seconds: float
    retries: int
    cost_micros: int | None


class RequestsAnswer(BaseModel):
    """The newest first."""

    requests: list[RequestAccount]


@router.get("/api/usage")
async def totals(
    identity: Anyone,
    parts: _Parts,
    by: Literal["key", "model", "day"] = "model",
    since: Annotated[str, Query(max_length=20)] = "7d",
) -> UsageAnswer:
    """Requests, tokens, time and cost of the last `since` (`90m`, `7d`, `1d12h`), by key, model or day.

    Up to two days to the second; longer spans in whole days of UTC, which are kept for ever.
    """
    span = _span(since)
    store = parts.services.store
    await parts.services.accounts.flush()
    found, begin = await usage.totals(
        store, by, since=parts.services.clock.time() - span, principal_id=None if identity.admin else identity.principal_id
    )
    return UsageAnswer(by=by, since=begin, totals=[UsageTotal(**_json(total)) for total in found])


@router.get("/api/requests")
async def recent(
    identity: Anyone,
    parts: _Parts,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    model: _Text = None,
    key_id: _Text = None,
) -> RequestsAnswer:
    """The requests that ended last, of one model or key or of all."""
    store = parts.services.store
    await parts.services.accounts.flush()
    entries = await usage.recent(
        store, limit=limit, model=model, key_id=key_id, principal_id=None if identity.admin else identity.principal_id
    )
    names = await usage.key_names(store)
    return RequestsAnswer(requests=[_account(entry, names.get(entry.key_id, entry.key_id)) for entry in entries])


def _span(text: str) -> float:
    try:
        span = float(Duration.parse(text))
    except ValueError as error:
        raise RequestError(f"`since`: {error}.", code="invalid_value", param="since") from None
    if not 0 < span <= _MOST_SINCE:
        raise RequestError("`since` must be longer than 0s and at most 3650d.", code="invalid_value", param="since")
    return span


def _json(total: usage.Total) -> dict[str, Any]:
    return {name: getattr(total, name) for name in UsageTotal.model_fields}


def _account(entry: Entry, key: str) -> RequestAccount:
    return RequestAccount(**entry._asdict(), key=key, tokens_per_second=entry.tokens_per_second)

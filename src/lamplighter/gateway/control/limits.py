"""Routes: what keys and models may use, and what they have used. An admin sees every key, everybody else their own."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from lamplighter.config.admission import FIELDS, KeyLimits, Limits, checked
from lamplighter.core.units import Money
from lamplighter.costs import amount_of
from lamplighter.gateway.admission.counters import Used
from lamplighter.gateway.admission.spending import of_key, of_model
from lamplighter.gateway.control.access import Anyone
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.gateway.services import Services
from lamplighter.store import principals

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]


class LimitUsage(BaseModel):
    """What was used up in the current day and month (UTC). Money is an exact decimal in the installation's currency; '0' without prices."""

    tokens_today: int
    tokens_this_month: int
    money_today: str
    money_this_month: str


class KeyState(BaseModel):
    """One key: `limits` in force (its own over the defaults), further ones by model, and what it used."""

    id: str
    name: str
    limits: dict[str, Any]
    models: dict[str, dict[str, Any]]
    used: LimitUsage


class ModelState(BaseModel):
    """One model: what all keys together may ask of it, what each key may, and what they used together."""

    name: str
    limits: dict[str, Any]
    limits_per_key: dict[str, Any]
    used: LimitUsage


class LimitsAnswer(BaseModel):
    """`mode`: where limits are counted: in this gateway's memory, in Redis with others, or (Redis is gone) by share. `currency`: of money."""

    mode: Literal["memory", "redis", "degraded"]
    currency: str | None
    keys: list[KeyState]
    models: list[ModelState]


@router.get("/api/limits")
async def limits(identity: Anyone, parts: _Parts) -> LimitsAnswer:
    """Limits in force and what was used of them, as this gateway knows it (others' use with up to ten seconds of delay)."""
    services = parts.services
    now = services.clock.time()
    default = services.config.limits.default
    keys = []
    for key in await principals.list_keys(services.store):
        if not key.opens(now) or not (identity.admin or key.id == identity.key_id):
            continue
        own = checked(dict(key.limits)) if key.limits else KeyLimits.model_validate({})
        keys.append(
            KeyState(
                id=key.id,
                name=key.name,
                limits=_shown((own or default).over(default)),
                models={name: _shown(special) for name, special in (own.models if own is not None else {}).items()},
                used=_used(services, of_key(key.id)),
            )
        )
    models = [
        ModelState(
            name=name,
            limits=_shown(model.limits),
            limits_per_key=_shown(model.limits_per_key),
            used=_used(services, of_model(name)),
        )
        for name, model in (services.view.snapshot.models if identity.admin else {}).items()
    ]
    return LimitsAnswer(mode=services.admission.mode, currency=services.config.currency, keys=keys, models=models)


def _shown(limits: Limits | None) -> dict[str, Any]:
    values: Mapping[str, Any] = {} if limits is None else {name: getattr(limits, name) for name in FIELDS}
    return {
        name: str(value) if isinstance(value, Money) else value
        for name, value in values.items()
        if value is not None and value != "unlimited"
    }


def _used(services: Services, subject: str) -> LimitUsage:
    used: Used = services.admission.used(subject)
    return LimitUsage(
        tokens_today=used.day_tokens,
        tokens_this_month=used.month_tokens,
        money_today=str(amount_of(used.day_money, "").amount),
        money_this_month=str(amount_of(used.month_money, "").amount),
    )

"""Routes: keys, their rights and their secrets."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from lamplighter.config.admission import KeyLimits
from lamplighter.core.errors import RequestError
from lamplighter.gateway.control.access import Admin
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.gateway.services import Services
from lamplighter.store import principals
from lamplighter.store.principals import CLI_KEYS, GRACE_SECONDS, Key, Rights

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
_ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_Models = Annotated[list[_ModelName], Field(min_length=1, max_length=1000)]
_MOST_SECONDS = 100 * 365 * 86_400.0
_Lasting = Annotated[float, Field(gt=0, le=_MOST_SECONDS)]
_MOST_GRACE = 30 * 86_400.0


class NewKey(BaseModel):
    """What a key is called, what it may, and whose it is (default: a principal of the key's own name).

    `inference`: whether it may ask models. `models`: those that it may use (default: all). `limits`: its own, over the defaults.
    `expires_in`: seconds until it opens nothing any more (default: never).
    """

    model_config = ConfigDict(extra="forbid")

    name: _Label
    admin: bool = Field(False, strict=True)
    principal: _Label | None = None
    inference: bool = Field(True, strict=True)
    models: _Models | None = None
    limits: KeyLimits | None = None
    expires_in: _Lasting | None = None


class KeyChange(BaseModel):
    """What shall be different; what is left out stays. null: all models, no limits of its own, no end."""

    model_config = ConfigDict(extra="forbid")

    inference: bool = Field(True, strict=True)
    models: _Models | None = None
    limits: KeyLimits | None = None
    expires_in: _Lasting | None = None
    disabled: bool = Field(False, strict=True)


class Rotation(BaseModel):
    """`grace`: seconds for which the old secret still opens; 0: no more from now on."""

    model_config = ConfigDict(extra="forbid")

    grace: float = Field(GRACE_SECONDS, ge=0, le=_MOST_GRACE)


class KeyStatus(BaseModel):
    """A key without its secret. Times are Unix seconds. `state`: whether it opens, and if not, why."""

    id: str
    name: str
    principal: str
    prefix: str
    admin: bool
    inference: bool
    models: list[str] | None
    limits: dict[str, Any] | None
    state: Literal["open", "expired", "disabled", "revoked"]
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    disabled_at: float | None
    revoked_at: float | None
    previous_until: float | None


class KeyWithSecret(KeyStatus):
    """A key and, this once, its secret."""

    key: str


class KeysAnswer(BaseModel):
    """Every key that ever was, oldest first."""

    keys: list[KeyStatus]


@router.get("/api/keys")
async def list_keys(_: Admin, parts: _Parts) -> KeysAnswer:
    """Every key, without its secret."""
    now = parts.services.clock.time()
    return KeysAnswer(keys=[KeyStatus(**_status(key, now)) for key in await principals.list_keys(parts.services.store)])


@router.post("/api/keys", status_code=201)
async def create_key(new: NewKey, _: Admin, parts: _Parts) -> KeyWithSecret:
    """A new key; its secret is in this answer and nowhere else, ever."""
    services = parts.services
    if new.name.startswith(CLI_KEYS.removesuffix("%)")):
        raise RequestError("This name is kept for the command line's own key.", code="reserved_name", param="name")
    now = services.clock.time()
    rights = Rights(
        inference=new.inference,
        models=_models(services, new.models),
        limits=_limits(services, new.limits),
        expires_at=None if new.expires_in is None else now + new.expires_in,
    )
    key, secret = await principals.create_key(
        services.store, name=new.name, admin=new.admin, principal=new.principal, rights=rights
    )
    await services.keyring.refresh()  # it opens from the moment at which it is shown
    return KeyWithSecret(**_status(key, now), key=secret)


@router.patch("/api/keys/{key_id}")
async def change_key(key_id: str, change: KeyChange, _: Admin, parts: _Parts) -> KeyStatus:
    """Give a key other rights; its secret stays. Counts at once for its next request."""
    services = parts.services
    now = services.clock.time()
    known = next((key for key in await principals.list_keys(services.store) if key.id == key_id), None)
    given = change.model_fields_set
    expires_at = None if change.expires_in is None else now + change.expires_in
    rights = Rights(
        inference=change.inference if "inference" in given or known is None else known.inference,
        models=_models(services, change.models) if "models" in given or known is None else known.models,
        limits=_limits(services, change.limits) if "limits" in given or known is None else known.limits,
        expires_at=expires_at if "expires_in" in given or known is None else known.expires_at,
    )
    disabled = change.disabled if "disabled" in given or known is None else known.disabled_at is not None
    changed = await principals.change_key(services.store, key_id, rights, disabled=disabled)
    await services.keyring.refresh()
    return KeyStatus(**_status(changed, now))


@router.post("/api/keys/{key_id}/rotate")
async def rotate_key(key_id: str, rotation: Rotation, _: Admin, parts: _Parts) -> KeyWithSecret:
    """A new secret for a key, which stays the same otherwise. The old one opens for the grace."""
    services = parts.services
    key, secret = await principals.rotate_key(services.store, key_id, grace=rotation.grace)
    await services.keyring.refresh()
    return KeyWithSecret(**_status(key, services.clock.time()), key=secret)


@router.delete("/api/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, _: Admin, parts: _Parts) -> None:
    """Revoke a key; its sessions and sockets end at once."""
    await principals.revoke_key(parts.services.store, key_id)
    await parts.services.keyring.refresh()


def _models(services: Services, names: list[str] | None) -> tuple[str, ...] | None:
    """Names of models that are offered. Raises RequestError."""
    if names is None:
        return None
    offered = services.view.snapshot.models
    known = {*offered, *(alias for model in offered.values() for alias in model.aliases)}
    for name in names:
        if name not in known:
            raise RequestError(
                f"There is no model {name!r}.",
                code="unknown_model",
                param="models",
                next_step=f"There are: {', '.join(sorted(known)[:20])}.",
            )
    return tuple(dict.fromkeys(names))


def _limits(services: Services, limits: KeyLimits | None) -> dict[str, Any] | None:
    """As they are stored. Raises RequestError when they are in another currency than the installation's prices."""
    if limits is None:
        return None
    currency = services.config.currency
    for field, money in limits.all_moneys():
        if currency is not None and money.currency != currency:
            raise RequestError(
                f"limits.{field}: is in {money.currency}, but this installation's prices are in {currency}.",
                code="another_currency",
                param=f"limits.{field}",
            )
    return limits.model_dump(mode="json", exclude_unset=True, exclude_none=True) or None


def _status(key: Key, now: float) -> dict[str, Any]:
    if key.revoked_at is not None:
        state = "revoked"
    elif key.disabled_at is not None:
        state = "disabled"
    else:
        state = "open" if key.opens(now) else "expired"
    previous = key.previous_until
    return {
        "id": key.id,
        "name": key.name,
        "principal": key.principal_name,
        "prefix": key.prefix,
        "admin": key.admin,
        "inference": key.inference,
        "models": None if key.models is None else list(key.models),
        "limits": None if key.limits is None else dict(key.limits),
        "state": state,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "disabled_at": key.disabled_at,
        "revoked_at": key.revoked_at,
        "previous_until": previous if previous is not None and previous > now else None,
    }

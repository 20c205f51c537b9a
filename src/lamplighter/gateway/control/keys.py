"""Routes: keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from lamplighter.core.errors import RequestError
from lamplighter.gateway.control.access import Admin
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.store import principals
from lamplighter.store.principals import CLI_KEYS, Key

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewKey(BaseModel):
    """What a key is called, what it may, and whose it is (default: a principal of the key's own name)."""

    model_config = ConfigDict(extra="forbid")

    name: _Label
    admin: bool = Field(False, strict=True)
    principal: _Label | None = None


@router.get("/api/keys")
async def list_keys(_: Admin, parts: _Parts) -> dict[str, Any]:
    """Every key, without its secret."""
    return {"keys": [_key_json(key) for key in await principals.list_keys(parts.services.store)]}


@router.post("/api/keys", status_code=201)
async def create_key(new: NewKey, _: Admin, parts: _Parts) -> dict[str, Any]:
    """A new key; its secret is in this answer and nowhere else, ever."""
    if new.name.startswith(CLI_KEYS.removesuffix("%)")):
        raise RequestError("This name is kept for the command line's own key.", code="reserved_name", param="name")
    key, secret = await principals.create_key(parts.services.store, name=new.name, admin=new.admin, principal=new.principal)
    await parts.services.keyring.refresh()  # it opens from the moment at which it is shown
    return {**_key_json(key), "key": secret}


@router.delete("/api/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, _: Admin, parts: _Parts) -> None:
    """Revoke a key; its sessions and sockets end at once."""
    await principals.revoke_key(parts.services.store, key_id)
    await parts.services.keyring.refresh()


def _key_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "principal": key.principal_name,
        "prefix": key.prefix,
        "admin": key.admin,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }

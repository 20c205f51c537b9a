"""Routes: signing in and out, and one-time login links."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lamplighter import __version__
from lamplighter.core.errors import RequestError
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.control.access import COOKIE, Admin, Anyone, check_csrf, powers, secure
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.store import principals

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]


class Credentials(BaseModel):
    """A one-time login token, or a key."""

    model_config = ConfigDict(extra="forbid")

    login_token: str | None = Field(None, min_length=1, max_length=512)
    key: str | None = Field(None, min_length=1, max_length=512)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.login_token is None) == (self.key is None):
            raise ValueError("give either login_token or key")
        return self


@router.post("/api/session")
async def sign_in(credentials: Credentials, request: Request, response: Response, parts: _Parts) -> dict[str, Any]:
    """Open a session and set its cookie."""
    check_csrf(request)
    address = request.client.host if request.client else None
    parts.throttle.check(address)
    store = parts.services.store
    if credentials.key is not None:
        try:
            identity = parts.services.keyring.identify({b"x-api-key": credentials.key.encode()})
        except RequestError:
            parts.throttle.failed(address)
            raise
        cookie, expires_at = await principals.open_session(
            store, principal_id=identity.principal_id, key_id=identity.key_id, admin=identity.admin
        )
    else:
        opened = await principals.redeem_login_token(store, credentials.login_token or "")
        if opened is None:
            parts.throttle.failed(address)
            raise RequestError(
                "This login link was used already, or it is older than 15 minutes.",
                status=401,
                code="invalid_login_token",
                next_step="`lamplighter login` prints a new one; or sign in with a key.",
            )
        cookie, expires_at = opened
        identity = await parts.services.keyring.verify_session(cookie)
    if old := request.cookies.get(COOKIE):
        await principals.close_session(store, old)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=round(expires_at - store.clock.time()),
        path="/",
        httponly=True,
        samesite="strict",
        secure=secure(request, parts.services.config.server.public_url),
    )
    return _session_json(powers(identity, request))


@router.get("/api/session")
async def who_am_i(identity: Anyone) -> dict[str, Any]:
    """Who is signed in."""
    return _session_json(identity)


@router.delete("/api/session", status_code=204)
async def sign_out(request: Request, response: Response, parts: _Parts) -> None:
    """End the session, if there is one."""
    check_csrf(request)
    if cookie := request.cookies.get(COOKIE):
        await principals.close_session(parts.services.store, cookie)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


@router.post("/api/login-links", status_code=201)
async def login_link(identity: Admin, request: Request, parts: _Parts) -> dict[str, Any]:
    """A new one-time link that signs a browser in."""
    token, expires_at = await principals.create_login_token(parts.services.store, key_id=identity.key_id)
    base = parts.services.config.server.public_url or str(request.base_url)
    return {"url": f"{base.rstrip('/')}/#login={token}", "login_token": token, "expires_at": expires_at}


def _session_json(identity: Identity) -> dict[str, Any]:
    return {
        "principal": {"id": identity.principal_id, "name": identity.principal_name},
        "admin": identity.admin,
        "version": __version__,
    }

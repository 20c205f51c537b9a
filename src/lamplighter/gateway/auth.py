"""Who is asking: checks keys and sessions, and keeps the living keys in memory so that the data path never waits for the store.

Making, listing and revoking them is `store.principals`; cookies and CSRF are `gateway.control`'s.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError, StoreError
from lamplighter.gateway.background import forever
from lamplighter.store import principals
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store

REFRESH_SECONDS = 10.0
"""A change that no hint told of (a lost notification) is seen after this long at the latest."""
_MAX_CREDENTIAL = 512
_WHERE = "`lamplighter up` prints the first key; `lamplighter keys create NAME` makes another."

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `key_id` is the key that was shown, or that opened the session; None for a session that no key opened."""

    principal_id: str
    principal_name: str
    key_id: str | None
    admin: bool
    models: frozenset[str] | None = None
    """The models that it may use; None: all."""

    def may_use(self, model: str) -> bool:
        """Whether `model` is among those that this identity may use."""
        return self.models is None or model in self.models


class Keyring:
    """The living keys in memory, looked up by digest: the time a look-up takes says nothing about the key that was tried."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._identities: dict[bytes, Identity] = {}
        self._used: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the keys, then follow their changes. Raises StoreError when they cannot be read."""
        await self.refresh()
        self._task = forever("keyring", self._follow, self._clock)

    async def stop(self) -> None:
        """Stop following and write what is known of the keys' use."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._quietly(self._flush)

    def identify(self, headers: Mapping[bytes, bytes]) -> Identity:
        """The identity behind a request's headers (names in lower case). Raises RequestError 401. Never waits.

        The key comes as `Authorization: Bearer`, as `x-api-key` (Anthropic's clients), or as the password of `Authorization: Basic`
        (programs that know only a URL: `http://any:lk-...@host`).
        """
        authorization = headers.get(b"authorization")
        if authorization is None:
            credential = headers.get(b"x-api-key")
            if credential is None:
                raise _refused("This request carries no API key.")
        else:
            scheme, _, credential = authorization.partition(b" ")
            scheme = scheme.lower()
            if scheme == b"basic":
                credential = _password(credential)
            elif scheme != b"bearer":
                raise _refused("The API key must come as `Authorization: Bearer lk-...`.")
        identity = self._identities.get(hashlib.sha256(credential.strip()[:_MAX_CREDENTIAL]).digest())
        if identity is None:
            raise _refused("This API key does not open: it is wrong, or it was revoked.")
        if identity.key_id is not None:
            self._used[identity.key_id] = self._clock.time()
        return identity

    async def verify_session(self, cookie: str | None) -> Identity:
        """The identity behind a session cookie's value. Raises RequestError 401, StoreError."""
        session = await principals.find_session(self._store, cookie[:_MAX_CREDENTIAL]) if cookie else None
        if session is None:
            raise RequestError(
                "You are not signed in, or the session has ended.",
                status=401,
                code="not_signed_in",
                next_step="Sign in with a key, or open a new link: `lamplighter login` prints one.",
            )
        if session.key_id is not None:
            self._used[session.key_id] = self._clock.time()
        return Identity(session.principal_id, session.principal_name, session.key_id, session.admin)

    async def refresh(self) -> None:
        """Read the living keys now: whoever made or revoked one awaits this, so that it counts at once. Raises StoreError."""
        found = await principals.live_keys(self._store)
        self._identities = {
            bytes.fromhex(digest): Identity(key.principal_id, key.principal_name, key.id, key.admin)
            for digest, key in found.items()
        }

    async def _follow(self) -> None:
        with self._store.bus.subscribe(Topic.KEYS) as subscription:
            while True:
                await subscription.wait(REFRESH_SECONDS)
                await self._quietly(self.refresh)
                await self._quietly(self._flush)

    async def _flush(self) -> None:
        used, self._used = self._used, {}
        if used:
            await principals.touch_keys(self._store, used)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StoreError as error:  # the keys in memory stay good; the next round tries again
            log.warning("keys_not_refreshed", error=error.message)


def _password(credential: bytes) -> bytes:
    try:
        user, _, password = base64.b64decode(credential.strip(), validate=True).partition(b":")
    except ValueError:
        raise _refused("The `Authorization: Basic` header is not proper base64.") from None
    return password or user


def _refused(message: str) -> RequestError:
    # Clients' libraries show the message alone, so it carries the next step too.
    return RequestError(
        f"{message} {_WHERE}",
        status=401,
        code="invalid_api_key",
        next_step=_WHERE,
        headers=(("www-authenticate", "Bearer"),),
    )

"""Who is asking: checks keys and sessions, and keeps the living keys in memory so that the data path never waits for the store.

Making, listing and revoking them is `store.principals`; cookies and CSRF are `gateway.control`'s.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import structlog

from lamplighter.config.admission import KeyLimits, checked
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError, StoreError
from lamplighter.gateway.background import forever
from lamplighter.store import principals
from lamplighter.store.bus import Topic
from lamplighter.store.principals import Key
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
    inference: bool = True
    """Whether it may ask models at all."""
    limits: KeyLimits | None = None
    """Its own limits, over the defaults; None: the defaults alone."""
    expires_at: float | None = None
    """Unix seconds after which it opens nothing; None: never."""

    def may_use(self, model: str) -> bool:
        """Whether `model` is among those that this identity may use."""
        return self.models is None or model in self.models


class Keyring:
    """The living keys in memory, looked up by digest: the time a look-up takes says nothing about the key that was tried."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._identities: dict[bytes, Identity] = {}
        self._until: dict[bytes, float] = {}  # those digests that will stop opening, and when
        self._closed: dict[bytes, RequestError] = {}  # those that open no more, and what their holders are told
        self._by_id: dict[str, Identity] = {}
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
        digest = hashlib.sha256(credential.strip()[:_MAX_CREDENTIAL]).digest()
        identity = self._identities.get(digest)
        if identity is None:
            raise self._why(digest)
        if digest in self._until and self._until[digest] <= self._clock.time():
            expired = identity.expires_at is not None and identity.expires_at <= self._clock.time()
            raise _expired() if expired else _rotated()
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
        if session.key_id is None:
            return Identity(session.principal_id, session.principal_name, None, session.admin)
        if session.key_id not in self._by_id:  # made a moment ago, perhaps through another gateway
            await self.refresh()
        identity = self._by_id.get(session.key_id)
        if identity is None:
            raise _refused("The key that opened this session does not open any more.")
        self._used[session.key_id] = self._clock.time()
        # A session may do what it could when it was opened, and no more than its key can now.
        return identity if identity.admin == session.admin else replace(identity, admin=identity.admin and session.admin)

    async def refresh(self) -> None:
        """Read the living keys now: whoever made or revoked one awaits this, so that it counts at once. Raises StoreError."""
        found = await principals.known_keys(self._store)
        now = self._clock.time()
        identities: dict[bytes, Identity] = {}
        until: dict[bytes, float] = {}
        closed: dict[bytes, RequestError] = {}
        by_id: dict[str, Identity] = {}
        newest: set[str] = set()
        for text, key in found.items():
            digest = bytes.fromhex(text)
            if not key.opens(now):
                closed[digest] = _closed(key)
                continue
            identity = by_id.get(key.id)
            if identity is None:
                identity, known = _identity(key), self._by_id.get(key.id)
                by_id[key.id] = identity = known if known == identity else identity  # the same object: plans hang on it
            ends = [at for at in (key.expires_at, key.previous_until if key.id in newest else None) if at is not None]
            newest.add(key.id)  # the digest that comes second is the one from before the rotation
            if ends:
                until[digest] = min(ends)
            identities[digest] = identity
        self._identities, self._until, self._closed, self._by_id = identities, until, closed, by_id

    def _why(self, digest: bytes) -> RequestError:
        """Why a credential does not open. Only who holds a key's whole secret learns what became of it."""
        known = self._closed.get(digest)
        if known is None:
            return _refused("This API key does not open: it is wrong.")
        return RequestError(known.message, status=known.status, code=known.code, next_step=known.next_step, headers=known.headers)

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


def _identity(key: Key) -> Identity:
    models = None if key.models is None else frozenset(key.models)
    try:
        limits = checked(dict(key.limits)) if key.limits else None
    except ValueError:  # written by another version, or by hand: better to serve nobody than without any limit
        log.exception("key_limits_not_understood", key=key.id)
        return Identity(
            key.principal_id, key.principal_name, key.id, key.admin, models, inference=False, expires_at=key.expires_at
        )
    return Identity(
        key.principal_id, key.principal_name, key.id, key.admin, models,
        inference=key.inference, limits=limits, expires_at=key.expires_at,
    )  # fmt: skip


def _closed(key: Key) -> RequestError:
    if key.revoked_at is not None:
        return _refused("This API key was revoked.", "api_key_revoked")
    if key.disabled_at is not None:
        return _refused("This API key is disabled.", "api_key_disabled")
    return _expired()


def _expired() -> RequestError:
    return _refused("This API key has expired.", "api_key_expired")


def _rotated() -> RequestError:
    return _refused("This API key was replaced by a newer one, and its time is over.", "api_key_expired")


def _refused(message: str, code: str = "invalid_api_key") -> RequestError:
    # Clients' libraries show the message alone, so it carries the next step too.
    return RequestError(
        f"{message} {_WHERE}",
        status=401,
        code=code,
        next_step=_WHERE,
        headers=(("www-authenticate", "Bearer"),),
    )

"""Who may come in: principals (people and programs), their keys, browser sessions and one-time login tokens.

Only digests are kept: every credential made here has 256 random bits, so a plain SHA-256 cannot be searched. Checking a key on the data
path is `gateway.auth`'s business; this module knows the rows.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.core.errors import ConfigError, LamplighterError
from lamplighter.core.ids import new_id, secret
from lamplighter.store.bus import Topic
from lamplighter.store.sql import exclusive
from lamplighter.store.store import Store
from lamplighter.store.tables import keys, login_tokens, principals, sessions

OWNER = "owner"
"""Name of the first principal: whoever started this installation."""
FIRST_KEY = "first admin key"
PRESET_KEY = "preset admin key"
CLI_KEY = "cli (this machine)"
CLI_KEYS = "cli (%)"
"""Pattern of the names of all command lines' keys: with PostgreSQL there are several machines."""
PRESET_MIN = 16
"""Characters that a preset admin key must have at the least."""
GRACE_SECONDS = 86_400.0
"""How long a rotated key's old secret still opens, unless told otherwise."""
SESSION_SECONDS = 30 * 86_400.0
LOGIN_SECONDS = 15 * 60.0
_KEPT_TOKENS = 86_400.0
_DOORS = "keys"
"""Behind this lock nobody else adds or closes a key: two gateways must not both make the first one, nor each take the other's last."""


class UnknownKey(LamplighterError):
    """There is no key with this id."""

    code = "key_not_found"


class LastAdminKey(LamplighterError):
    """Revoking this key would leave nobody who could make another."""

    code = "last_admin_key"


class FixedKey(LamplighterError):
    """This key's secret is not made here."""

    code = "fixed_key"


@dataclass(frozen=True, slots=True)
class Key:
    """One row, without its digests. Times are Unix seconds.

    `admin`, `inference`: what it may do. `models`: those that it may use; None: all. `limits`: as `config.admission.KeyLimits` writes
    them; None: the defaults. `previous_until`: until when the secret before the last rotation opens.
    """

    id: str
    principal_id: str
    principal_name: str
    name: str
    prefix: str
    admin: bool
    created_at: float
    last_used_at: float | None
    revoked_at: float | None
    inference: bool = True
    models: tuple[str, ...] | None = None
    limits: Mapping[str, Any] | None = None
    expires_at: float | None = None
    disabled_at: float | None = None
    previous_until: float | None = None

    def opens(self, now: float) -> bool:
        """Whether it opens anything at `now` (Unix seconds)."""
        return self.revoked_at is None and self.disabled_at is None and (self.expires_at is None or self.expires_at > now)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key may do, for making one and for changing one. See `Key`."""

    inference: bool = True
    models: tuple[str, ...] | None = None
    limits: Mapping[str, Any] | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session; it ends at `expires_at` (Unix seconds), or with the key that opened it."""

    principal_id: str
    principal_name: str
    key_id: str | None
    admin: bool
    expires_at: float


def digest(credential: str) -> str:
    """What is stored of a credential: SHA-256, hexadecimal."""
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).hexdigest()


# -- keys


async def ensure_first_key(store: Store, *, preset: str | None = None) -> str | None:
    """Make sure that an admin key exists. Returns a key made now, to be printed this once; None when there was one, or with `preset`.

    `preset`: an admin key chosen by the person (at least 16 characters). Asking again with the same one changes nothing; another one is
    added beside those that exist. Raises ConfigError when it is too short or was revoked.
    """
    if preset is not None:
        await _ensure_preset(store, preset)
        return None
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        if await _live_admins(connection, store.clock.time(), besides=CLI_KEYS):
            return None
        key = secret("lk")
        await _insert_key(connection, store, key, name=FIRST_KEY, admin=True, principal_id=await _owner(connection, store))
    store.bus.publish(Topic.KEYS)
    return key


async def _ensure_preset(store: Store, preset: str) -> None:
    if len(preset) < PRESET_MIN or not preset.isascii() or not preset.isprintable() or " " in preset:
        raise ConfigError(
            f"the preset admin key must have at least {PRESET_MIN} characters, all printable ASCII and without spaces",
            where="LAMPLIGHTER_ADMIN_KEY",
            next_step="Choose a longer one: `openssl rand -base64 32` makes a good one.",
        )
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        found = (await connection.execute(select(keys).where(keys.c.digest == digest(preset)))).one_or_none()
        if found is not None and (found.revoked_at is not None or not found.admin):
            raise ConfigError(
                "the preset admin key was revoked" if found.revoked_at is not None else "the preset admin key is an ordinary key",
                where="LAMPLIGHTER_ADMIN_KEY",
                next_step="Choose another one.",
            )
        if found is not None:
            return
        await _insert_key(connection, store, preset, name=PRESET_KEY, admin=True, principal_id=await _owner(connection, store))
    store.bus.publish(Topic.KEYS)


async def ensure_cli_key(store: Store, current: str | None, *, machine: str | None = None) -> str:
    """The admin key of the command line on this machine: `current` if it still opens, else a new one in place of every older one.

    `machine`: which one, where several share the store: each has a key of its own.
    """
    name = CLI_KEY if machine is None else f"cli ({machine})"
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        if current:
            row = (
                await connection.execute(
                    select(keys.c.id)
                    .where((keys.c.digest == digest(current)) & keys.c.admin & keys.c.revoked_at.is_(None))
                    .where(
                        keys.c.disabled_at.is_(None) & (keys.c.expires_at.is_(None) | (keys.c.expires_at > store.clock.time()))
                    )
                )
            ).one_or_none()
            if row is not None:
                return current
        await connection.execute(
            update(keys).where((keys.c.name == name) & keys.c.revoked_at.is_(None)).values(revoked_at=store.clock.time())
        )
        key = secret("lk")
        await _insert_key(connection, store, key, name=name, admin=True, principal_id=await _owner(connection, store))
    store.bus.publish(Topic.KEYS)
    return key


async def create_key(
    store: Store, *, name: str, admin: bool, principal: str | None = None, rights: Rights | None = None
) -> tuple[Key, str]:
    """A new key and its secret, which is never shown again.

    `principal`: name of the person or program it belongs to, made when it is new; default: `name`. Chats belong to the principal, so a
    second key for the same person finds the same chats.
    """
    key = secret("lk")
    async with store.write() as connection:
        owner = await _principal(connection, store, principal or name)
        identity = await _insert_key(connection, store, key, name=name, admin=admin, principal_id=owner, rights=rights)
        row = (await connection.execute(_keys().where(keys.c.id == identity))).one()
    store.bus.publish(Topic.KEYS)
    return _key(row), key


async def list_keys(store: Store) -> list[Key]:
    """Every key that ever was, oldest first."""
    async with store.read() as connection:
        return [_key(row) for row in await connection.execute(_keys().order_by(keys.c.created_at, keys.c.id))]


async def known_keys(store: Store) -> dict[str, Key]:
    """Every key by its digest, those that open no more included: whoever holds one is told why it does not.

    A rotated key stands there twice while its old secret opens.
    """
    now = store.clock.time()
    found: dict[str, Key] = {}
    async with store.read() as connection:
        for row in await connection.execute(_keys().add_columns(keys.c.digest, keys.c.previous_digest)):
            key = found[row.digest] = _key(row)
            if row.previous_digest is not None and key.previous_until is not None and key.previous_until > now:
                found.setdefault(row.previous_digest, key)
    return found


async def live_keys(store: Store) -> dict[str, Key]:
    """The keys that open, by their digest."""
    now = store.clock.time()
    return {digest: key for digest, key in (await known_keys(store)).items() if key.opens(now)}


async def change_key(store: Store, key_id: str, rights: Rights, *, disabled: bool) -> Key:
    """Give a key other rights; its secret stays. Raises UnknownKey (also when it was revoked), LastAdminKey."""
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        row = await _living(connection, key_id)
        now = store.clock.time()
        if row.admin and (disabled or rights.expires_at is not None) and await _lasting_admins(connection, now, but=key_id) == 0:
            raise LastAdminKey(
                "this is the last admin key that lasts", next_step="Create another admin key first, then change this one."
            )
        disabled_at = (row.disabled_at or now) if disabled else None
        await connection.execute(update(keys).where(keys.c.id == key_id).values(**_columns(rights), disabled_at=disabled_at))
        changed = (await connection.execute(_keys().where(keys.c.id == key_id))).one()
    store.bus.publish(Topic.KEYS)
    return _key(changed)


async def rotate_key(store: Store, key_id: str, *, grace: float = GRACE_SECONDS) -> tuple[Key, str]:
    """A new secret for a key, which keeps its id, rights and chats. The old secret opens for `grace` more seconds (0: no more).

    Of a key rotated twice within the grace only the newest two secrets open. Raises UnknownKey, FixedKey.
    """
    key, now = secret("lk"), store.clock.time()
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        row = await _living(connection, key_id)
        if row.name == PRESET_KEY or row.name.startswith(CLI_KEYS.removesuffix("%)")):
            raise FixedKey(
                f"the secret of {row.name!r} is not made here",
                next_step="Set another LAMPLIGHTER_ADMIN_KEY."
                if row.name == PRESET_KEY
                else "Revoke it: the next start makes another.",
            )
        await connection.execute(
            update(keys)
            .where(keys.c.id == key_id)
            .values(
                digest=digest(key),
                prefix=_prefix(key),
                previous_digest=row.digest if grace > 0 else None,
                previous_until=now + grace if grace > 0 else None,
            )
        )
        if grace <= 0:  # who signed in with the old secret proved nothing that still counts
            await connection.execute(delete(sessions).where(sessions.c.key_id == key_id))
            await connection.execute(delete(login_tokens).where(login_tokens.c.key_id == key_id))
        changed = (await connection.execute(_keys().where(keys.c.id == key_id))).one()
    store.bus.publish(Topic.KEYS)
    return _key(changed), key


async def revoke_key(store: Store, key_id: str) -> None:
    """The key and every session it opened end. Doing it again changes nothing. Raises UnknownKey, LastAdminKey."""
    async with store.write() as connection:
        await exclusive(connection, _DOORS)
        row = (await connection.execute(select(keys).where(keys.c.id == key_id))).one_or_none()
        if row is None:
            raise UnknownKey(f"there is no key {key_id}", next_step="`lamplighter keys list` shows the ids.")
        if row.revoked_at is not None:
            return
        if row.admin and await _lasting_admins(connection, store.clock.time(), but=key_id) == 0:
            raise LastAdminKey("this is the last admin key", next_step="Create another admin key first, then revoke this one.")
        await connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=store.clock.time()))
        await connection.execute(delete(sessions).where(sessions.c.key_id == key_id))
        await connection.execute(delete(login_tokens).where(login_tokens.c.key_id == key_id))
    store.bus.publish(Topic.KEYS)


async def touch_keys(store: Store, used: Mapping[str, float]) -> None:
    """Write when keys were last used: Unix seconds by key id."""
    async with store.write() as connection:
        for key_id, at in used.items():
            await connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=at))


# -- sessions and login tokens


async def open_session(store: Store, *, principal_id: str, key_id: str | None, admin: bool) -> tuple[str, float]:
    """A new session's cookie value, and when it ends (Unix seconds). Expired ones are swept on the way."""
    cookie, now = secret("ls"), store.clock.time()
    expires_at = now + SESSION_SECONDS
    async with store.write() as connection:
        await connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
        await connection.execute(
            insert(sessions).values(
                digest=digest(cookie),
                principal_id=principal_id,
                key_id=key_id,
                admin=admin,
                created_at=now,
                expires_at=expires_at,
            )
        )
    return cookie, expires_at


async def find_session(store: Store, cookie: str) -> Session | None:
    """The living session behind a cookie's value; None when there is none, it ran out, or its key does not open any more."""
    now = store.clock.time()
    query = (
        select(
            sessions, principals.c.name.label("principal_name"), keys.c.revoked_at, keys.c.disabled_at,
            keys.c.expires_at.label("key_expires_at"),
        )
        .join(principals, principals.c.id == sessions.c.principal_id)
        .outerjoin(keys, keys.c.id == sessions.c.key_id)
        .where((sessions.c.digest == digest(cookie)) & (sessions.c.expires_at > now))
    )  # fmt: skip
    async with store.read() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None or row.revoked_at is not None or row.disabled_at is not None:
        return None
    if row.key_expires_at is not None and row.key_expires_at <= now:
        return None
    return Session(row.principal_id, row.principal_name, row.key_id, row.admin, row.expires_at)


async def close_session(store: Store, cookie: str) -> None:
    """End a session; doing it again changes nothing."""
    async with store.write() as connection:
        await connection.execute(delete(sessions).where(sessions.c.digest == digest(cookie)))
    store.bus.publish(Topic.KEYS)


async def create_login_token(store: Store, *, key_id: str | None = None) -> tuple[str, float]:
    """A token that opens one session within 15 minutes, and when it runs out (Unix seconds).

    `key_id`: the admin key on whose behalf it is made; the session will end with that key. None: the owner's, which
    ends with the command line's key, if there is one.
    Raises UnknownKey when that key does not open any more.
    """
    token, now = secret("ll"), store.clock.time()
    async with store.write() as connection:
        await connection.execute(delete(login_tokens).where(login_tokens.c.expires_at <= now - _KEPT_TOKENS))
        if key_id is None:
            principal_id, admin = await _owner(connection, store), True
            living = keys.c.name.like(CLI_KEYS) & keys.c.admin & keys.c.revoked_at.is_(None)
            key_id = await connection.scalar(select(keys.c.id).where(living).limit(1))
        else:
            row = (
                await connection.execute(select(keys).where((keys.c.id == key_id) & keys.c.revoked_at.is_(None)))
            ).one_or_none()
            if row is None:
                raise UnknownKey("the key that asks for a login link does not open any more")
            principal_id, admin = row.principal_id, row.admin
        await connection.execute(
            insert(login_tokens).values(
                digest=digest(token), principal_id=principal_id, key_id=key_id, admin=admin, expires_at=now + LOGIN_SECONDS
            )
        )
    return token, now + LOGIN_SECONDS


async def redeem_login_token(store: Store, token: str) -> tuple[str, float] | None:
    """Open a session with a token, once: the cookie's value and when it ends; None when the token is unknown, used or too old."""
    now = store.clock.time()
    async with store.write() as connection:
        # One statement decides, so that two browsers with the same link cannot both get in.
        row = (
            await connection.execute(
                update(login_tokens)
                .where(
                    (login_tokens.c.digest == digest(token))
                    & login_tokens.c.used_at.is_(None)
                    & (login_tokens.c.expires_at > now)
                )
                .values(used_at=now)
                .returning(login_tokens.c.principal_id, login_tokens.c.key_id, login_tokens.c.admin)
            )
        ).one_or_none()
    if row is None:
        return None
    return await open_session(store, principal_id=row.principal_id, key_id=row.key_id, admin=row.admin)


# -- rows


def _keys() -> Select[Any]:
    return select(keys, principals.c.name.label("principal_name")).join(principals, principals.c.id == keys.c.principal_id)


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        principal_id=row.principal_id,
        principal_name=row.principal_name,
        name=row.name,
        prefix=row.prefix,
        admin=row.admin,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        inference=row.inference,
        models=None if row.models is None else tuple(row.models),
        limits=row.limits,
        expires_at=row.expires_at,
        disabled_at=row.disabled_at,
        previous_until=row.previous_until,
    )


def _columns(rights: Rights) -> dict[str, Any]:
    return {
        "inference": rights.inference,
        "models": None if rights.models is None else list(rights.models),
        "limits": None if rights.limits is None else dict(rights.limits),
        "expires_at": rights.expires_at,
    }


def _prefix(key: str) -> str:
    """What is shown of a key: seven characters tell keys of ours apart; of a preset one, which may be short, only three."""
    return key[:7] if key.startswith("lk-") and len(key) >= 32 else key[:3]


async def _living(connection: AsyncConnection, key_id: str) -> Row[Any]:
    row = (await connection.execute(select(keys).where((keys.c.id == key_id) & keys.c.revoked_at.is_(None)))).one_or_none()
    if row is None:
        raise UnknownKey(f"there is no key {key_id} that was not revoked", next_step="`lamplighter keys list` shows the ids.")
    return row


async def _insert_key(
    connection: AsyncConnection,
    store: Store,
    key: str,
    *,
    name: str,
    admin: bool,
    principal_id: str,
    rights: Rights | None = None,
) -> str:
    identity = new_id("key")
    await connection.execute(
        insert(keys).values(
            id=identity, principal_id=principal_id, name=name, digest=digest(key), prefix=_prefix(key), admin=admin,
            created_at=store.clock.time(), **_columns(rights or Rights()),
        )
    )  # fmt: skip
    return identity


def _opening_admins(now: float) -> Select[Any]:
    return (
        select(func.count())
        .select_from(keys)
        .where(keys.c.admin & keys.c.revoked_at.is_(None) & keys.c.disabled_at.is_(None))
        .where(keys.c.expires_at.is_(None) | (keys.c.expires_at > now))
    )


async def _live_admins(connection: AsyncConnection, now: float, *, besides: str) -> int:
    return int(await connection.scalar(_opening_admins(now).where(keys.c.name.not_like(besides))) or 0)


async def _lasting_admins(connection: AsyncConnection, now: float, *, but: str) -> int:
    """Admin keys other than `but` that will still open tomorrow."""
    return int(await connection.scalar(_opening_admins(now).where((keys.c.id != but) & keys.c.expires_at.is_(None))) or 0)


async def _owner(connection: AsyncConnection, store: Store) -> str:
    return await _principal(connection, store, OWNER)


async def _principal(connection: AsyncConnection, store: Store, name: str) -> str:
    query = select(principals.c.id).where(principals.c.name == name).order_by(principals.c.created_at).limit(1)
    found = await connection.scalar(query)
    if found is None:
        await exclusive(connection, _DOORS)  # two gateways may meet the same new name
        found = await connection.scalar(query)
    if found is not None:
        return str(found)
    identity = new_id("prn")
    await connection.execute(insert(principals).values(id=identity, name=name, created_at=store.clock.time()))
    return identity

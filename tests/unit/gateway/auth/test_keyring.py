"""Checking keys on the data path: from memory, at once, and never with yesterday's keys for long."""

import base64
from typing import Any

import pytest

from lamplighter.core.errors import RequestError, StoreUnavailable
from lamplighter.gateway import auth
from lamplighter.gateway.auth import Keyring
from lamplighter.store import principals
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock


@pytest.fixture
async def store() -> Any:
    """A store of its own."""
    opened = await Store.open(None, VirtualClock())
    yield opened
    await opened.close()


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


async def test_a_living_key_opens(store: Store) -> None:
    """If this fails, no program can use its key."""
    key, secret = await principals.create_key(store, name="app", admin=False)
    keyring = Keyring(store, store.clock)
    await keyring.refresh()
    for headers in (
        bearer(secret),
        {b"authorization": f"bearer {secret}".encode()},
        {b"authorization": f"BEARER  {secret} ".encode()},
        {b"x-api-key": secret.encode()},
        {b"authorization": b"Basic " + base64.b64encode(f"any:{secret}".encode())},
        {b"authorization": b"Basic " + base64.b64encode(f"{secret}:".encode())},
    ):
        identity = keyring.identify(headers)
        assert (identity.principal_name, identity.key_id, identity.admin) == ("app", key.id, False)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer lk-wrong",
        b"Basic YTpi",
        b"Basic ???",
        b"lk-wrong",
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 100_000,
    ],
)
async def test_everything_else_is_refused_with_a_hint(store: Store, header: bytes | None) -> None:
    """If this fails, a stranger gets in, or a person with a typo does not learn where keys come from."""
    keyring = Keyring(store, store.clock)
    await keyring.refresh()
    with pytest.raises(RequestError) as refused:
        keyring.identify({} if header is None else {b"authorization": header})
    assert (refused.value.status, refused.value.code, refused.value.type) == (401, "invalid_api_key", "invalid_request_error")
    assert "lamplighter keys create" in refused.value.message
    assert "wrong " not in refused.value.message  # what was tried is not repeated


async def test_changes_count_at_once_by_hint_and_soon_without() -> None:
    """If this fails, a revoked key goes on opening."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    keyring = Keyring(store, clock)
    await keyring.start()
    await principals.create_key(store, name="root", admin=True)
    key, secret = await principals.create_key(store, name="app", admin=False)
    await clock.advance(0)
    assert keyring.identify(bearer(secret)).key_id == key.id
    await principals.revoke_key(store, key.id)
    await clock.advance(0)
    with pytest.raises(RequestError):
        keyring.identify(bearer(secret))
    with pytest.MonkeyPatch.context() as deaf:
        deaf.setattr(store.bus, "publish", lambda *_: None)
        _, late = await principals.create_key(store, name="late", admin=False)
    await clock.advance(0)
    with pytest.raises(RequestError):
        keyring.identify(bearer(late))
    await clock.advance(auth.REFRESH_SECONDS)
    keyring.identify(bearer(late))
    await keyring.stop()
    await store.close()


async def test_a_store_that_fails_closes_no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a full disk locks every program out, or the keyring dies unseen."""
    clock = VirtualClock()
    store = await Store.open(None, clock)
    _, secret = await principals.create_key(store, name="app", admin=False)
    keyring = Keyring(store, clock)
    await keyring.start()

    async def broken(*_: Any) -> Any:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as failing:
        failing.setattr(principals, "live_keys", broken)
        failing.setattr(principals, "touch_keys", broken)
        await clock.advance(30)
        keyring.identify(bearer(secret))
        await clock.advance(30)
    _, other = await principals.create_key(store, name="other", admin=False)
    await clock.advance(0)
    keyring.identify(bearer(other))
    await keyring.stop()
    await store.close()


async def test_use_is_written_in_batches(store: Store) -> None:
    """If this fails, each request costs a write, or use is never seen."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    _, secret = await principals.create_key(store, name="app", admin=False)
    keyring = Keyring(store, clock)
    await keyring.start()
    await clock.advance(5)
    used_at = clock.time()
    for _ in range(100):
        keyring.identify(bearer(secret))
    assert (await principals.list_keys(store))[0].last_used_at is None
    await clock.advance(10)
    assert (await principals.list_keys(store))[0].last_used_at == used_at
    await clock.advance(1)
    keyring.identify(bearer(secret))
    await keyring.stop()
    assert (await principals.list_keys(store))[0].last_used_at == clock.time()


async def test_only_the_holder_of_a_key_learns_what_became_of_it(store: Store) -> None:
    """If this fails, people with an old key search for a typing error, or strangers learn which keys there were."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    keyring = Keyring(store, clock)
    made = {}
    for name in ("revoked", "disabled", "expired", "rotated"):
        made[name] = await principals.create_key(store, name=name, admin=False)
    await principals.revoke_key(store, made["revoked"][0].id)
    await principals.change_key(store, made["disabled"][0].id, principals.Rights(), disabled=True)
    soon = principals.Rights(expires_at=clock.time() + 5)
    await principals.change_key(store, made["expired"][0].id, soon, disabled=False)
    _, new = await principals.rotate_key(store, made["rotated"][0].id, grace=5)
    await keyring.refresh()
    for name in ("expired", "rotated"):
        keyring.identify(bearer(made[name][1]))
    await clock.advance(6)  # nothing was refreshed since: the time alone ends them
    for name, code in (
        ("revoked", "api_key_revoked"), ("disabled", "api_key_disabled"), ("expired", "api_key_expired"), ("rotated", "api_key_expired"),
    ):  # fmt: skip
        with pytest.raises(RequestError) as refused:
            keyring.identify(bearer(made[name][1]))
        assert (refused.value.status, refused.value.code) == (401, code)
        assert {"rotated": "replaced"}.get(name, name) in refused.value.message
        with pytest.raises(RequestError) as refused:
            keyring.identify(bearer(made[name][1][:-1]))
        assert refused.value.code == "invalid_api_key"
    assert keyring.identify(bearer(new)).key_id == made["rotated"][0].id
    await keyring.refresh()
    with pytest.raises(RequestError, match="wrong"):  # after the grace the old secret is as good as any other text
        keyring.identify(bearer(made["rotated"][1]))


async def test_rights_come_with_the_key_and_with_its_sessions(store: Store) -> None:
    """If this fails, signing in lifts what a key is bound to."""
    rights = principals.Rights(inference=False, models=("small",), limits={"parallel": 2})
    key, secret = await principals.create_key(store, name="guest", admin=False, rights=rights)
    keyring = Keyring(store, store.clock)
    await keyring.refresh()
    identity = keyring.identify(bearer(secret))
    assert (identity.inference, identity.models) == (False, frozenset({"small"}))
    assert identity.limits is not None
    assert identity.limits.parallel == 2
    cookie, _ = await principals.open_session(store, principal_id=key.principal_id, key_id=key.id, admin=False)
    assert await keyring.verify_session(cookie) is identity
    await keyring.refresh()
    assert keyring.identify(bearer(secret)) is identity  # nothing changed: whatever hangs on it stays
    cookie, _ = await principals.open_session(store, principal_id=key.principal_id, key_id=key.id, admin=True)
    assert not (await keyring.verify_session(cookie)).admin

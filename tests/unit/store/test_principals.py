"""First keys, presets, the command line's key: an installation always has exactly the doors that it should."""

import asyncio

import pytest

from lamplighter.core.errors import ConfigError
from lamplighter.store import principals
from lamplighter.store.principals import LastAdminKey, UnknownKey
from lamplighter.store.store import Store
from lamplighter.testing.clock import VirtualClock
from tests.unit.store.conftest import Open


@pytest.fixture
async def store(opened: Open) -> Store:
    """A store of its own, on either database."""
    return await opened(VirtualClock())


async def test_the_first_key_is_made_once(store: Store) -> None:
    """If this fails, every start prints another admin key, or none ever."""
    made = await asyncio.gather(*(principals.ensure_first_key(store) for _ in range(3)))
    [key] = [one for one in made if one is not None]
    assert key.startswith("lk-")
    assert len(key) >= 40
    [row] = await principals.list_keys(store)
    assert (row.admin, row.prefix, row.principal_name) == (True, key[:7], "owner")
    assert await principals.ensure_first_key(store) is None


async def test_no_secret_is_stored(store: Store) -> None:
    """If this fails, a copy of the database is a set of keys."""
    key = await principals.ensure_first_key(store)
    assert key is not None
    token, _ = await principals.create_login_token(store)
    cookie = await principals.redeem_login_token(store, token)
    assert cookie is not None
    async with store.read() as connection:
        dump = ""
        for table in ("keys", "sessions", "login_tokens"):
            dump += str(list(await connection.exec_driver_sql(f"SELECT * FROM {table}")))  # noqa: S608 - names from this line
    for secret in (key, token, cookie[0]):
        assert secret[8:] not in dump
        assert principals.digest(secret) in dump


async def test_a_preset_key_is_idempotent(store: Store) -> None:
    """If this fails, a restart in Kubernetes with the same Secret breaks, or a weak key is taken."""
    preset = "correct-horse-battery"
    for _ in range(3):
        assert await principals.ensure_first_key(store, preset=preset) is None
    [row] = await principals.list_keys(store)
    assert row.prefix == "cor"
    assert await principals.ensure_first_key(store) is None
    await principals.ensure_first_key(store, preset="another-good-preset-key")
    assert len(await principals.list_keys(store)) == 2
    await principals.revoke_key(store, row.id)
    with pytest.raises(ConfigError, match="revoked"):
        await principals.ensure_first_key(store, preset=preset)
    for bad in ("short", "fifteen-chars-x", "has spaces in it, many", "ünïcödé-is-not-a-header", ""):
        with pytest.raises(ConfigError, match="16 characters"):
            await principals.ensure_first_key(store, preset=bad)
    _, ordinary = await principals.create_key(store, name="app", admin=False)
    with pytest.raises(ConfigError, match="ordinary"):
        await principals.ensure_first_key(store, preset=ordinary)


async def test_the_command_line_has_one_key(store: Store) -> None:
    """If this fails, lost key files leave living keys behind, or each start revokes a good one."""
    first = await principals.ensure_cli_key(store, None)
    assert await principals.ensure_cli_key(store, first) == first
    second = await principals.ensure_cli_key(store, "garbage")
    assert second != first
    living = [key for key in await principals.list_keys(store) if key.revoked_at is None]
    assert [(key.name, key.admin) for key in living] == [(principals.CLI_KEY, True)]
    assert await principals.ensure_first_key(store) is not None  # the command line's own key is not a person's


async def test_revoking(store: Store) -> None:
    """If this fails, access cannot be taken away, or everybody is locked out."""
    key = await principals.ensure_first_key(store)
    assert key is not None
    [first] = await principals.list_keys(store)
    with pytest.raises(LastAdminKey):
        await principals.revoke_key(store, first.id)
    second, _ = await principals.create_key(store, name="second", admin=True)
    cookie, _ = await principals.open_session(store, principal_id=first.principal_id, key_id=first.id, admin=True)
    token, _ = await principals.create_login_token(store, key_id=first.id)
    assert await principals.find_session(store, cookie) is not None
    for _ in range(2):
        await principals.revoke_key(store, first.id)
    assert await principals.find_session(store, cookie) is None
    assert await principals.redeem_login_token(store, token) is None
    with pytest.raises(UnknownKey):
        await principals.create_login_token(store, key_id=first.id)
    with pytest.raises(UnknownKey):
        await principals.revoke_key(store, "key_none")
    assert {one.id for one in (await principals.live_keys(store)).values()} == {second.id}


async def test_a_printed_link_can_be_taken_back(store: Store) -> None:
    """If this fails, a session from the link that `up` printed cannot be ended by any key's revocation."""
    await principals.ensure_first_key(store)
    await principals.ensure_cli_key(store, None)
    token, _ = await principals.create_login_token(store)
    opened = await principals.redeem_login_token(store, token)
    assert opened is not None
    session = await principals.find_session(store, opened[0])
    assert session is not None
    assert session.key_id is not None
    await principals.revoke_key(store, session.key_id)
    assert await principals.find_session(store, opened[0]) is None


async def test_keys_of_one_name_share_a_principal(store: Store) -> None:
    """If this fails, a person with a new key loses their chats."""
    first, _ = await principals.create_key(store, name="ada", admin=False)
    second, _ = await principals.create_key(store, name="laptop", admin=False, principal="ada")
    third, _ = await principals.create_key(store, name="bob", admin=False)
    assert first.principal_id == second.principal_id != third.principal_id


async def test_a_rotated_key_opens_with_both_secrets_for_its_grace(store: Store) -> None:
    """If this fails, changing a key's secret breaks whoever still has the old one, or never shuts the old one out."""
    key, old = await principals.create_key(store, name="app", admin=False)
    same, new = await principals.rotate_key(store, key.id, grace=60)
    assert same.id == key.id
    assert {one.id for one in (await principals.live_keys(store)).values()} == {key.id}
    assert set(await principals.live_keys(store)) == {principals.digest(old), principals.digest(new)}
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    await clock.advance(61)
    assert set(await principals.live_keys(store)) == {principals.digest(new)}
    _, newest = await principals.rotate_key(store, key.id, grace=0)
    assert set(await principals.live_keys(store)) == {principals.digest(newest)}
    with pytest.raises(UnknownKey):
        await principals.rotate_key(store, "key_nobody")


async def test_keys_whose_secret_is_made_elsewhere_are_not_rotated(store: Store) -> None:
    """If this fails, a preset key comes back beside its successor at the next start."""
    await principals.ensure_first_key(store, preset="correct-horse-battery")
    await principals.ensure_cli_key(store, None)
    for key in await principals.list_keys(store):
        with pytest.raises(principals.FixedKey):
            await principals.rotate_key(store, key.id)


async def test_a_key_that_ended_or_is_disabled_opens_nothing(store: Store) -> None:
    """If this fails, an expiry date is an ornament, or a disabled key's browser stays signed in."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    rights = principals.Rights(expires_at=clock.time() + 100)
    key, _ = await principals.create_key(store, name="guest", admin=False, rights=rights)
    other, _ = await principals.create_key(store, name="other", admin=False)
    cookies = [
        (await principals.open_session(store, principal_id=one.principal_id, key_id=one.id, admin=False))[0]
        for one in (key, other)
    ]
    assert [await principals.find_session(store, cookie) is not None for cookie in cookies] == [True, True]
    await principals.change_key(store, other.id, principals.Rights(), disabled=True)
    await clock.advance(101)
    assert await principals.live_keys(store) == {}
    assert len(await principals.known_keys(store)) == 2
    assert [await principals.find_session(store, cookie) for cookie in cookies] == [None, None]
    await principals.change_key(store, other.id, principals.Rights(models=("small",), limits={"parallel": 1}), disabled=False)
    [back] = (await principals.live_keys(store)).values()
    assert (back.id, back.models, back.limits) == (other.id, ("small",), {"parallel": 1})


async def test_the_last_admin_key_cannot_be_made_to_end(store: Store) -> None:
    """If this fails, a date in the calendar locks the owner out."""
    await principals.ensure_first_key(store)
    [first] = await principals.list_keys(store)
    soon = principals.Rights(expires_at=store.clock.time() + 10)
    with pytest.raises(LastAdminKey):
        await principals.change_key(store, first.id, soon, disabled=False)
    with pytest.raises(LastAdminKey):
        await principals.change_key(store, first.id, principals.Rights(), disabled=True)
    second, _ = await principals.create_key(store, name="second", admin=True, rights=soon)
    with pytest.raises(LastAdminKey):  # the other one ends soon
        await principals.revoke_key(store, first.id)
    await principals.change_key(store, second.id, principals.Rights(), disabled=False)
    await principals.revoke_key(store, first.id)

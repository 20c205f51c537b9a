"""`providers.static`."""

from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import ModelConfig, StaticPool
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.providers.base import Desired, Presence
from lamplighter.providers.static import StaticProvider


def make(**settings: Any) -> StaticProvider:
    pool = StaticPool.model_validate({"kind": "static", "url": "http://nas.lan:11434/v1/", **settings})
    models = {
        name: ModelConfig.model_validate({"engine": "openai", "pool": where})
        for name, where in (("b", "nas"), ("a", "nas"), ("c", "x"))
    }
    return StaticProvider("nas", pool, models=lambda: models)


async def test_it_is_one_running_server_with_the_pools_models() -> None:
    """An existing server would not be used, or be asked for models of other pools."""
    (one,) = await make().observe()
    assert (one.presence, one.models, one.endpoint) == (Presence.RUNNING, ("a", "b"), Endpoint("http://nas.lan:11434"))


async def test_several_servers_are_as_many_replicas() -> None:
    """Of two equal servers only one would be used; or which is which would change when their order does."""
    first, second = {"url": "http://a:1/v1", "weight": 2}, {"url": "http://b:1"}
    found = await make(servers=[first, second]).observe()
    assert [one.endpoint.url for one in found if one.endpoint] == ["http://nas.lan:11434", "http://a:1", "http://b:1"]
    assert len({one.handle for one in found}) == 3
    assert all(one.models == ("a", "b") for one in found)
    turned = await make(servers=[second, first]).observe()
    assert {one.handle: one.endpoint for one in turned} == {one.handle: one.endpoint for one in found}


async def test_nothing_ends_or_multiplies_it() -> None:
    """It belongs to somebody else."""
    provider = make()
    (before,) = await provider.observe()
    await provider.scale(Desired({"a": 5}), frozenset({before.handle}))
    await provider.renew()
    await provider.close()
    assert await provider.observe() == [before]
    assert provider.stages == ()


async def test_its_key_is_read_at_every_look(tmp_path: Path) -> None:
    """A rotated key would need a restart."""
    secret = tmp_path / "key"
    secret.write_text("one\n")
    provider = make(key=f"file:{secret}")
    secret.write_text("two\n")
    (one,) = await provider.observe()
    assert one.endpoint == Endpoint("http://nas.lan:11434", "two")
    assert "two" not in repr(one)


async def test_a_missing_key_is_named() -> None:
    """The person would see "401" and not know that a variable is unset."""
    with pytest.raises(ProviderError, match="LAMPLIGHTER_TEST_NO_SUCH_KEY"):
        await make(key="env:LAMPLIGHTER_TEST_NO_SUCH_KEY").observe()

"""The parts fit together: every kind of the configuration has its class, and providers see models added a moment ago."""

import asyncio
from pathlib import Path
from typing import get_args

import pytest

from lamplighter.cli import kinds
from lamplighter.cli.compose import Installation, LiveModels
from lamplighter.config import EngineKind, parse
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ConfigError
from lamplighter.federation.node_provider import FederatedProvider
from lamplighter.operations.datafolder import DataFolder
from lamplighter.providers.aws.provider import AwsProvider
from lamplighter.providers.command import CommandProvider
from lamplighter.providers.kubernetes.provider import KubernetesProvider
from lamplighter.providers.process.provider import ProcessProvider
from lamplighter.providers.resident import ResidentProvider
from lamplighter.providers.static import StaticProvider
from lamplighter.store import overlay
from lamplighter.store.store import Store
from lamplighter.testing.provider import FakeProvider

CONFIG = parse(
    "models: {m: {engine: llamacpp, pool: p, source: bundled}}\n"
    "pools: {p: {kind: process}, s: {kind: static, url: 'http://x'}, f: {kind: fake},"
    " r: {kind: static, url: 'http://x', sleep_after: 5m}, c: {kind: command, url: 'http://x', wake: w, sleep: s},"
    " k: {kind: kubernetes, accelerator: T4}, a: {kind: aws, region: eu-central-1}, l: {kind: aws, region: eu-central-1, federation: liqo}}\n"
)
ADDED = {"engine": "llamacpp", "pool": "p", "source": "hf:owner/repo"}


def test_every_engine_of_the_configuration_exists() -> None:
    """A kind that the file accepts and nobody makes would fail at its first wake."""
    made = kinds.engines()
    assert set(made) == set(get_args(EngineKind))
    assert all(engine.kind == name for name, engine in made.items())


def test_a_gpu_that_nobody_knows_is_told_at_once(tmp_path: Path) -> None:
    """A typo would otherwise be found by the first wake, or never: the engine would simply get no flags."""
    config = parse("pools: {rack: {kind: kubernetes, accelerator: T44}}")
    with pytest.raises(ConfigError, match=r"pools\.rack\.accelerator: no GPU or machine 'T44'"):
        kinds.provider(
            "rack",
            config.pools["rack"],
            config=config,
            models=dict,
            data=tmp_path,
            installation="ins_x",
            kinds={},
            clock=SystemClock(),
        )


async def test_every_pool_of_the_configuration_has_its_provider(tmp_path: Path) -> None:
    """The same for pools."""
    store = await Store.open(None, SystemClock())
    models = LiveModels(store, CONFIG)
    made = {
        name: kinds.provider(
            name,
            pool,
            config=CONFIG,
            models=models,
            data=tmp_path,
            installation="ins_x",
            kinds=kinds.engines(),
            clock=SystemClock(),
        )
        for name, pool in CONFIG.pools.items()
    }
    assert {name: type(one) for name, one in made.items()} == {
        "p": ProcessProvider, "s": StaticProvider, "f": FakeProvider, "r": ResidentProvider, "c": CommandProvider,
        "k": KubernetesProvider, "a": AwsProvider, "l": FederatedProvider,
    }  # fmt: skip
    for one in made.values():
        await one.close()
    await store.close()


async def test_a_thread_sees_a_model_that_was_just_added() -> None:
    """The keeper launches it in the same moment: an old list would fail the first wake."""
    store = await Store.open(None, SystemClock())
    models = LiveModels(store, CONFIG)
    await overlay.add(store, CONFIG, "new", ADDED)
    assert "new" not in models()
    assert "new" in await asyncio.to_thread(models)
    assert "new" in models()
    await store.close()


async def test_the_loop_follows_changes() -> None:
    """Providers without threads of their own see it a moment later."""
    store = await Store.open(None, SystemClock())
    models = LiveModels(store, CONFIG)
    following = asyncio.create_task(models.follow())
    await asyncio.sleep(0)
    await overlay.add(store, CONFIG, "new", ADDED)
    async with asyncio.timeout(10):
        while "new" not in models():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        await overlay.remove(store, "new")
        while "new" in models():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await store.close()


async def test_a_failure_at_the_start_leaves_nothing_running(tmp_path: Path) -> None:
    """A refused preset key must not leave a keeper behind, nor the folder's store open."""
    folder = DataFolder(tmp_path)
    folder.prepare()
    before = asyncio.all_tasks()
    with pytest.raises(ConfigError):
        async with Installation.open(parse("pools: {f: {kind: fake}}"), folder) as installation:
            await installation.first_keys("short")
    assert asyncio.all_tasks() == before


async def test_keys_survive_a_restart(tmp_path: Path) -> None:
    """The first key is made once; the command line's stays the same, and is made anew when its file is lost."""
    folder = DataFolder(tmp_path)
    folder.prepare()
    config = parse("pools: {f: {kind: fake}}")
    async with Installation.open(config, folder) as installation:
        assert (first := await installation.first_keys(None))
        assert first.startswith("lk-")
    key = folder.read_cli_key()
    async with Installation.open(config, folder) as installation:
        assert await installation.first_keys(None) is None
    assert folder.read_cli_key() == key
    folder.cli_key.unlink()
    async with Installation.open(config, folder) as installation:
        await installation.first_keys(None)
        assert "#login=" in await installation.login_link("http://x")
    assert folder.read_cli_key() not in (None, key)

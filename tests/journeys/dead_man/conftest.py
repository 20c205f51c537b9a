"""A world for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lamplighter.providers.aws import groups as provider_groups
from lamplighter.testing.aws import Emulator, PoolSeed
from tests.journeys.dead_man.machines import AgentMachines
from tests.journeys.dead_man.world import BOOT_DEADLINE, DRAIN, LEASE, World


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    with Emulator() as aws:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        # Once a minute is too seldom for a dead-man of seconds.
        monkeypatch.setattr(provider_groups, "PUSH_EVERY", 0.5)
        manifest = aws.seed_stack(pools={"spot": PoolSeed(boot_deadline=BOOT_DEADLINE, lease=LEASE, drain=DRAIN)})
        with AgentMachines(aws, manifest, tmp_path / "machines") as machines:
            yield World(aws, manifest, machines, tmp_path / "data")

"""One emulator for the tests of a file (there can be one in a process), emptied before each: its time stands still unless a test moves it."""

from collections.abc import Iterator
from typing import Any

import pytest

from lamplighter.testing.aws import Emulator, PoolSeed


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(threaded=False) as aws:
        yield aws


@pytest.fixture
def aws(emulator: Emulator) -> Emulator:
    emulator.reset()
    return emulator


@pytest.fixture
def manifest(aws: Emulator) -> dict[str, Any]:
    """Without the scheduled action, which would act whenever a test's time passes a full five minutes."""
    return aws.seed_stack(pools={"spot": PoolSeed(instance_types=("g5.xlarge", "g4dn.xlarge"))}, dead_man=None)

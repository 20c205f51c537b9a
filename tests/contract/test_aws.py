"""The provider contract against `aws` on an emulated AWS with pretended nodes, and what only a cloud does: emulated, not proven."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lamplighter.testing.aws import Emulator
from lamplighter.testing.contracts import ProviderContract
from tests.contract.aws_world import REGION, AwsWorld, make_data


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    with Emulator(region=REGION) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
async def world(aws: Emulator, data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsWorld]:
    world = AwsWorld(aws, data, monkeypatch)
    yield world
    await world.close()


class TestContract(ProviderContract):
    """`aws`."""

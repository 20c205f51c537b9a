"""One installation for all journeys of this folder."""

from collections.abc import Iterator

import pytest

from tests.journeys.cloud.world import Show, missing, show


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    if reason := missing():
        pytest.skip(reason)
    with show(tmp_path_factory.mktemp("show")) as made:
        yield made

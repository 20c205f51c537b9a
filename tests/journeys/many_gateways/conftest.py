"""An installation on a PostgreSQL of the test's own, before a pretended engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.invariants import assert_quiet
from tests.journeys.many_gateways.cluster import Cluster, KeeperServer, fake_engine
from tests.services import Postgres


@pytest.fixture
def cluster(postgres_server: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    """Nothing runs yet but PostgreSQL and the engine. Of the gateways that still run after the test, nothing may be left behind."""
    with fake_engine() as engine:
        made = Cluster(postgres_server, tmp_path, engine, postgres_server.create("lamplighter"))
        try:
            yield made
            for one in made.servers:
                if one.process is not None and one.process.poll() is None and not isinstance(one, KeeperServer):
                    assert_quiet(one)
        finally:
            made.end()

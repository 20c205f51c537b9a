"""The real control plane as a fixture: one for the whole run, started when the first test asks for it."""

from collections.abc import Iterator

import pytest

from tests.cluster_lab import programs
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster


@pytest.fixture(scope="session")
def real_cluster() -> Iterator[ControlPlane | LentCluster]:
    """A real API server for the whole run: the lent one, else one of our own. Each test has namespaces of its own."""
    lent, why = programs.lent(), programs.missing()
    if lent is not None:
        yield LentCluster(lent)
    elif why is not None:
        pytest.skip(f"no real control plane: {why}")
    else:
        with ControlPlane() as plane:
            yield plane


@pytest.fixture(scope="session")
def control_plane(real_cluster: ControlPlane | LentCluster) -> ControlPlane:
    """The same, for tests that stop and restart it: never a lent one. Who breaks it, mends it before the test's end."""
    if not isinstance(real_cluster, ControlPlane):
        pytest.skip("the cluster is lent: it is not ours to break")
    return real_cluster

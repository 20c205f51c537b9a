"""One release for all tests of this folder that use one as it is; its own for those that install and remove."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamplighter.testing.kubernetes import Kubelet, Outcome
from tests.cluster_lab.control_plane import ControlPlane
from tests.journeys.chart.release import Office, Release


@pytest.fixture(scope="module")
def node(control_plane: ControlPlane) -> Iterator[Kubelet]:
    """A pretended node with one GPU, whose pods hold pretended engines."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    with Kubelet(control_plane.access(), name, gpus=1, cpu="64", engines=True) as kubelet:
        yield kubelet
    control_plane.http.delete(f"/api/v1/nodes/{name}")


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, node: Kubelet) -> Iterator[Release]:
    """The chart, installed."""
    made = Release(control_plane, node)
    made.install()
    yield made
    made.remove()


@pytest.fixture
def office(release: Release, tmp_path: Path, postgres_url: str) -> Iterator[Office]:
    """No process yet. Afterwards the cluster is as the release made it, without models."""
    release.kubelet.outcomes["*"] = Outcome()
    made = Office(release, tmp_path, postgres_url)
    try:
        yield made
    finally:
        made.end()
        release.forget_models()

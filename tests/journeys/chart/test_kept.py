"""What outlives a release, on a real API server: keys, passwords and volumes are found again by the next one. And nearly everything that the chart has."""

from collections.abc import Iterator
from typing import Any

import pytest

from lamplighter.testing.kubernetes import Kubelet
from tests.cluster_lab.control_plane import ControlPlane
from tests.journeys.chart.release import NAME, SPACE, Release
from tests.journeys.harness import eventually

pytestmark = pytest.mark.long
AWAY = "llm-models"
FULL: dict[str, Any] = {
    "redis": {"mode": "embedded"},
    "page": {"mode": "nginx", "nginx": {"podDisruptionBudget": {"enabled": False}}},
    "keeper": {"replicas": 2, "podDisruptionBudget": {"enabled": False}},
    "priorityClasses": {"create": True},
    "resourceQuota": {"enabled": True},
    "limitRange": {"enabled": True},
    "modelServers": {
        "namespace": AWAY,
        "createNamespace": True,
        "resourceQuota": {"enabled": True},
        "limitRange": {"enabled": True},
    },
    "modelCaches": {
        "weights": {"size": "1Gi", "volume": {"nfs": {"server": "192.0.2.1", "path": "/w"}}, "readOnlyClaim": "weights-read"}
    },
    "federation": {"enabled": True},
    "rbac": {"nodes": True},
    "ingress": {"kind": "generic", "hosts": ["llm.example.com"]},
    "metrics": {"dashboards": {"enabled": True}, "rules": {"kind": "configMap"}},
    "hub": {"token": "hf_abc"},
}


@pytest.fixture
def fresh(control_plane: ControlPlane, node: Kubelet) -> Iterator[Release]:
    """Nothing installed before or after."""
    made = Release(control_plane, node)
    yield made
    made.helm.uninstall(NAME, ignore_not_found=True)
    for space in (SPACE, AWAY):
        control_plane.http.delete(f"/api/v1/namespaces/{space}")
    eventually(lambda: not _spaces(made), what="both namespaces are gone")
    for claim in ("weights", "weights-read"):
        control_plane.http.delete(f"/api/v1/persistentvolumes/{AWAY}-{claim}")


def _spaces(release: Release) -> set[str]:
    return {one["metadata"]["name"] for one in release.get("/api/v1/namespaces")["items"]} & {SPACE, AWAY}


def _secrets(release: Release) -> dict[str, Any]:
    return {
        name: release.get(f"/api/v1/namespaces/{SPACE}/secrets/{NAME}-{name}")["data"] for name in ("keys", "database", "redis")
    }


def _claims(release: Release) -> dict[str, str]:
    found = release.get(f"/api/v1/namespaces/{AWAY}/persistentvolumeclaims")["items"]
    return {claim["metadata"]["name"]: claim["status"]["phase"] for claim in found}


def test_what_is_kept_is_found_again(fresh: Release) -> None:
    """A new password does not open the old volume, and a new admin key locks everybody out."""
    fresh.install(**FULL)
    secrets = _secrets(fresh)
    eventually(lambda: _claims(fresh) == {"weights": "Bound", "weights-read": "Bound"}, what="both claims have their volume")
    fresh.upgrade(
        **{**FULL, "gateway": {"replicas": 3, "autoscaling": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}}
    )
    fresh.helm.rollback(NAME, version=1, wait="legacy", timeout=120)
    gateway = fresh.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments/{NAME}-gateway")
    assert gateway["spec"]["replicas"] == 2
    fresh.helm.uninstall(NAME)
    assert _secrets(fresh) == secrets
    assert _claims(fresh) == {"weights": "Bound", "weights-read": "Bound"}
    fresh.install(**FULL)
    assert _secrets(fresh) == secrets

"""Install, upgrade, roll back, remove: as a person does with Helm, on a real API server with RBAC."""

from collections.abc import Iterator

import helm_python
import pytest

from lamplighter.testing.kubernetes import Fault, Kubelet, Outcome
from tests.cluster_lab.control_plane import ControlPlane
from tests.journeys.chart.release import CHART, NAME, SPACE, Release, values
from tests.journeys.harness import eventually

pytestmark = pytest.mark.long


@pytest.fixture
def fresh(control_plane: ControlPlane, node: Kubelet) -> Iterator[Release]:
    """Nothing installed before or after."""
    made = Release(control_plane, node)
    yield made
    made.remove()


def test_install_upgrade_rollback_remove(fresh: Release) -> None:
    """The four commands that everybody types; a chart that fails at the second leaves people with half a release."""
    assert fresh.install()["status"] == "deployed"
    names = {one["metadata"]["name"] for one in fresh.objects("deployments", "apis/apps/v1")}
    assert {f"{NAME}-gateway", f"{NAME}-keeper"} <= names
    before = {
        one["metadata"]["name"]: one["metadata"]["uid"]
        for one in fresh.objects("secrets")
        if one["metadata"]["name"].startswith(NAME)
    }
    keys = fresh.get(f"/api/v1/namespaces/{SPACE}/secrets/{NAME}-keys")["data"]
    assert fresh.upgrade(config={"log": {"level": "debug"}})["status"] == "deployed"
    assert fresh.config()["log"]["level"] == "debug"
    assert fresh.get(f"/api/v1/namespaces/{SPACE}/secrets/{NAME}-keys")["data"] == keys, "an upgrade changes no key"
    fresh.helm.rollback(NAME, version=1, wait="legacy", timeout=120)
    assert fresh.config()["log"].get("level") != "debug"
    assert [one["version"] if "version" in one else one["revision"] for one in fresh.helm.history(NAME)] == [1, 2, 3]
    assert fresh.get(f"/api/v1/namespaces/{SPACE}/secrets/{NAME}-keys")["data"] == keys
    fresh.helm.uninstall(NAME)

    def left() -> list[str]:
        found = []
        for api, plural in (
            ("apis/apps/v1", "deployments"), ("apis/apps/v1", "statefulsets"), ("api/v1", "services"), ("api/v1", "configmaps"),
            ("apis/rbac.authorization.k8s.io/v1", "roles"), ("apis/rbac.authorization.k8s.io/v1", "rolebindings"), ("api/v1", "serviceaccounts"),
            ("apis/batch/v1", "jobs"),
        ):  # fmt: skip
            found += [
                f"{plural}/{one['metadata']['name']}"
                for one in fresh.objects(plural, api)
                if one["metadata"]["name"].startswith(NAME)
            ]
        return found

    eventually(lambda: not left(), what=f"nothing is left but what is kept on purpose: {left()}")
    assert before


def test_a_mistake_in_the_values_changes_nothing(fresh: Release) -> None:
    """A misspelt value must be refused before anything is touched."""
    with pytest.raises(helm_python.HelmError) as caught:
        fresh.helm.install(CHART, NAME, values(gatewayy={}), namespace=SPACE, create_namespace=True, timeout=30)
    assert "gatewayy" in str(caught.value)
    assert fresh.plane.http.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments").json()["items"] == []


def test_the_server_takes_every_object(fresh: Release) -> None:
    """A dry run on the server finds what schemas do not: names, quantities, references."""
    fresh.plane.http.post("/api/v1/namespaces", json={"metadata": {"name": SPACE}})
    told = fresh.helm.install(CHART, NAME, values(), namespace=SPACE, dry_run="server", timeout=60)
    assert "kind: Deployment" in told["manifest"]


def test_the_migration_runs_before_anything_else(fresh: Release) -> None:
    """With a database of one's own, a new version must find the new tables there; and a migration that fails must stop the upgrade."""
    database = {"postgresql": {"mode": "external", "external": {"url": "postgresql://lamplighter:secret@db.example/lamplighter"}}}
    assert fresh.install(**database)["status"] == "deployed"
    told = {
        (one["reason"], one["involvedObject"]["name"])
        for one in fresh.objects("events")
        if one["involvedObject"]["kind"] == "Job"
    }
    assert ("Completed", f"{NAME}-migrate") in told
    gateway = fresh.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments/{NAME}-gateway")
    fresh.kubelet.outcomes["*"] = Outcome(Fault.CRASH, logs=("relation does not exist",))
    try:
        with pytest.raises(helm_python.HelmError):
            fresh.helm.upgrade(
                CHART, NAME, values(**database, config={"log": {"level": "debug"}}), namespace=SPACE, wait="legacy", timeout=20
            )
    finally:
        fresh.kubelet.outcomes["*"] = Outcome()
    after = fresh.get(f"/apis/apps/v1/namespaces/{SPACE}/deployments/{NAME}-gateway")
    assert after["spec"]["template"] == gateway["spec"]["template"], "the gateways are as they were"

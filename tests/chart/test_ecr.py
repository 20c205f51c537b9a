"""The CronJob that keeps ECR's pull secret fresh: the program that it runs, with the rights that the chart gives it."""

import base64

import boto3
import pytest
from moto import mock_aws

from lamplighter.operations import pull_secret
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.testing.kubernetes import FakeCluster
from tests.chart.rendering import NAMESPACE, of, render

REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


async def test_the_secret_is_made_and_then_changed_with_the_charts_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs for ever, and nobody looks until pulls fail twelve hours later."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    values = {"cronjobs": {"ecr": {"enabled": True, "registry": REGISTRY}}}
    with FakeCluster(rbac=True) as cluster, mock_aws():
        boto3.client("ecr", region_name="eu-central-1").create_repository(repositoryName="lamplighter")
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            for one in of(render(values), kind):
                cluster.create(dict(one))
        client = Cluster.connect(cluster.access(cluster.account(NAMESPACE, "lamplighter-ecr"), namespace=NAMESPACE))
        try:
            for _ in range(2):
                await pull_secret.refresh(client, REGISTRY, "ecr-pull")
            secret = cluster.get("Secret", "ecr-pull", NAMESPACE)
            assert secret["type"] == "kubernetes.io/dockerconfigjson"
            assert REGISTRY in base64.b64decode(secret["data"][".dockerconfigjson"]).decode()
            with pytest.raises(KubernetesError):
                await pull_secret.refresh(client, REGISTRY, "another")
        finally:
            await client.close()


def test_the_job_runs_it() -> None:
    """With the registry, the name, its own account, and credentials when there are some."""
    values = {"cronjobs": {"ecr": {"enabled": True, "registry": REGISTRY, "credentialsSecret": "aws", "secretName": "pull"}}}
    (job,) = [one for one in of(render(values), "CronJob") if one["metadata"]["name"].endswith("-ecr")]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", pull_secret.__name__, "--registry", REGISTRY, "--secret", "pull"]
    assert container["envFrom"] == [{"secretRef": {"name": "aws"}}]
    assert pod["serviceAccountName"] == "lamplighter-ecr"

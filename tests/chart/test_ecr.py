"""The script that keeps ECR's pull secret fresh: what it writes is what a kubelet reads, with the rights that the chart gives it."""

import base64
import importlib.util
import json
import types
import urllib.error

import boto3
import pytest
from moto import mock_aws

from lamplighter.testing.kubernetes import FakeCluster
from tests.chart.rendering import CHART, NAMESPACE, of, render

REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@pytest.fixture
def script() -> types.ModuleType:
    """The file as the CronJob runs it."""
    spec = importlib.util.spec_from_file_location("ecr_pull_secret", CHART / "files" / "ecr_pull_secret.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_token_becomes_a_docker_configuration(script: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet looks for exactly the registry's name."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        boto3.client("ecr", region_name="eu-central-1").create_repository(repositoryName="lamplighter")
        config = json.loads(script.docker_config(REGISTRY))
    (entry,) = config["auths"].values()
    assert list(config["auths"]) == [REGISTRY]
    assert entry["username"] == "AWS"
    assert base64.b64decode(entry["auth"]).decode() == f"AWS:{entry['password']}"


def test_the_secret_is_made_and_then_changed_with_the_charts_rights(script: types.ModuleType) -> None:
    """It runs for ever, and nobody looks until pulls fail twelve hours later."""
    values = {"cronjobs": {"ecr": {"enabled": True, "registry": REGISTRY}}}
    with FakeCluster(rbac=True) as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            for one in of(render(values), kind):
                cluster.create(dict(one))
        token = cluster.account(NAMESPACE, "lamplighter-ecr")
        for config in ('{"auths": {"a": 1}}', '{"auths": {"b": 2}}'):
            script.apply(cluster.url, NAMESPACE, "ecr-pull", config, token, None)
            secret = cluster.get("Secret", "ecr-pull", NAMESPACE)
            assert secret["type"] == "kubernetes.io/dockerconfigjson"
            assert base64.b64decode(secret["data"][".dockerconfigjson"]).decode() == config
        with pytest.raises(urllib.error.HTTPError, match="403"):
            script.apply(cluster.url, NAMESPACE, "another", config, token, None)


def test_the_job_runs_it() -> None:
    """With the registry, the name and its own account."""
    values = {"cronjobs": {"ecr": {"enabled": True, "registry": REGISTRY, "credentialsSecret": "aws", "secretName": "pull"}}}
    documents = render(values)
    (job,) = [one for one in of(documents, "CronJob") if one["metadata"]["name"].endswith("-ecr")]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {one["name"]: one["value"] for one in container["env"]} == {
        "HOME": "/tmp",
        "REGISTRY": REGISTRY,
        "PULL_SECRET_NAME": "pull",
    }
    assert container["envFrom"] == [{"secretRef": {"name": "aws"}}]
    (config,) = [one for one in of(documents, "ConfigMap") if one["metadata"]["name"] == "lamplighter-ecr"]
    assert (
        config["data"]["ecr_pull_secret.py"].strip()
        == (CHART / "files" / "ecr_pull_secret.py").read_text(encoding="utf-8").strip()
    )

"""What doctor says of Kubernetes pools, and the job that keeps ECR's pull secret fresh."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from lamplighter.cli.kinds import engines
from lamplighter.config.load import parse
from lamplighter.core.errors import ConfigError
from lamplighter.core.findings import Verdict
from lamplighter.operations import kubernetes_pools, pull_secret
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.kubernetes import registry
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes.cluster import FakeCluster

REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


def test_findings_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that can never work would be found out by the first person who asks it."""

    async def ask(image: registry.Image, login: registry.Login | None) -> registry.Answer:
        return registry.Answer(404)

    monkeypatch.setattr(registry, "ask", ask)
    with FakeCluster() as cluster:
        kubeconfig = cluster.write_kubeconfig(tmp_path / "config")
        config = parse(
            "models: {a: {engine: vllm, pool: k, source: 'hf:o/m', image: 'ghcr.io/o/i:9'}}\n"
            f"pools: {{k: {{kind: kubernetes, kubeconfig: '{kubeconfig}', namespace: default}}}}"
        )
        found = {one.name: one for one in kubernetes_pools.examine(config, engines())}
    assert found["pool k"].verdict is Verdict.OK
    assert found["image ghcr.io/o/i:9"].verdict is Verdict.FAIL
    assert "There is no image ghcr.io/o/i:9" in found["image ghcr.io/o/i:9"].next_step


def test_a_fresh_pull_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pull after twelve hours would be refused."""
    token = base64.b64encode(b"AWS:secret").decode()
    asked: list[tuple[str, str, Any]] = []

    async def call(self: Aws, service: str, operation: str, *, region: str | None = None, **arguments: Any) -> dict[str, Any]:
        asked.append((self.region, operation, arguments))
        return {"authorizationData": [{"authorizationToken": token}]}

    monkeypatch.setattr(Aws, "call", call)
    with FakeCluster() as fake:

        async def work() -> None:
            cluster = Cluster.connect(fake.access())
            for _ in range(2):
                await pull_secret.refresh(cluster, REGISTRY, "ecr")
            await cluster.close()

        asyncio.run(work())
        made = fake.get("Secret", "ecr")
    assert asked[0] == ("eu-central-1", "get_authorization_token", {"registryIds": ["123456789012"]})
    assert made["type"] == "kubernetes.io/dockerconfigjson"
    config = json.loads(base64.b64decode(made["data"][".dockerconfigjson"]))
    assert config["auths"][REGISTRY]["auth"] == token
    assert registry.logins(made) == [registry.Login(REGISTRY, "AWS", "secret")]


def test_another_registry_has_no_such_tokens() -> None:
    """The job would fail four times a day with a riddle."""
    with pytest.raises(ConfigError, match="no registry of Amazon ECR"):
        asyncio.run(pull_secret.docker_config("ghcr.io"))

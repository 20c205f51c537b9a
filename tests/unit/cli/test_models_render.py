"""`lamplighter models render`: what people put into their GitOps repository."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import Result

Run = Callable[..., Result]

CONFIG = """\
models:
  llama: {engine: vllm, pool: gpu, source: "hf:meta-llama/Llama-3.2-3B-Instruct"}
  other: {engine: ollama, pool: cpu, source: "llama3.2"}
  small: {engine: llamacpp, pool: here, source: bundled}
pools:
  gpu: {kind: kubernetes, accelerator: T4, namespace: models}
  cpu: {kind: kubernetes, gpus: 0, workload: statefulset}
  here: {kind: process}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "lamplighter.yaml"
    file.write_text(CONFIG)
    return str(file)


def test_manifests_of_all_models_in_clusters(lamplighter: Run, config: str) -> None:
    """What is applied must be what the keeper would make, without replicas, and without a secret."""
    answer = lamplighter("models", "render", "--config", config, "--namespace", "llm")
    assert answer.exit == 0, answer.err
    found = [(one["kind"], one["metadata"]["namespace"]) for one in yaml.safe_load_all(answer.out)]
    assert found == [("Service", "models"), ("Deployment", "models"), ("Service", "llm"), ("StatefulSet", "llm")]
    assert "manage: false" in answer.out
    for one in yaml.safe_load_all(answer.out):
        assert "replicas" not in one["spec"]
    (deployment,) = [one for one in yaml.safe_load_all(answer.out) if one["kind"] == "Deployment"]
    assert "half" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_one_model_or_one_pool(lamplighter: Run, config: str) -> None:
    """A repository often has a folder for each."""
    by_model = lamplighter("models", "render", "--config", config, "--model", "other")
    by_pool = lamplighter("models", "render", "--config", config, "--pool", "cpu")
    assert by_model.out == by_pool.out
    assert [one["kind"] for one in yaml.safe_load_all(by_model.out)] == ["Service", "StatefulSet"]


@pytest.mark.parametrize("arguments", [("--model", "small"), ("--pool", "here"), ("--model", "typo")])
def test_what_is_not_in_a_cluster_is_said(lamplighter: Run, config: str, arguments: tuple[str, str]) -> None:
    """An empty file would be applied, and nothing would happen."""
    answer = lamplighter("models", "render", "--config", config, *arguments)
    assert answer.exit == 3
    assert arguments[1] in answer.err


def test_the_jobs_beside_the_models(lamplighter: Run, config: str) -> None:
    """Applied with `kubectl apply -f -`, they must bring no models along, which would start."""
    answer = lamplighter(
        "models",
        "render",
        "--config",
        config,
        "--pool",
        "gpu",
        "--ecr",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        "--janitor",
    )
    found = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(answer.out)]
    assert found == [
        (kind, name)
        for name in ("lamplighter-ecr", "lamplighter-janitor")
        for kind in ("ServiceAccount", "Role", "RoleBinding", "CronJob")
    ]

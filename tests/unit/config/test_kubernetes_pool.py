"""Settings of Kubernetes pools and of the federation: what fits together and what does not."""

import pytest

from lamplighter.config import AwsPool, KubernetesPool, parse
from lamplighter.core.errors import ConfigError


def pool(settings: str) -> KubernetesPool:
    found = parse(f"pools: {{rack: {{kind: kubernetes{settings and ', '}{settings}}}}}").pools["rack"]
    assert isinstance(found, KubernetesPool)
    return found


def test_one_word_is_enough() -> None:
    """Who has a cluster with a GPU writes `kind: kubernetes` and nothing else."""
    rack = pool("")
    assert (rack.gpus, rack.gpu_resource, rack.workload, rack.manage, rack.namespace) == (
        1,
        "nvidia.com/gpu",
        "deployment",
        True,
        None,
    )
    assert rack.elastic


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("cache: {kind: claim}", "claim: needed with kind claim"),
        ("cache: {claim: weights}", "claim: needed with kind claim"),
        ("cache: {kind: s3}", "url: needed with kind s3"),
        ("cache: {kind: s3, url: 'https://bucket'}", "cache.url"),
        ("cache: {read_only: true}", "read_only: only with kind claim"),
        ("cache: {kind: claim, claim: w, read_only: true}, preload: true", "preload: not possible with cache.read_only"),
        ("nodes: 2, gpus: 0", "a model without GPUs runs on one machine"),
        ("nodes: 2, workload: statefulset", "LeaderWorkerSet"),
        ("tolerations: [{operator: Exists, value: x}]", "not possible with operator Exists"),
        ("tolerations: [{value: x}]", "key: needed, unless operator is Exists"),
        ("tolerations: [{key: a, toleration_seconds: 5}]", "only with effect NoExecute"),
        ("labels: {lamplighter.dev/pool: mine}", "lamplighter.dev/pool is set by Lamplighter"),
        ("node_selector: {'a/b/c': x}", "node_selector"),
        ("cpu: 0", "cpu"),
        ("cpu: '0'", "cpu"),
        ("namespace: Upper", "namespace"),
        ("hub_token_secret: 'a b'", "hub_token_secret"),
    ],
)
def test_what_does_not_fit_is_said(settings: str, said: str) -> None:
    """Kubernetes would refuse it at the first wake, hours later and in its own words."""
    with pytest.raises(ConfigError) as caught:
        pool(settings)
    assert said in caught.value.message


@pytest.mark.parametrize("cpu", ["1", "0.5", "1.25", "500m", "16"])
def test_cores_as_kubernetes_writes_them(cpu: str) -> None:
    """The same quantity that stands in every manifest."""
    assert pool(f"cpu: '{cpu}'").cpu == cpu


def test_the_key_of_the_hub_token() -> None:
    """A Secret has keys; one is usual."""
    assert pool("").hub_token is None
    assert pool("hub_token_secret: hf").hub_token == ("hf", "token")
    assert pool("hub_token_secret: hf/HF_TOKEN").hub_token == ("hf", "HF_TOKEN")


def test_pods_outlive_a_keeper_that_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of the chart must not end what runs; Ctrl-C on a laptop must not leave a GPU running."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not pool("").kept_at_exit
    assert pool("at_exit: keep").kept_at_exit
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert pool("").kept_at_exit
    assert not pool("at_exit: end").kept_at_exit


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{engine: vllm, pool: rack, source: 'file:/weights'}", "write hf:OWNER/REPO"),
        ("{engine: llamacpp, pool: rack, source: 'file:/weights.gguf'}", "a container has no files of yours"),
        ("{engine: llamacpp, pool: here, source: bundled, gpus: 2}", "only in pools of kind kubernetes"),
        ("{engine: llamacpp, pool: here, source: bundled, memory: 4GiB}", "only in pools of kind kubernetes"),
        ("{engine: llamacpp, pool: here, source: bundled, revision: main}", "revision: only with source: hf:"),
        ("{engine: openai, pool: rack}", "runs in a pool of kind 'static'"),
        ("{engine: vllm, pool: rack, source: 'hf:a/b', program: vllm}", "only in pools of kind process"),
    ],
)
def test_models_that_do_not_fit_a_kubernetes_pool(model: str, said: str) -> None:
    """A setting that would do nothing, in silence."""
    with pytest.raises(ConfigError) as caught:
        parse(f"models: {{m: {model}}}\npools: {{rack: {{kind: kubernetes}}, here: {{kind: process}}}}")
    assert said in caught.value.message


def test_models_that_fit() -> None:
    """The documented examples."""
    config = parse(
        "models:\n"
        "  llama: {engine: vllm, pool: rack, source: 'hf:meta-llama/Llama-3.2-3B-Instruct', revision: 0cb88a4, gpus: 1, cpu: '4', memory: 16GiB}\n"
        "  coder: {engine: ollama, pool: rack, source: 'codellama:7b'}\n"
        "pools: {rack: {kind: kubernetes, namespace: llm, max_replicas: 2}}\n"
    )
    assert config.models["llama"].revision == "0cb88a4"
    assert config.federation.mtu == 1240


def test_a_federated_machine_has_no_disk_for_weights() -> None:
    """A volume that no pod can use would bill every hour of the month."""
    spot = parse("pools: {spot: {kind: aws, region: eu-central-1, federation: liqo}}").pools["spot"]
    assert isinstance(spot, AwsPool)
    assert spot.model_storage.kind == "none"
    with pytest.raises(ConfigError, match="model_storage: with federation liqo"):
        parse("pools: {spot: {kind: aws, region: eu-central-1, federation: liqo, model_storage: {kind: volume}}}")

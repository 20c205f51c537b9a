"""Renders of the chart over many values: valid for every supported Kubernetes, kept by our policies, and understood by the program itself."""

import helm_python
import pytest
import yaml

from lamplighter.config import parse
from tests.chart import consistency, policies, schemas
from tests.chart.matrix import OUTSIDE, SCENARIOS
from tests.chart.rendering import CHART, Document, notes, of, one, render

EACH = pytest.mark.parametrize("name", SCENARIOS)


def test_lint_finds_nothing() -> None:
    """`helm lint --strict` is the first thing that anybody does with a chart."""
    found = helm_python.lint(CHART, strict=True)
    assert found["errors"] == []
    assert [message for message in found["messages"] if message["severity"] > 1] == []


@EACH
def test_policies_hold(name: str) -> None:
    """A pod that the namespace refuses, a Service that leads nowhere, a password in a ConfigMap: none of it shows before it is installed."""
    documents = render(SCENARIOS[name])
    asks = {
        policies.where(one)
        for one in documents
        if one["kind"] == "CronJob"
        or (
            one["metadata"]["labels"]["app.kubernetes.io/component"] in ("keeper", "single")
            and one["kind"] in consistency.WORKLOADS
        )
    }
    if not _uses_cluster(name):
        asks = {one for one in asks if one.startswith("CronJob/")}
    assert policies.broken(documents) == []
    assert list(policies.tokens(documents, asks)) == []
    assert policies.broken(documents, consistency.RULES) == []
    assert list(consistency.references(documents, OUTSIDE)) == []


def _uses_cluster(name: str) -> bool:
    values = SCENARIOS[name]
    pools = values.get("pools", {}).values()
    return bool(values.get("federation", {}).get("enabled")) or any(
        pool["kind"] == "kubernetes" and not pool.get("kubeconfig") and not pool.get("context") for pool in pools
    )


def test_every_document_is_valid_for_every_version() -> None:
    """A field that one version does not know makes the whole release fail there, after half of it was applied."""
    known: dict[object, Document] = {}
    for values in SCENARIOS.values():
        for document in render(values):
            known.setdefault((document["apiVersion"], document["kind"], schemas.shape(document)), document)
    assert len(known) > 80
    found = [
        problem for document in known.values() for version in schemas.VERSIONS for problem in schemas.problems(document, version)
    ]
    assert found == []


@EACH
def test_the_program_takes_the_configuration(name: str) -> None:
    """A lamplighter.yaml that the program refuses is a pod that crashes for ever, although Helm said `deployed`."""
    values = SCENARIOS[name]
    config = parse(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"])
    assert config.server.host == "0.0.0.0"
    assert (config.server.admin is not None) == values.get("adminPort", {}).get("enabled", True)
    assert (config.store.url is None) == (values.get("postgresql", {}).get("mode", "none") == "none")
    assert (config.redis.url is None) == (values.get("redis", {}).get("mode", "none") == "none")
    given = set(values.get("models", {}))
    assert set(config.models) == (given or ({"small"} if values.get("mode", "single") == "single" else set()))
    assert config.log.format == "json"


@EACH
def test_the_migration_takes_its_configuration(name: str) -> None:
    """The Job runs before anything else is there; a mistake in what it brings along stops every upgrade."""
    for config in of(render(SCENARIOS[name]), "ConfigMap", "lamplighter-migrate"):
        assert parse(config["data"]["lamplighter.yaml"]).store.url == "file:/etc/lamplighter/database/url"


@EACH
def test_upgrades_never_write_replicas_of_models(name: str) -> None:
    """Helm puts back what a manifest says: models that are awake would be put to sleep by every upgrade."""
    for document in render(SCENARIOS[name]):
        assert document["metadata"]["labels"]["app.kubernetes.io/name"] == "lamplighter"
        assert "lamplighter.dev/model" not in yaml.safe_dump(dict(document))


@EACH
def test_a_changed_configuration_starts_new_pods(name: str) -> None:
    """Gateways read their file once; without this a new model would appear at the next crash."""
    values = SCENARIOS[name]
    changed = {**values, "config": {**values.get("config", {}), "accounts": {"keep": "17d"}}}
    for before, after in zip(_programs(values), _programs(changed), strict=True):
        assert before["checksum/config"] != after["checksum/config"]
    for before, after in zip(_programs(values), _programs({**values, "tests": {"timeout": "17m"}}), strict=True):
        assert before["checksum/config"] == after["checksum/config"]


def _programs(values: dict[str, object]) -> list[dict[str, str]]:
    components = ("gateway", "keeper", "single")
    return [
        workload["spec"]["template"]["metadata"]["annotations"]
        for workload in render(values)
        if workload["kind"] in consistency.WORKLOADS
        and workload["metadata"]["labels"]["app.kubernetes.io/component"] in components
    ]


@EACH
def test_notes_tell_the_next_step(name: str) -> None:
    """Who has just installed it wants the key and the address, and nothing of a template in between."""
    text = notes(SCENARIOS[name])
    assert "helm test lamplighter" in text
    assert "get secret" in text
    assert "{{" not in text
    assert "<no value>" not in text


def test_names_follow_the_release() -> None:
    """Two releases in one namespace must not share an object, and a long name must not be refused by the API server."""
    values = {"mode": "distributed", "postgresql": {"mode": "embedded"}, "redis": {"mode": "embedded"}}
    short = {policies.where(one) for one in render(values, name="lamplighter")}
    other = {policies.where(one) for one in render(values, name="blue")}
    long = render(values, name="x" * 53)
    assert short & other == set()
    assert list(consistency.identities(long)) == []
    assert "Deployment/blue-lamplighter-gateway" in other
    assert "Deployment/short-gateway" in {policies.where(one) for one in render({**values, "fullnameOverride": "short"})}


def test_an_old_cluster_gets_no_api_that_it_lacks() -> None:
    """The values for old clusters are of use only if nothing of policy/v1, autoscaling/v2 or batch/v1 CronJob is left."""
    documents = render({**SCENARIOS["old-cluster"], "mode": "distributed"})
    kinds = {(one["apiVersion"], one["kind"]) for one in documents}
    assert not kinds & {
        ("policy/v1", "PodDisruptionBudget"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("batch/v1", "CronJob"),
    }
    assert one(documents, "Deployment", "lamplighter-gateway")["spec"]["replicas"] == 2

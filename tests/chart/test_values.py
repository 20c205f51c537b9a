"""The values: the schema refuses what is wrong and takes what is right, every value does something, every one is described."""

import base64
import copy
import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from lamplighter.config import parse
from tests.chart.matrix import HOST, SCENARIOS, VLLM, Values, combined
from tests.chart.rendering import CHART, chart, files, one, render
from tools import chart_docs, dashboards

ARN = "arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"
EXTERNAL: Values = {"mode": "distributed", "postgresql": {"mode": "external", "external": {"existingSecret": "db"}}}

BAD: dict[str, Values] = {
    "a value that does not exist": {"replicas": 3},
    "a typing error one level down": {"gateway": {"replica": 3}},
    "a text for a number": {"gateway": {"replicas": "3"}},
    "an unknown mode": {"mode": "cluster"},
    "a third keeper": {"keeper": {"replicas": 3}},
    "no gateway": {"gateway": {"replicas": 0}},
    "a digest that is none": {"image": {"digest": "sha256:abc"}},
    "a pull policy in lower case": {"image": {"pullPolicy": "always"}},
    "a duration without unit": {"server": {"drain": {"grace": "60"}}},
    "a host with its scheme": {"ingress": {"hosts": ["https://llm.example.com"]}},
    "a port above all": {"gateway": {"service": {"port": 70000}}},
    "a short admin key": {"keys": {"adminKey": "short"}},
    "an ARN of something else": {"ingress": {"alb": {"certificateArn": "arn:aws:iam::123456789012:role/x"}}},
    "a quantity with a space": {"single": {"persistence": {"size": "10 Gi"}}},
    "a label with a space": {"commonLabels": {"a": "b c"}},
    "a peer of nothing": {"networkPolicy": {"clients": [{}]}},
    "a network that is none": {"networkPolicy": {"kubeApi": [{"ipBlock": {"cidr": "10.0.0.1"}}]}},
    "root": {"podSecurity": {"runAsUser": 0}},
    "a toleration of a new kind": {"gateway": {"tolerations": [{"key": "a", "op": "Exists"}]}},
    "a pool of no kind": {"pools": {"gpu": {"gpus": 1}}},
    "a pool of an unknown kind": {"pools": {"gpu": {"kind": "k8s"}}},
    "a setting that the pool does not have": {"pools": {"gpu": {"kind": "kubernetes", "gpu": 1}}},
    "a model without a pool": {"models": {"a": {"engine": "vllm"}}},
    "a model with an unknown engine": {"models": {"a": {"engine": "tgi", "pool": "gpu"}}},
    "a model's name that no client could ask for": {"models": {"a model": {"engine": "vllm", "pool": "gpu"}}},
    "the server in the configuration": {"config": {"server": {"port": 1}}},
    "the database in the configuration": {"config": {"store": {"url": "env:X"}}},
    "models in the configuration": {"config": {"models": {}}},
    "a setting that does not exist": {"config": {"gateway": {"holds": "1m"}}},
    "a setting of the wrong form": {"config": {"gateway": {"hold": "soon"}}},
    "an external secret of no role": {"externalSecrets": {"secrets": {"tls": {"a": {"key": "b"}}}}},
    "a cache without size": {"modelCaches": {"weights": {"volume": {"nfs": {}}}}},
    "a cache on two kinds of storage": {"modelCaches": {"weights": {"size": "1Gi", "volume": {"nfs": {}, "csi": {}}}}},
    "a registry that is not ECR": {"cronjobs": {"ecr": {"registry": "ghcr.io"}}},
}

REFUSED: dict[str, tuple[Values, str]] = {
    "no database": ({"mode": "distributed"}, "needs a database"),
    "no URL": ({"mode": "distributed", "postgresql": {"mode": "external"}}, "needs the URL"),
    "no URL of Redis": (combined(EXTERNAL, {"redis": {"mode": "external"}}), "needs the URL"),
    "no store of secrets": ({"externalSecrets": {"enabled": True}}, "store.name"),
    "a page of its own for one pod": ({"page": {"mode": "nginx"}}, "mode distributed"),
    "a page without its API": (
        combined(EXTERNAL, {"page": {"mode": "nginx"}, "adminPort": {"page": "admin"}}),
        "page.mode nginx",
    ),
    "fewest above most": ({"gateway": {"autoscaling": {"minReplicas": 9, "maxReplicas": 3}}}, "above maxReplicas"),
    "an autoscaler without a target": ({"gateway": {"autoscaling": {"targetCPU": None}}}, "needs a target"),
    "two keepers of one folder": (
        combined(EXTERNAL, {"keeper": {"replicas": 2, "persistence": {"enabled": True}}}),
        "keeper.replicas",
    ),
    "no hosts": ({"ingress": {"kind": "nginx"}}, "ingress.hosts"),
    "no issuer": ({"ingress": {"kind": "nginx", "hosts": [HOST], "tls": {"mode": "certManager"}}}, "issuer.name"),
    "a Secret for ALB": ({"ingress": {"kind": "alb", "hosts": [HOST], "tls": {"mode": "secret"}}}, "ACM"),
    "no Gateway": ({"ingress": {"kind": "gateway", "hosts": [HOST]}}, "parentRefs"),
    "a hold longer than the ingress waits": (
        {"ingress": {"kind": "nginx", "hosts": [HOST], "idleTimeout": "12m"}, "config": {"gateway": {"hold": "12m"}}},
        "config.gateway.hold",
    ),
    "an answer longer than the ingress waits": (
        {"ingress": {"kind": "nginx", "hosts": [HOST], "idleTimeout": "5m"}},
        "first_byte_timeout",
    ),
    "longer than ALB can wait": ({"ingress": {"kind": "alb", "hosts": [HOST], "idleTimeout": "2h"}}, "4000 seconds"),
    "a monitor without a key": ({"metrics": {"discovery": "podMonitor"}, "adminPort": {"enabled": False}}, "keySecret"),
    "annotations without a port": (
        {"metrics": {"discovery": "annotations"}, "adminPort": {"enabled": False}},
        "adminPort.enabled",
    ),
    "no registry": ({"cronjobs": {"ecr": {"enabled": True}}}, "registry"),
    "a federation without rights": (
        {"pools": {"cloud": {"kind": "aws", "region": "eu-central-1", "federation": "liqo"}}},
        "federation.enabled",
    ),
    "engines inside the keeper": (combined(EXTERNAL, {"pools": {"here": {"kind": "process"}}}), "pools.here"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_schema_refuses(name: str) -> None:
    """A typing error that Helm takes is a setting that silently does nothing."""
    with pytest.raises(helm_python.HelmValuesError):
        chart().validate_schema(BAD[name])


def test_a_mistake_in_a_pool_is_one_sentence() -> None:
    """A union that names every kind of pool in its complaint hides the one word that is wrong."""
    with pytest.raises(helm_python.HelmValuesError) as caught:
        chart().validate_schema({"pools": {"gpu": {"kind": "kubernetes", "gpu": 1}}})
    assert "additional properties 'gpu' not allowed" in str(caught.value)
    assert "static" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_words(name: str) -> None:
    """Values that are well formed and cannot work together would fail hours later, somewhere else."""
    values, words = REFUSED[name]
    chart().validate_schema(values)
    with pytest.raises(helm_python.HelmRenderError, match=words):
        render(values)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_right_is_taken(name: str) -> None:
    """A schema that refuses what works is worse than none. People begin by copying the examples, which are among these."""
    chart().validate_schema(SCENARIOS[name])


def _guide() -> list[str]:
    text = (CHART.parents[2] / "docs" / "guides" / "helm.md").read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", _guide(), ids=lambda text: text.split("\n")[1].strip()[:20])
def test_snippets_of_the_guide_are_taken(text: str) -> None:
    """What people paste from the guide must work, in the chart and in the program."""
    values = yaml.safe_load(text)
    chart().validate_schema(values)
    parse(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"])


def test_every_example_is_listed() -> None:
    """An example that no table names is not found."""
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (CHART / "examples").glob("*.yaml") if f"(examples/{path.name})" not in readme] == []


# -- every value does something

_PLAIN: Values = {"page": {"mode": "gateway"}}
_DISTRIBUTED = combined(
    VLLM,
    {
        "mode": "distributed",
        "postgresql": {"mode": "embedded"},
        "redis": {"mode": "embedded"},
        "page": {"mode": "nginx"},
        "gateway": {"verticalPodAutoscaler": {"enabled": True}},
        "keeper": {"verticalPodAutoscaler": {"enabled": True}, "persistence": {"enabled": True}},
        "modelServers": {
            "namespace": "m",
            "createNamespace": True,
            "resourceQuota": {"enabled": True},
            "limitRange": {"enabled": True},
        },
        "priorityClasses": {"create": True},
        "resourceQuota": {"enabled": True},
        "limitRange": {"enabled": True},
        "cronjobs": {
            "janitor": {"enabled": True},
            "ecr": {"enabled": True, "registry": "999999999999.dkr.ecr.us-east-1.amazonaws.com"},
        },
        "metrics": {"discovery": "serviceMonitor", "dashboards": {"enabled": True}, "rules": {"kind": "prometheusRule"}},
        "externalSecrets": {"enabled": True, "store": {"name": "s"}, "secrets": {"hub": {"token": {"key": "k"}}}},
    },
)
BASES: list[Values] = [
    {},
    _DISTRIBUTED,
    combined(_DISTRIBUTED, {"postgresql": {"mode": "external", "external": {"existingSecret": "db", "url": ""}}}),
    combined(_DISTRIBUTED, {"postgresql": {"mode": "external", "external": {"url": "postgresql://a:b@c/d"}}}),
    combined(_DISTRIBUTED, {"redis": {"mode": "external", "external": {"existingSecret": "r"}}}),
    combined(_DISTRIBUTED, {"redis": {"mode": "external", "external": {"url": "redis://:b@c/0"}}}),
    combined(
        _DISTRIBUTED,
        {
            "gateway": {"autoscaling": {"enabled": False}, "replicas": 2},
            "keeper": {"replicas": 2, "persistence": {"enabled": False}},
        },
    ),
    combined(_DISTRIBUTED, {"adminPort": {"enabled": False}, "metrics": {"keySecret": {"name": "k"}}}),
    {"ingress": {"kind": "traefik", "hosts": [HOST], "tls": {"mode": "certManager", "issuer": {"name": "i"}}}},
    {"ingress": {"kind": "traefik", "hosts": [HOST], "tls": {"mode": "terminated"}}},
    {"ingress": {"kind": "gateway", "hosts": [HOST], "gateway": {"parentRefs": [{"name": "p"}]}}},
    {"ingress": {"kind": "nginx", "hosts": [HOST]}},
    {
        "ingress": {
            "kind": "alb",
            "hosts": [HOST],
            "tls": {"mode": "terminated"},
            "alb": {"certificateArn": ARN.replace("1111", "9999")},
        }
    },
    {"keys": {"existingSecret": "k"}, "hub": {"existingSecret": "h"}, "models": VLLM["models"], "pools": VLLM["pools"]},
    {"keys": {"adminKey": "x" * 20}, "hub": {"token": "y"}},
    {"single": {"persistence": {"enabled": False}}},
    EXTERNAL,
    {"postgresql": {"mode": "embedded"}},
    {"postgresql": {"mode": "embedded", "embedded": {"persistence": {"enabled": False}}}},
    {"externalSecrets": {"store": {"name": "s"}, "secrets": {"hub": {"token": {"key": "k"}}}}},
    {"modelServers": {"namespace": "m"}},
    {"cronjobs": {"ecr": {"registry": "999999999999.dkr.ecr.us-east-1.amazonaws.com"}}},
]
MUTATED: Values = {
    "models": {"other": {"engine": "vllm", "pool": "gpu", "source": "hf:a/b"}},
    "pools": {"gpu": {"kind": "kubernetes"}, "other": {"kind": "kubernetes", "namespace": "elsewhere"}},
    "keys.adminKey": "mutated-and-long-enough",
    "hub.token": "mutated",
    "ingress.kind": "generic",
    "ingress.hosts": ["mutated.example.com"],
    "ingress.tls.mode": "secret",
    "ingress.idleTimeout": "13m",
    "server.publicUrl": "https://mutated.example.com",
    "postgresql.external.caCertificate": "mutated",
    "postgresql.external.url": "postgresql://mutated:x@y/z",
    "mode": "distributed",
    "cronjobs.ecr.registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
    "page.mode": "gateway",
    "podSecurity.runAsUser": 20002,
    "tests.model": "mutated",
    "redis.external.url": "redis://mutated/0",
    "cronjobs.janitor.schedule": "1 2 3 4 5",
    "cronjobs.ecr.schedule": "1 2 3 4 5",
}
"""What cannot be guessed from the schema."""


def _mutations(leaf: chart_docs.Value, schema: dict[str, Any]) -> Iterator[Any]:
    """Other values that the schema takes."""
    if leaf.path in MUTATED:
        yield MUTATED[leaf.path]
        return
    found = leaf.schema
    if "$ref" in found:
        found = {
            **schema["definitions"][found["$ref"].removeprefix("#/definitions/")],
            **{k: v for k, v in found.items() if k != "$ref"},
        }
    if "examples" in found:
        yield from found["examples"]
    elif "enum" in found:
        yield from (one for one in found["enum"] if one != leaf.default)
    elif found["type"] == "boolean":
        yield not leaf.default
    elif found["type"] == "integer":
        yield leaf.default + 1 if leaf.default < found.get("maximum", 10**9) else leaf.default - 1
    elif found["type"] == "string":
        yield "mutated"
    elif found["type"] == "array":
        yield ["mutated"]


def _with(base: Values, path: str, value: Any) -> Values:
    changed = copy.deepcopy(base)
    inner = changed
    *parts, last = path.split(".")
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return changed


_DRAWN = ("admin-key:", "password:", "url:")
_OURS = ("mutated", *(base64.b64encode(f"{'-' * start}mutated".encode()).decode()[start + 1 : start + 8] for start in range(3)))
"""The word, and what it looks like inside of base64."""


def _stable(values: Values) -> str:
    """A render without what is drawn anew each time."""
    return _text(json.dumps(values, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _text(key: str) -> str:
    values = json.loads(key)
    lines = [line for _, text in sorted(files(values).items()) for line in text.splitlines()]
    return "\n".join(line for line in lines if not line.strip().startswith(_DRAWN) or any(word in line for word in _OURS))


_LEAVES = chart_docs.leaves(chart_docs.values((CHART / "values.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("leaf", _LEAVES, ids=[leaf.path for leaf in _LEAVES])
def test_every_value_does_something(leaf: chart_docs.Value) -> None:
    """A value that nothing reads is a promise that nobody keeps."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    refusals = []
    for mutation in _mutations(leaf, schema):
        chart().validate_schema(_with({}, leaf.path, mutation))
        for base in BASES:
            changed = _with(base, leaf.path, mutation)
            try:
                if _stable(changed) != _stable(base):
                    return
            except helm_python.HelmRenderError as error:
                refusals.append(str(error))
    pytest.fail(f"nothing changes with {leaf.path}; refused: {refusals[:1]}")


# -- what is made from values.yaml


def test_schema_and_readme_are_up_to_date() -> None:
    """A value that is not in the schema is refused; one that is not in the README is not found."""
    for path, text in chart_docs.made().items():
        assert path.read_text(encoding="utf-8") == text, path.name
    assert list(chart_docs.stale()) == []


def test_a_change_that_was_not_made_everywhere_is_found(tmp_path: Path) -> None:
    """`make check` must stop a value that the schema does not know, and a dashboard that the chart still ships."""
    copy = tmp_path / "chart"
    shutil.copytree(CHART, copy)
    monitoring = tmp_path / "monitoring"
    shutil.copytree(CHART.parents[1] / "monitoring", monitoring)
    assert [path for path, text in chart_docs.made(copy, monitoring).items() if path.read_text(encoding="utf-8") != text] == []
    with (copy / "values.yaml").open("a", encoding="utf-8") as file:
        file.write("# A new value.\nfresh: true\n")
    (monitoring / "rules" / "lamplighter.yaml").unlink()
    wrong = {path.name for path, text in chart_docs.made(copy, monitoring).items() if path.read_text(encoding="utf-8") != text}
    assert wrong == {"values.schema.json", "README.md"}
    assert [path.name for path in chart_docs.stale(copy, monitoring)] == ["lamplighter.yaml"]


def test_the_commands_check_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make check` runs."""
    monkeypatch.setattr("sys.argv", ["tool", "--check"])
    assert chart_docs.main() == 0
    assert dashboards.main() == 0


def test_no_object_of_the_schema_is_open() -> None:
    """A typing error passes where anything may stand; only Kubernetes's own shapes stay open, for the API server to check."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert list(_open(schema["properties"], "")) == ["global", "gateway.autoscaling.behavior"]
    for path in ("config", "models", "pools"):
        assert schema["definitions"][path]["additionalProperties"] is False


def _open(properties: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, found in properties.items():
        if found.get("type") == "object":
            if found.get("additionalProperties") is not False:
                yield f"{prefix}{name}"
            yield from _open(found.get("properties", {}), f"{prefix}{name}.")


def test_every_value_is_described() -> None:
    """Who reads `helm show values` has nothing else."""
    tree = chart_docs.values((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert len(_LEAVES) > 200
    assert [leaf.path for leaf in _LEAVES if len(leaf.description) < 5] == []
    assert [one.path for one in tree if not one.description] == []


def test_defaults_pass_their_own_schema() -> None:
    """`helm install` without values must work."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    chart().validate_schema(defaults)
    chart().validate_schema({})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\n", "has no description"),
        ("# What it is.\na: {}\n", "say its shape"),
        ("# What it is.\na: []\n", "say its shape"),
        ("- 1\n", "no mapping"),
    ],
)
def test_a_value_that_says_too_little_is_refused(text: str, words: str) -> None:
    """Else the reference would have holes."""
    with pytest.raises(ValueError, match=words):
        chart_docs.values(text)

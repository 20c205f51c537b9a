"""Who may talk to whom: the table in the chart's README against its NetworkPolicies, pair by pair, in both directions."""

import re
from collections.abc import Iterator

import pytest

from tests.chart.matrix import HOST, VLLM, Values, combined
from tests.chart.network import Actor, Network, actors
from tests.chart.policies import where
from tests.chart.rendering import CHART, NAMESPACE, of, render

NARROW: Values = {
    "networkPolicy": {
        "kubeApi": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
        "postgresql": [{"ipBlock": {"cidr": "192.0.2.5/32"}}],
        "redis": [{"ipBlock": {"cidr": "192.0.2.6/32"}}],
    }
}
EMBEDDED: Values = {"mode": "distributed", "postgresql": {"mode": "embedded"}, "redis": {"mode": "embedded"}}
EXTERNAL: Values = {
    "mode": "distributed",
    "postgresql": {"mode": "external", "external": {"existingSecret": "db"}},
    "redis": {"mode": "external", "external": {"existingSecret": "cache"}},
}
ECR: Values = {
    "cronjobs": {
        "janitor": {"enabled": True},
        "ecr": {"enabled": True, "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"},
    }
}
AWAY: Values = {"modelServers": {"namespace": "llm-models"}}
PAGE: Values = {"page": {"mode": "nginx"}, "ingress": {"kind": "generic", "hosts": [HOST]}}

CASES = {
    "single": combined(NARROW),
    "single with pods": combined(NARROW, VLLM),
    "embedded": combined(NARROW, EMBEDDED, VLLM, PAGE),
    "external": combined(NARROW, EXTERNAL, VLLM, ECR),
    "models away": combined(NARROW, EXTERNAL, VLLM, AWAY, ECR, PAGE),
    "no admin port": combined(NARROW, EMBEDDED, VLLM, {"adminPort": {"enabled": False}}),
    "no fetching": combined(NARROW, EMBEDDED, VLLM, {"networkPolicy": {"enginesToHubs": False}}),
    "narrow clients": combined(
        NARROW,
        EMBEDDED,
        VLLM,
        {"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]}},
    ),
}
DNS = Actor("dns", "kube-system", {"k8s-app": "kube-dns"}, {"dns": 53}, protocol="UDP")
PROMETHEUS = Actor("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"})
OUTSIDE = {
    "dns": DNS,
    "prometheus": PROMETHEUS,
    "clients": Actor("clients", "ingress", {"app.kubernetes.io/name": "traefik"}),
    "kube-api": Actor("kube-api", None, ports={"https": 6443}, address="192.0.2.1"),
    "postgresql": Actor("postgresql", None, ports={"postgresql": 5432}, address="192.0.2.5"),
    "redis": Actor("redis", None, ports={"redis": 6379}, address="192.0.2.6"),
    "hubs": Actor("hubs", None, ports={"https": 443}, address="198.51.100.9"),
}
STRANGERS = {
    "neighbour": Actor("neighbour", NAMESPACE, {"app.kubernetes.io/name": "somebody"}, {"http": 8080}),
    "another release": Actor(
        "another release",
        NAMESPACE,
        {"app.kubernetes.io/name": "lamplighter", "app.kubernetes.io/instance": "other"},
        {"http": 8080},
    ),
    "home network": Actor("home network", None, ports={"https": 443}, address="192.168.1.1"),
    "metadata service": Actor("metadata service", None, ports={"http": 80}, address="169.254.169.254"),
    "public http": Actor("public http", None, ports={"http": 80}, address="198.51.100.10"),
}
"""Whom nothing of ours may reach, and who may reach no more than any client."""


def table() -> Iterator[tuple[str, str, str]]:
    """The edges of the README: from, to, port."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z, `-]+)` \| `([a-z-]+)` \| `([a-z0-9]+)` \|", text, re.MULTILINE)
    for sources, target, port in rows:
        for source in re.findall(r"[a-z-]+", sources):
            yield source, target, port


def everybody(values: Values) -> dict[str, Actor]:
    """All actors of a render; the one pod of mode single is both gateway and keeper, and an engine of its own."""
    documents = render(values)
    found = {**OUTSIDE, **actors(documents)}
    if "pools" in values:
        home = values.get("modelServers", {}).get("namespace") or NAMESPACE
        found["engines"] = Actor("engines", home, {"app.kubernetes.io/name": "lamplighter-model"}, {"engine": 8000})
    return found


def expected(values: Values, there: dict[str, Actor]) -> set[tuple[str, str, int]]:
    """The edges of the table between those who are there."""
    roles = {"gateway": "single", "keeper": "single", "engines": "single"} if values.get("mode", "single") == "single" else {}
    uses_cluster = "pools" in values
    found = set()
    for source, target, port in table():
        if source == "engines" and target == "hubs" and not values["networkPolicy"].get("enginesToHubs", True):
            continue
        if source in ("gateway", "keeper") and target == "engines" and not uses_cluster:
            continue
        if source == "keeper" and target == "kube-api" and not uses_cluster:
            continue
        if target in ("postgresql", "redis") and values.get(target, {}).get("mode", "none") == "none":
            continue
        names = {source, roles.get(source, source)} if source == "engines" else {roles.get(source, source)}
        for name in names:
            at = roles.get(target, target) if target != "engines" else target
            if name not in there or at not in there or name == at:
                continue
            if not values.get("adminPort", {}).get("enabled", True) and port == "admin":
                continue
            number = there[at].ports.get(port)
            if number is not None:
                found.add((name, at, number))
    return found


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_edges_of_the_table_pass(name: str) -> None:
    """One edge too few and something does not work; one too many and a broken engine reaches the database."""
    values = CASES[name]
    there = everybody(values)
    network = Network(render(values))
    ours = set(actors(render(values))) | {"engines"}
    allowed = {
        (source, target, port)
        for source, one in there.items()
        for target, other in there.items()
        for port in {*other.ports.values(), 22}
        if source != target and (source in ours or target in ours) and network.allows(one, other, port)
    }
    open_to_all = {(source, target, port) for source, target, port in allowed if (target, port) in _public(values, there)}
    assert allowed - open_to_all == {edge for edge in expected(values, there) if (edge[1], edge[2]) not in _public(values, there)}
    assert {edge for edge in expected(values, there) if (edge[1], edge[2]) in _public(values, there)} <= open_to_all


def _public(values: Values, there: dict[str, Actor]) -> set[tuple[str, int]]:
    """What every client may reach when `networkPolicy.clients` is empty: the gateway and the page. Ours may then reach it if their egress lets them."""
    if values["networkPolicy"].get("clients"):
        return set()
    return {(name, there[name].ports["http"]) for name in ("gateway", "single", "page") if name in there}


@pytest.mark.parametrize("name", CASES)
def test_strangers_are_shut_out(name: str) -> None:
    """A pod of somebody else in the same namespace, the router at home and the cloud's metadata service are no part of this."""
    values = CASES[name]
    there, network = everybody(values), Network(render(values))
    ours = {key: one for key, one in there.items() if key not in OUTSIDE or one.namespace == NAMESPACE}
    public = _public(values, there)
    for stranger in STRANGERS.values():
        for key, one in ours.items():
            for port in one.ports.values():
                assert network.allows(stranger, one, port) == ((key, port) in public)
            for port in stranger.ports.values():
                assert not network.allows(one, stranger, port), f"{key} reaches {stranger.name}"


def test_each_pod_has_a_policy_for_both_directions() -> None:
    """A pod that no policy chooses may do everything."""
    for values in CASES.values():
        documents = render(values)
        policies = of(documents, "NetworkPolicy")
        assert all(set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"} for policy in policies)
        for component, one in actors(documents).items():
            covering = [
                where(policy)
                for policy in policies
                if policy["metadata"]["namespace"] == one.namespace
                and policy["spec"]["podSelector"]["matchLabels"].items() <= dict(one.labels).items()
            ]
            assert len(covering) == 1, component


def test_engines_of_one_model_talk_only_when_asked_for() -> None:
    """Models over several machines need it; nobody else does."""
    engine = Actor("a", NAMESPACE, {"app.kubernetes.io/name": "lamplighter-model"}, {"engine": 8000, "ray": 6379})
    apart = Network(render(combined(EMBEDDED, VLLM)))
    together = Network(render(combined(EMBEDDED, VLLM, {"networkPolicy": {"betweenEngines": True}})))
    assert not apart.allows(engine, engine, 6379)
    assert together.allows(engine, engine, 6379)


def test_further_egress_is_added_to_the_one_that_needs_it() -> None:
    """Servers of static pools are for gateways and keeper alike to probe, a cloud's API is for the keeper alone."""
    lan = Actor("lan", None, ports={"http": 8000}, address="192.168.1.5")
    rule = [{"ports": [{"port": 8000, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "192.168.1.5/32"}}]}]
    values = combined(EMBEDDED, {"networkPolicy": {"gatewayEgress": rule}})
    there, network = actors(render(values)), Network(render(values))
    assert network.allows(there["gateway"], lan, 8000)
    assert not network.allows(there["keeper"], lan, 8000)
    values = combined(EMBEDDED, {"networkPolicy": {"keeperEgress": rule}})
    there, network = actors(render(values)), Network(render(values))
    assert network.allows(there["keeper"], lan, 8000)
    assert not network.allows(there["gateway"], lan, 8000)


def test_engines_on_joined_clusters_are_reached_in_the_federations_namespace() -> None:
    """Their pods are shown at home, in a namespace that no pool names."""
    values = combined(
        EMBEDDED,
        {"federation": {"enabled": True}, "pools": {"cloud": {"kind": "aws", "region": "eu-central-1", "federation": "liqo"}}},
    )
    engine = Actor("engines", "llm-inference", {"app.kubernetes.io/name": "lamplighter-model"}, {"engine": 8000})
    there, network = actors(render(values)), Network(render(values))
    assert network.allows(there["gateway"], engine, 8000)
    assert not network.allows(there["redis"], engine, 8000)
    assert not network.allows(STRANGERS["neighbour"], engine, 8000)


def test_off_means_none() -> None:
    """Who has policies of their own, or a plugin that cannot, gets none of ours."""
    assert of(render(combined(EMBEDDED, {"networkPolicy": {"enabled": False}})), "NetworkPolicy") == []

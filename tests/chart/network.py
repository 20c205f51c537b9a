"""What a set of NetworkPolicies lets through, as the API defines it: who is asked, who is not, in both directions.

Knows pods by namespace and labels, and hosts outside of the cluster by address. Not responsible for what a network plugin makes of it; traffic
from a node to its own pods (probes) always passes, as Kubernetes demands.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chart.consistency import matches, ports_of
from tests.chart.policies import Document, pods, where


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who talks or listens. `namespace` None: a host outside of the cluster. `ports`: where it listens, by name."""

    name: str
    namespace: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = "10.244.1.1"
    protocol: str = "TCP"


class Network:
    """The policies of a cluster."""

    def __init__(self, policies: Iterable[Document]) -> None:
        self._policies = [one for one in policies if one["kind"] == "NetworkPolicy"]

    def allows(self, source: Actor, target: Actor, port: int) -> bool:
        """Whether `source` can open a connection to `port` of `target`."""
        return self._passes("Egress", source, target, target, port) and self._passes("Ingress", target, source, target, port)

    def _passes(self, direction: str, whose: Actor, other: Actor, target: Actor, port: int) -> bool:
        if whose.namespace is None:
            return True
        mine = [
            one["spec"]
            for one in self._policies
            if one["metadata"]["namespace"] == whose.namespace
            and matches(one["spec"]["podSelector"], whose.labels)
            and direction in one["spec"]["policyTypes"]
        ]
        if not mine:
            return True
        side, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return any(
            _port(rule.get("ports"), target, port) and _peer(rule.get(peers), other, whose.namespace)
            for spec in mine
            for rule in spec.get(side) or ()
        )


def _port(rules: Sequence[Mapping[str, Any]] | None, target: Actor, port: int) -> bool:
    if not rules:
        return True
    for rule in rules:
        if rule.get("protocol", "TCP") != target.protocol:
            continue
        wanted = rule.get("port")
        number = target.ports.get(wanted) if isinstance(wanted, str) else wanted
        if wanted is None or number == port or (isinstance(wanted, int) and wanted <= port <= rule.get("endPort", wanted)):
            return True
    return False


def _peer(rules: Sequence[Mapping[str, Any]] | None, other: Actor, namespace: str) -> bool:
    if not rules:
        return True
    return any(_is(rule, other, namespace) for rule in rules)


def _is(rule: Mapping[str, Any], other: Actor, namespace: str) -> bool:
    if "ipBlock" in rule:
        address = ipaddress.ip_address(other.address)
        block = rule["ipBlock"]
        inside = address in ipaddress.ip_network(block["cidr"])
        # A block is meant for hosts outside of the cluster; whether it also fits pods is left to the plugin, so it is not counted on.
        return (
            other.namespace is None
            and inside
            and not any(address in ipaddress.ip_network(one) for one in block.get("except", ()))
        )
    if other.namespace is None:
        return False
    if "namespaceSelector" in rule:
        if not matches(rule["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != namespace:
        return False
    return matches(rule.get("podSelector"), other.labels)


def actors(documents: Sequence[Document]) -> dict[str, Actor]:
    """The pods that the documents make, by their component."""
    homes = {where(one): one["metadata"].get("namespace") for one in documents}
    return {
        metadata["labels"]["app.kubernetes.io/component"]: Actor(
            metadata["labels"]["app.kubernetes.io/component"], homes[name], metadata["labels"], ports_of(spec)
        )
        for name, metadata, spec in pods(documents)
    }

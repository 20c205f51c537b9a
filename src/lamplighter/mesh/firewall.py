"""Who may reach what inside the mesh: Nebula's firewall for each kind of node, as data.

The underlay needs one hole only, the mesh's UDP port, and that is the security group's and the router's. Everything else is decided here,
by the receiver and by the groups in the sender's certificate, which the sender cannot choose. What a node may send is not limited: a node
that somebody took over would lift such a limit itself, so it would only look safe.

Not responsible for how a rule is written into a file: that is `nodes`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lighthouse", "home", "gpu", "laptop"]
KINDS: tuple[Kind, ...] = ("lighthouse", "home", "gpu", "laptop")
"""The kinds of nodes; each is also the group that its certificates carry."""

Protocol = Literal["tcp", "udp", "icmp"]

AGENT = 7443
"""Lamplighter's agent on a node: status, lease, end."""
GATEWAY = 8080
"""Lamplighter's own port at home."""
ENGINES = (8000, 11434)
"""vLLM and Ollama."""
KUBERNETES = 6443
DCGM = 9400
NODE_EXPORTER = 9100
LIQO = 30742
"""NodePort of Liqo's WireGuard gateway, over UDP."""
SSH = 22


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of packet that is let in. `group` is the sender's; None lets every node of the mesh in. `port` None: all, for ICMP."""

    protocol: Protocol
    port: int | None
    group: Kind | None
    why: str

    def nebula(self) -> dict[str, object]:
        """As it stands in Nebula's file. Always `group`, never `groups`: Nebula reads a list of groups as AND."""
        sender: dict[str, object] = {"host": "any"} if self.group is None else {"group": self.group}
        return {"port": "any" if self.port is None else self.port, "proto": self.protocol, **sender}


def inbound(
    kind: Kind, *, engine_ports: Sequence[int] = ENGINES, gateway_port: int = GATEWAY, ssh: bool = False
) -> tuple[Rule, ...]:
    """What a node of this kind lets in. Nothing else comes in: Nebula denies by default.

    `ssh` opens port 22 of home to laptops. No kind of node takes anything from `gpu`: those are rented machines that anybody's prompt runs on.
    """
    if kind == "lighthouse":
        return (Rule("icmp", None, None, "so that every node can tell whether its lighthouse lives"),)
    if kind == "laptop":
        return (Rule("icmp", None, "home", "path MTU, and `ping` when something is wrong"),)
    if kind == "home":
        return tuple(_home(gateway_port, ssh))
    return tuple(_gpu(engine_ports))


def _home(gateway_port: int, ssh: bool) -> Iterable[Rule]:
    for group in ("home", "laptop", "lighthouse"):
        yield Rule("icmp", None, group, "path MTU, and `ping` when something is wrong")
    yield Rule("tcp", gateway_port, "laptop", "the gateway, and the page")
    if ssh:
        yield Rule("tcp", SSH, "laptop", "a person's shell")


def _gpu(engine_ports: Sequence[int]) -> Iterable[Rule]:
    yield Rule("tcp", AGENT, "home", "the agent: status, lease, end")
    for port in engine_ports:
        yield Rule("tcp", port, "home", "an engine")
    yield Rule("tcp", KUBERNETES, "home", "the API of k3s, where the node runs it")
    yield Rule("tcp", DCGM, "home", "metrics of the GPU")
    yield Rule("tcp", NODE_EXPORTER, "home", "metrics of the machine")
    yield Rule("udp", LIQO, "home", "WireGuard of Liqo's gateway")
    yield Rule("icmp", None, "home", "path MTU, and `ping` when something is wrong")


def sections(rules: Iterable[Rule]) -> dict[str, object]:
    """The `firewall` section of a Nebula file."""
    return {
        "outbound_action": "drop",
        "inbound_action": "drop",
        # From 1.10 on, a rule would otherwise also cover networks behind a node that routes for others.
        "default_local_cidr_any": False,
        # The last one is ICMP's. Nebula remembers who talked to whom, not which ping: for so long after home pinged a node, that node's own
        # pings are taken for answers.
        "conntrack": {"tcp_timeout": "12m", "udp_timeout": "3m", "default_timeout": "10s"},
        "outbound": [{"port": "any", "proto": "any", "host": "any"}],
        "inbound": [rule.nebula() for rule in rules],
    }


__all__ = [
    "AGENT",
    "DCGM",
    "ENGINES",
    "GATEWAY",
    "KINDS",
    "KUBERNETES",
    "LIQO",
    "NODE_EXPORTER",
    "SSH",
    "Kind",
    "Rule",
    "inbound",
    "sections",
]

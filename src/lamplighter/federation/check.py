"""What must be right at home before clusters are joined: networks, the mesh, Liqo's settings. Looks only; each finding with its next step.

Not responsible for joined clusters: that is `status`.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, ip_network

from lamplighter.core.clock import Clock
from lamplighter.federation import install, names
from lamplighter.federation.reach import Unheard
from lamplighter.federation.side import Facts, Side
from lamplighter.federation.status import Finding, Level
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import NAMESPACE, NODE
from lamplighter.providers.kubernetes.reading import labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

TUNNEL_COSTS = 60
"""Bytes of WireGuard's header over IPv4: what Liqo's tunnel takes of the mesh's MTU."""
_PRIVILEGED = "pod-security.kubernetes.io/enforce"


async def home(
    cluster: Cluster,
    *,
    home_id: str,
    mesh: IPv4Network,
    mesh_mtu: int,
    mtu: int,
    version: str,
    pods: IPv4Network | None = None,
    services: IPv4Network | None = None,
    clock: Clock | None = None,
) -> Sequence[Finding]:
    """Everything that can be seen from home. Networks: as configured, or None. Raises KubernetesError when home does not answer."""
    side = Side(cluster, "the home cluster", home_id, "", clock=clock)
    try:
        facts = await side.facts()
        kind, seen = await install.examine(cluster)
        return [
            *_mtu(mtu, mesh_mtu),
            *_networks(kind, seen, mesh, pods, services),
            *await _installed(side, facts, home_id, version),
            *(await _reserved(side, mesh) if facts is not None else ()),
            *await _addresses(side, mesh),
        ]
    except Unheard as unheard:
        raise unheard.error from unheard


def _mtu(mtu: int, mesh_mtu: int) -> Sequence[Finding]:
    fits = mesh_mtu - TUNNEL_COSTS
    if mtu > fits:
        text = (
            f"Liqo's MTU {mtu} does not fit into the mesh's {mesh_mtu}: full packets would be lost; pings pass and answers hang."
        )
        return (Finding("home", "wrong", text, f"Set `federation.mtu` to {fits}."),)
    return (Finding("home", "good", f"Liqo's MTU {mtu} fits into the mesh's {mesh_mtu}."),)


def _networks(
    kind: install.Kind, seen: install.Networks | None, mesh: IPv4Network, pods: IPv4Network | None, services: IPv4Network | None
) -> Sequence[Finding]:
    if seen is None and (pods is None or services is None):
        text = f"The home cluster ({kind}) does not tell its networks."
        return (Finding("home", "wrong", text, "Set `federation.pod_cidr` and `federation.service_cidr`."),)
    findings = []
    told_pods, told_services = (None, None) if seen is None else (seen.pods, seen.services)
    in_force = {"pods": pods or told_pods, "services": services or told_services}
    for what, network in in_force.items():
        if network is not None and network.overlaps(mesh):
            text = f"The network of {what}, {network}, overlaps the mesh's, {mesh}."
            findings.append(
                Finding("home", "wrong", text, "Give the mesh another network (`mesh.network`), with new certificates.")
            )
    for what, given, found in (("pods", pods, told_pods), ("services", services, told_services)):
        if given is not None and found is not None and seen is not None and not seen.guessed and given != found:
            setting = "pod_cidr" if what == "pods" else "service_cidr"
            text = f"Configured for {what} is {given}, the cluster itself says {found}."
            findings.append(Finding("home", "wrong", text, f"Correct `federation.{setting}`, or leave it out."))
    if seen is not None:
        findings += [
            Finding("home", "wrong", f"{problem[:1].upper()}{problem[1:]}.", "Correct `federation.pod_cidr`.")
            for problem in seen.problems[:3]
        ]
    if not findings:
        told = ", ".join(f"{what} {network}" for what, network in in_force.items())
        findings = [Finding("home", "good", f"The home cluster is {kind}; {told}; none overlaps the mesh {mesh}.")]
    return findings


async def _installed(side: Side, facts: Facts | None, home_id: str, version: str) -> Sequence[Finding]:
    if facts is None:
        return (Finding("home", "wrong", "Liqo is not installed.", "`lamplighter federation install` puts it there."),)
    findings = []
    if facts.cluster_id != home_id:
        text = f"Liqo knows the home cluster as {facts.cluster_id!r}, configured is {home_id!r}."
        findings.append(Finding("home", "wrong", text, "Set `federation.cluster_id` to it: Liqo's cannot be changed."))
    if facts.version and facts.version.split(".")[:2] != version.split(".")[:2]:
        text = f"Liqo is {facts.version} at home, configured is {version}: joined clusters would get one that does not fit."
        findings.append(Finding("home", "wrong", text, "Set `federation.liqo_version` to it."))
    space = await side.get(NAMESPACE, side.liqo)
    if space is not None and labels(space).get(_PRIVILEGED, "privileged") != "privileged":
        text = f"Namespace {side.liqo} enforces PodSecurity {labels(space)[_PRIVILEGED]}: Liqo's fabric is not admitted."
        findings.append(
            Finding("home", "wrong", text, f"`kubectl label namespace {side.liqo} {_PRIVILEGED}=privileged --overwrite`.")
        )
    if not findings:
        findings.append(
            Finding(
                "home",
                "good",
                f"Liqo {facts.version or '(of a version that it does not tell)'} is installed as {facts.cluster_id!r}.",
            )
        )
    return findings


async def _reserved(side: Side, mesh: IPv4Network) -> Sequence[Finding]:
    """Liqo maps other clusters' pods into any private network that it does not know to be taken: the mesh must be known."""
    reserved = [
        str(status(one).get("cidr") or (one.get("spec") or {}).get("cidr") or "")
        for one in await side.list(names.NETWORK, side.liqo)
        if labels(one).get(names.NETWORK_TYPE) == "reserved"
    ]
    if not any(mesh.subnet_of(known) for text in reserved if isinstance(known := ip_network(text), IPv4Network)):
        text = f"Liqo does not know that the mesh's network {mesh} is taken: it may map a cluster's pods into it."
        return (Finding("home", "wrong", text, "`lamplighter federation install` reserves it (`ipam.reservedSubnets`)."),)
    return (Finding("home", "good", f"The mesh's network {mesh} is reserved in Liqo."),)


async def _addresses(side: Side, mesh: IPv4Network) -> Sequence[Finding]:
    """A home node that Kubernetes knows by its address in the mesh: its own traffic would go through the tunnel, and stop with it."""
    wrong = []
    for node in await side.list(NODE):
        for address in status(node).get("addresses") or ():
            text = str(address.get("address", ""))
            virtual = labels(node).get(names.NODE_TYPE) == names.VIRTUAL
            if address.get("type") == "InternalIP" and not virtual and _inside(text, mesh):
                wrong.append(f"{name_of(node)} ({text})")
    level: Level = "wrong"
    if not wrong:
        return ()
    text = f"Kubernetes knows a home node by its address in the mesh: {', '.join(wrong)}."
    return (
        Finding(
            "home",
            level,
            text,
            "Talos: `machine.kubelet.nodeIP.validSubnets`; k3s: `node-ip`. It must be the address in the LAN.",
        ),
    )


def _inside(address: str, mesh: IPv4Network) -> bool:
    try:
        return ip_network(address).subnet_of(mesh)  # type: ignore[arg-type] # an IPv6 one raises TypeError
    except (ValueError, TypeError):
        return False

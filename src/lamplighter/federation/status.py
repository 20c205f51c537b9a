"""What the federation looks like from home, and what is wrong with it: read from Liqo's objects in the home cluster only.

The other clusters are not asked: when one is lost, this still answers. Not responsible for mending anything.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lamplighter.core.clock import Clock
from lamplighter.federation import names, offload
from lamplighter.federation.offload import OffloadStatus
from lamplighter.federation.reach import Unheard, waiting
from lamplighter.federation.side import Side
from lamplighter.federation.standing import PATIENCE, age, since
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import NAMESPACE, NODE, POD, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

Level = Literal["good", "waiting", "wrong"]
_HANGS = 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is seen, in words. `about`: a cluster's id, or `home`."""

    about: str
    level: Level
    text: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One joined cluster as home sees it. `mtu`: of home's end of the tunnel. `pods`: what runs there, `namespace/name`."""

    cluster_id: str
    level: Level
    node: str | None = None
    tunnel: str = ""
    latency: str = ""
    mtu: int | None = None
    role: str = ""
    granted: Mapping[str, str] = field(default_factory=dict)
    pods: tuple[str, ...] = ()
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FederationStatus:
    """Everything. `version`: Liqo's at home; empty: it is not installed."""

    cluster_id: str
    version: str
    peers: tuple[PeerView, ...]
    offloading: OffloadStatus | None
    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.level == "wrong" for finding in self.findings)


async def look(
    home: Cluster,
    namespace: str,
    *,
    home_id: str = "home",
    mtu: int | None = None,
    version: str | None = None,
    clock: Clock | None = None,
) -> FederationStatus:
    """As it is now. `mtu` and `version`: as configured; what differs is told. Raises KubernetesError when home does not answer."""
    self_ = Side(home, "the home cluster", home_id, "", clock=clock)
    try:
        facts = await self_.facts()
        if facts is None:
            missing = Finding("home", "wrong", "Liqo is not installed.", "`lamplighter federation install` puts it there.")
            return FederationStatus(home_id, "", (), None, (missing,))
        findings = [*await _controllers(self_), *_configured(facts.cluster_id, home_id, facts.version, version)]
        ids = await _known(self_)
        views = await asyncio.gather(*(_peer(home, home_id, peer, mtu, clock) for peer in ids))
        opened = await offload.look(home, namespace, clock=clock)
    except Unheard as unheard:
        raise unheard.error from unheard
    for _, found in views:
        findings += found
    findings += _opened(opened, bool(views))
    return FederationStatus(facts.cluster_id, facts.version, tuple(view for view, _ in views), opened, tuple(findings))


async def _known(self_: Side) -> Sequence[str]:
    """The ids of every cluster of which anything is there, a stale node included."""
    found = {name_of(one) for one in await self_.list(names.FOREIGN_CLUSTER)}
    for kind in (names.RESOURCE_SLICE, names.VIRTUAL_NODE, names.GATEWAY_CLIENT, names.GATEWAY_SERVER):
        found |= {labels(one).get(names.REMOTE_ID, "") for one in await self_.list(kind)}
    for node in await self_.list(NODE, selected={names.NODE_TYPE: names.VIRTUAL}):
        found.add(labels(node).get(names.REMOTE_ID, ""))
    for space in await self_.list(NAMESPACE, selected={names.TENANT_NAMESPACE: None}):
        found.add(labels(space).get(names.REMOTE_ID, ""))
    return sorted(found - {""})


async def _controllers(self_: Side) -> Sequence[Finding]:
    """Liqo's own pods that do not run."""
    findings = []
    for pod in await self_.list(POD, self_.liqo):
        if status(pod).get("phase") in ("Succeeded",) or deleting(pod):
            continue
        if condition(pod, "Ready").get("status") != "True" and (said := waiting(pod)):
            step = f"`kubectl -n {self_.liqo} describe pod {name_of(pod)}`."
            findings.append(Finding("home", "wrong", f"Liqo's pod {name_of(pod)} does not run: {said}.", step))
    return findings


def _configured(found_id: str, wanted_id: str, found: str, wanted: str | None) -> Sequence[Finding]:
    findings = []
    if found_id != wanted_id:
        findings.append(
            Finding(
                "home",
                "wrong",
                f"The home cluster's id is {found_id!r}, configured is {wanted_id!r}.",
                "Set `federation.cluster_id` to it.",
            )
        )
    if wanted and found and found.split(".")[:2] != wanted.split(".")[:2]:
        findings.append(
            Finding(
                "home", "wrong", f"Liqo is {found} at home, configured is {wanted}: joined clusters get that and would not fit.",
                "Set `federation.liqo_version` to it, or install the other one when no cluster is joined.",
            )
        )  # fmt: skip
    return findings


async def _peer(
    home: Cluster, home_id: str, peer: str, mtu: int | None, clock: Clock | None
) -> tuple[PeerView, Sequence[Finding]]:
    side = Side(home, "the home cluster", home_id, peer, clock=clock)
    await side.find_tenant()
    foreign, connections, clients, slices, virtuals, nodes = await asyncio.gather(
        side.of_peer(names.FOREIGN_CLUSTER),
        side.of_peer(names.CONNECTION),
        side.of_peer(names.GATEWAY_CLIENT),
        side.of_peer(names.RESOURCE_SLICE),
        side.of_peer(names.VIRTUAL_NODE),
        side.list(NODE, selected={names.REMOTE_ID: peer, names.NODE_TYPE: names.VIRTUAL}),
    )
    pods = [pod for node in nodes for pod in await side.pods_on(name_of(node))]
    findings = [
        *_held(side, [*foreign, *slices, *virtuals, *clients]),
        *_lost(side, foreign),
        *_tunnel(side, connections, clients, mtu),
        *_granted(side, slices),
        *_nodes(side, virtuals, nodes, foreign),
        *_hanging(side, pods),
    ]
    if not findings:
        findings = [Finding(peer, "good", f"{name_of(nodes[0])} is ready." if nodes else "Nothing of it is left but its name.")]
    levels = {finding.level for finding in findings}
    worst: Level = "wrong" if "wrong" in levels else "waiting" if "waiting" in levels else "good"
    told = status(connections[0]) if connections else {}
    view = PeerView(
        cluster_id=peer,
        level=worst,
        node=name_of(nodes[0]) if nodes else None,
        tunnel=str(told.get("value") or ""),
        latency=str((told.get("latency") or {}).get("value") or ""),
        mtu=(clients[0].get("spec") or {}).get("mtu") if clients else None,
        role=str(status(foreign[0]).get("role") or "") if foreign else "",
        granted={key: str(value) for key, value in (status(slices[0]).get("resources") or {}).items()} if slices else {},
        pods=tuple(sorted(f"{pod['metadata'].get('namespace')}/{name_of(pod)}" for pod in pods)),
        age_seconds=round(max((age(one, side.now()) for one in (*foreign, *slices)), default=0.0)),
    )
    return view, findings


def _held(side: Side, things: Sequence[Manifest]) -> Sequence[Finding]:
    """What was to be deleted and is not."""
    findings = []
    for thing in things:
        meta = thing.get("metadata") or {}
        lasted = since(meta.get("deletionTimestamp"), side.now())
        if deleting(thing) and lasted > _HANGS:
            held = ", ".join(meta.get("finalizers") or ()) or "nobody says by what"
            findings.append(
                Finding(
                    side.peer, "wrong", f"{thing.get('kind')} {name_of(thing)} is being deleted for {lasted:.0f} s, held by {held}.",
                    "`lamplighter federation unpeer` goes on with it; `--force` when the other cluster is gone.",
                )
            )  # fmt: skip
    return findings


def _lost(side: Side, foreign: Sequence[Manifest]) -> Sequence[Finding]:
    for one in foreign:
        if condition(one, "APIServerStatus").get("status") in ("Error", "NotReady"):
            return (
                Finding(
                    side.peer, "wrong", "Its API server does not answer.",
                    "`lamplighter mesh check` if the machine should be there; `lamplighter federation unpeer --force` if it is gone.",
                ),
            )  # fmt: skip
    return ()


def _tunnel(side: Side, connections: Sequence[Manifest], clients: Sequence[Manifest], mtu: int | None) -> Sequence[Finding]:
    findings = []
    for client in clients:
        found = (client.get("spec") or {}).get("mtu")
        if mtu is not None and found is not None and found != mtu:
            findings.append(
                Finding(
                    side.peer, "wrong", f"Its tunnel has MTU {found}, configured is {mtu}"
                    + ("; full packets are lost in the mesh: pings pass and answers hang." if found > mtu else "."),
                    f"`lamplighter federation peer {side.peer}` sets it, unless somebody else made the gateway: then delete that.",
                )
            )  # fmt: skip
        if not connections and age(client, side.now()) > PATIENCE:
            findings.append(
                Finding(
                    side.peer,
                    "wrong",
                    "Its tunnel has not come up.",
                    f"`kubectl -n {side.tenant} get pods`; `lamplighter mesh check`.",
                )
            )
    for one in connections:
        value = status(one).get("value")
        if value == "Error":
            findings.append(
                Finding(
                    side.peer, "wrong", "Its tunnel is broken.",
                    "UDP from home to its gateway's port must pass: `lamplighter mesh check`, and the mesh's firewall on the node.",
                )
            )  # fmt: skip
        elif value != "Connected":
            slow = age(one, side.now()) > PATIENCE
            findings.append(Finding(side.peer, "wrong" if slow else "waiting", f"Its tunnel is {str(value or 'new').lower()}."))
    return findings


def _granted(side: Side, slices: Sequence[Manifest]) -> Sequence[Finding]:
    findings = []
    for one in slices:
        for kind in ("Authentication", "Resources"):
            answer = condition(one, kind)
            if answer.get("status") == "Denied":
                said = f": {answer['message']}" if answer.get("message") else ""
                findings.append(
                    Finding(
                        side.peer,
                        "wrong",
                        f"It refuses what is asked of it ({kind.lower()}){said}.",
                        "Ask for less: `federation.share`.",
                    )
                )
            elif not answer:
                slow = age(one, side.now()) > PATIENCE
                findings.append(
                    Finding(side.peer, "wrong" if slow else "waiting", f"It has not answered the slice ({kind.lower()}).")
                )
    return findings


def _nodes(side: Side, virtuals: Sequence[Manifest], nodes: Sequence[Manifest], foreign: Sequence[Manifest]) -> Sequence[Finding]:
    findings = []
    step = "`lamplighter federation unpeer --force` removes what is left of a cluster that is gone."
    for node in nodes:
        ready = condition(node, "Ready")
        if not virtuals:
            findings.append(
                Finding(side.peer, "wrong", f"The virtual node {name_of(node)} is stale: nothing stands behind it.", step)
            )
        elif ready.get("status") != "True":
            lasted = since(ready.get("lastTransitionTime"), side.now())
            said = ready.get("message") or ready.get("reason") or "nothing said yet"
            level: Level = "wrong" if lasted > PATIENCE else "waiting"
            text = f"The virtual node {name_of(node)} is not ready for {lasted:.0f} s: {said}"
            findings.append(Finding(side.peer, level, text, step))
    if not nodes:
        registering = [name_of(virtual) for virtual in virtuals if not deleting(virtual)]
        findings += [Finding(side.peer, "waiting", f"The virtual node {name} has not registered.") for name in registering]
    if not virtuals and not nodes and foreign and status(foreign[0]).get("role") not in ("Unknown", "", None):
        findings.append(
            Finding(side.peer, "waiting", "It has no virtual node.", f"`lamplighter federation peer {side.peer}` goes on.")
        )
    return findings


def _hanging(side: Side, pods: Sequence[Manifest]) -> Sequence[Finding]:
    hanging = []
    for pod in pods:
        meta: Mapping[str, Any] = pod.get("metadata") or {}
        grace = float(meta.get("deletionGracePeriodSeconds") or 0)
        if deleting(pod) and since(meta.get("deletionTimestamp"), side.now()) > grace + _HANGS:
            hanging.append(f"{meta.get('namespace')}/{name_of(pod)}")
    if not hanging:
        return ()
    return (
        Finding(
            side.peer, "wrong", f"Pods hang while they are deleted: {', '.join(sorted(hanging))}.",
            "Their node does not answer. If the machine is gone: `lamplighter federation unpeer --force`.",
        ),
    )  # fmt: skip


def _opened(opened: OffloadStatus, any_peer: bool) -> Sequence[Finding]:
    if opened.reason == "closed":
        return (Finding("home", "waiting", str(opened.detail), opened.next_step),)
    if opened.reason is not None:
        level: Level = "waiting" if opened.reason == "in_progress" else "wrong"
        return (Finding("home", level, str(opened.detail), opened.next_step),)
    return () if any_peer else (Finding("home", "good", "Liqo runs, and no cluster is joined."),)

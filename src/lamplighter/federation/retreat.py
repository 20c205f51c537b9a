"""Parts two clusters, so that nothing is left: planned, with both there; or abrupt, when the other one is gone for good.

Planned: pods end, the slice goes, Liqo drains and removes the virtual node, then credentials, gateways and namespaces go on both sides.
Abrupt: the loss is declared to Liqo, pods of the lost node only are removed without asking, then the same at home. A finalizer is taken off
only when Liqo itself has not done so for a while, only from objects of this peering, and only of a cluster that is proven gone.
Each call does what can be done now; `remains` names what is still there. Not responsible for the machine.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from lamplighter.core.clock import Clock
from lamplighter.federation import names
from lamplighter.federation.reach import Unheard
from lamplighter.federation.side import Side
from lamplighter.federation.standing import PATIENCE, since
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import NAMESPACE, NODE, POD, SECRET, Kind, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, status
from lamplighter.providers.kubernetes.reading import name as name_of

_OFFERS = (names.RESOURCE_SLICE, names.VIRTUAL_NODE)
_CREDENTIALS = (names.IDENTITY, names.TENANT)
_TUNNEL = (names.GATEWAY_CLIENT, names.GATEWAY_SERVER)
_REST = (names.CONNECTION, names.PUBLIC_KEY, names.CONFIGURATION)
_HELD = (*_OFFERS, names.NAMESPACE_MAP, names.QUOTA, *_CREDENTIALS, *_TUNNEL, *_REST, names.NETWORK, names.FOREIGN_CLUSTER)
"""Kinds whose objects Liqo may keep by finalizers; what else is in a peering's namespace goes with it."""


@dataclass(frozen=True, slots=True)
class Retreat:
    """`remains`: what is still there, in words; empty when done."""

    done: bool
    remains: tuple[str, ...] = ()


async def retreat(
    home: Cluster,
    remote: Cluster | None,
    cluster_id: str,
    planned: bool,
    *,
    home_id: str = "home",
    liqo_namespace: str = names.NAMESPACE,
    clock: Clock | None = None,
) -> Retreat:
    """One step of parting from `cluster_id`. `remote` None: it cannot be asked (planned: then only home is cleared, as far as Liqo lets it).

    Raises KubernetesError when the home cluster does not answer.
    """
    here = Side(home, "the home cluster", home_id, cluster_id, liqo_namespace, clock)
    there = None if remote is None else Side(remote, f"cluster {cluster_id}", cluster_id, home_id, liqo_namespace, clock)
    try:
        if planned:
            return await _planned(here, there)
        return await _abrupt(here)
    except Unheard as unheard:
        if unheard.reach is here:
            raise unheard.error from unheard
        return Retreat(False, (f"{unheard.reach.name} does not answer: {unheard.error.message} If it is gone, part by force.",))


async def _planned(home: Side, remote: Side | None) -> Retreat:
    sides = [home] if remote is None else [home, remote]
    await asyncio.gather(*(side.find_tenant() for side in sides))
    remains: list[str] = []
    for side in sides:
        await _cordon(side)
        remains += await _end_pods(side)
    if remains:
        return Retreat(False, tuple(remains))
    for kinds in (_OFFERS, _CREDENTIALS, _TUNNEL, _REST):  # in Liqo's own order: each needs the next one while it goes
        for side in sides:
            remains += await _remove(side, kinds)
        if kinds is _OFFERS:
            for side in sides:
                remains += [f"virtual node {name_of(node)} in {side.name}" for node in await _nodes(side)]
        if remains:
            return Retreat(False, tuple(remains))
    for side in sides:
        remains += await _remove_last(side)
    return Retreat(not remains, tuple(remains))


async def _abrupt(home: Side) -> Retreat:
    await home.find_tenant()
    if (alive := await _declare_lost(home)) is not None:
        return Retreat(False, (alive,))
    remains: list[str] = []
    for node in await _nodes(home):
        for pod in await home.pods_on(name_of(node)):
            await home.delete(POD, pod, grace=0)
    remains += await _remove(home, _OFFERS)
    await _free(home)
    if not await home.of_peer(names.VIRTUAL_NODE):  # Liqo removes the node with its virtual node; one that is left has no owner
        for node in await _nodes(home):
            await home.delete(NODE, node)
    remains += [f"virtual node {name_of(node)} in {home.name}" for node in await _nodes(home)]
    for kinds in (_CREDENTIALS, _TUNNEL, _REST):
        remains += await _remove(home, kinds)
    if remains:
        return Retreat(False, tuple(remains))
    remains += await _remove_last(home)
    return Retreat(not remains, tuple(remains))


async def _declare_lost(home: Side) -> str | None:
    """Tell Liqo that the cluster never comes back. The sentence why not, when it is there after all."""
    for foreign in await home.of_peer(names.FOREIGN_CLUSTER):
        if ((foreign.get("metadata") or {}).get("annotations") or {}).get(names.LOST) == "true":
            continue  # judged by an earlier call, which may have removed by what it was judged
        if condition(foreign, "APIServerStatus").get("status") == "Established" and await _answers(home):
            return f"cluster {home.peer} still answers, as Liqo sees it: it is not gone, so nothing is forced (part as planned, or wait)"
        await home.patch(names.FOREIGN_CLUSTER, name_of(foreign), {"metadata": {"annotations": {names.LOST: "true"}}})
    return None


async def _answers(home: Side) -> bool:
    """Whether anything bears out what Liqo says of the API server, which stays as it was when Liqo itself is down.

    The node's kubelet runs at home, and calls the node ready only while it reaches the other side; without a node, the tunnel tells.
    """
    if nodes := await _nodes(home):
        return any(condition(node, "Ready").get("status") == "True" for node in nodes)
    connected = await home.of_peer(names.CONNECTION)
    return not connected or status(connected[0]).get("value") == "Connected"


async def _cordon(side: Side) -> None:
    for node in await _nodes(side):
        if not deleting(node) and not (node.get("spec") or {}).get("unschedulable"):
            await side.patch(NODE, name_of(node), {"spec": {"unschedulable": True}})


async def _end_pods(side: Side) -> list[str]:
    """Ask the pods of the peering's nodes to end, in their own time."""
    remains = []
    for node in await _nodes(side):
        for pod in await side.pods_on(name_of(node)):
            if _of_every_node(pod):
                continue
            await side.delete(POD, pod)
            remains.append(f"pod {pod['metadata'].get('namespace')}/{name_of(pod)} on {name_of(node)}" + _lasting(pod, side))
    return remains


async def _remove(side: Side, kinds: Sequence[Kind]) -> list[str]:
    remains = []
    for kind in kinds:
        for thing in await side.of_peer(kind):
            await side.delete(kind, thing)
            remains.append(f"{kind.kind} {name_of(thing)} in {side.name}" + _lasting(thing, side))
    if remains:  # most are gone at once: what the server still has is what remains
        there = [(kind, thing) for kind in kinds for thing in await side.of_peer(kind)]
        remains = [f"{kind.kind} {name_of(thing)} in {side.name}" + _lasting(thing, side) for kind, thing in there]
    return remains


async def _remove_last(side: Side) -> list[str]:
    """The namespace with all that is left in it, and what Liqo knows of the cluster."""
    remains = []
    of_peer = {names.REMOTE_ID: side.peer}
    last: tuple[tuple[Kind, dict[str, str | None]], ...] = (
        (NAMESPACE, {**of_peer, names.TENANT_NAMESPACE: None}),
        (names.FOREIGN_CLUSTER, {**of_peer}),
    )
    for kind, selected in last:
        for thing in await side.list(kind, selected=selected):
            await side.delete(kind, thing)
        left = await side.list(kind, selected=selected)
        remains += [f"{kind.kind} {name_of(thing)} in {side.name}" + _lasting(thing, side) for thing in left]
        if left:
            break  # Liqo makes a ForeignCluster anew as long as anything of it is there
    return remains


async def _free(home: Side) -> None:
    """Take Liqo's finalizers off what it has not let go for a while: it may itself be down, or wait for a cluster that is no more."""
    for kind in _HELD:
        for thing in await home.of_peer(kind):
            await _unhold(home, kind, thing)
    for secret in await home.list(SECRET, home.tenant, {names.REMOTE_ID: home.peer}):
        await _unhold(home, SECRET, secret)


async def _unhold(home: Side, kind: Kind, thing: Manifest) -> None:
    meta = thing.get("metadata") or {}
    held = [str(one) for one in meta.get("finalizers") or ()]
    kept = [one for one in held if "liqo.io/" not in one]
    if not deleting(thing) or kept == held or since(meta.get("deletionTimestamp"), home.now()) < PATIENCE:
        return
    body = {"metadata": {"finalizers": kept or None, "resourceVersion": meta.get("resourceVersion")}}
    await home.patch(kind, name_of(thing), body, meta.get("namespace"))


async def _nodes(side: Side) -> Sequence[Manifest]:
    """The virtual nodes of this peering only: by both of Liqo's labels."""
    return await side.list(NODE, selected={names.REMOTE_ID: side.peer, names.NODE_TYPE: names.VIRTUAL})


def _of_every_node(pod: Manifest) -> bool:
    return any(owner.get("kind") == "DaemonSet" for owner in (pod.get("metadata") or {}).get("ownerReferences") or ())


def _lasting(thing: Manifest, side: Side) -> str:
    meta = thing.get("metadata") or {}
    if not deleting(thing):
        return ""
    lasted = since(meta.get("deletionTimestamp"), side.now())
    held = ", ".join(str(one) for one in meta.get("finalizers") or ())
    return f" (being deleted for {lasted:.0f} s" + (f", held by {held})" if held else ")")

"""Slices, virtual nodes and what stands for a cluster, as Liqo's controllers play them; and what they keep until the other side has let go.

Not responsible for pods.
"""

import base64
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lamplighter.federation import names
from lamplighter.providers.kubernetes.kinds import LEASE, NAMESPACE, NODE, SECRET, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of
from lamplighter.testing.liqo.member import Member, owned_by, peer_of

if TYPE_CHECKING:
    from lamplighter.testing.liqo.federation import FakeLiqo

REPLICATED_HELD = "crdreplicator.liqo.io/resource"
NODE_HELD = "virtualnode-controller.liqo.io/finalizer"
MAP_HELD = "namespacemap-controller.liqo.io/finalizer"
CHECKER_HELD = "api-server-checker.liqo.io/finalizer"
_KINDS = (
    names.CONFIGURATION, names.CONNECTION, names.GATEWAY_CLIENT, names.GATEWAY_SERVER, names.TENANT, names.IDENTITY, names.VIRTUAL_NODE,
)  # fmt: skip
_PRETENDED = base64.b64encode(b"pretended").decode()
_BEAT = 8.0
_DEFAULTS = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "20Gi"}


def moment() -> str:
    """Now, as timestamps are written."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


async def reconcile(liqo: "FakeLiqo", member: Member) -> None:
    """One round of one cluster: foreign clusters, slices on both sides, virtual nodes."""
    await _foreign(liqo, member)
    for one in await member.all(names.RESOURCE_SLICE):
        if labels(one).get(names.REPLICATE) == "true":
            await _asked(liqo, member, one)
        elif labels(one).get(names.REPLICATED) == "true":
            await _answer(member, one)
    for node in await member.all(names.VIRTUAL_NODE):
        await _virtual_node(liqo, member, node)


async def is_lost(member: Member, peer: str) -> bool:
    """Whether a cluster was declared lost for good: then its leave is asked no more. One that nobody knows any more is lost too."""
    foreign = await member.client.get_or_none(names.FOREIGN_CLUSTER, peer)
    if foreign is None:
        return True
    marked = ((foreign.get("metadata") or {}).get("annotations") or {}).get(names.LOST) == "true"
    return marked and condition(foreign, "APIServerStatus").get("status") != "Established"


async def _foreign(liqo: "FakeLiqo", member: Member) -> None:
    known: dict[str, set[str]] = {}
    for kind in _KINDS:
        for thing in await member.all(kind):
            if peer := peer_of(thing):
                known.setdefault(peer, set()).add(kind.kind)
    for peer in known:
        meta = {"name": peer, "labels": {names.REMOTE_ID: peer}}
        await member.make(names.FOREIGN_CLUSTER, {"metadata": meta, "spec": {"clusterID": peer}})
    for foreign in await member.all(names.FOREIGN_CLUSTER):
        peer = name_of(foreign)
        if deleting(foreign):
            await member.release(names.FOREIGN_CLUSTER, foreign, CHECKER_HELD)
            continue
        parts = known.get(peer, set())
        other = liqo.members.get(peer)
        answers = other is not None and not other.lost and liqo.reaches(member, other)
        if "Identity" in parts:
            await member.hold(names.FOREIGN_CLUSTER, foreign, CHECKER_HELD)
        await _tell_foreign(member, foreign, parts, answers)


async def _tell_foreign(member: Member, foreign: Manifest, parts: set[str], answers: bool) -> None:
    peer = name_of(foreign)
    consumer, provider = "Tenant" in parts, bool(parts & {"Identity", "VirtualNode"})
    role = {(True, True): "ConsumerAndProvider", (True, False): "Consumer", (False, True): "Provider"}.get(
        (consumer, provider), "Unknown"
    )
    api = [{"type": "APIServerStatus", "status": "Established" if answers else "Error"}] if "Identity" in parts else []
    modules: dict[str, Any] = {
        "networking": {
            "enabled": bool(parts & {"Configuration", "Connection", "GatewayClient", "GatewayServer"}),
            "conditions": [],
        },
        "authentication": {"enabled": bool(parts & {"Tenant", "Identity"}), "conditions": []},
        "offloading": {"enabled": "VirtualNode" in parts, "conditions": []},
    }
    for connection in await member.all(names.CONNECTION):
        if peer_of(connection) == peer:
            words = {"Connected": "Established", "Connecting": "Pending"}
            value = words.get(str(status(connection).get("value")), "Error")
            modules["networking"]["conditions"] = [{"type": "NetworkConnectionStatus", "status": value}]
    wanted = {"role": role, "conditions": api, "modules": modules}
    if any(status(foreign).get(key) != value for key, value in wanted.items()):
        await member.tell(names.FOREIGN_CLUSTER, peer, wanted)


async def _asked(liqo: "FakeLiqo", member: Member, one: Manifest) -> None:
    """The consumer's side: carried to the provider, the answer carried back, credentials and a virtual node made of it."""
    peer_id = labels(one).get(names.REPLICATE_TO, "")
    peer = liqo.members.get(peer_id)
    space, name = one["metadata"]["namespace"], name_of(one)
    reachable = peer is not None and not peer.lost and liqo.reaches(member, peer)
    copy, there = None, None
    if peer is not None and reachable and (there := await peer.tenant(member.id)) is not None:
        copy = await peer.client.get_or_none(names.RESOURCE_SLICE, name, there)
    if deleting(one):
        if peer is not None and reachable and copy is not None:
            await peer.delete(names.RESOURCE_SLICE, copy)
        elif reachable or await is_lost(member, peer_id):
            await member.release(names.RESOURCE_SLICE, one, REPLICATED_HELD)
        return
    if not await member.all(SECRET, space, {"liqo.io/identity-type": "ControlPlane", names.REMOTE_ID: peer_id}):
        return
    await member.hold(names.RESOURCE_SLICE, one, REPLICATED_HELD)
    spec = one.get("spec") or {}
    if not spec.get("consumerClusterID"):
        csr = base64.b64encode(b"pretended request").decode()
        await member.change(names.RESOURCE_SLICE, one, {"spec": {"consumerClusterID": member.id, "csr": csr}})
        return
    if peer is None or not reachable or there is None:
        return
    if copy is None:
        meta = {"name": name, "labels": {names.REPLICATED: "true", names.REPLICATED_FROM: member.id, names.REMOTE_ID: member.id}}
        await peer.make(names.RESOURCE_SLICE, {"metadata": meta, "spec": spec}, there)
        return
    if copy.get("spec") != spec:
        await peer.change(names.RESOURCE_SLICE, copy, {"spec": spec})
    elif status(copy) and status(copy) != status(one):
        await member.tell(names.RESOURCE_SLICE, name, status(copy), space)
    await _granted(member, one)


async def _answer(member: Member, one: Manifest) -> None:
    """The provider's side: Liqo's default class grants everything that is asked, unless told otherwise by a fault."""
    space, name, consumer = one["metadata"]["namespace"], name_of(one), labels(one)[names.REPLICATED_FROM]
    if deleting(one) or "slice-unanswered" in member.faults:
        return
    tenants = [tenant for tenant in await member.all(names.TENANT, space) if peer_of(tenant) == consumer and not deleting(tenant)]
    spec = one.get("spec") or {}
    granted = {**_DEFAULTS, **(spec.get("resources") or {})}
    if "slice-reduced" in member.faults:
        granted = {key: ("0" if "/" in key else value) for key, value in granted.items()}
    accepted = bool(tenants) and "slice-denied" not in member.faults
    conditions = [
        {"type": "Authentication", "status": "Accepted" if tenants else "Denied", "lastTransitionTime": moment()},
        {
            "type": "Resources", "status": "Accepted" if accepted else "Denied", "lastTransitionTime": moment(),
            **({} if accepted else {"message": "the class of slices refuses it"}),
        },
    ]  # fmt: skip
    before = [(told.get("type"), told.get("status")) for told in status(one).get("conditions") or ()]
    if before == [(told["type"], told["status"]) for told in conditions] and status(one).get("resources") == granted:
        return
    auth = {"apiServer": f"https://{member.id}.cluster.invalid:6443", "ca": _PRETENDED, "signedCRT": _PRETENDED}
    told = {
        "conditions": conditions,
        "authParams": auth,
        "nodeLabels": dict(member.labels),
        "resources": granted if accepted else {},
    }
    await member.tell(names.RESOURCE_SLICE, name, told, space)
    if accepted:
        quota = {"metadata": {"name": name, "labels": {names.REMOTE_ID: consumer}}, "spec": {"user": name, "resources": granted}}
        await member.make(names.QUOTA, quota, space)


async def _granted(member: Member, one: Manifest) -> None:
    if not all(condition(one, kind).get("status") == "Accepted" for kind in ("Authentication", "Resources")):
        return
    space, name, peer = one["metadata"]["namespace"], name_of(one), labels(one)[names.REMOTE_ID]
    meta = {"name": f"resourceslice-{name}", "labels": {names.REMOTE_ID: peer}, "ownerReferences": owned_by(one)}
    auth = status(one).get("authParams") or {}
    await member.make(
        names.IDENTITY, {"metadata": meta, "spec": {"clusterID": peer, "type": "ResourceSlice", "authParams": auth}}, space
    )
    if (one["metadata"].get("annotations") or {}).get(names.CREATE_NODE) != "true" or "node-pending" in member.faults:
        return
    told = {names.REMOTE_ID: peer, **(status(one).get("nodeLabels") or {})}
    spec = {
        "clusterID": peer,
        "createNode": True,
        "labels": told,
        "resourceQuota": {"hard": status(one).get("resources") or {}},
        "kubeconfigSecretRef": {"name": f"kubeconfig-resourceslice-{name}"},
    }
    node = {
        "metadata": {
            "name": name, "labels": {names.REMOTE_ID: peer}, "ownerReferences": owned_by(one), "finalizers": [NODE_HELD],
        },
        "spec": spec,
    }  # fmt: skip
    await member.make(names.VIRTUAL_NODE, node, space)


async def _virtual_node(liqo: "FakeLiqo", member: Member, virtual: Manifest) -> None:
    name, peer_id = name_of(virtual), peer_of(virtual)
    node = await member.client.get_or_none(NODE, name)
    if deleting(virtual):
        await _remove_node(liqo, member, virtual, node)
        return
    space = virtual["metadata"]["namespace"]
    spec = virtual.get("spec") or {}
    mapped = {"metadata": {"name": peer_id, "labels": {names.REMOTE_ID: peer_id}, "finalizers": [MAP_HELD]}, "spec": {}}
    await member.make(names.NAMESPACE_MAP, mapped, space)
    if node is None:
        told = {
            "kubernetes.io/hostname": name, "kubernetes.io/role": "agent", "kubernetes.io/os": "linux", names.NODE_TYPE: names.VIRTUAL,
            **(spec.get("labels") or {}),
        }  # fmt: skip
        taints = [{"key": names.NOT_ALLOWED, "value": "true", "effect": "NoExecute"}]
        await member.make(NODE, {"metadata": {"name": name, "labels": told}, "spec": {"taints": taints}})
        node = await member.client.get_or_none(NODE, name)
    if node is not None:
        await _tell_node(liqo, member, virtual, node)


async def _tell_node(liqo: "FakeLiqo", member: Member, virtual: Manifest, node: Manifest) -> None:
    """Ready as long as the other cluster answers and the tunnel stands. A lost one is noticed after `not_ready_after`, as by Kubernetes."""
    peer = liqo.members.get(peer_of(virtual))
    connections = [one for one in await member.all(names.CONNECTION) if peer_of(one) == peer_of(virtual)]
    tunnel = any(status(one).get("value") == "Connected" for one in connections)
    answers = peer is not None and not peer.lost and liqo.reaches(member, peer)
    amounts = ((virtual.get("spec") or {}).get("resourceQuota") or {}).get("hard") or {}
    ready, reason = (
        ("True", "KubeletReady") if answers and tunnel and "node-not-ready" not in member.faults else ("False", "KubeletNotReady")
    )
    if not answers:
        ready, reason = "Unknown", "NodeStatusUnknown"
        if peer is not None and not liqo.noticed(peer):
            return
    if ready == "True":
        await _beat(member, node)
    told = condition(node, "Ready")
    if told.get("status") == ready and status(node).get("allocatable") == amounts:
        return
    conditions = [
        {"type": "Ready", "status": ready, "reason": reason, "message": _WORDS[ready], "lastTransitionTime": moment(), "lastHeartbeatTime": moment()},
        {"type": "NetworkUnavailable", "status": "False" if tunnel else "True", "reason": "LiqoNetworking", "message": "", "lastTransitionTime": moment()},
    ]  # fmt: skip
    await member.tell(NODE, name_of(node), {"capacity": amounts, "allocatable": amounts, "conditions": conditions})


async def _beat(member: Member, node: Manifest) -> None:
    """The node's heartbeat, as a kubelet gives it: a real control plane takes a silent node for lost after 40 s."""
    space, name, now = "kube-node-lease", name_of(node), datetime.now(UTC)
    lease = await member.client.get_or_none(LEASE, name, space)
    text = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if lease is None:
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": text}
        owner = [{key: value for key, value in owned_by(node)[0].items() if key not in ("controller", "blockOwnerDeletion")}]
        await member.make(LEASE, {"metadata": {"name": name, "ownerReferences": owner}, "spec": spec}, space)
    elif (now - datetime.fromisoformat(str((lease.get("spec") or {}).get("renewTime")))).total_seconds() > _BEAT:
        await member.change(LEASE, lease, {"spec": {"renewTime": text}})


_WORDS = {
    "True": "The Liqo Virtual Kubelet is ready",
    "False": "The Liqo Virtual Kubelet is not ready",
    "Unknown": "Kubelet stopped posting node status.",
}


async def _remove_node(liqo: "FakeLiqo", member: Member, virtual: Manifest, node: Manifest | None) -> None:
    """Cordon, drain, remove: pods of a lost cluster without asking, others in their own time."""
    lost = await is_lost(member, peer_of(virtual))
    if node is not None:
        if not (node.get("spec") or {}).get("unschedulable"):
            await member.change(NODE, node, {"spec": {"unschedulable": True}})
        if await liqo.drain(member, name_of(node), lost):
            return
        await member.delete(NODE, node)
        return
    for mapped in await member.all(names.NAMESPACE_MAP, virtual["metadata"]["namespace"]):
        await member.delete(names.NAMESPACE_MAP, mapped)
        await member.release(names.NAMESPACE_MAP, mapped, MAP_HELD)
    await member.release(names.VIRTUAL_NODE, virtual, NODE_HELD)


async def twin_is_free(peer: Member, namespace: str) -> bool:
    """Whether a namespace of that name there is Liqo's, or not there at all."""
    found = await peer.client.get_or_none(NAMESPACE, namespace)
    return found is None or names.ORIGINAL_NAMESPACE in ((found.get("metadata") or {}).get("annotations") or {})

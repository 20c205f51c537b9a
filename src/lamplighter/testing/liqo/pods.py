"""Offloaded namespaces and their pods, as Liqo's controllers and virtual kubelet play them: twins, copies, statuses with mapped addresses.

Where no scheduler runs, pods are placed on virtual nodes here. Pods that were there before the namespace was opened stay Pending, as in reality.
A pod that is deleted goes once its copy is gone; when the other cluster is lost, it hangs. Simplified: the copy is made at once, without a
ShadowPod in between. Not responsible for running anything: a kubelet (or a pretended one) in the other cluster does.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lamplighter.federation import names
from lamplighter.federation.slice import amount
from lamplighter.providers.kubernetes.kinds import CONFIG_MAP, EVENT, NAMESPACE, NODE, POD, SECRET, SERVICE, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of
from lamplighter.testing.liqo.member import Member, peer_of, suppress_passing
from lamplighter.testing.liqo.slices import moment, twin_is_free

if TYPE_CHECKING:
    from lamplighter.testing.liqo.federation import FakeLiqo

_OFFLOADING_HELD = "namespaceoffloading-controller.liqo.io/finalizer"
_COPY = "liqo.io/managed-by"
_NOT_CARRIED = (
    "nodeName", "nodeSelector", "affinity", "tolerations", "schedulerName", "serviceAccount", "serviceAccountName", "priority",
    "priorityClassName", "preemptionPolicy", "hostNetwork", "hostPID", "hostIPC", "topologySpreadConstraints", "enableServiceLinks",
)  # fmt: skip
_MINE = ("lastProbeTime",)


async def reconcile(liqo: "FakeLiqo", member: Member) -> None:
    """One round of the offloading module of one cluster."""
    for offloading in await member.all(names.NAMESPACE_OFFLOADING):
        await _namespace(liqo, member, offloading)
        if not deleting(offloading):
            await _pods(liqo, member, offloading)


async def drain(member: Member, node: str, lost: bool) -> bool:
    """End the pods of a node; whether some are still there. Those of a lost cluster are not asked."""
    found = await _on(member, node)
    for pod in found:
        await member.delete(POD, pod, grace=0 if lost else None)
    return bool(await _on(member, node, fresh=True))


async def _on(member: Member, node: str, *, fresh: bool = False) -> list[Manifest]:
    if fresh:
        member.refresh()
    return [one for one in await member.all(POD) if (one.get("spec") or {}).get("nodeName") == node]


async def _nodes(liqo: "FakeLiqo", member: Member) -> dict[str, Member]:
    found = {}
    for virtual in await member.all(names.VIRTUAL_NODE):
        peer = liqo.members.get(peer_of(virtual))
        if peer is not None and not deleting(virtual):
            found[name_of(virtual)] = peer
    return found


async def _namespace(liqo: "FakeLiqo", member: Member, offloading: Manifest) -> None:
    space = offloading["metadata"]["namespace"]
    peers = {peer.id: peer for peer in (await _nodes(liqo, member)).values() if not peer.lost and liqo.reaches(member, peer)}
    if deleting(offloading):
        for peer in peers.values():
            twin = await peer.client.get_or_none(NAMESPACE, space)
            if twin is not None and await twin_is_free(peer, space):
                await peer.delete(NAMESPACE, twin)
        await member.release(names.NAMESPACE_OFFLOADING, offloading, _OFFLOADING_HELD)
        return
    await member.hold(names.NAMESPACE_OFFLOADING, offloading, _OFFLOADING_HELD)
    told: dict[str, Any] = {}
    for peer in peers.values():
        free = await twin_is_free(peer, space)
        if free:
            meta = {
                "name": space,
                "annotations": {names.ORIGINAL_NAMESPACE: space, "liqo.io/managed-by-namespace-map": member.id},
            }
            await peer.make(NAMESPACE, {"metadata": meta})
        ready = {
            "type": "Ready",
            "status": "True" if free else "False",
            "reason": "RemoteNamespaceCreated" if free else "CreationLoopBackOff",
        }
        told[peer.id] = [{"type": "OffloadingRequired", "status": "True"}, ready]
    good = [conditions[1]["status"] == "True" for conditions in told.values()]
    phase = "NoClusterSelected" if not good else "Ready" if all(good) else "SomeFailed" if any(good) else "AllFailed"
    wanted = {
        "offloadingPhase": phase, "remoteNamespaceName": space, "remoteNamespacesConditions": told,
        "observedGeneration": offloading["metadata"].get("generation", 1),
    }  # fmt: skip
    before = status(offloading)
    if any(before.get(key) != value for key, value in wanted.items()):
        gone = dict.fromkeys(set(before.get("remoteNamespacesConditions") or {}) - set(told))
        merged = {**wanted, "remoteNamespacesConditions": {**told, **gone}}
        await member.tell(names.NAMESPACE_OFFLOADING, name_of(offloading), merged, space)


async def _pods(liqo: "FakeLiqo", member: Member, offloading: Manifest) -> None:
    space = offloading["metadata"]["namespace"]
    nodes = await _nodes(liqo, member)
    for pod in await member.all(POD, space):
        spec = pod.get("spec") or {}
        if not spec.get("nodeName"):
            if liqo.schedules and not deleting(pod):
                await _place(member, offloading, pod, nodes)
        elif (peer := nodes.get(spec["nodeName"])) is not None and not peer.lost and liqo.reaches(member, peer):
            await _mirror(member, peer, pod)
    for peer in {peer.id: peer for peer in nodes.values()}.values():
        if not peer.lost and liqo.reaches(member, peer):
            await _forget(member, peer, space)


async def _place(member: Member, offloading: Manifest, pod: Manifest, nodes: Mapping[str, Member]) -> None:
    """What the scheduler does with a pod that Liqo's webhook has let through; one from before the webhook stays where it is."""
    if str(pod["metadata"].get("creationTimestamp", "")) < str(offloading["metadata"].get("creationTimestamp", "")):
        return
    spec, reasons = pod.get("spec") or {}, []
    for name in sorted(nodes):
        node = await member.client.get_or_none(NODE, name)
        if node is None:
            continue
        why = await _unfit(member, node, spec)
        if not why:
            target = {"apiVersion": "v1", "kind": "Node", "name": name}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name_of(pod)}, "target": target}
            with suppress_passing():
                path = POD.path(pod["metadata"]["namespace"], name_of(pod), "binding")
                await member.client.call("POST", path, body=body)
            member.refresh()  # what it takes is taken, for the next pod
            return
        reasons.append(why)
    message = f"0/{len(reasons)} nodes are available: {', '.join(reasons) or 'no virtual node'}."
    if condition(pod, "PodScheduled").get("message") != message:
        told = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": moment(),
        }
        await member.tell(POD, name_of(pod), {"phase": "Pending", "conditions": [told]}, pod["metadata"]["namespace"])


async def _unfit(member: Member, node: Manifest, spec: Manifest) -> str:
    wanted = spec.get("nodeSelector") or {}
    if any(labels(node).get(key) != value for key, value in wanted.items()):
        return "1 node(s) didn't match Pod's node affinity/selector"
    if (node.get("spec") or {}).get("unschedulable") or condition(node, "Ready").get("status") != "True":
        return "1 node(s) were unschedulable"
    held: dict[str, float] = {}
    for other in await _on(member, name_of(node)):
        for name, value in _requests(other.get("spec") or {}).items():
            held[name] = held.get(name, 0.0) + value
    for name, value in _requests(spec).items():
        if held.get(name, 0.0) + value > amount((status(node).get("allocatable") or {}).get(name, "0")) + 1e-9:
            return f"1 Insufficient {name}"
    return ""


def _requests(spec: Manifest) -> dict[str, float]:
    found: dict[str, float] = {}
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        for name, value in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            found[name] = found.get(name, 0.0) + amount(value)
    return found


async def _mirror(member: Member, peer: Member, pod: Manifest) -> None:
    space, name = pod["metadata"]["namespace"], name_of(pod)
    copy = await peer.client.get_or_none(POD, name, space)
    if deleting(pod):
        if copy is not None:
            await peer.delete(POD, copy, grace=None)
        else:
            await member.delete(POD, pod, grace=0)
        return
    if labels(pod).get(names.OFFLOADED_POD) != "true":
        await member.change(POD, pod, {"metadata": {"labels": {names.OFFLOADED_POD: "true"}}})
    if copy is None:
        await _carry(member, peer, pod)
        return
    if deleting(copy) or labels(copy).get("liqo.io/origin-uid") != pod["metadata"]["uid"]:
        await peer.delete(POD, copy)  # of an earlier pod of the same name
        return
    mapped = await _mapped(member, peer)
    seen = _seen(status(copy), peer, mapped)
    if any(status(pod).get(key) != value for key, value in seen.items()):
        await member.tell(POD, name, seen, space)
    await _events(member, peer, pod, copy)


async def _carry(member: Member, peer: Member, pod: Manifest) -> None:
    """The copy, and what it mounts or reads."""
    space = pod["metadata"]["namespace"]
    if await peer.client.get_or_none(NAMESPACE, space) is None or not await twin_is_free(peer, space):
        return
    for kind in (SECRET, CONFIG_MAP, SERVICE):
        for thing in await member.all(kind, space):
            if thing.get("type") == "kubernetes.io/service-account-token" or name_of(thing) == "kube-root-ca.crt":
                continue
            body = {key: value for key, value in thing.items() if key in ("data", "type")}
            if kind is SERVICE:
                spec = {key: value for key, value in (thing.get("spec") or {}).items() if key in ("ports", "selector", "type")}
                body = {"spec": {**spec, **({"clusterIP": "None"} if thing["spec"].get("clusterIP") == "None" else {})}}
            await peer.make(kind, {"metadata": {"name": name_of(thing), "labels": dict(labels(thing))}, **body}, space)
    meta, spec = pod["metadata"], pod["spec"]
    annotations = dict(meta.get("annotations") or {})
    carried = {key: value for key, value in spec.items() if key not in _NOT_CARRIED}
    if (runtime := annotations.get(names.RUNTIME_CLASS)) is not None:
        carried["runtimeClassName"] = runtime
    volumes = [
        one
        for one in carried.get("volumes") or ()
        if not str(one.get("name", "")).startswith(("default-token", "kube-api-access"))
    ]
    kept = {one["name"] for one in volumes}
    carried["volumes"] = volumes
    for kind_ in ("containers", "initContainers"):
        for container in carried.get(kind_) or ():
            container["volumeMounts"] = [one for one in container.get("volumeMounts") or () if one["name"] in kept]
    carried["automountServiceAccountToken"] = False
    told = {**labels(pod), _COPY: "shadowpod", names.REPLICATED_FROM: member.id, "liqo.io/origin-uid": meta["uid"]}
    await peer.make(POD, {"metadata": {"name": name_of(pod), "labels": told, "annotations": annotations}, "spec": carried}, space)


async def _forget(member: Member, peer: Member, space: str) -> None:
    """Copies whose pods are no more."""
    for copy in await peer.all(POD, space, {_COPY: "shadowpod", names.REPLICATED_FROM: member.id}):
        original = await member.client.get_or_none(POD, name_of(copy), space)
        if original is None or original["metadata"]["uid"] != labels(copy).get("liqo.io/origin-uid"):
            await peer.delete(POD, copy)


async def _mapped(member: Member, peer: Member) -> str:
    """The peer's network of pods as this cluster knows it."""
    for one in await member.all(names.CONFIGURATION):
        cidrs = (status(one).get("remote") or {}).get("cidr") or {}
        if peer_of(one) == peer.id and cidrs.get("pod"):
            return str(cidrs["pod"][0])
    return peer.pods


def _seen(told: Mapping[str, Any], peer: Member, mapped: str) -> dict[str, Any]:
    carried = {key: value for key, value in told.items() if key not in ("podIP", "podIPs", "hostIP", "hostIPs")}
    address = told.get("podIP")
    if not address:
        return carried
    seen = peer.remapped(str(address), mapped)
    return {**carried, "podIP": seen, "podIPs": [{"ip": seen}], "hostIP": "10.244.0.9"}


async def _events(member: Member, peer: Member, pod: Manifest, copy: Manifest) -> None:
    space, uid = pod["metadata"]["namespace"], copy["metadata"]["uid"]
    for event in await peer.all(EVENT, space):
        if (event.get("involvedObject") or {}).get("uid") != uid:
            continue
        name = f"{name_of(event)}.{peer.id}"
        there = await member.client.get_or_none(EVENT, name, space)
        about = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "namespace": space, "uid": pod["metadata"]["uid"]}
        body: Manifest = {
            key: event[key]
            for key in ("reason", "message", "type", "firstTimestamp", "lastTimestamp", "count", "source")
            if key in event
        }
        if there is None:
            await member.make(EVENT, {"metadata": {"name": name}, "involvedObject": about, **body}, space)
        elif there.get("count") != event.get("count") or there.get("message") != event.get("message"):
            await member.change(
                EVENT, there, {key: value for key, value in body.items() if key in ("count", "message", "lastTimestamp")}
            )

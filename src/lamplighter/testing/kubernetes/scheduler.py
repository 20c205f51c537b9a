"""Which node a pod gets: labels, affinity, taints, resources and claims, and the real scheduler's words when there is none."""

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes import selectors
from lamplighter.testing.kubernetes.times import now_text
from lamplighter.testing.kubernetes.workloads import World

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_QUANTITY = re.compile(r"^([0-9.]+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")


def quantity(told: Any) -> float:
    """A quantity as a number: `500m` is 0.5."""
    found = _QUANTITY.match(str(told))
    if found is None:
        raise ValueError(f"not a quantity: {told}")
    return float(found[1]) * _UNITS[found[2] or ""]


def requests(pod: Manifest) -> Counter[str]:
    """What a pod asks of a node."""
    total: Counter[str] = Counter({"pods": 1})
    for container in pod["spec"]["containers"]:
        for name, told in ((container.get("resources") or {}).get("requests") or {}).items():
            total[name] += quantity(told)  # type: ignore[assignment]
    return total


async def schedule(world: World) -> None:
    """Give every pod that waits a node, or say why there is none."""
    for pod in world.pods.all():
        spec, meta = pod["spec"], pod["metadata"]
        if (
            spec.get("nodeName")
            or meta.get("deletionTimestamp")
            or spec.get("schedulerName", "default-scheduler") != "default-scheduler"
        ):
            continue
        node, why = choose(world, pod)
        if node is None:
            await _refuse(world, pod, why)
            continue
        body = {"metadata": {"name": meta["name"]}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}}
        path = known.POD.path(meta["namespace"], meta["name"], "binding")
        with contextlib.suppress(KubernetesError):  # gone meanwhile
            await world.api.cluster.call("POST", path, body={"apiVersion": "v1", "kind": "Binding", **body})
            world.pods.heard(await world.api.cluster.get(known.POD, meta["name"], meta["namespace"]))
            await world.api.event(pod, "Scheduled", f"Successfully assigned {meta['namespace']}/{meta['name']} to {node}")


async def _refuse(world: World, pod: Manifest, why: str) -> None:
    meta, status = pod["metadata"], pod.get("status") or {}
    old = [one for one in status.get("conditions") or [] if one["type"] != "PodScheduled"]
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
    if any(all(one.get(key) == value for key, value in told.items()) for one in status.get("conditions") or []):
        return
    conditions = [*old, {**told, "lastProbeTime": None, "lastTransitionTime": now_text()}]
    world.pods.heard(
        await world.api.merge(known.POD, meta["namespace"], meta["name"], {"status": {"conditions": conditions}}, "status")
    )
    await world.api.event(pod, "FailedScheduling", why, warning=True)


def choose(world: World, pod: Manifest) -> tuple[str | None, str]:
    """The name of the node with the most room, or None and why."""
    nodes = world.nodes.all()
    if not nodes:
        return None, "no nodes available to schedule pods"
    if missing := _claim_missing(world, pod):
        return None, f"0/{len(nodes)} nodes are available: {missing}. {_no_preemption(len(nodes))}"
    reasons: Counter[str] = Counter()
    fitting: list[tuple[float, str]] = []
    for node in nodes:
        why, room = _fits(world, pod, node)
        if why:
            reasons.update(why)
        else:
            fitting.append((-room, node["metadata"]["name"]))
    if fitting:
        return min(fitting)[1], ""
    told = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
    return None, f"0/{len(nodes)} nodes are available: {told}. {_no_preemption(len(nodes))}"


def _no_preemption(count: int) -> str:
    return f"preemption: 0/{count} nodes are available: {count} Preemption is not helpful for scheduling."


def _claim_missing(world: World, pod: Manifest) -> str | None:
    for volume in pod["spec"].get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if name and not any(
            one["metadata"]["name"] == name and one["metadata"]["namespace"] == pod["metadata"]["namespace"]
            for one in world.claims.all()
        ):
            return f'persistentvolumeclaim "{name}" not found'
    return None


def _fits(world: World, pod: Manifest, node: Manifest) -> tuple[list[str], float]:
    spec, labels = pod["spec"], node["metadata"].get("labels") or {}
    if node["spec"].get("unschedulable"):
        return ["node(s) were unschedulable"], 0.0
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not any(
            _tolerates(one, taint) for one in spec.get("tolerations") or []
        ):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"], 0.0
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()) or not _affine(spec, labels):
        return ["node(s) didn't match Pod's node affinity/selector"], 0.0
    used: Counter[str] = Counter()
    for other in world.pods.all():
        if other["spec"].get("nodeName") == node["metadata"]["name"] and (other.get("status") or {}).get("phase") not in (
            "Failed",
            "Succeeded",
        ):
            used.update(requests(other))
    there = {name: quantity(told) for name, told in (node["status"].get("allocatable") or {}).items()}
    wanted = requests(pod)
    lacking = [name for name, amount in wanted.items() if used[name] + amount > there.get(name, 0.0)]
    if lacking:
        return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in lacking], 0.0
    return [], there.get("cpu", 0.0) - used["cpu"]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _affine(spec: Manifest, labels: Mapping[str, str]) -> bool:
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(
        selectors.of_object({"matchExpressions": term.get("matchExpressions") or []})(labels)
        for term in required["nodeSelectorTerms"]
    )


__all__ = ["choose", "quantity", "requests", "schedule"]

"""From Deployments, ReplicaSets and StatefulSets to pods, one step at a time: called again after every change until nothing is left to do."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes.api import Api, Cache, active, ready
from lamplighter.testing.kubernetes.times import now_text

_HASH = "pod-template-hash"
_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class World:
    """What the controllers see."""

    api: Api
    deployments: Cache
    replica_sets: Cache
    stateful_sets: Cache
    pods: Cache
    nodes: Cache
    claims: Cache


def owner(found: Manifest) -> Manifest:
    """The reference to an object as its dependents' controller."""
    return {
        "apiVersion": found["apiVersion"], "kind": found["kind"], "name": found["metadata"]["name"], "uid": found["metadata"]["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


def digest(template: Any) -> str:
    """A short name for a template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


async def write_status(world: World, cache: Cache, kind: Kind, found: Manifest, status: Mapping[str, Any]) -> None:
    """Write the status where it differs; moments of transitions stay as they were."""
    before = found.get("status") or {}
    told = dict(status)
    if "conditions" in told:
        old = {one["type"]: one for one in before.get("conditions") or []}
        told["conditions"] = [
            {**one, "lastTransitionTime": old[one["type"]].get("lastTransitionTime", now_text())}
            if one["type"] in old and old[one["type"]]["status"] == one["status"]
            else {**one, "lastTransitionTime": now_text()}
            for one in told["conditions"]
        ]
    if any(before.get(key) != value for key, value in told.items()):
        meta = found["metadata"]
        cache.heard(await world.api.merge(kind, meta["namespace"], meta["name"], {"status": told}, "status"))


async def _scale(world: World, cache: Cache, kind: Kind, found: Manifest, replicas: int) -> None:
    if int(found["spec"]["replicas"]) != replicas:
        meta = found["metadata"]
        cache.heard(await world.api.merge(kind, meta["namespace"], meta["name"], {"spec": {"replicas": replicas}}))
        verb = "up" if replicas > found["spec"]["replicas"] else "down"
        refs = meta.get("ownerReferences") or []
        if refs:
            about = {**refs[0], "metadata": {"name": refs[0]["name"], "namespace": meta["namespace"], "uid": refs[0]["uid"]}}
            await world.api.event(about, "ScalingReplicaSet", f"Scaled {verb} replica set {meta['name']} to {replicas}")


async def reconcile_deployment(world: World, found: Manifest) -> None:
    """Its ReplicaSet of today's template, those of older ones going, and its status."""
    if found["metadata"].get("deletionTimestamp"):
        return
    spec, wanted = found["spec"], int(found["spec"]["replicas"])
    hashed = digest(spec["template"])
    sets = world.replica_sets.owned_by(found["metadata"]["uid"])
    new = next((one for one in sets if one["metadata"]["labels"].get(_HASH) == hashed), None)
    old = [one for one in sets if one is not new]
    recreate = spec["strategy"]["type"] == "Recreate"
    surge, unavailable = _bounds(spec, wanted)
    running = sum(int(one["spec"]["replicas"]) for one in old)
    if new is None:
        first = (0 if running or any((one.get("status") or {}).get("replicas") for one in old) else wanted) if recreate else max(
            0, min(wanted, wanted + surge - running))  # fmt: skip
        new = await _new_set(world, found, hashed, first)
    current = int(new["spec"]["replicas"])
    if recreate:
        for one in old:
            await _scale(world, world.replica_sets, known.REPLICA_SET, one, 0)
        gone = not any(True for one in old for pod in world.pods.owned_by(one["metadata"]["uid"]))
        if gone:
            await _scale(world, world.replica_sets, known.REPLICA_SET, new, wanted)
    else:
        target = wanted if current > wanted or not old else min(wanted, current + max(0, wanted + surge - running - current))
        await _scale(world, world.replica_sets, known.REPLICA_SET, new, target)
        spare = _ready(world, new) + sum(_ready(world, one) for one in old) - (wanted - unavailable)
        for one in old:
            has, well = int(one["spec"]["replicas"]), _ready(world, one)
            less = min(has, (has - well) + max(0, spare))
            spare -= max(0, less - (has - well))
            await _scale(world, world.replica_sets, known.REPLICA_SET, one, has - less)
    await _deployment_status(world, found, new, [new, *old], wanted, unavailable)


def _bounds(spec: Manifest, wanted: int) -> tuple[int, int]:
    rolling = spec["strategy"].get("rollingUpdate") or {}

    def amount(told: Any, *, up: bool) -> int:
        if isinstance(told, str):
            part = wanted * int(told.removesuffix("%")) / 100
            return math.ceil(part) if up else math.floor(part)
        return int(told)

    surge, unavailable = amount(rolling.get("maxSurge", 0), up=True), amount(rolling.get("maxUnavailable", 0), up=False)
    return surge, 1 if surge == unavailable == 0 else unavailable


def _ready(world: World, replica_set: Manifest) -> int:
    return sum(ready(pod) and active(pod) for pod in world.pods.owned_by(replica_set["metadata"]["uid"]))


async def _new_set(world: World, found: Manifest, hashed: str, replicas: int) -> Manifest:
    meta, template = found["metadata"], json.loads(json.dumps(found["spec"]["template"]))
    template.setdefault("metadata", {}).setdefault("labels", {})[_HASH] = hashed
    selector = {"matchLabels": {**(found["spec"]["selector"].get("matchLabels") or {}), _HASH: hashed}}
    made = await world.api.create(
        known.REPLICA_SET, meta["namespace"],
        {
            "metadata": {"name": f"{meta['name']}-{hashed}", "namespace": meta["namespace"], "labels": template["metadata"]["labels"],
                         "ownerReferences": [owner(found)]},
            "spec": {"replicas": replicas, "selector": selector, "template": template},
        },
    )  # fmt: skip
    world.replica_sets.heard(made)
    if replicas:
        await world.api.event(found, "ScalingReplicaSet", f"Scaled up replica set {made['metadata']['name']} to {replicas}")
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", **made}


async def _deployment_status(
    world: World, found: Manifest, new: Manifest, sets: list[Manifest], wanted: int, unavailable: int
) -> None:
    pods = [pod for one in sets for pod in world.pods.owned_by(one["metadata"]["uid"]) if active(pod)]
    available = sum(map(ready, pods))
    updated = [pod for pod in world.pods.owned_by(new["metadata"]["uid"]) if active(pod)]
    enough = available >= wanted - unavailable
    done = len(updated) == len(pods) == wanted and available == wanted
    name = new["metadata"]["name"]
    conditions = [
        {"type": "Available", "status": str(enough), "reason": f"MinimumReplicas{'Available' if enough else 'Unavailable'}",
         "message": f"Deployment {'has' if enough else 'does not have'} minimum availability."},
        {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
         "message": f'ReplicaSet "{name}" {"has successfully progressed" if done else "is progressing"}.'},
    ]  # fmt: skip
    conditions += [one for one in (new.get("status") or {}).get("conditions") or [] if one["type"] == "ReplicaFailure"]
    status = {
        "observedGeneration": found["metadata"].get("generation", 1), "replicas": len(pods), "updatedReplicas": len(updated),
        "readyReplicas": available, "availableReplicas": available, "unavailableReplicas": max(0, wanted - available),
        "conditions": conditions,
    }  # fmt: skip
    await write_status(world, world.deployments, known.DEPLOYMENT, found, status)


async def reconcile_replica_set(world: World, found: Manifest) -> None:
    """As many pods as it wants, and its status with the reason when they cannot be made."""
    if found["metadata"].get("deletionTimestamp"):
        return
    pods = [pod for pod in world.pods.owned_by(found["metadata"]["uid"]) if active(pod)]
    wanted, failure = int(found["spec"]["replicas"]), None
    for _ in range(wanted - len(pods)):
        try:
            await make_pod(world, found, found["spec"]["template"], None)
        except KubernetesError as error:
            failure = error
            break
    for pod in sorted(pods, key=_first_to_go)[: max(0, len(pods) - wanted)]:
        await end_pod(world, found, pod)
    pods = [pod for pod in world.pods.owned_by(found["metadata"]["uid"]) if active(pod)]
    conditions: list[Manifest] = []
    if failure is not None:
        await world.api.event(found, "FailedCreate", f"Error creating: {failure.said or failure}", warning=True)
        conditions = [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": failure.said or str(failure)}
        ]
    well = sum(map(ready, pods))
    status = {
        "replicas": len(pods),
        "readyReplicas": well,
        "availableReplicas": well,
        "observedGeneration": found["metadata"].get("generation", 1),
        "conditions": conditions,
    }
    await write_status(world, world.replica_sets, known.REPLICA_SET, found, status)


def _first_to_go(pod: Manifest) -> tuple[bool, bool, int, str]:
    """Without a node, not ready, cheap, young: the order in which the real one takes pods away, in short."""
    cost = int((pod["metadata"].get("annotations") or {}).get(_COST, 0))
    age = pod["metadata"].get("creationTimestamp", "")
    return (bool(pod["spec"].get("nodeName")), ready(pod), cost, "".join(chr(255 - ord(letter)) for letter in age))


async def make_pod(world: World, found: Manifest, template: Manifest, name: str | None, **labels: str) -> Manifest:
    meta = found["metadata"]
    told = template.get("metadata") or {}
    names = {"name": name} if name else {"generateName": f"{meta['name']}-"}
    body = {
        "metadata": {
            **names, "namespace": meta["namespace"], "labels": {**(told.get("labels") or {}), **labels},
            "annotations": told.get("annotations") or {}, "ownerReferences": [owner(found)],
        },
        "spec": template["spec"],
    }  # fmt: skip
    made = await world.api.create(known.POD, meta["namespace"], body)
    world.pods.heard(made)
    await world.api.event(found, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
    return made


async def end_pod(world: World, found: Manifest, pod: Manifest) -> None:
    await world.api.delete(known.POD, pod)
    world.pods.heard({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": now_text()}})
    await world.api.event(found, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")


async def reconcile_stateful_set(world: World, found: Manifest) -> None:
    """Its pods by number: all at once, or one after the other was ready."""
    if found["metadata"].get("deletionTimestamp"):
        return
    meta, spec = found["metadata"], found["spec"]
    wanted, hashed = int(spec["replicas"]), digest(spec["template"])
    pods = {int(pod["metadata"]["name"].rpartition("-")[2]): pod for pod in world.pods.owned_by(meta["uid"])}
    ordered = spec["podManagementPolicy"] == "OrderedReady"
    for number in range(wanted):
        pod = pods.get(number)
        if pod is None:
            name = f"{meta['name']}-{number}"
            numbered = {"statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": str(number)}
            try:
                pods[number] = await make_pod(
                    world, found, spec["template"], name, **{"controller-revision-hash": f"{meta['name']}-{hashed}", **numbered}
                )
            except KubernetesError as error:
                if error.status != 409:  # the one before still ends
                    await world.api.event(
                        found,
                        "FailedCreate",
                        f"create Pod {name} in StatefulSet {meta['name']} failed error: {error.said or error}",
                        warning=True,
                    )
                break
        elif not active(pod) and not pod["metadata"].get("deletionTimestamp"):
            await world.api.delete(known.POD, pod)
        if ordered and number in pods and not ready(pods[number]):
            break
    for number in sorted((one for one in pods if one >= wanted), reverse=True):
        if not pods[number]["metadata"].get("deletionTimestamp"):
            await end_pod(world, found, pods[number])
            if ordered:
                break
    alive = [pod for pod in pods.values() if active(pod)]
    well = sum(map(ready, alive))
    mark = f"{meta['name']}-{hashed}"
    updated = [pod for pod in alive if pod["metadata"]["labels"].get("controller-revision-hash") == mark]
    if spec["updateStrategy"]["type"] == "RollingUpdate" and well == wanted:
        for pod in [one for one in alive if one not in updated][-1:]:
            await end_pod(world, found, pod)
    status = {
        "observedGeneration": meta.get("generation", 1), "replicas": len(alive), "readyReplicas": well, "availableReplicas": well,
        "currentReplicas": len(updated), "updatedReplicas": len(updated), "updateRevision": mark, "collisionCount": 0,
    }  # fmt: skip
    await write_status(world, world.stateful_sets, known.STATEFUL_SET, found, status)


__all__ = [
    "World", "digest", "end_pod", "make_pod", "owner", "reconcile_deployment", "reconcile_replica_set", "reconcile_stateful_set", "write_status",
]  # fmt: skip

"""LeaderWorkerSets: for each replica a leader pod and its workers, who know the leader's address. Where their definition is installed.

Source: the project's documentation (lws.sigs.k8s.io) of v1. Pods belong to the set itself here, not to StatefulSets in between; a group whose pod
fails is not made anew as a whole.
"""

import json

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes.api import active, ready
from lamplighter.testing.kubernetes.workloads import World, end_pod, make_pod

_LABELS = "leaderworkerset.sigs.k8s.io"


async def reconcile_group(world: World, found: Manifest) -> None:
    """Its groups of pods, and its status."""
    meta, spec = found["metadata"], found["spec"]
    if meta.get("deletionTimestamp"):
        return
    template = spec["leaderWorkerTemplate"]
    wanted, size = int(spec.get("replicas", 1)), int(template.get("size", 1))
    pods = {pod["metadata"]["name"]: pod for pod in world.pods.owned_by(meta["uid"])}
    for group in range(wanted):
        leader = f"{meta['name']}-{group}"
        address = f"{leader}.{meta['name']}.{meta['namespace']}"
        for index in range(size):
            name = leader if index == 0 else f"{leader}-{index}"
            if name in pods or (index and leader not in pods):
                continue
            chosen = template["workerTemplate"] if index else template.get("leaderTemplate") or template["workerTemplate"]
            labels = {
                f"{_LABELS}/name": meta["name"], f"{_LABELS}/group-index": str(group), f"{_LABELS}/worker-index": str(index),
                f"{_LABELS}/group-key": leader,
            }  # fmt: skip
            told = {"LWS_LEADER_ADDRESS": address, "LWS_GROUP_SIZE": str(size), "LWS_WORKER_INDEX": str(index)}
            pods[name] = await make_pod(world, found, _with(chosen, told), name, **labels)
    for pod in pods.values():
        if int(pod["metadata"]["labels"][f"{_LABELS}/group-index"]) >= wanted and active(pod):
            await end_pod(world, found, pod)
    alive = [pod for pod in pods.values() if active(pod)]
    groups = {
        group: [pod for pod in alive if pod["metadata"]["labels"][f"{_LABELS}/group-index"] == str(group)]
        for group in range(wanted)
    }
    well = sum(len(one) == size and all(map(ready, one)) for one in groups.values())
    status = {"replicas": sum(bool(one) for one in groups.values()), "readyReplicas": well, "updatedReplicas": well,
              "hpaPodSelector": f"{_LABELS}/name={meta['name']},{_LABELS}/worker-index=0"}  # fmt: skip
    if any((found.get("status") or {}).get(key) != value for key, value in status.items()):
        await world.api.merge(known.LEADER_WORKER_SET, meta["namespace"], meta["name"], {"status": status}, "status")


def _with(template: Manifest, variables: dict[str, str]) -> Manifest:
    """The template with variables in front of every container's own."""
    found: Manifest = json.loads(json.dumps(template))
    for container in found["spec"]["containers"]:
        container["env"] = [*({"name": name, "value": value} for name, value in variables.items()), *(container.get("env") or [])]
    return found


__all__ = ["reconcile_group"]

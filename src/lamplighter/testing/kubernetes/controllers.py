"""The controllers and the scheduler of a pretended cluster, as clients of its API server: Deployments become ReplicaSets become pods with a node.

Only for `FakeCluster`: a real one has its own. Enough of each for what Lamplighter relies on (rolling updates by surge, Recreate, stateful pods in
any order, why a pod could not be made, nodes that fell silent); not Jobs, DaemonSets, Services' endpoints or volumes.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Access
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes.api import NODE_LEASES, Api, Cache, condition, following
from lamplighter.testing.kubernetes.groups import reconcile_group
from lamplighter.testing.kubernetes.runner import Runner
from lamplighter.testing.kubernetes.scheduler import schedule
from lamplighter.testing.kubernetes.times import now_text
from lamplighter.testing.kubernetes.workloads import (
    World,
    reconcile_deployment,
    reconcile_replica_set,
    reconcile_stateful_set,
)

_TICK = 0.25
_UNREACHABLE = "node.kubernetes.io/unreachable"


class Controllers(Runner):
    """All of them. `node_grace`: seconds without a heartbeat after which a node is Unknown; `evict_after`: after which its pods are deleted.

    `scheduling`: whether pods get a node.
    """

    def __init__(self, access: Access, *, scheduling: bool = True, node_grace: float = 40.0, evict_after: float = 300.0) -> None:
        super().__init__("controllers")
        self._access = access
        self._scheduling = scheduling
        self._node_grace = node_grace
        self._evict_after = evict_after
        self._silent: dict[str, float] = {}

    async def run(self) -> None:
        """Reconcile everything whenever anything changed."""
        api, dirty = Api(self._access, "kube-controller-manager"), asyncio.Event()

        def cache(kind: known.Kind) -> Cache:
            return Cache(api, kind, dirty.set)

        world = World(
            api, cache(known.DEPLOYMENT), cache(known.REPLICA_SET), cache(known.STATEFUL_SET), cache(known.POD),
            cache(known.NODE), cache(known.CLAIM),
        )  # fmt: skip
        leases = cache(known.LEASE)
        groups = await self._groups(api, dirty.set)
        caches = [world.deployments, world.replica_sets, world.stateful_sets, world.pods, world.nodes, world.claims, leases]
        try:
            async with following(*caches, *([groups] if groups is not None else [])):
                self.ready.set()
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_TICK):
                            await dirty.wait()
                    dirty.clear()
                    await self._look(world, groups, leases)
        finally:
            await api.close()

    @staticmethod
    async def _groups(api: Api, changed: Callable[[], None]) -> Cache | None:
        """Where LeaderWorkerSets are installed when this starts, their controller works too."""
        try:
            await api.cluster.list(known.LEADER_WORKER_SET, "default")
        except KubernetesError:
            return None
        return Cache(api, known.LEADER_WORKER_SET, changed)

    async def _look(self, world: World, groups: Cache | None, leases: Cache) -> None:
        for one in world.deployments.all():
            await _patiently(reconcile_deployment(world, one))
        for one in world.stateful_sets.all():
            await _patiently(reconcile_stateful_set(world, one))
        for one in groups.all() if groups is not None else ():
            await _patiently(reconcile_group(world, one))
        for one in world.replica_sets.all():
            await _patiently(reconcile_replica_set(world, one))
        if self._scheduling:
            await _patiently(schedule(world))
        for node in world.nodes.all():
            await _patiently(self._check(world, node, leases))
        for claim in world.claims.all():
            if (claim.get("status") or {}).get("phase") != "Bound":
                bound = {
                    "status": {
                        "phase": "Bound",
                        "accessModes": claim["spec"].get("accessModes"),
                        "capacity": claim["spec"]["resources"]["requests"],
                    }
                }
                meta = claim["metadata"]
                await _patiently(
                    _keep(world.claims, world.api.merge(known.CLAIM, meta["namespace"], meta["name"], bound, "status"))
                )

    async def _check(self, world: World, node: Manifest, leases: Cache) -> None:
        """The life cycle of a node: what falls silent becomes Unknown, its pods are not ready, and later deleted."""
        name = node["metadata"]["name"]
        lease = next(
            (one for one in leases.all() if one["metadata"]["name"] == name and one["metadata"]["namespace"] == NODE_LEASES), None
        )
        if lease is None:
            return
        age = time.time() - datetime.strptime(lease["spec"]["renewTime"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
        if age < self._node_grace:
            if self._silent.pop(name, None) is not None:
                taints = [one for one in node["spec"].get("taints") or [] if one["key"] != _UNREACHABLE]
                await world.api.merge(known.NODE, None, name, {"spec": {"taints": taints}})
            return
        since = self._silent.setdefault(name, time.monotonic())
        if condition(node, "Ready") != "Unknown":
            told = {
                "type": "Ready",
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now_text(),
            }
            world.nodes.heard(await world.api.merge(known.NODE, None, name, {"status": {"conditions": [told]}}, "status"))
            taints = [
                *(node["spec"].get("taints") or []),
                {"key": _UNREACHABLE, "effect": "NoSchedule"},
                {"key": _UNREACHABLE, "effect": "NoExecute"},
            ]
            world.nodes.heard(await world.api.merge(known.NODE, None, name, {"spec": {"taints": taints}}))
        for pod in [one for one in world.pods.all() if one["spec"].get("nodeName") == name]:
            meta = pod["metadata"]
            if condition(pod, "Ready") == "True":
                conditions = [
                    {**one, "status": "False"} if one["type"] == "Ready" else one for one in pod["status"]["conditions"]
                ]
                patch = {"status": {"conditions": conditions, "reason": "NodeLost"}}
                world.pods.heard(await world.api.merge(known.POD, meta["namespace"], meta["name"], patch, "status"))
            if time.monotonic() - since > self._evict_after and not meta.get("deletionTimestamp"):
                await world.api.event(pod, "TaintManagerEviction", f"Marking for deletion Pod {meta['namespace']}/{meta['name']}")
                await world.api.delete(known.POD, pod)


async def _keep(cache: Cache, work: Awaitable[Manifest | None]) -> None:
    cache.heard(await work)


async def _patiently(work: Awaitable[None]) -> None:
    """What the API server refuses now, or what changed meanwhile, is done at the next look."""
    with contextlib.suppress(KubernetesError):
        await work


__all__ = ["Controllers"]

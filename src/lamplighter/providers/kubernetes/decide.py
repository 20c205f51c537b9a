"""How many replicas a workload gets and which pods go, so that exactly the doomed ones end. Pure.

Who makes pods is Kubernetes: a ReplicaSet chooses its victims by rules of its own, a StatefulSet always ends the highest ordinal. What is decided
here bends that to the contract's promise: nothing ends that is not doomed. Not responsible for calling anything (`provider`).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """A pod that its workload counts: neither being deleted nor over. `dead`: its engine has ended or will never serve, though the pod is there.

    `ordinal`: its place in a StatefulSet or LeaderWorkerSet. The rest is what a ReplicaSet looks at when it chooses whom to end.
    """

    name: str
    uid: str
    doomed: bool = False
    dead: bool = False
    ordinal: int | None = None
    assigned: bool = True
    running: bool = True
    ready: bool = True

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """A ReplicaSet ends the smallest first: without a node, then not running, then not ready."""
        return (self.assigned, self.running, self.ready)


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do, in this order. `cheap`: make cheap to end. `protect`: make dear. `delete`: by name. Then write `replicas`.

    `parked`: doomed pods that can only end once those with higher ordinals have.
    """

    replicas: int
    cheap: tuple[Held, ...] = ()
    protect: tuple[Held, ...] = ()
    delete: tuple[Held, ...] = ()
    parked: tuple[Held, ...] = ()


def decide(
    pods: Sequence[Held], replicas: int, wanted: int, *, forgone: int = 0, ordinals: bool = False, costs: bool = True
) -> Steps:
    """From `replicas` as they are written now, to `wanted` that serve or will.

    `forgone`: of the pods that are still to be made, how many are given up. `ordinals`: of a StatefulSet or LeaderWorkerSet. `costs`: whether the
    cluster knows the cost of a pod's deletion (Kubernetes 1.22 and newer).
    """
    if ordinals:
        return _ordered(pods, replicas, wanted, forgone)
    kept = [pod for pod in pods if not pod.doomed]
    doomed = [pod for pod in pods if pod.doomed]
    coming = max(0, replicas - len(pods) - forgone)
    more = max(0, wanted - coming - sum(not pod.dead for pod in kept))
    target = len(kept) + coming + more
    if not doomed:
        return Steps(target)
    if target == 0:
        return Steps(0)
    sure = all(gone.rank < stays.rank or (costs and gone.rank == stays.rank) for gone in doomed for stays in kept)
    if len(pods) - target == len(doomed) and sure:
        return Steps(target, cheap=tuple(doomed) if costs else ())
    # By name: what a ReplicaSet makes in their place meanwhile has no node yet, and is what it ends first when there are too many.
    protect = tuple(kept) if costs and target < replicas else ()
    return Steps(target, protect=protect, delete=tuple(doomed))


def _ordered(pods: Sequence[Held], replicas: int, wanted: int, forgone: int) -> Steps:
    by_ordinal = {pod.ordinal or 0: pod for pod in pods}
    absent = [place for place in range(replicas) if place not in by_ordinal]
    coming = set(absent[: max(0, len(absent) - forgone)])
    kept = {place for place, pod in by_ordinal.items() if not pod.doomed}
    more = max(0, wanted - len(coming) - sum(not by_ordinal[place].dead for place in kept))
    doomed = sorted(place for place, pod in by_ordinal.items() if pod.doomed)
    top = max((*kept, *coming), default=-1) + 1
    free = [place for place in (*absent, *doomed) if place < top and place not in coming]
    again = set(sorted(free)[:more])
    target = top + max(0, more - len(again))
    again |= {place for place in doomed if top <= place < target}
    return Steps(
        target,
        delete=tuple(by_ordinal[place] for place in doomed if place in again),
        parked=tuple(by_ordinal[place] for place in doomed if place < target and place not in again),
    )


def ordinal(name: str) -> int | None:
    """The place that the name of a StatefulSet's pod tells."""
    _, dash, last = name.rpartition("-")
    return int(last) if dash and last.isdigit() else None

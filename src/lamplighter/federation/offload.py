"""Opens a namespace of the home cluster, so that its pods run in the joined clusters: in a twin namespace of the same name, and only there.

The order matters: first the namespace's label, which sends every new pod through Liqo's webhook, then the NamespaceOffloading, then pods. A pod
that was there before stays Pending for ever; such pods are named, and can be made again. Not responsible for the pods otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamplighter.core.clock import Clock
from lamplighter.federation import names, objects
from lamplighter.federation.reach import Reach, Unheard
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import NAMESPACE, POD, Manifest
from lamplighter.providers.kubernetes.reading import deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of


@dataclass(frozen=True, slots=True)
class OffloadStatus:
    """`ready`: pods made now are placed as soon as there is a cluster for them. `twins`: by cluster, empty when well, else what is wrong.

    `phase` is Liqo's own word. `early`: pods that were made too early and will never be placed.
    """

    ready: bool
    phase: str = ""
    reason: str | None = None
    detail: str | None = None
    next_step: str = ""
    twins: Mapping[str, str] = field(default_factory=dict)
    early: tuple[str, ...] = ()


async def ensure(home: Cluster, namespace: str, *, clock: Clock | None = None) -> OffloadStatus:
    """One step towards an open namespace, and where it stands. Raises KubernetesError."""
    reach = Reach(home, "the home cluster", namespace, clock)
    try:
        space = await reach.ensure(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {names.SCHEDULING: "true"}}}
        )
        if deleting(space):
            return OffloadStatus(False, reason="terminating", detail=f"Namespace {namespace} is being deleted.")
        there = await reach.get(names.NAMESPACE_OFFLOADING, names.OFFLOADING)
        if there is not None and (status_ := _otherwise(there, namespace)) is not None:
            return status_
        made = await reach.ensure(objects.namespace_offloading(namespace))
        return _look(made, namespace, await _early(reach, made))
    except Unheard as unheard:
        if unheard.error.status == 404:
            return OffloadStatus(
                False, reason="liqo_missing", detail="Liqo is not installed in the home cluster.",
                next_step="`lamplighter federation install` puts it there.",
            )  # fmt: skip
        raise unheard.error from unheard


async def look(home: Cluster, namespace: str, *, clock: Clock | None = None) -> OffloadStatus:
    """Where it stands, changing nothing. Raises KubernetesError."""
    reach = Reach(home, "the home cluster", namespace, clock)
    try:
        there = await reach.get(names.NAMESPACE_OFFLOADING, names.OFFLOADING)
        if there is None:
            step = "`lamplighter federation offload` opens it."
            return OffloadStatus(False, reason="closed", detail=f"Namespace {namespace} is not offloaded.", next_step=step)
        return _otherwise(there, namespace) or _look(there, namespace, await _early(reach, there))
    except Unheard as unheard:
        raise unheard.error from unheard


async def recreate(home: Cluster, namespace: str, *, clock: Clock | None = None) -> tuple[str, ...]:
    """Delete pods that were made too early and that something makes again; their names. Others are left for whoever made them."""
    reach = Reach(home, "the home cluster", namespace, clock)
    try:
        offloading = await reach.get(names.NAMESPACE_OFFLOADING, names.OFFLOADING)
        if offloading is None:
            return ()
        early = [pod for pod in await reach.list(POD, namespace) if _is_early(pod, offloading) and _owned(pod)]
        for pod in early:
            await reach.delete(POD, pod)
        return tuple(sorted(map(name_of, early)))
    except Unheard as unheard:
        raise unheard.error from unheard


async def twin(remote: Cluster, namespace: str) -> str:
    """What is wrong with the twin namespace in a joined cluster, as that cluster shows it; empty when nothing is. Raises KubernetesError."""
    found = await remote.get_or_none(NAMESPACE, namespace)
    if found is None:
        return f"There is no namespace {namespace} yet."
    if deleting(found):
        return f"Namespace {namespace} is being deleted."
    if names.ORIGINAL_NAMESPACE not in ((found.get("metadata") or {}).get("annotations") or {}):
        return f"Namespace {namespace} is there, but Liqo did not make it: it refuses to share one that is somebody else's."
    return ""


def pod_annotations(runtime_class: str | None) -> dict[str, str]:
    """What a pod says so that it gets `runtime_class` in the other cluster, whatever the home cluster calls its own."""
    return {} if runtime_class is None else {names.RUNTIME_CLASS: runtime_class}


def pod_placement(node: str) -> dict[str, Any]:
    """Pins a pod to the virtual node of one cluster: a part of its spec. Liqo's webhook adds the toleration; here it is said all the same,

    with short ones for a lost cluster: pods of a node that is gone are evicted after 30 s, not after Kubernetes' five minutes."""
    gone = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
        for key in ("unreachable", "not-ready")
    ]
    return {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [{"key": names.NOT_ALLOWED, "operator": "Exists", "effect": "NoExecute"}, *gone],
    }


def _otherwise(there: Manifest, namespace: str) -> OffloadStatus | None:
    """Somebody opened it in another way: Liqo does not let that be changed."""
    if deleting(there):
        return OffloadStatus(
            False, "Terminating", "terminating", f"The offloading of {namespace} is being undone: its twins are deleted."
        )
    spec = there.get("spec") or {}
    strategy, mapping = spec.get("podOffloadingStrategy"), spec.get("namespaceMappingStrategy")
    if (strategy, mapping) == ("Remote", "EnforceSameName"):
        return None
    return OffloadStatus(
        False,
        str(status(there).get("offloadingPhase") or ""),
        "opened_otherwise",
        f"Namespace {namespace} is offloaded as {strategy} with {mapping}, not Remote with EnforceSameName.",
        (
            f"Undo it first: `kubectl -n {namespace} delete namespaceoffloading {names.OFFLOADING}`. That deletes the twin namespaces with all "
            "that is in them, volumes included."
        ),
    )


def _look(offloading: Manifest, namespace: str, early: Sequence[str]) -> OffloadStatus:
    said = status(offloading)
    phase = str(said.get("offloadingPhase") or "")
    twins = {
        str(cluster): wrong
        for cluster, conditions in (said.get("remoteNamespacesConditions") or {}).items()
        if (wrong := _twin(conditions or ())) is not None
    }
    broken = {cluster: wrong for cluster, wrong in twins.items() if wrong}
    reason, detail, step = None, None, ""
    if early:
        reason = "early_pods"
        detail = f"Made before {namespace} was opened, so never placed: {', '.join(early)}."
        step = "`lamplighter federation offload --recreate` deletes those that something makes again."
    elif phase in ("SomeFailed", "AllFailed") or broken:
        reason = "twin_failed"
        detail = "; ".join(f"{cluster}: {wrong}" for cluster, wrong in broken.items()) or f"Liqo says {phase}."
        step = f"A namespace {namespace} that was there before is not shared: delete it in the other cluster, or configure another one."
    elif phase == "NoClusterSelected":
        detail = "No cluster is joined yet."
    elif phase != "Ready":
        reason, detail = "in_progress", f"Liqo makes the twin namespaces ({phase or 'nothing said yet'})."
    name = str(said.get("remoteNamespaceName") or namespace)
    if name != namespace and reason is None:
        reason, detail = "other_name", f"The twin namespace is called {name}."
    ready = phase in ("Ready", "NoClusterSelected") and reason in (None, "early_pods")
    return OffloadStatus(ready, phase, reason, detail, step, twins, tuple(early))


def _twin(conditions: Sequence[Mapping[str, Any]]) -> str | None:
    """None: not offloaded to this cluster."""
    found = {one.get("type"): one for one in conditions}
    if found.get("OffloadingRequired", {}).get("status") == "False":
        return None
    ready = found.get("Ready", {})
    if ready.get("status") == "True":
        return ""
    return str(ready.get("message") or ready.get("reason") or "the twin namespace is not ready")


async def _early(reach: Reach, offloading: Manifest) -> tuple[str, ...]:
    return tuple(sorted(name_of(pod) for pod in await reach.list(POD, reach.namespace) if _is_early(pod, offloading)))


def _is_early(pod: Manifest, offloading: Manifest) -> bool:
    """Liqo's webhook gives a toleration to each pod that it sees: a pod without it, older than the offloading, it never saw."""
    spec, made = pod.get("spec") or {}, str((pod.get("metadata") or {}).get("creationTimestamp", ""))
    if deleting(pod) or spec.get("nodeName") or (status(pod).get("phase") or "Pending") != "Pending":
        return False
    if any(one.get("key") == names.NOT_ALLOWED for one in spec.get("tolerations") or ()) or labels(pod).get(names.OFFLOADED_POD):
        return False
    return made < str((offloading.get("metadata") or {}).get("creationTimestamp", ""))


def _owned(pod: Manifest) -> bool:
    return any(owner.get("controller") for owner in (pod.get("metadata") or {}).get("ownerReferences") or ())

"""Why a pod does not run, or runs no more: from its status and its events to the keeper's words, with a sentence and what to do. Pure.

The sentences of kubelet, scheduler, autoscalers and registries are theirs and differ between versions: each is looked for by a part that has
stayed the same, and what is not known is passed on as it is. Not responsible for when a pod is looked at (`observing`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.kubernetes.errors import admission
from lamplighter.providers.kubernetes.hindrance import A_WHILE, AT_ONCE, BRIEF, FOREVER, LONG, Hindrance
from lamplighter.providers.kubernetes.images import image_refused
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import Ended, Event, Running, condition, image, phase

__all__ = [
    "AT_ONCE", "A_WHILE", "BRIEF", "FOREVER", "LONG", "Hindrance", "Judge", "crashed", "disruption", "failed", "held_up", "last_lines", "leaving",
    "loss", "misconfigured", "not_made", "said_by_probe", "unscheduled", "unstartable",
]  # fmt: skip

F = WakeFailure
Judge = Callable[[str, int], tuple[WakeFailure, str]]
"""Why an engine ended, from the end of its log and its exit status."""

_SAID = 400
_LINES = 3


# --- before it has a node ---------------------------------------------------------------------------------------------------------------------

_HELPED = ("TriggeredScaleUp", "Nominated", "NominatedPod")
_UNHELPED = ("NotTriggerScaleUp",)
_UNHELPED_AFTER = 30.0
_SCALE_UP_FAILED = ("FailedScaleUp",)
_CLAIM_MISSING = re.compile(r'persistentvolumeclaim "(?P<name>[^"]+)" not found')
_PLACES: Sequence[tuple[str, str]] = (
    (r"Insufficient (?!cpu|memory|ephemeral-storage|pods)\S*gpu\S*|Insufficient \S+/\S+", "Free a GPU, add a node that has one, or let an autoscaler add it."),
    (r"had untolerated taint|had taint .*? that the pod didn't tolerate", "Add the taint to the pool's `tolerations`."),
    (r"didn't match Pod's node affinity|didn't match node selector|node\(s\) didn't match", "Correct the pool's `node_selector`, or label a node so."),
    (r"volume node affinity conflict", "The claim's volume is in another zone or on another node than every node that fits: use a node there."),
    (r"exceed max volume count", "Use a node that takes more volumes, or another one."),
    (r"Insufficient memory", "Lower the pool's `memory`, or add a node with more."),
    (r"Insufficient cpu", "Lower the pool's `cpu`, or add a node with more."),
    (r"Too many pods", "Add a node: those that there are hold no more pods."),
    (r"unschedulable", "Uncordon a node, or add one."),
)  # fmt: skip


def unscheduled(pod: Manifest, events: Sequence[Event]) -> Hindrance | None:
    """Why it has no node yet; None when nobody has tried."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "True" or (pod.get("spec") or {}).get("nodeName"):
        return None
    if scheduled.get("reason") == "SchedulingGated":
        return Hindrance(F.NO_CAPACITY, "Something holds its scheduling back (a scheduling gate).", FOREVER)
    said = str(scheduled.get("message") or "") or _last(events, ("FailedScheduling",))
    if not said:
        return None
    said = " ".join(said.split())[:_SAID]
    if missing := _CLAIM_MISSING.search(said):
        return Hindrance(
            F.PROVIDER_ERROR,
            f"There is no PersistentVolumeClaim {missing['name']}. Create it, or correct the pool's `cache.claim`.",
            BRIEF,
        )
    if "unbound immediate PersistentVolumeClaims" in said:
        return Hindrance(
            F.PROVIDER_ERROR,
            f"Its PersistentVolumeClaim has no volume: {said} Look at `kubectl describe pvc`: no storage class, or no volume that fits.",
            A_WHILE,
        )
    steps = " ".join(step for pattern, step in _PLACES if re.search(pattern, said))
    no_place = f"No node takes it: {said} {steps}".strip()
    newest = max(
        (one for one in events if one.reason in (*_HELPED, *_UNHELPED, *_SCALE_UP_FAILED)), key=lambda one: one.at, default=None
    )
    if newest is not None and newest.reason in _HELPED:
        return Hindrance(F.NO_CAPACITY, f"A node is being added ({newest.message[:160]})", FOREVER)
    if newest is not None and newest.reason in _SCALE_UP_FAILED:
        quota = re.search(r"quota|limit", newest.message, re.IGNORECASE)
        return Hindrance(
            F.QUOTA if quota else F.NO_CAPACITY, f"The autoscaler could not add a node: {newest.message[:_SAID]}", LONG
        )
    if newest is not None:
        return Hindrance(F.NO_CAPACITY, f"{no_place} The autoscaler does not help: {newest.message[:_SAID]}", _UNHELPED_AFTER)
    return Hindrance(F.NO_CAPACITY, no_place, LONG)


# --- on its node, before its engine runs ------------------------------------------------------------------------------------------------------

_IMAGE_WAITS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError",
                "SignatureValidationFailed")  # fmt: skip
_KUBELET_SECRET = re.compile(r'secret "(?P<name>[^"]+)" not found')
_KUBELET_KEY = re.compile(r"couldn't find key (?P<key>\S+) in Secret (?P<name>\S+)")
_KUBELET_MAP = re.compile(r'configmap "(?P<name>[^"]+)" not found')


def held_up(pod: Manifest, engine: Running, events: Sequence[Event], *, container: str, namespace: str) -> Hindrance | None:
    """What keeps a container of a pod with a node from starting; None when nothing is known to."""
    reason, message = engine.waiting
    if reason in _IMAGE_WAITS:
        pulls = [
            one.message
            for one in sorted(events, key=lambda one: one.at)
            if one.reason == "Failed" and "pull image" in one.message
        ]
        return image_refused(image(pod, container), f"{reason} {message} {pulls[-1] if pulls else ''}", pod, namespace)
    if reason == "CreateContainerConfigError":
        return misconfigured(message, namespace)
    if reason in ("CreateContainerError", "RunContainerError", "StartError", "PostStartHookError", "PreCreateHookError"):
        return unstartable(message)
    return _mounts(events)


def misconfigured(said: str, namespace: str) -> Hindrance:
    """A Secret, a ConfigMap or the image's user that the kubelet stumbles over before it makes a container."""
    if key := _KUBELET_KEY.search(said):
        name = key["name"].rpartition("/")[2]
        return Hindrance(
            F.PROVIDER_ERROR,
            f"The Secret {name} has no key {key['key']}. Add it: `kubectl -n {namespace} edit secret {name}`.",
            BRIEF,
        )
    if secret := _KUBELET_SECRET.search(said):
        name = secret["name"].rpartition("/")[2]
        return Hindrance(
            F.PROVIDER_ERROR,
            f"There is no Secret {name} in namespace {namespace}. Make it: `kubectl -n {namespace} create secret generic {name} "
            "--from-literal=KEY=VALUE` (KEY as the pool's setting names it).",
            BRIEF,
        )
    if config_map := _KUBELET_MAP.search(said):
        return Hindrance(
            F.PROVIDER_ERROR, f"There is no ConfigMap {config_map['name'].rpartition('/')[2]} in namespace {namespace}.", BRIEF
        )
    if "runAsNonRoot" in said or "run as root" in said:
        return Hindrance(F.BAD_IMAGE, f"The image insists on running as root, which these pods may not: {said[:_SAID]}")
    return Hindrance(F.PROVIDER_ERROR, f"The kubelet cannot make its container: {said[:_SAID]}", BRIEF)


def unstartable(said: str) -> Hindrance:
    """A container that was made and cannot begin."""
    if re.search(r"nvidia-container-cli|nvidia-container-runtime|CDI device|libcuda|could not select device driver", said):
        return Hindrance(
            F.ENGINE_MISSING,
            f"The node's GPU cannot be given to a container: {said[:_SAID]} Check its driver and the device plugin.",
            BRIEF,
        )
    if re.search(r"executable file not found|no such file or directory|permission denied|exec format error", said):
        return Hindrance(F.BAD_IMAGE, f"The image's program cannot be started: {said[:_SAID]}", BRIEF)
    return Hindrance(F.ENGINE_CRASHED, f"The container cannot be started: {said[:_SAID]}", A_WHILE)


def _mounts(events: Sequence[Event]) -> Hindrance | None:
    newest = max(
        (
            one
            for one in events
            if one.reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume")
        ),
        key=lambda one: one.at,
        default=None,
    )
    if newest is None or any(one.reason in ("Pulling", "Pulled", "Started", "Created") and one.at > newest.at for one in events):
        return None
    said = newest.message[:_SAID]
    if "Multi-Attach" in said or "already exclusively attached" in said:
        return Hindrance(
            F.PROVIDER_ERROR,
            f"Its volume is still attached to another node: {said} One node at a time can have it (ReadWriteOnce).",
            300.0,
        )
    if secret := _KUBELET_SECRET.search(said):
        return Hindrance(F.PROVIDER_ERROR, f"There is no Secret {secret['name']}, which it mounts.", A_WHILE)
    if newest.reason == "FailedCreatePodSandBox":
        handler = re.search(r'no runtime for "?(?P<name>[^"\s]+)', said)
        if handler:
            return Hindrance(
                F.ENGINE_MISSING,
                f"The node has no container runtime {handler['name']!r}: install it there, or change the pool's `runtime_class`.",
                A_WHILE,
            )
        return Hindrance(F.PROVIDER_ERROR, f"The node cannot set up the pod: {said}", LONG)
    return Hindrance(F.PROVIDER_ERROR, f"Its volume cannot be mounted: {said}", LONG)


# --- an engine that ended ---------------------------------------------------------------------------------------------------------------------

_SIGNS: Sequence[tuple[WakeFailure, str, str]] = (
    (F.OUT_OF_MEMORY, r"(?:CUDA|HIP) out of memory|OutOfMemoryError|cudaMalloc failed|failed to allocate .*buffer|No available memory for the cache",
     "The GPU's memory does not suffice."),
    (F.OUT_OF_MEMORY, r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory", "There was not enough memory."),
    (F.GATED_MODEL, r"GatedRepoError|gated repo|[Aa]ccess to model .* is restricted|401 Client Error|403 Client Error|Invalid (?:user token|credentials)",
     "The hub does not give this model without its licence accepted and a token: set the pool's `hub_token_secret`."),
    (F.MODEL_NOT_FOUND, r"RepositoryNotFoundError|RevisionNotFoundError|EntryNotFoundError|404 Client Error|pull model manifest: file does not exist",
     "There is no such model."),
    (F.DISK_FULL, r"No space left on device|Disk quota exceeded", "The disk is full: raise the pool's `cache.size` or the claim."),
    (F.MODEL_CORRUPT, r"SafetensorError|HeaderTooLarge|digest mismatch|invalid magic|checksum", "A file of the model is damaged."),
    (F.DOWNLOAD_FAILED, r"Temporary failure in name resolution|ConnectionError|MaxRetryError|Could not resolve host|no such host|LocalEntryNotFoundError",
     "The hub cannot be reached: do the namespace's network policies let the pods out?"),
    (F.ENGINE_MISSING, r"No CUDA GPUs|NVIDIA driver|no CUDA-capable device|CUDA driver version is insufficient|Failed to infer device type",
     "The engine finds no GPU that it can use: check driver, device plugin and the pool's `runtime_class`."),
    (F.ENGINE_REFUSED, r"error: (?:unrecognized|argument|invalid)|invalid argument|unknown (?:argument|option)", "The engine does not accept its arguments."),
    (F.PROVIDER_ERROR, r"[Rr]ead-only file system|PermissionError|[Pp]ermission denied", "The engine may not write where it wants to."),
)  # fmt: skip


def crashed(ended: Ended, log: str, judge: Judge | None, memory: str = "") -> Hindrance:
    """Why the engine ended, from its status and the end of its log."""
    text = log or ended.message
    if ended.reason == "OOMKilled":
        limit = f" ({memory})" if memory else ""
        return Hindrance(
            F.OUT_OF_MEMORY,
            f"The kernel ended it: it used more memory than its limit{limit}. Raise the pool's `memory`, or use a smaller model.",
        )
    lines = f" Its last words: {last_lines(text)}" if text.strip() else ""
    if ended.reason in ("ContainerCannotRun", "StartError"):
        return replace(unstartable(ended.message), patience=AT_ONCE)
    if judge is not None and text.strip():
        reason, sentence = judge(text, ended.code)
        if reason is not F.ENGINE_CRASHED:
            return Hindrance(reason, f"{sentence}{lines}")
    for reason, pattern, sentence in _SIGNS:
        if re.search(pattern, text):
            return Hindrance(reason, f"{sentence}{lines}")
    how = "was killed (SIGKILL)" if ended.code == 137 else f"ended with status {ended.code}"
    return Hindrance(F.ENGINE_CRASHED, f"The engine {how}.{lines}")


def said_by_probe(said: str) -> Hindrance | None:
    """What a startup probe's own command said that means that it will never pass; None when waiting may help."""
    text = said.partition("failed:")[2].strip() or said
    for reason, pattern, sentence in _SIGNS:
        if reason not in (F.ENGINE_REFUSED, F.PROVIDER_ERROR) and re.search(pattern, text):
            patience = A_WHILE if reason is F.DOWNLOAD_FAILED else BRIEF
            return Hindrance(reason, f"{sentence} It said: {last_lines(text)}", patience)
    return None


def last_lines(text: str, count: int = _LINES) -> str:
    """The last lines that say something, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-600:]


# --- pods that are over, or going -------------------------------------------------------------------------------------------------------------

_NOT_ADMITTED: Mapping[str, WakeFailure] = {
    "UnexpectedAdmissionError": F.NO_CAPACITY,
    "NodeAffinity": F.NO_CAPACITY,
    "NodeShutdown": F.NO_CAPACITY,
    "Shutdown": F.NO_CAPACITY,
    "Preempting": F.NO_CAPACITY,
}
_DISRUPTIONS: Mapping[str, str] = {
    "PreemptionByScheduler": "A pod with a higher priority took its place.",
    "DeletionByTaintManager": "Its node was lost or tainted.",
    "EvictionByEvictionAPI": "It was evicted: its node is being drained.",
    "DeletionByPodGC": "Its node is gone.",
    "TerminationByKubelet": "Its node ended it, for want of memory or disk, or because the node shut down.",
}
_GOING: Sequence[tuple[str, str]] = (
    ("Preempted", "A pod with a higher priority took its place."),
    ("TaintManagerEviction", "Its node was lost or tainted."),
    ("Evicted", "It was evicted."),
    ("Disrupted", "Its node is being replaced."),
    ("NodeNotReady", "Its node does not answer any more."),
)


def failed(pod: Manifest) -> Hindrance:
    """Why a pod is over (its phase is Failed or Succeeded)."""
    status = pod.get("status") or {}
    reason, message = str(status.get("reason") or ""), " ".join(str(status.get("message") or "").split())[:_SAID]
    if reason == "Evicted":
        full = re.search(r"ephemeral.storage|EmptyDir|disk", message)
        memory = re.search(r"low on resource: memory", message)
        return Hindrance(F.DISK_FULL if full else F.OUT_OF_MEMORY if memory else F.NO_CAPACITY, f"Its node evicted it: {message}")
    if reason in _NOT_ADMITTED or reason.startswith(("OutOf", "Outof")):
        return Hindrance(F.NO_CAPACITY, f"Its node did not take it ({reason}): {message}")
    return Hindrance(F.ENGINE_CRASHED, f"Its pod is over ({reason or phase(pod)}){': ' + message if message else '.'}")


def disruption(pod: Manifest, events: Sequence[Event]) -> str:
    """Who or what is ending a pod that nobody doomed, for people."""
    target = condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        sentence = _DISRUPTIONS.get(str(target.get("reason")), f"It is being ended ({target.get('reason')}).")
        return f"{sentence} {' '.join(str(target.get('message') or '').split())[:200]}".strip()
    for reason, sentence in _GOING:
        if (event := next((one for one in events if one.reason == reason), None)) is not None:
            return f"{sentence} {event.message[:200]}".strip()
    return "Its pod was deleted by somebody."


def loss(pod: Manifest) -> LossReason:
    """What the loss of a pod that served counts as."""
    reason = str((pod.get("status") or {}).get("reason") or "")
    return (
        LossReason.CRASHED
        if phase(pod) in ("Failed", "Succeeded") and reason in ("", "Error", "OOMKilled")
        else LossReason.VANISHED
    )


def leaving(node: Manifest) -> str | None:
    """Why pods of a node had better be replaced; None when nothing says so."""
    name = (node.get("metadata") or {}).get("name")
    spec = node.get("spec") or {}
    for taint in spec.get("taints") or ():
        key = str(taint.get("key") or "")
        if key in ("karpenter.sh/disrupted", "karpenter.sh/disruption"):
            return f"Karpenter is about to replace the node {name}."
        if key == "ToBeDeletedByClusterAutoscaler":
            return f"The cluster autoscaler is removing the node {name}."
        if key.startswith("aws-node-termination-handler/"):
            return f"AWS takes the node {name} back ({key.partition('/')[2]})."
        if key in ("node.cloudprovider.kubernetes.io/shutdown", "node.kubernetes.io/out-of-service"):
            return f"The node {name} is shut down."
        if key == "cloud.google.com/impending-node-termination":
            return f"The cloud takes the node {name} back."
    return f"The node {name} is cordoned: it is probably being drained." if spec.get("unschedulable") else None


# --- pods that were never made ----------------------------------------------------------------------------------------------------------------


def not_made(said: str) -> Hindrance:
    """Why the controller of a workload cannot make its pods."""
    said = " ".join(said.split())[:_SAID]
    match admission(said):
        case "quota":
            return Hindrance(
                F.QUOTA,
                f"The namespace's quota does not admit another pod: {said} Raise the ResourceQuota, or lower what the pool asks for.",
                20.0,
            )
        case "limit_range":
            return Hindrance(F.QUOTA, f"The namespace's LimitRange does not admit the pod: {said}")
        case "pod_security":
            return Hindrance(F.PROVIDER_ERROR, f"The namespace's PodSecurity level does not admit the pod: {said}")
        case "service_account":
            return Hindrance(F.PROVIDER_ERROR, f"The pool's `service_account` does not exist: {said}", BRIEF)
        case "priority":
            return Hindrance(F.PROVIDER_ERROR, f"The pool's `priority_class` does not exist: {said}")
        case "runtime_class":
            return Hindrance(F.PROVIDER_ERROR, f"The pool's `runtime_class` does not exist: {said}")
        case str():
            return Hindrance(F.PROVIDER_ERROR, f"The cluster does not admit the pod: {said}", BRIEF)
        case None:
            return Hindrance(F.PROVIDER_ERROR, f"The cluster cannot make the pod: {said}", 20.0)


def _last(events: Sequence[Event], reasons: Sequence[str]) -> str:
    found = [one for one in events if one.reason in reasons]
    return max(found, key=lambda one: one.at).message if found else ""

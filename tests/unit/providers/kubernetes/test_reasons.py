"""What kubelets, schedulers, autoscalers and registries say, in the keeper's words. The sentences are theirs, of several versions."""

from typing import Any

import pytest

from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.providers.kubernetes import reasons
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import Ended, Event, container, event, moment
from lamplighter.providers.kubernetes.stages import Words, progress, stages

F = WakeFailure
IMAGE = "ghcr.io/o/engine:1"


def pod(waiting: tuple[str, str] | None = None, *, scheduled: str | None = None, **status: Any) -> Manifest:
    """One with one container."""
    conditions = [{"type": "PodScheduled", "status": "True"}]
    if scheduled is not None:
        conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": scheduled}]
    statuses = [{"name": "engine", "state": {"waiting": {"reason": waiting[0], "message": waiting[1]}}}] if waiting else []
    return {
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-11-29T00:00:00Z"},
        "spec": {"containers": [{"name": "engine", "image": IMAGE}], **({} if scheduled is not None else {"nodeName": "n"})},
        "status": {"phase": "Pending", "conditions": conditions, "containerStatuses": statuses, **status},
    }


def said(reason: str, message: str, at: float = 1.0) -> Event:
    """An event."""
    return Event(reason, message, at)


def held_up(one: Manifest, *events: Event) -> reasons.Hindrance | None:
    """What holds a pod up on its node."""
    return reasons.held_up(one, container(one, "engine"), events, container="engine", namespace="models")


NO_GPU = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }."
OLD_TAINT = "0/1 nodes are available: 1 node(s) had taint {gpu: true}, that the pod didn't tolerate."


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (NO_GPU, ("Free a GPU", "`tolerations`")),
        (OLD_TAINT, ("`tolerations`",)),
        ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.", ("`node_selector`",)),
        ("0/2 nodes are available: 2 node(s) didn't match node selector.", ("`node_selector`",)),
        ("0/2 nodes are available: 2 node(s) had volume node affinity conflict.", ("another zone",)),
        ("0/2 nodes are available: 2 Insufficient memory.", ("`memory`",)),
        ("0/2 nodes are available: 1 Too many pods, 1 Insufficient cpu.", ("`cpu`", "hold no more pods")),
        ("0/1 nodes are available: 1 Insufficient amd.com/gpu.", ("Free a GPU",)),
    ],
)
def test_why_no_node_takes_it(message: str, words: tuple[str, ...]) -> None:
    """The scheduler's sentence names the fact; a person wants the setting."""
    found = reasons.unscheduled(pod(scheduled=message), ())
    assert found is not None
    assert found.failure is F.NO_CAPACITY
    for word in words:
        assert word in found.detail
    assert "GPU" not in found.detail or "gpu" in message


@pytest.mark.parametrize(
    ("events", "failure", "patience", "words"),
    [
        ([said("TriggeredScaleUp", "pod triggered scale-up: [{gpu 0->1 (max: 3)}]")], F.NO_CAPACITY, reasons.FOREVER, "gpu 0->1"),
        ([said("Nominated", "Pod should schedule on: nodeclaim/gpu-x7")], F.NO_CAPACITY, reasons.FOREVER, "nodeclaim/gpu-x7"),
        ([said("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")], F.NO_CAPACITY, 30.0, "max node group size"),
        ([said("TriggeredScaleUp", "x", 1), said("NotTriggerScaleUp", "1 in backoff after failed scale-up", 2)], F.NO_CAPACITY, 30.0, "in backoff"),
        ([said("NotTriggerScaleUp", "x", 1), said("TriggeredScaleUp", "gpu 0->1", 2)], F.NO_CAPACITY, reasons.FOREVER, "gpu 0->1"),
        ([said("FailedScaleUp", "Node scale up in zones eu-a failed: out of resources")], F.NO_CAPACITY, reasons.LONG, "out of resources"),
        ([said("FailedScaleUp", "failed: GCE quota exceeded")], F.QUOTA, reasons.LONG, "quota"),
        ([], F.NO_CAPACITY, reasons.LONG, "Free a GPU"),
    ],
)  # fmt: skip
def test_what_an_autoscaler_does_decides_how_long_is_waited(
    events: list[Event], failure: WakeFailure, patience: float, words: str
) -> None:
    """A node that comes must be waited for; one that will never come must not keep people waiting."""
    found = reasons.unscheduled(pod(scheduled=NO_GPU), events)
    assert found is not None
    assert (found.failure, found.patience) == (failure, patience)
    assert words in found.detail


def test_a_pod_with_a_node_is_not_unscheduled() -> None:
    """An old event would hold up what runs."""
    assert reasons.unscheduled(pod(), [said("FailedScheduling", NO_GPU)]) is None
    assert reasons.unscheduled({"metadata": {}, "spec": {}, "status": {}}, ()) is None


ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/e:1"
OLD_KUBELET = (
    'rpc error: code = Unknown desc = failed to pull and unpack image "x": failed to resolve reference "x": pulling from host failed with '
    "status code [manifests 1]: 403 Forbidden"
)


def test_an_older_kubelet_says_the_reason_only_in_its_events() -> None:
    """`Back-off pulling image` is all that the status of 1.20 to 1.30 tells."""
    one = pod(("ImagePullBackOff", f'Back-off pulling image "{ECR}"'))
    one["spec"]["containers"][0]["image"] = ECR
    assert (blind := held_up(one)) is not None
    assert blind.failure is F.DOWNLOAD_FAILED
    found = held_up(one, said("Failed", f'Failed to pull image "{ECR}": {OLD_KUBELET}'), said("Failed", "Error: ErrImagePull", 2))
    assert found is not None
    assert found.failure is F.BAD_IMAGE
    assert found.patience == reasons.AT_ONCE
    assert "(pulling from host failed with status code [manifests 1]: 403 Forbidden)" in found.detail


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("no basic auth credentials", F.BAD_IMAGE),
        ("Your authorization token has expired. Reauthenticate and try again.: denied", F.BAD_IMAGE),
        ("pull access denied, repository does not exist or may require authorization", F.BAD_IMAGE),
        ("toomanyrequests: You have reached your unauthenticated pull rate limit", F.DOWNLOAD_FAILED),
        ("dial tcp: lookup ghcr.io: no such host", F.DOWNLOAD_FAILED),
        ("net/http: TLS handshake timeout", F.DOWNLOAD_FAILED),
        ("x509: certificate signed by unknown authority", F.BAD_IMAGE),
        ("no space left on device", F.DISK_FULL),
        ("manifest unknown", F.BAD_IMAGE),
    ],
)
def test_images(message: str, failure: WakeFailure) -> None:
    """A stumble of the network given up at once, or a typing mistake waited for, are both wrong."""
    found = held_up(pod(("ErrImagePull", message)))
    assert found is not None
    assert found.failure is failure
    assert (found.patience > 0) is (failure is not F.BAD_IMAGE or "x509" in message)


@pytest.mark.parametrize(
    ("reason", "message", "failure", "words"),
    [
        ("CreateContainerConfigError", 'secret "hf" not found', F.PROVIDER_ERROR, "create secret generic hf"),
        ("CreateContainerConfigError", "couldn't find key token in Secret models/hf", F.PROVIDER_ERROR, "no key token"),
        ("CreateContainerConfigError", 'configmap "c" not found', F.PROVIDER_ERROR, "no ConfigMap c"),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", F.BAD_IMAGE, "insists on running as root"),
        ("RunContainerError", "nvidia-container-cli: initialization error: nvml error: driver not loaded", F.ENGINE_MISSING, "driver"),
        ("CreateContainerError", 'exec: "vllm": executable file not found in $PATH', F.BAD_IMAGE, "program"),
    ],
)  # fmt: skip
def test_containers_that_cannot_begin(reason: str, message: str, failure: WakeFailure, words: str) -> None:
    """Each of these says `CreateContainerError` in kubectl's list."""
    found = held_up(pod((reason, message)))
    assert found is not None
    assert found.failure is failure
    assert words in found.detail


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) x', "still attached"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "s" : secret "gone" not found', "no Secret gone"),
        ("FailedMount", "Unable to attach or mount volumes: timed out waiting for the condition", "cannot be mounted"),
        ("FailedCreatePodSandBox", 'no runtime for "nvidia" is configured', "`runtime_class`"),
    ],
)
def test_volumes_and_sandboxes(reason: str, message: str, words: str) -> None:
    """`ContainerCreating` for ten minutes says nothing at all."""
    one = pod(("ContainerCreating", ""))
    found = held_up(one, said(reason, message))
    assert found is not None
    assert words in found.detail
    assert found.patience > 0
    assert held_up(one, said(reason, message), said("Pulling", "x", 2.0)) is None, "it got over that"


def test_an_engine_knows_its_own_log_best() -> None:
    """vLLM says how many tokens would fit; the general signs do not know."""
    log = (
        "ValueError: To serve at least one request with the models's max seq len (131072), (14.00 GiB KV cache is needed, which is larger than "
        "the available KV cache memory (8.50 GiB). Based on the available memory, the estimated maximum model length is 79552."
    )
    found = reasons.crashed(Ended(1), log, Vllm().judge)
    assert found.failure is F.OUT_OF_MEMORY
    assert "79552" in found.detail
    killed = reasons.crashed(Ended(137, "Error"), "", None)
    assert (killed.failure, "SIGKILL" in killed.detail) == (F.ENGINE_CRASHED, True)
    kept = reasons.crashed(Ended(1, "Error", "Traceback\nRuntimeError: CUDA out of memory"), "", None)
    assert kept.failure is F.OUT_OF_MEMORY, "where logs may not be read, the container's last message has to do"


@pytest.mark.parametrize(
    ("reason", "message", "failure"),
    [
        ("Evicted", 'Usage of EmptyDir volume "weights" exceeds the limit "100Gi".', F.DISK_FULL),
        ("Evicted", "The node was low on resource: memory.", F.OUT_OF_MEMORY),
        ("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present", F.NO_CAPACITY),
        ("OutOfnvidia.com/gpu", "Pod was rejected: Node didn't have enough resource", F.NO_CAPACITY),
        ("NodeShutdown", "Pod was rejected as the node is shutting down.", F.NO_CAPACITY),
    ],
)
def test_pods_that_are_over(reason: str, message: str, failure: WakeFailure) -> None:
    """Their containers say nothing any more."""
    one = pod(phase="Failed", reason=reason, message=message)
    assert reasons.failed(one).failure is failure
    assert message[:20] in reasons.failed(one).detail
    assert reasons.loss(one) is LossReason.VANISHED


@pytest.mark.parametrize(
    ("condition", "words"),
    [("PreemptionByScheduler", "higher priority"), ("EvictionByEvictionAPI", "drained"), ("DeletionByPodGC", "node is gone"), ("New", "New")],
)  # fmt: skip
def test_who_ends_a_pod(condition: str, words: str) -> None:
    """An answer broke off, and somebody wants to know whose doing it was."""
    one = pod()
    one["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": condition})
    assert words in reasons.disruption(one, ())
    assert "Its node is being replaced" in reasons.disruption(pod(), [said("Disrupted", "Pod disrupted")])
    assert reasons.disruption(pod(), ()) == "Its pod was deleted by somebody."


def test_a_startup_probe_that_will_never_pass() -> None:
    """An Ollama that cannot pull its model runs on and says so to its probe alone."""
    found = reasons.said_by_probe("Startup probe failed: Error: pull model manifest: file does not exist")
    assert found is not None
    assert found.failure is F.MODEL_NOT_FOUND
    assert reasons.said_by_probe("Startup probe failed: HTTP probe failed with statuscode: 503") is None


@pytest.mark.parametrize(
    ("state", "last", "restarts", "ends"),
    [
        ({"waiting": {"reason": "ContainerCreating"}}, {}, 0, 0),
        ({"running": {"startedAt": "2026-11-29T00:00:03Z"}}, {}, 0, 0),
        ({"terminated": {"exitCode": 1}}, {}, 0, 1),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, {"terminated": {"exitCode": 1}}, 0, 1),
        ({"running": {"startedAt": "2026-11-29T00:00:03Z"}}, {"terminated": {"exitCode": 1}}, 1, 1),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, {"terminated": {"exitCode": 1}}, 1, 2),
    ],
)
def test_how_often_an_engine_ended(state: dict[str, Any], last: dict[str, Any], restarts: int, ends: int) -> None:
    """Between its end and its next start a kubelet has not counted it yet: a crash that was told would be taken back for a moment."""
    one = pod(containerStatuses=[{"name": "engine", "state": state, "lastState": last, "restartCount": restarts}])
    assert container(one, "engine").ends == ends


def test_times_and_events_of_both_apis() -> None:
    """Newer controllers write events without the fields that older ones fill."""
    old = {"reason": "A", "message": "m", "lastTimestamp": "2026-11-29T00:00:01Z", "source": {"component": "kubelet"}, "count": 3}
    new = {
        "reason": "A",
        "message": "m",
        "lastTimestamp": None,
        "eventTime": "2026-11-29T00:00:02.500000Z",
        "reportingComponent": "karpenter",
    }
    assert (event(old).at, event(old).source, event(old).count) == (moment("2026-11-29T00:00:01Z"), "kubelet", 3)
    assert (event(new).at, event(new).source) == (moment("2026-11-29T00:00:02.5Z"), "karpenter")
    assert moment("nonsense") is None
    assert event({}).at == 0.0


def test_stages_never_lie_in_the_future_nor_out_of_order() -> None:
    """A cluster's clock that is ahead would show a wake that ends before it begins."""
    one = pod(podIP="10.0.0.1")
    one["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-29T00:00:05Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-29T00:00:02Z"},
    ]
    one["status"]["containerStatuses"] = [
        {"name": "engine", "ready": True, "started": True, "state": {"running": {"startedAt": "2026-11-29T00:00:03Z"}}}
    ]
    began = moment("2026-11-29T00:00:00Z") or 0.0
    found = stages(one, container(one, "engine"), (), Words(), began + 4, loaded=True, detail=None)
    assert [stage.name for stage in found] == ["schedule", "pull", "load"]
    times = [at for stage in found for at in (stage.started_at, stage.ended_at)]
    assert times == sorted(at or 0.0 for at in times)
    assert max(at or 0.0 for at in times) <= began + 4


def test_progress_is_what_the_log_says_last() -> None:
    """A bar that stands still although the log counts."""
    assert progress("Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:02<00:02]")[0] == 0.5
    assert progress("hf:o/m: 1.6 GB of 6.4 GB (25%), 210 MB/s") == (0.25, "hf:o/m: 1.6 GB of 6.4 GB (25%), 210 MB/s")
    assert progress("loading") == (None, "loading")
    assert progress("") == (None, None)

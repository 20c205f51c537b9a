"""Why a wake in a cluster fails: the real reason, in a sentence with what to do, from pods that fail as real ones do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.testing.kubernetes.outcomes import Fault, Outcome
from tests.contract.kubernetes_world import MODELS, NAMESPACE, FakeWorld, fake_world, pool

F = WakeFailure
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/engines/vllm:1"
FORBIDDEN = 'failed to pull and unpack image "x": failed to resolve reference "x": unexpected status from HEAD request to https://x: 403 Forbidden'


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world(settings=pool(memory="8 GiB", image_pull_secrets=["ecr"])) as world:
        yield world


def failed(seen: Sequence[Observation]) -> bool:
    """Whether one replica says that it will never serve."""
    return len(seen) == 1 and seen[0].failure is not None


async def fails(world: FakeWorld, outcome: Outcome, image: str | None = None) -> Observation:
    """What a wake is told that turns out so."""
    world.kubelet.outcomes["*"] = outcome
    if image is not None:
        world.models["one"] = MODELS["one"].model_copy(update={"image": image})
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (seen,) = await world.until(failed, seconds=10)
    assert seen.detail is not None
    assert seen.endpoint is None
    return seen


async def test_an_expired_token_of_ecr_is_told_with_the_command_that_renews_it(world: FakeWorld) -> None:
    """The commonest failure of private images on AWS would read like a typing mistake in the image's name."""
    seen = await fails(world, Outcome(Fault.IMAGE_PULL, message=FORBIDDEN), ECR)
    assert seen.failure is F.BAD_IMAGE
    assert "token expired" in (seen.detail or "")
    assert "create secret docker-registry ecr" in (seen.detail or "")
    assert "aws ecr get-login-password --region eu-central-1" in (seen.detail or "")
    assert f"-n {NAMESPACE}" in (seen.detail or "")


@pytest.mark.parametrize(
    ("message", "failure", "words"),
    [
        ('rpc error: code = NotFound desc = failed to resolve reference "docker.io/a/b:1": docker.io/a/b:1: not found', F.BAD_IMAGE, "There is no image"),
        ("unexpected status from GET request to https://ghcr.io/v2: 401 Unauthorized", F.BAD_IMAGE, "the pull secret ecr does not open it"),
        ("no match for platform in manifest sha256:1: not found", F.BAD_IMAGE, "kind of processor"),
        ("write /var/lib/containerd/x: no space left on device", F.DISK_FULL, "no room"),
    ],
)  # fmt: skip
async def test_an_image_that_cannot_be_pulled(world: FakeWorld, message: str, failure: WakeFailure, words: str) -> None:
    """A person would have to know kubectl to learn what is wrong with the image."""
    world.provider._memory.held = lambda *_: 1e9  # type: ignore[method-assign] # long enough
    seen = await fails(world, Outcome(Fault.IMAGE_PULL, message=message))
    assert seen.failure is failure
    assert words in (seen.detail or "")


async def test_a_registry_that_stumbles_does_not_fail_the_wake(world: FakeWorld) -> None:
    """A wake would be given up for a timeout that the kubelet itself gets over."""
    world.kubelet.outcomes["*"] = Outcome(Fault.IMAGE_PULL, times=2, message="dial tcp 10.0.0.1:443: i/o timeout", pull=0.01)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    details = set[str]()

    def met(seen: Sequence[Observation]) -> bool:
        assert all(one.failure is None for one in seen)
        details.update(str(stage.detail) for one in seen for stage in one.stages)
        return bool(seen) and seen[0].endpoint is not None

    await world.until(met)
    assert any("i/o timeout" in detail for detail in details)


@pytest.mark.parametrize(
    ("outcome", "failure", "words"),
    [
        (Outcome(Fault.OOM_KILLED), F.OUT_OF_MEMORY, "8.0 GiB"),
        (Outcome(Fault.CRASH, logs=("loading", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")), F.OUT_OF_MEMORY, "GPU's memory"),
        (Outcome(Fault.CRASH, logs=("x", "huggingface_hub.errors.GatedRepoError: 401 Client Error.")), F.GATED_MODEL, "licence accepted"),
        (Outcome(Fault.CRASH, logs=("api_server.py: error: unrecognized arguments: --nonsense",), exit=2), F.ENGINE_REFUSED, "--nonsense"),
        (Outcome(Fault.CRASH, logs=("first", "second", "KeyError: 'rope'")), F.ENGINE_CRASHED, "KeyError: 'rope'"),
        (Outcome(Fault.PRELOAD, logs=("OSError: [Errno 28] No space left on device",)), F.DISK_FULL, "preload"),
    ],
)  # fmt: skip
async def test_an_engine_that_ends_while_it_starts_says_why(outcome: Outcome, failure: WakeFailure, words: str) -> None:
    """CrashLoopBackOff is no reason: the engine's own last words are."""
    async with fake_world(settings=pool(memory="8 GiB", preload=True)) as world:
        seen = await fails(world, outcome)
        assert seen.failure is failure
        assert words in (seen.detail or "")
        if outcome.fault is not Fault.PRELOAD:
            assert seen.presence is Presence.ENDED
            assert seen.loss is LossReason.CRASHED


async def no_node(settings: dict[str, Any], words: str, *, gpus: int = 8) -> None:
    """A wake that nobody has a node for: told at once, failed only after a while."""
    async with fake_world(settings=pool(**settings), gpus=gpus) as world:
        await world.provider.scale(Desired({"one": 1}), frozenset())
        waiting = await world.until(lambda seen: bool(seen) and bool(seen[0].stages) and bool(seen[0].stages[-1].detail))
        assert waiting[0].failure is None
        assert waiting[0].stages[-1].name == "schedule"
        assert words in (waiting[0].stages[-1].detail or "")
        world.provider._memory.held = lambda *_: 125.0  # type: ignore[method-assign]
        (seen,) = await world.until(failed)
        assert seen.failure is F.NO_CAPACITY
        assert words in (seen.detail or "")


async def test_no_gpu_is_free() -> None:
    """The usual reason in a cluster of one's own."""
    await no_node({"gpus": 4}, "Free a GPU", gpus=2)


async def test_no_node_has_the_labels() -> None:
    """A typing mistake in node_selector would look like a cluster that is full."""
    await no_node({"node_selector": {"node-type": "gpu"}}, "`node_selector`")


async def test_an_autoscaler_that_adds_a_node_is_waited_for(world: FakeWorld) -> None:
    """A GPU node takes minutes to come: giving up meanwhile would never serve anybody."""
    world.cluster.delete("Node", "node-1")
    world.kubelet.stop()
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: bool(seen) and bool(seen[0].stages[-1].detail))
    name = one.handle.rpartition(".")[0]
    pod = world.cluster.get("Pod", name, NAMESPACE)
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.1", "namespace": NAMESPACE},
             "involvedObject": {"kind": "Pod", "name": name, "namespace": NAMESPACE, "uid": pod["metadata"]["uid"]},
             "reason": "TriggeredScaleUp", "message": "pod triggered scale-up: [{gpu-group 0->1 (max: 3)}]", "type": "Normal",
             "lastTimestamp": "2099-01-01T00:00:00Z", "source": {"component": "cluster-autoscaler"}}  # fmt: skip
    world.cluster.create(event)
    world.provider._memory.held = lambda *_: 600.0  # type: ignore[method-assign]
    (one,) = await world.until(lambda seen: "being added" in str(seen[0].stages[-1].detail))
    assert one.failure is None


async def test_a_wake_at_its_deadline_tells_what_it_waited_for() -> None:
    """`boot_deadline` alone would send a person to search where the answer is known."""
    async with fake_world(settings=pool(gpus=9, boot_deadline="2s")) as world:
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (seen,) = await world.until(failed, seconds=10)
        assert seen.failure is F.NO_CAPACITY


async def test_a_claim_that_does_not_exist() -> None:
    """The cache's name is written by hand."""
    async with fake_world(settings=pool(cache={"kind": "claim", "claim": "weights"})) as world:
        world.provider._memory.held = lambda *_: 15.0  # type: ignore[method-assign]
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (seen,) = await world.until(failed)
        assert "no PersistentVolumeClaim weights" in (seen.detail or "")
        assert "cache.claim" in (seen.detail or "")


async def test_a_secret_that_does_not_exist() -> None:
    """A gated model's token in the wrong namespace."""
    async with fake_world(settings=pool(hub_token_secret="hub/token")) as world:
        world.provider._memory.held = lambda *_: 15.0  # type: ignore[method-assign]
        await world.provider.scale(Desired({"one": 1}), frozenset())
        (seen,) = await world.until(failed)
        assert f"kubectl -n {NAMESPACE} create secret generic hub" in (seen.detail or "")


async def test_a_pod_that_the_cluster_does_not_admit(world: FakeWorld) -> None:
    """There is no pod whose status could tell: the reason stands with whoever should have made it."""
    world.cluster.fail(
        "create", "pods", 403, None, message='pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
    )  # fmt: skip
    await world.provider.scale(Desired({"one": 1}), frozenset())
    (seen,) = await world.until(failed)
    assert seen.presence is Presence.ENDED
    assert "PodSecurity" in (seen.detail or "")
    await world.provider.scale(Desired({}), frozenset({seen.handle}))
    assert not await world.until(lambda seen: not seen)
    assert world.cluster.all("Deployment", NAMESPACE)[0]["spec"]["replicas"] == 0


async def test_a_quota_that_is_used_up_is_waited_for_a_little_and_then_told(world: FakeWorld) -> None:
    """A quota that a pod on its way out still holds must not fail the wake of its successor."""
    world.cluster.fail(
        "create", "pods", 403, None,
        message='pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2, limited: 2',
    )  # fmt: skip
    await world.provider.scale(Desired({"one": 1}), frozenset())
    for _ in range(20):
        assert not await world.provider.observe()
        await asyncio.sleep(0.02)
    world.provider._memory.held_other = lambda *_: 30.0  # type: ignore[method-assign]
    (seen,) = await world.until(failed)
    assert seen.failure is F.QUOTA
    assert "ResourceQuota" in (seen.detail or "")


async def test_an_evicted_pod_is_a_loss_with_its_reason_and_is_replaced(world: FakeWorld) -> None:
    """What a node did to an answer that broke off would stay a riddle."""
    world.kubelet.outcomes["*"] = Outcome(Fault.EVICTED, after=0.3)
    (one,) = await world.wake()
    seen = await world.until(lambda seen: any(x.handle == one.handle and x.presence is Presence.ENDED for x in seen))
    lost = next(x for x in seen if x.handle == one.handle)
    assert lost.loss is LossReason.VANISHED
    assert "low on resource" in (lost.detail or "")


async def test_a_pod_that_somebody_deletes_is_told_until_doomed(world: FakeWorld) -> None:
    """`kubectl delete pod` while people are answered: the keeper must learn of it and not take it for its own doing."""
    (one,) = await world.wake()
    world.cluster.delete("Pod", one.handle.rpartition(".")[0], NAMESPACE)
    await world.until(lambda seen: any(x.handle == one.handle and x.presence is not Presence.RUNNING for x in seen))
    seen = await world.until(lambda seen: any(x.handle == one.handle and x.presence is Presence.ENDED for x in seen))
    lost = next(x for x in seen if x.handle == one.handle)
    assert lost.loss is LossReason.VANISHED
    assert "deleted by somebody" in (lost.detail or "")
    await world.provider.scale(Desired({"one": 1}), frozenset({one.handle}))
    (other,) = await world.until(lambda seen: len(seen) == 1 and seen[0].endpoint is not None)
    assert other.handle != one.handle


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: node["spec"].update(unschedulable=True), "cordoned"),
        (lambda node: node["spec"].update(taints=[{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]), "Karpenter"),
        (
            lambda node: node["spec"].update(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]),
            "autoscaler",
        ),
    ],
)
async def test_a_node_that_is_about_to_go_is_noticed(
    world: FakeWorld, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    """The successor would only be begun when the answers have already been cut."""
    await world.wake()
    world.cluster.edit("Node", "node-1", change)
    (one,) = await world.until(lambda seen: seen[0].notice is not None)
    assert words in str(one.notice and one.notice.detail)
    assert one.presence is Presence.RUNNING

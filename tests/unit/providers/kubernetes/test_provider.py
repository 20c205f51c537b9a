"""The provider on a cluster that fails: permissions, watches, an API server that goes, other writers, workloads that others made."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.base import Desired, Presence
from lamplighter.providers.kubernetes import names, provider, scaling
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes.cluster import FakeCluster
from lamplighter.testing.kubernetes.controllers import Controllers
from lamplighter.testing.kubernetes.kubelet import Kubelet
from tests.contract.kubernetes_world import MODELS, NAMESPACE, RULES, FakeWorld, KubernetesWorld, fake_world, pool, role

NAME = names.workload_name("gpu", "one")


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world() as world:
        yield world


def deployment(world: FakeWorld, kind: str = "Deployment") -> dict[str, Any]:
    """The model's workload."""
    return world.cluster.get(kind, NAME, NAMESPACE)


# --- one writer of replicas -------------------------------------------------------------------------------------------------------------------


async def test_replicas_are_in_nobodys_manifest(world: FakeWorld) -> None:
    """An upgrade of the chart, or our own next apply, would put a model to sleep or wake it."""
    await world.wake()
    fields = deployment(world)["metadata"]["managedFields"]
    for entry in fields:
        if entry["manager"] == "lamplighter-keeper" and entry["operation"] == "Apply":
            assert "f:replicas" not in entry["fieldsV1"]["f:spec"]
    world.models["one"] = MODELS["one"].model_copy(update={"image": "other:2"})
    (one,) = await world.provider.observe()
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await world.until(lambda seen: not seen)
    assert deployment(world)["spec"]["replicas"] == 0
    await world.wake()
    assert deployment(world)["spec"]["replicas"] == 1
    assert deployment(world)["spec"]["template"]["spec"]["containers"][0]["image"] == "other:2"


async def test_a_setting_that_is_taken_back_leaves_the_manifest(world: FakeWorld) -> None:
    """A toleration of last year would stay for ever because somebody owned it once."""
    tolerant = pool(tolerations=[{"key": "a", "operator": "Exists"}])
    first = world.make("ins_ours", tolerant)
    await first.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: len(seen) == 1, first)
    assert deployment(world)["spec"]["template"]["spec"]["tolerations"]
    await first.scale(Desired({}), frozenset({one.handle}))
    await world.until(lambda seen: not seen, first)
    await world.wake()
    assert "tolerations" not in deployment(world)["spec"]["template"]["spec"]


async def test_somebody_who_scales_by_hand_is_named(world: FakeWorld) -> None:
    """Two writers fight: the person must learn who the other one is."""
    await world.wake()
    world.cluster.scale("Deployment", NAME, 3, NAMESPACE, manager="kubectl")
    seen = await world.until(lambda seen: len(seen) == 3)
    assert all("kubectl also writes the replicas" in (one.detail or "") for one in seen)


async def test_somebody_who_scales_to_nothing_is_the_reason_of_the_loss(world: FakeWorld) -> None:
    """The answers that broke off were cut by an autoscaler, and nobody would know."""
    await world.wake()
    world.cluster.scale("Deployment", NAME, 0, NAMESPACE, manager="horizontal-pod-autoscaler")
    (one,) = await world.until(lambda seen: len(seen) == 1 and seen[0].presence is Presence.ENDED)
    assert one.loss is LossReason.VANISHED
    assert "horizontal-pod-autoscaler" in (one.detail or "")


async def test_replicas_are_never_written_over_a_change_that_was_not_seen(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other keeper's launch, a moment ago, would be taken back, or its pod ended in the middle of an answer."""
    refused: list[int] = []
    written = Cluster.patch_scale

    async def late(self: Cluster, kind: Kind, title: str, namespace: str, replicas: int, **options: Any) -> Manifest:
        if not refused:
            world.cluster.merge("Deployment", title, {"metadata": {"annotations": {"someone": "else"}}}, namespace)
        try:
            return await written(self, kind, title, namespace, replicas, **options)
        except KubernetesError as error:
            refused.append(error.status)
            raise

    monkeypatch.setattr(Cluster, "patch_scale", late)
    await world.provider.scale(Desired({"one": 1}), frozenset())
    assert set(refused) == {409}  # more than once, when a controller writes a status in between
    assert deployment(world)["spec"]["replicas"] == 1


async def test_two_keepers_at_once_launch_once(world: FakeWorld) -> None:
    """A change of leader in the wrong moment would cost a second GPU."""
    second = world.another()
    await asyncio.gather(world.provider.scale(Desired({"one": 1}), frozenset()), second.scale(Desired({"one": 1}), frozenset()))
    await world.until(lambda seen: len(seen) == 1 and seen[0].endpoint is not None)
    assert deployment(world)["spec"]["replicas"] == 1


async def test_a_workload_of_another_installation_is_left_alone(world: FakeWorld) -> None:
    """Two trials in one namespace would overwrite each other's models."""
    await world.wake()
    before = deployment(world)
    with pytest.raises(ProviderError, match="another installation"):
        await world.foreign().scale(Desired({"one": 1}), frozenset())
    assert deployment(world)["spec"] == before["spec"]


# --- settings that change ---------------------------------------------------------------------------------------------------------------------


async def test_what_runs_is_not_replaced_under_its_answers(world: FakeWorld) -> None:
    """A Deployment whose template changes ends its pods by itself, whoever they are answering."""
    (old,) = await world.wake()
    world.models["one"] = MODELS["one"].model_copy(update={"image": "other:2"})
    await world.provider.scale(Desired({"one": 2}), frozenset())
    assert [one.handle for one in await world.provider.observe()] == [old.handle]
    await world.provider.scale(Desired({"one": 1}), frozenset({old.handle}))
    await world.until(lambda seen: not seen)
    (new,) = await world.wake()
    assert new.handle != old.handle
    pod = world.cluster.get("Pod", new.handle.rpartition(".")[0], NAMESPACE)
    assert pod["spec"]["containers"][0]["image"] == "other:2"


async def test_a_failed_model_does_not_hold_up_another(world: FakeWorld) -> None:
    """One wrong setting would keep every other model of the pool asleep."""
    world.models["two"] = MODELS["two"].model_copy(update={"engine": "openai"})
    await world.provider.scale(Desired({"one": 1, "two": 1}), frozenset())
    seen = await world.until(lambda seen: any(one.endpoint is not None for one in seen))
    (failed,) = [one for one in seen if one.models == ("two",)]
    assert failed.failure is WakeFailure.ENGINE_MISSING
    await world.provider.scale(Desired({"one": 1}), frozenset({failed.handle}))
    assert {one.models for one in await world.provider.observe()} == {("one",)}


# --- a cluster that is not well ---------------------------------------------------------------------------------------------------------------


async def test_a_cut_watch_is_resumed(world: FakeWorld) -> None:
    """A load balancer in front of the API server cuts idle connections: the keeper must not go blind."""
    await world.wake()
    world.cluster.cut_watches()
    await world.provider.observe()
    world.cluster.compact()
    world.cluster.cut_watches()
    await world.wake(2)


async def test_an_api_server_that_is_gone_for_a_moment_is_nothing(world: FakeWorld) -> None:
    """An upgrade of the control plane takes seconds: models that serve go on serving."""
    (before,) = await world.wake()
    world.cluster.stop()
    (during,) = await world.provider.observe()
    assert during.handle == before.handle
    assert during.endpoint == before.endpoint
    world.cluster.start()
    await world.wake(2)


async def test_an_api_server_that_stays_away_is_said(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that goes on with what it knew an hour ago ends or starts what is not there."""
    await world.wake()
    monkeypatch.setattr(provider, "STALE", 0.2)
    world.cluster.stop()
    with pytest.raises(ProviderError, match="cannot be reached") as raised:
        await world.until(lambda _: False, seconds=10)
    assert raised.value.reason is WakeFailure.UNREACHABLE
    assert raised.value.next_step
    world.cluster.start()
    monkeypatch.undo()
    await world.wake(2)


async def test_a_slow_api_server_does_not_hold_up_a_look(world: FakeWorld) -> None:
    """One slow cluster would slow down every other pool."""
    await world.wake()
    world.cluster.latency = 8.0
    began = time.monotonic()
    await world.provider.observe()
    assert time.monotonic() - began < 4.0
    world.cluster.heal()


async def test_a_server_that_limits_us_is_asked_again(world: FakeWorld) -> None:
    """Priority and fairness answers 429 under load: that is no failure of a wake."""
    world.cluster.fail("patch", "deployments", 429, 1, retry_after=0)
    await world.wake()


async def test_no_cluster_at_all_is_said_with_the_fix(tmp_path: Any) -> None:
    """The first thing that a newcomer meets."""
    world = KubernetesWorld(Access(kubeconfig=tmp_path / "none"))
    with pytest.raises(ProviderError, match="cannot be read") as raised:
        await world.provider.observe()
    assert "kubeconfig" in raised.value.next_step
    await world.close()


# --- permissions ------------------------------------------------------------------------------------------------------------------------------


def grant(world: FakeWorld, rules: list[dict[str, Any]]) -> None:
    """Give the keeper's account these, and nothing else."""
    for manifest in role(NAMESPACE, rules):
        world.cluster.apply(manifest)


@pytest.fixture
async def guarded() -> AsyncIterator[FakeWorld]:
    with FakeCluster(rbac=True) as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        kubelet = Kubelet(cluster.access(), gpus=8)
        token = cluster.account(NAMESPACE, "keeper")
        with Controllers(cluster.access()), kubelet:
            world = FakeWorld(cluster, kubelet)
            world.access = cluster.access(token, NAMESPACE)
            world.provider = world.make("ins_ours")
            try:
                yield world
            finally:
                await world.close()


async def test_the_role_of_the_chart_is_enough(guarded: FakeWorld) -> None:
    """A keeper that needs more than it is given works on the developer's machine alone."""
    grant(guarded, RULES)
    (one,) = await guarded.wake()
    await guarded.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await guarded.until(lambda seen: not seen)


@pytest.mark.parametrize(
    ("resource", "verb", "words"),
    [
        ("pods", "list", 'resources: ["pods"], verbs: ["list"]'),
        ("deployments/scale", "patch", 'apiGroups: ["apps"], resources: ["deployments/scale"], verbs: ["patch"]'),
        ("secrets", "create", 'resources: ["secrets"], verbs: ["create"]'),
    ],
)
async def test_a_denied_call_names_the_rule_that_is_missing(guarded: FakeWorld, resource: str, verb: str, words: str) -> None:
    """`403` alone sends a person into the documentation of RBAC."""
    rules = [
        {**rule, "verbs": [one for one in rule["verbs"] if not (resource in rule["resources"] and one == verb)]} for rule in RULES
    ]
    grant(guarded, rules)
    with pytest.raises(ProviderError) as raised:
        await guarded.provider.scale(Desired({"one": 1}), frozenset())
    assert f"system:serviceaccount:{NAMESPACE}:keeper may not {verb}" in raised.value.message
    assert words in raised.value.next_step
    assert f"namespace {NAMESPACE}" in raised.value.next_step


async def test_logs_and_events_may_be_denied(guarded: FakeWorld) -> None:
    """Where they are refused, a wake still works: only its words are fewer."""
    grant(guarded, [rule for rule in RULES if rule["resources"] not in (["pods/log"], ["events"])])
    await guarded.wake()


# --- other kinds of workloads -----------------------------------------------------------------------------------------------------------------


async def test_stateful_sets_keep_their_promise_as_far_as_they_can() -> None:
    """A StatefulSet ends its highest pod: the keeper's victim in the middle must not cost another one its answers."""
    async with fake_world(settings=pool(workload="statefulset")) as world:
        await world.provider.scale(Desired({"one": 2}), frozenset())
        low, high = sorted(
            await world.until(lambda seen: len(seen) == 2 and all(one.endpoint for one in seen)), key=lambda one: one.handle
        )
        await world.provider.scale(Desired({"one": 1}), frozenset({low.handle}))
        seen = {one.handle: one.presence for one in await world.provider.observe()}
        assert seen == {low.handle: Presence.STOPPING, high.handle: Presence.RUNNING}
        adopted = world.another()
        assert {one.handle: one.presence for one in await adopted.observe()} == seen
        await world.provider.scale(Desired({}), frozenset({low.handle, high.handle}))
        assert not await world.until(lambda seen: not seen)
        assert deployment(world, "StatefulSet")["spec"]["replicas"] == 0


async def test_workloads_that_gitops_made_are_only_scaled(world: FakeWorld) -> None:
    """Argo CD and the keeper would undo each other's manifests."""
    gitops = pool(manage=False)
    keeper = world.make("ins_ours", gitops)
    with pytest.raises(ProviderError, match="leaves making it to others"):
        await keeper.scale(Desired({"one": 1}), frozenset())
    made = world.make("ins_ours", gitops)._scaling.workload("one", NAMESPACE)
    world.cluster.apply({**made.object, "spec": {**made.object["spec"], "replicas": 0}}, manager="argocd")
    world.cluster.apply(made.service, manager="argocd")
    await world.provider.scale(Desired({}), frozenset())
    before = deployment(world)
    await keeper.scale(Desired({"one": 1}), frozenset())
    (one,) = await world.until(lambda seen: len(seen) == 1, keeper)
    after = deployment(world)
    assert after["spec"] == {**before["spec"], "replicas": 1}
    await keeper.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen, keeper)


async def test_a_model_over_several_machines_is_one_replica() -> None:
    """The keeper would route requests to machines that only compute."""
    with FakeCluster() as cluster:
        cluster.define("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets", scale=True)
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        with Controllers(cluster.access()), Kubelet(cluster.access(), gpus=8) as kubelet:
            world = FakeWorld(cluster, kubelet, settings=pool(nodes=2))
            try:
                await world.provider.scale(Desired({"one": 1}), frozenset())
                (one,) = await world.until(lambda seen: len(seen) == 1 and seen[0].endpoint is not None)
                pods = cluster.all("Pod", NAMESPACE)
                assert len(pods) == 2
                assert sorted(pod["metadata"]["labels"][names.ROLE] for pod in pods) == ["engine", "member"]
                await world.provider.scale(Desired({}), frozenset({one.handle}))
                assert not await world.until(lambda seen: not seen)
            finally:
                await world.close()


# --- small promises ---------------------------------------------------------------------------------------------------------------------------


async def test_an_engine_that_the_kubelet_restarted_before_we_came_counts(world: FakeWorld) -> None:
    """A crash of last week that Kubernetes got over would end a model that serves."""
    (one,) = await world.wake()
    name = one.handle.rpartition(".")[0]
    world.kubelet.crash(name)
    end = time.monotonic() + 10
    while (
        not (status := world.cluster.get("Pod", name, NAMESPACE)["status"]["containerStatuses"][0])["restartCount"]
        or not status["ready"]
    ):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    (seen,) = await world.another().observe()
    assert seen.presence is Presence.RUNNING
    assert seen.endpoint is not None


async def test_the_key_is_made_once_and_demanded(world: FakeWorld) -> None:
    """A second key would lock the gateway out of pods that have the first one."""
    (one,) = await world.wake()
    assert one.endpoint is not None
    assert one.endpoint.key
    assert one.endpoint.key.startswith("lle-")
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await world.until(lambda seen: not seen)
    await world.wake()
    (other,) = await world.another().observe()
    assert other.endpoint is not None
    assert other.endpoint.key == one.endpoint.key


async def test_doomed_pods_are_given_to_autoscalers(world: FakeWorld) -> None:
    """A pod on its way out would hold its node for the length of its grace."""
    await world.provider.scale(Desired({"one": 2}), frozenset())
    first, _ = await world.until(lambda seen: len(seen) == 2 and all(one.endpoint for one in seen))
    marked: dict[str, str] = {}
    original = world.provider._scaling._mark

    async def mark(cluster: Any, namespace: str, pod: Any, found: Any, *, doomed: bool) -> None:
        await original(cluster, namespace, pod, found, doomed=doomed)
        marked.update(world.cluster.get("Pod", pod.name, NAMESPACE)["metadata"]["annotations"])

    world.provider._scaling._mark = mark  # type: ignore[method-assign]
    await world.provider.scale(Desired({"one": 1}), frozenset({first.handle}))
    assert marked[names.DELETION_COST] == "-1000"
    assert marked[names.SAFE_TO_EVICT] == "true"


async def test_renewal_is_written_on_what_runs(world: FakeWorld) -> None:
    """The janitor would put a model to sleep under the eyes of its keeper."""
    await world.wake()
    world.provider._renewed_at = float("-inf")
    await world.provider.renew()
    assert names.RENEWED in deployment(world)["metadata"]["annotations"]


async def test_what_is_left_of_a_model_that_is_no_more_is_removed(world: FakeWorld) -> None:
    """Every model that was ever tried would leave a Deployment and a Service behind."""
    (one,) = await world.wake()
    del world.models["one"]
    world.provider._renewed_at = float("-inf")
    await world.provider.renew()
    assert world.cluster.find("Deployment", NAME, NAMESPACE), "it still answers"
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    await world.until(lambda seen: not seen)
    world.provider._renewed_at = float("-inf")
    await world.provider.renew()
    assert world.cluster.find("Deployment", NAME, NAMESPACE) is None
    end = time.monotonic() + 10
    while world.cluster.find("Service", NAME, NAMESPACE) is not None:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_pod_that_hangs_on_a_dead_node_is_removed_by_force(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replica would be `stopping` for ever, and its place in the pool taken."""
    (one,) = await world.wake()
    world.kubelet.die()
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    name = one.handle.rpartition(".")[0]
    await world.until(lambda _: "deletionTimestamp" in world.cluster.get("Pod", name, NAMESPACE)["metadata"])
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert await world.provider.observe(), "it has its grace"
    monkeypatch.setattr(scaling, "STUCK_AFTER", -3600.0)
    await world.provider.scale(Desired({}), frozenset({one.handle}))
    assert not await world.until(lambda seen: not seen)


async def test_a_price_is_no_reason_for_new_pods(world: FakeWorld) -> None:
    """A second replica would wait until the first one sleeps, because of a number that no pod knows."""
    await world.wake()
    world.models["one"] = MODELS["one"].model_copy(update={"aliases": ["gpt-4o"]})
    await world.wake(2)

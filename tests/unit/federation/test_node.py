"""A machine that becomes a cluster, as values: what it is told to be, the workload that it gets, and what the keeper is told of both. Pure."""

import itertools
from ipaddress import IPv4Address
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.config import ModelConfig
from lamplighter.config.federation import FederationConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.federation import names as liqo
from lamplighter.federation.node_cluster import NodeCluster, device_plugin, k3s_config, render
from lamplighter.federation.node_duty import Clustered, cluster_id
from lamplighter.federation.node_passage import Passage
from lamplighter.federation.node_pod import PodView
from lamplighter.federation.node_telling import CHAIN, chained, merged
from lamplighter.federation.node_workload import REPLICA, build, read, selected, settings
from lamplighter.federation.standing import PeerStatus
from lamplighter.providers.aws.duty import Given
from lamplighter.providers.base import Observation, Presence, StageReport

NOW = 1_790_000_000.0
POOL = AwsPool.model_validate({"kind": "aws", "region": "eu-central-1", "federation": "liqo", "model_storage": {"kind": "none"}})
FEDERATION = FederationConfig.model_validate({})
MODEL = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:owner/llama"})
MESH = MeshConfig.model_validate({})
GIVEN = Given("i-1", "g4dn.xlarge", IPv4Address("10.77.128.7"), "eu-central-1", "123456789012", "engine-key")


def duty(**federation: Any) -> Clustered:
    return Clustered(FederationConfig.model_validate(federation), lambda: {"m": MODEL}, {"vllm": Vllm()}, MESH)


# --- the node -------------------------------------------------------------------------------------------------------------------------------------


def test_every_address_of_the_cluster_is_the_meshs() -> None:
    """Liqo prefers an external address for its gateway: a public one would bypass the mesh, and be closed."""
    told = k3s_config(NodeCluster("gpu-i-1", "10.77.128.7", {}, "v1.2.0"))
    addresses = [told[key] for key in ("node-ip", "node-external-ip", "advertise-address")] + told["tls-san"]
    assert set(addresses) == {"10.77.128.7"}
    assert told["flannel-iface"] == "nebula1"
    assert told["default-runtime"] == "nvidia"
    assert set(told["disable"]) == {"traefik", "servicelb", "metrics-server"}
    assert "default-runtime" not in k3s_config(NodeCluster("gpu-i-1", "10.77.128.7", {}, "v1.2.0", gpus=0))


def test_the_assignment_says_all_that_the_node_needs() -> None:
    """What is missing there the node has from nowhere: user data is full, and nobody logs in."""
    made = duty().prepare("m", "g4dn.xlarge").body(GIVEN)["cluster"]
    files = made["files"]
    chart = yaml.safe_load(files["/etc/lamplighter/cluster/manifests/lamplighter-liqo.yaml"])
    values = yaml.safe_load(chart["spec"]["valuesContent"])
    assert chart["spec"]["version"] == "v1.2.0"
    assert values["discovery"]["config"]["clusterID"] == "gpu-i-1"
    assert values["apiServer"]["address"] == "https://10.77.128.7:6443"
    assert "10.77.0.0/16" in values["ipam"]["reservedSubnets"]
    credentials = yaml.safe_load(files["/etc/lamplighter/cluster/credentials/config.yaml"])
    assert credentials["providers"][0]["matchImages"] == ["123456789012.dkr.ecr.eu-central-1.amazonaws.com"]
    assert "engine-key" not in str(made), "the node is not told what only the pod needs"
    assert len(str(made)) < 32_768


def test_the_device_plugin_is_a_valid_daemon_set() -> None:
    """k3s applies it unseen; a wrong field is found when the GPU never becomes a resource."""
    kubernetes_validate.validate(device_plugin(), "1.36", strict=True)


def test_another_k3s_is_checked_by_its_own_releases_sums() -> None:
    """The pinned checksum is of the pinned version: with another one no node would ever start."""
    other = render(NodeCluster("gpu-i-1", "10.77.128.7", {}, "v1.2.0", k3s_version="v1.35.6+k3s1"))["script"]
    assert "v1.35.6%2Bk3s1" in other
    assert "sum= ;;" in other
    assert "sum= ;;" not in render(NodeCluster("gpu-i-1", "10.77.128.7", {}, "v1.2.0"))["script"]


@pytest.mark.parametrize(
    ("models", "kind", "reason"),
    [
        ({}, "g4dn.xlarge", WakeFailure.MODEL_NOT_FOUND),
        ({"m": ModelConfig.model_validate({"engine": "openai", "pool": "gpu"})}, "g4dn.xlarge", WakeFailure.ENGINE_MISSING),
        ({"m": MODEL}, "x9.huge", WakeFailure.PROVIDER_ERROR),
        ({"m": MODEL.model_copy(update={"gpus": 2})}, "g4dn.xlarge", WakeFailure.ENGINE_REFUSED),
    ],
)
def test_what_can_never_run_is_refused_before_it_costs(models: dict[str, ModelConfig], kind: str, reason: WakeFailure) -> None:
    """A GPU machine would be paid for minutes, to be told at its end what was known at its beginning."""
    made = Clustered(FEDERATION, lambda: models, {"vllm": Vllm()}, MESH)
    with pytest.raises(ProviderError) as refused:
        made.prepare("m", kind)
    assert refused.value.reason is reason


# --- the workload -----------------------------------------------------------------------------------------------------------------------------------


def workload(handle: str = "aws_1", instance: str = "i-1") -> dict[str, Any]:
    made = duty()
    config, container = made.container("m", "g4dn.xlarge")
    told = settings(POOL, FEDERATION, "g4dn.xlarge", made.slice("g4dn.xlarge"), cluster_id(instance), None)
    return build(handle, instance, "m", config, "gpu", told, container, namespace="llm-inference", installation="ins_1")


def test_the_workload_is_valid_and_stays_on_its_machine() -> None:
    """A pod on another machine's node would answer under a wrong handle, and be ended with the wrong machine."""
    made = workload()
    kubernetes_validate.validate(made, "1.36", strict=True)
    spec = made["spec"]["template"]["spec"]
    assert made["spec"]["replicas"] == 0, "the record comes before the pod"
    assert spec["nodeSelector"] == {liqo.REMOTE_ID: "gpu-i-1", liqo.NODE_TYPE: liqo.VIRTUAL}
    waits = {one["key"]: one.get("tolerationSeconds") for one in spec["tolerations"]}
    assert waits[liqo.NOT_ALLOWED] is None
    assert 0 < waits["node.kubernetes.io/unreachable"] <= 60, "Kubernetes' own five minutes would leave a hanging pod"
    assert made["spec"]["template"]["metadata"]["annotations"][liqo.RUNTIME_CLASS] == "nvidia"
    (engine,) = spec["containers"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_two_machines_of_one_model_have_nothing_in_common() -> None:
    """One Deployment would take the other's pod for its own, and end it."""
    one, other = workload("aws_1", "i-1"), workload("aws_2", "i-2")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    chosen = one["spec"]["selector"]["matchLabels"]
    labels = other["spec"]["template"]["metadata"]["labels"]
    assert any(labels.get(key) != value for key, value in chosen.items())
    assert all(one["spec"]["template"]["metadata"]["labels"].get(key) == value for key, value in chosen.items())


def test_a_record_is_read_back() -> None:
    """After a crash it is the only thing that knows of the peering."""
    record = read(workload())
    assert record is not None
    assert (record.handle, record.instance, record.model, record.cluster, record.wanted) == (
        "aws_1",
        "i-1",
        "m",
        "gpu-i-1",
        False,
    )
    labels = workload()["metadata"]["labels"]
    assert all(
        labels.get(key) == value if value is not None else key in labels for key, value in selected("gpu", "ins_1").items()
    )
    stranger = workload()
    del stranger["metadata"]["labels"][REPLICA]
    assert read(stranger) is None


# --- what is told -----------------------------------------------------------------------------------------------------------------------------------


MACHINE = (
    StageReport("capacity", NOW - 100, NOW - 90),
    StageReport("boot", NOW - 90, NOW - 80),
    StageReport("mesh", NOW - 80, NOW - 75),
    StageReport("cluster", NOW - 75, NOW - 40),
)


def seen(**more: Any) -> Observation:
    return Observation("aws_1", ("m",), Presence.RUNNING, MACHINE, started_at=NOW - 100, **more)


def passage(**more: Any) -> Passage:
    made = Passage.__new__(Passage)
    fields: dict[str, Any] = {"peer": None, "detail": None, "failure": None, "served": None, "leaving_since": None}
    for name, value in (fields | more).items():
        setattr(made, name, value)
    return made


def pod(**more: Any) -> PodView:
    stages = (
        StageReport("schedule", NOW - 20, NOW - 19),
        StageReport("pull", NOW - 19, NOW - 10),
        StageReport("load", NOW - 10, NOW - 1),
    )
    return PodView("uid-1", NOW - 20, "gpu-i-1", stages, **{"address": "10.42.0.9:8000", "ready": True, **more})


def test_while_clusters_join_it_is_told_how_far_and_why() -> None:
    """Minutes would pass in a stage that says nothing."""
    waiting = passage(peer=PeerStatus("resources"), detail="the slice is not granted yet")
    one = merged(seen(), waiting, None, None, doomed=False, now=NOW)
    assert (one.stages[-1].name, one.stages[-1].progress, one.stages[-1].detail) == (
        "federation",
        0.5,
        "the slice is not granted yet",
    )
    assert one.endpoint is None


def test_a_pod_that_answers_is_the_endpoint() -> None:
    """The gateway would have nowhere to send the request that waits, or not the key."""
    one = merged(seen(), passage(), pod(), "key", doomed=False, now=NOW)
    assert one.endpoint is not None
    assert (one.endpoint.url, one.endpoint.key) == ("http://10.42.0.9:8000", "key")
    assert tuple(stage.name for stage in one.stages) == CHAIN


def test_a_pod_that_is_only_busy_keeps_its_endpoint() -> None:
    """A readiness probe that is late under load would cut every answer."""
    one = merged(seen(), passage(served="uid-1"), pod(ready=False), "key", doomed=False, now=NOW)
    assert one.endpoint is not None
    assert one.presence is Presence.RUNNING


@pytest.mark.parametrize("other", [None, pod(leaving=True), PodView("uid-2", NOW, "", ()), pod(loss=LossReason.CRASHED)])
def test_a_pod_that_has_served_and_is_gone_is_a_loss(other: PodView | None) -> None:
    """Its conversations are gone: the keeper must replace the machine, not take a new pod for the old one."""
    one = merged(seen(), passage(served="uid-1"), other, "key", doomed=False, now=NOW)
    assert one.presence is Presence.ENDED
    assert one.loss is not None
    assert one.endpoint is None


def test_what_is_doomed_is_stopping_and_never_a_loss() -> None:
    """An ordinary sleep would show up as a crash."""
    one = merged(seen(), passage(served="uid-1", detail="its pod ends"), None, "key", doomed=True, now=NOW)
    assert (one.presence, one.loss, one.detail) == (Presence.STOPPING, None, "its pod ends")


TIMES = st.floats(NOW - 200, NOW + 200)


@given(st.lists(st.tuples(TIMES, TIMES | st.none()), min_size=3, max_size=3), TIMES)
def test_the_stages_follow_one_another_whatever_the_clocks_say(times: list[tuple[float, float | None]], created: float) -> None:
    """Three machines' clocks: the wake card would jump, and the ETA be learned from nonsense."""
    shown = tuple(
        StageReport(name, begun, ended) for name, (begun, ended) in zip(("schedule", "pull", "load"), times, strict=True)
    )
    told = chained(MACHINE, passage(), PodView("u", created, "", shown), NOW)
    assert tuple(stage.name for stage in told) == CHAIN
    for before, after in itertools.pairwise(told):
        assert after.started_at >= (before.ended_at if before.ended_at is not None else before.started_at)
    assert all(stage.ended_at is None or stage.ended_at >= stage.started_at for stage in told)

"""Real keepers under the account and the Role that the chart made, against the real API server."""

import time
from typing import Any

import pytest

from lamplighter.testing.kubernetes import Fault, Outcome
from tests.journeys.chart.release import NAME, SPACE, Office, Release
from tests.journeys.harness import eventually
from tests.journeys.kubernetes.world import ask_stream
from tests.journeys.many_gateways.cluster import KeeperServer

pytestmark = pytest.mark.long
_ROLE = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}/roles/{NAME}-keeper"


def test_ask_wake_answer_and_an_upgrade_meanwhile(office: Office) -> None:
    """The Role must allow what a wake needs, and `helm upgrade` must leave alone what the keeper woke."""
    release = office.release
    keeper, gateway = office.keeper(), office.gateway()
    eventually(keeper.leads, what="the keeper leads")
    assert ask_stream(gateway)[1][-1] == {"done": True}
    assert release.replicas() == 1
    pods = release.model_pods()
    release.upgrade(config={"log": {"level": "debug"}})
    assert release.replicas() == 1
    assert release.model_pods() == pods
    assert ask_stream(gateway)[1][-1] == {"done": True}
    release.helm.rollback(NAME, version=1, wait="legacy", timeout=120)
    assert (release.replicas(), release.model_pods()) == (1, pods)
    gateway.order("sleep")
    gateway.until("asleep")
    assert release.replicas() == 0


def test_the_registry_refuses(office: Office) -> None:
    """Why an image cannot be pulled must reach the person through the real API's events and statuses."""
    office.release.kubelet.images.clear()
    office.release.kubelet.outcomes["*"] = Outcome(Fault.IMAGE_PULL, message="unexpected status from HEAD request: 403 Forbidden")
    office.keeper()
    gateway = office.gateway()
    _, events = ask_stream(gateway)
    assert "403" in str(events[-1]), events
    eventually(lambda: office.release.replicas() == 0, what="what fails is put to sleep")


def test_no_gpu_is_free(office: Office) -> None:
    """The real scheduler's words, in the real scheduler's form."""
    office.release.kubelet.set_allocatable(**{"nvidia.com/gpu": "0"})
    try:
        office.keeper()
        gateway = office.gateway()
        gateway.order("wake")
        eventually(
            lambda: "Insufficient nvidia.com/gpu" in str(gateway.model()), what=f"the scheduler's words: {gateway.model()}"
        )
    finally:
        office.release.kubelet.set_allocatable(**{"nvidia.com/gpu": "1"})


def test_a_rule_is_missing(office: Office) -> None:
    """Whoever trims the Role must read which rule to give back, not `wake failed`."""
    release = office.release
    role = release.get(_ROLE)
    fewer = [rule for rule in role["rules"] if "deployments/scale" not in rule["resources"]]
    assert len(fewer) < len(role["rules"])
    release.plane.http.patch(
        _ROLE, json={"rules": fewer}, headers={"content-type": "application/merge-patch+json"}
    ).raise_for_status()
    try:
        keeper, gateway = office.keeper(), office.gateway()
        eventually(keeper.leads, what="the keeper leads")
        gateway.order("wake")
        eventually(
            lambda: "deployments/scale" in str(gateway.model()),
            what=f"the missing rule is named: {gateway.model()}\n{keeper.text()[-2000:]}",
        )
        told = str(gateway.model())
        assert SPACE in told, told
        assert "patch" in told, told
    finally:
        release.plane.http.patch(
            _ROLE, json={"rules": role["rules"]}, headers={"content-type": "application/merge-patch+json"}
        ).raise_for_status()
    gateway.order("wake")
    gateway.until("awake")


def test_the_api_server_restarts_during_a_wake(office: Office) -> None:
    """A control plane's upgrade cuts every watch; the wake must go on and end once."""
    release = office.release
    release.kubelet.outcomes["*"] = Outcome(load=3)
    keeper, gateway = office.keeper(), office.gateway()
    eventually(keeper.leads, what="the keeper leads")
    gateway.order("wake")
    eventually(release.model_pods, what="the wake began")
    pods = release.model_pods()
    release.plane.restart_api(away=2, kill=True)
    gateway.until("awake")
    assert release.model_pods() == pods, keeper.text()[-6000:]
    assert ask_stream(gateway)[1][-1] == {"done": True}


def test_another_keeper_takes_over_in_the_middle_of_a_wake(office: Office) -> None:
    """The successor must adopt the pod that its predecessor asked for: no second pod, no wake anew."""
    release = office.release
    release.kubelet.outcomes["*"] = Outcome(load=20)
    keepers = (office.keeper("first"), office.keeper("second"))
    eventually(lambda: any(one.leads() for one in keepers), what="a keeper leads")
    gateway = office.gateway()
    gateway.order("wake")
    eventually(release.model_pods, what="the wake began")
    pods = release.model_pods()
    (leader,) = (one for one in keepers if one.leads())
    leader.kill()
    (other,) = (one for one in keepers if one is not leader)
    eventually(other.leads, what="the other leads")
    gateway.until("awake")
    assert release.model_pods() == pods
    assert release.replicas() == 1
    assert ask_stream(gateway)[1][-1] == {"done": True}


def test_a_drained_node_is_left_in_order(office: Office, release: Release) -> None:
    """`kubectl drain` evicts: running answers end in order, and the model is woken again where there is room."""
    release.kubelet.outcomes["*"] = Outcome(engine={"tokens": 40, "tokens_per_second": 20})
    keeper: KeeperServer = office.keeper()
    gateway = office.gateway()
    eventually(keeper.leads, what="the keeper leads")
    gateway.order("wake")
    gateway.until("awake")
    (pod,) = release.model_pods()
    got: list[Any] = []
    import threading

    thread = threading.Thread(target=lambda: got.append(ask_stream(gateway, tokens=40)), daemon=True)
    thread.start()
    time.sleep(0.5)
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    release.plane.http.post(f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction", json=body).raise_for_status()
    thread.join(60)
    assert got[0][1][-1] == {"done": True}, got
    eventually(lambda: release.model_pods() and release.model_pods() != [pod], what="another pod takes its place")
    gateway.until("awake")

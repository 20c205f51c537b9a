"""Outcomes of pods on the pretended node: each must look as the real one tells it."""

import time
from threading import Thread
from typing import Any

import httpx
import pytest

from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.kubernetes import Fault, Outcome
from tests.unit.testing.kubernetes.conftest import Lab


def test_an_engine_listens_in_the_pod(lab: Lab) -> None:
    """Gateways talk to the pod's own address and port, with the key from the Secret."""
    lab.cluster.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "k", "namespace": "default"}, "stringData": {"key": "s3cret"}}
    )
    lab.node(engines=True)
    variable = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "k", "key": "key"}}}
    lab.deploy(
        container={
            "env": [variable],
            "args": ["org/m", "--served-model-name", "m"],
            "readinessProbe": {"httpGet": {"path": "/health", "port": "engine"}},
        }
    )
    lab.until(lab.ready, "the pod is ready")
    address = lab.pods()[0]["status"]["podIP"]
    assert address.startswith("127.88.")
    url = f"http://{address}:8000/v1/models"
    assert httpx.get(url).status_code == 401
    answer = httpx.get(url, headers={"authorization": "Bearer s3cret"})
    assert answer.json()["data"][0]["id"] == "m"
    lab.cluster.scale("Deployment", "m", 0)
    lab.until(lambda: not lab.pods(), "the pod is gone")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_missing_secret_keeps_the_container_from_being_made(lab: Lab) -> None:
    """CreateContainerConfigError with the Secret's name; it starts by itself once the Secret is there."""
    lab.node()
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    lab.deploy(container={"env": [variable]})
    waiting = lab.until(lambda: lab.state().get("state", {}).get("waiting", {}).get("message"), "it waits")
    assert waiting == 'secret "hub" not found'
    assert lab.state()["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    lab.cluster.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": "default"}, "stringData": {"other": "x"}}
    )
    lab.until(lambda: "couldn't find key token" in str(lab.state()), "the key is named")
    lab.cluster.merge("Secret", "hub", {"stringData": {"token": "x"}})
    lab.until(lab.ready, "the pod is ready")


def test_killed_for_memory_and_then_not(lab: Lab) -> None:
    """OOMKilled, CrashLoopBackOff, restarts; `times` lets it end."""
    lab.node(outcomes={"m": Outcome(Fault.OOM_KILLED, times=2)}, backoff=0.1)
    lab.deploy()
    last = lab.until(lambda: lab.state().get("lastState", {}).get("terminated"), "it was killed")
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)
    lab.until(lab.ready, "the third start lasts")
    assert lab.state()["restartCount"] == 2


def test_the_last_words_are_the_termination_message(lab: Lab) -> None:
    """With FallbackToLogsOnError the status itself says why, without a call for logs."""
    lab.node(outcomes={"m": Outcome(Fault.CRASH, logs=("one", "two"), exit=2)}, backoff=5)
    lab.deploy(container={"terminationMessagePolicy": "FallbackToLogsOnError"})
    ended = lab.until(lambda: lab.state().get("state", {}).get("terminated"), "it ended")
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (2, "Error", "one\ntwo")


def test_never_ready(lab: Lab) -> None:
    """It runs, and that is all: only a deadline helps."""
    lab.node(outcomes={"*": Outcome(Fault.NEVER_READY)})
    lab.deploy()
    lab.until(lambda: "running" in lab.state().get("state", {}), "it runs")
    time.sleep(0.2)
    assert lab.ready() == []


def test_weights_that_cannot_be_fetched(lab: Lab) -> None:
    """The init container fails again and again; the engine waits for it."""
    lab.node(outcomes={"m": Outcome(Fault.PRELOAD, logs=("401 Client Error",), times=1)}, backoff=0.1)
    lab.deploy(initContainers=[{"name": "preload", "image": "example.org/lamplighter:1"}])
    assert lab.until(lambda: lab.pods() and lab.pods()[0]["status"].get("initContainerStatuses"), "it began")
    lab.until(lambda: lab.pods()[0]["status"]["initContainerStatuses"][0]["restartCount"], "it failed once")
    assert lab.state()["state"] == {"waiting": {"reason": "PodInitializing"}}
    lab.until(lab.ready, "the second try lasts")


@pytest.mark.parametrize(("fault", "reason"), [(Fault.REJECTED, "UnexpectedAdmissionError"), (Fault.EVICTED, "Evicted")])
def test_pods_that_are_over(lab: Lab, fault: Fault, reason: str) -> None:
    """The pod is Failed with the reason, and the controllers make another one."""
    lab.node(outcomes={"m": Outcome(fault)})
    lab.deploy()

    def over() -> dict[str, Any]:
        return next((pod["status"] for pod in lab.pods() if pod["status"].get("phase") == "Failed"), {})

    assert lab.until(over, "a pod is over")["reason"] == reason
    lab.kubelets[0].outcomes["m"] = Outcome()
    lab.until(lab.ready, "another pod serves")


def test_a_job_is_over_when_it_is_done(lab: Lab) -> None:
    """A chart's hooks wait for their Jobs' pods to succeed."""
    lab.node()
    lab.cluster.create(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job", "namespace": "default"},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "example.org/work:1"}]},
        }
    )  # fmt: skip
    lab.until(lambda: lab.cluster.get("Pod", "job")["status"]["phase"] == "Succeeded", "the pod succeeded")


def test_an_image_is_pulled_once(lab: Lab) -> None:
    """The second pod of an image starts at once, as on a node that has it."""
    kubelet = lab.node()
    lab.deploy()
    lab.until(lab.ready, "the pod is ready")
    assert kubelet.images == {"example.org/vllm:1"}
    lab.cluster.scale("Deployment", "m", 2)
    lab.until(lambda: len(lab.ready()) == 2, "the second is ready")
    told = [one for one in lab.cluster.all("Event") if one["involvedObject"]["kind"] == "Pod"]
    assert [one["reason"] for one in told].count("Pulling") == 1
    assert any("already present" in one["message"] for one in told)


def test_a_deleted_pod_finishes_its_answer(lab: Lab) -> None:
    """SIGTERM and grace: an answer that runs goes on to its end, a new one is not begun; by force it is cut at once."""
    kubelet = lab.node(engines=True, outcomes={"*": Outcome(engine={"tokens": 10, "tokens_per_second": 20})})
    lab.deploy()
    (name,) = lab.until(lab.ready, "the pod is ready")
    engine = kubelet.engine(name)
    assert isinstance(engine, FakeEngine)
    got: list[httpx.Response] = []
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    thread = Thread(target=lambda: got.append(httpx.post(f"{engine.url}/v1/chat/completions", json=body, timeout=20)))
    thread.start()
    lab.until(lambda: engine.counters.running, "it answers")
    lab.cluster.delete("Pod", name)
    thread.join(20)
    assert got[0].status_code == 200
    lab.until(lambda: lab.ready() and lab.ready() != [name], "another pod takes its place")
    (second,) = lab.ready()
    other = kubelet.engine(second)
    assert isinstance(other, FakeEngine)
    lab.cluster.delete("Pod", second, gracePeriodSeconds=0)

    def cut() -> bool:
        try:
            httpx.get(f"{other.url}/health", timeout=1)
        except httpx.TransportError:
            return True
        return False

    lab.until(cut, "its engine is gone at once")


def test_a_container_that_is_killed_comes_back(lab: Lab) -> None:
    """The pod stays, its engine is another one, and the status counts the restart."""
    kubelet = lab.node(engines=True, backoff=0.1)
    lab.deploy()
    (name,) = lab.until(lab.ready, "the pod is ready")
    first = kubelet.engine(name)
    kubelet.crash(name)
    lab.until(lambda: lab.state().get("restartCount") == 1 and lab.ready() == [name], "it is ready again")
    assert kubelet.engine(name) is not first

"""From nought to an answer and back to nought, on a cluster: what a person sees, and what is left behind."""

import time
from collections.abc import Callable

import pytest

from lamplighter.testing.kubernetes import Outcome
from tests.journeys.harness import Server, eventually
from tests.journeys.kubernetes.world import MODELS, World, ask_stream

_SLOW = {"*": Outcome(pull=0.8, load=0.8)}


def test_ask_wake_answer_sleep(world: World) -> None:
    """The promise: nobody pays for a GPU before the first question, nor long after the last one."""
    world.node(outcomes=_SLOW)
    server = world.server(sleep_after="2s", rest="gateway: {early_headers: 50ms, heartbeat: 100ms}").start()
    assert world.workload() is None
    assert world.replicas() in (None, 0)
    began = time.monotonic()
    comments, events = ask_stream(server)
    took = time.monotonic() - began
    assert events[-1] == {"done": True}, events
    assert any(event["choices"][0]["delta"].get("content") for event in events[:-1])
    shown = [stage for stage in ("schedule", "pull", "load") if any(f"stage={stage}" in line for line in comments)]
    assert shown in (["schedule", "pull", "load"], ["pull", "load"]), comments  # scheduling takes milliseconds here
    assert took < 20
    assert server.model()["state"] == "awake"
    assert world.replicas() == 1
    answer = server.openai().chat.completions.create(
        model="small", messages=[{"role": "user", "content": "Again!"}], max_tokens=8
    )
    assert answer.choices[0].message.content
    server.until("asleep")
    assert world.replicas() == 0
    eventually(lambda: not world.pods(), what="no pod is left")
    answer = server.openai().chat.completions.create(
        model="small", messages=[{"role": "user", "content": "Still there?"}], max_tokens=8
    )
    assert answer.choices[0].message.content


def test_what_the_keeper_makes(world: World, started: Callable[..., Server]) -> None:
    """Labels, owner and key are what people, dashboards and network policies find its objects by."""
    server = started()
    server.order("wake")
    server.until("awake")
    found = world.workload()
    assert found is not None
    labels = found["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "lamplighter"
    assert labels["lamplighter.dev/pool"] == "cluster"
    assert labels["lamplighter.dev/model"].startswith("small")
    assert found["metadata"]["annotations"]["lamplighter.dev/model-name"] == "small"
    owners = {entry["manager"]: entry for entry in found["metadata"]["managedFields"]}
    scale = [entry for entry in found["metadata"]["managedFields"] if "f:replicas" in entry["fieldsV1"].get("f:spec", {})]
    assert [entry.get("subresource") for entry in scale] == ["scale"], "replicas belong to the scale subresource alone"
    assert "lamplighter-keeper" in owners
    (secret,) = world.cluster.all("Secret", MODELS)
    assert secret["metadata"]["name"] == "lamplighter-engine-cluster"
    (engine,) = world.kubelet.engine_list()
    assert engine.behaviour.key  # type: ignore[attr-defined]
    assert engine.behaviour.key not in server.text()  # type: ignore[attr-defined]


@pytest.mark.long
def test_two_replicas_and_one_that_is_enough(world: World) -> None:
    """With min_replicas and max_replicas the cluster has as many pods as are asked for, never more."""
    world.node(gpus=3)
    server = world.server(more="min_replicas: 2\n    max_replicas: 2").start()
    eventually(lambda: world.replicas() == 2 and len(world.kubelet.engine_list()) == 2, what="two replicas serve")
    server.until("awake")
    for _ in range(4):
        ask_stream(server)
    counts = [engine.counters.requests for engine in world.kubelet.engine_list()]  # type: ignore[attr-defined]
    assert sum(counts) >= 4
    assert len(world.pods()) == 2


def test_a_person_scales_by_hand(world: World, started: Callable[..., Server]) -> None:
    """Someone with kubectl and the keeper would undo each other without a word; the keeper must say who did what."""
    server = started()
    server.order("wake")
    server.until("awake")
    (workload,) = world.cluster.all("Deployment", MODELS)
    world.cluster.scale("Deployment", workload["metadata"]["name"], 0, MODELS, manager="kubectl-scale")
    eventually(lambda: "kubectl-scale" in server.text(), what=f"the log names who scaled:\n{server.text()[-3000:]}")


def test_a_restart_keeps_what_runs(world: World, started: Callable[..., Server]) -> None:
    """An update of Lamplighter must cost nobody a wake: the next keeper adopts the pods."""
    server = started(more="at_exit: keep")
    server.order("wake")
    server.until("awake")
    before = world.pod_names()
    assert server.stop() == 0
    assert world.replicas() == 1
    server.start()
    server.until("awake")
    assert world.pod_names() == before
    assert ask_stream(server)[1][-1] == {"done": True}

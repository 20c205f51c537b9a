"""The cluster's API goes, the keeper dies, a pod is killed: what was begun is carried on, and no answer is ever cut off as if it were whole."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lamplighter.testing.engine import WORDS
from lamplighter.testing.kubernetes import Outcome
from tests.journeys.harness import Server, eventually
from tests.journeys.kubernetes.world import World, ask_stream


def _ask_beside(server: Server, **options: Any) -> tuple[threading.Thread, list[Any]]:
    """A streamed question in a thread; the list gets what `ask_stream` gave, or the exception."""
    got: list[Any] = []

    def ask() -> None:
        try:
            got.append(ask_stream(server, **options))
        except Exception as error:  # noqa: BLE001 - whatever it was, the test looks at it
            got.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, got


def test_the_api_server_goes_and_comes_back_during_a_wake(world: World) -> None:
    """An upgrade of a control plane takes minutes; a wake that began before must go on after it."""
    world.node(outcomes={"*": Outcome(pull=2.0, load=0.5)})
    server = world.server().start()
    thread, got = _ask_beside(server)
    eventually(lambda: world.replicas() == 1, what="the wake began")
    world.cluster.stop()
    time.sleep(3)
    assert server.model()["state"] in ("waking", "launching", "starting", "asleep") or got == []
    world.cluster.start()
    thread.join(60)
    assert got, "an answer came"
    assert not isinstance(got[0], Exception), got[0]
    assert got[0][1][-1] == {"done": True}, got
    assert len(world.pods()) == 1


@pytest.mark.long
def test_the_api_server_goes_while_the_model_answers(world: World, started: Callable[..., Server]) -> None:
    """Answers need no API server: its outage must not be one of ours."""
    server = started()
    server.order("wake")
    server.until("awake")
    world.cluster.stop()
    for _ in range(3):
        assert ask_stream(server)[1][-1] == {"done": True}
        time.sleep(0.5)
    assert server.model()["state"] == "awake"
    world.cluster.start()
    time.sleep(1)
    assert ask_stream(server)[1][-1] == {"done": True}


def test_a_keeper_killed_in_the_middle_of_a_wake(world: World) -> None:
    """Two pods, or a wake that begins anew, would cost minutes and money; the next keeper must find what the first began."""
    world.node(outcomes={"*": Outcome(pull=2.0, load=0.5)})
    server = world.server().start()
    server.order("wake")
    eventually(world.pods, what="the wake began")
    before = world.pod_names()
    server.kill()
    server.start()
    server.until("awake")
    assert world.pod_names() == before
    assert ask_stream(server)[1][-1] == {"done": True}


def _kill_in_the_middle(world: World, server: Server) -> tuple[list[str], list[dict[str, Any]]]:
    """What a person got whose pod was killed after some words."""
    server.order("wake")
    server.until("awake")
    thread, got = _ask_beside(server, tokens=60)
    (engine,) = world.kubelet.engine_list()
    eventually(lambda: engine.counters.tokens > 5, what="the answer began")  # type: ignore[attr-defined]
    world.kubelet.outcomes["*"] = Outcome(engine={"tokens": 60, "continues": True})
    world.kubelet.crash(world.pod_names()[0])
    thread.join(60)
    assert got
    assert not isinstance(got[0], Exception), got[0]
    comments, events = got[0]
    return comments, events


def test_a_pod_killed_in_the_middle_of_an_answer(world: World) -> None:
    """The person would have to ask again, after a wake; the next pod goes on with the very answer, and no word comes twice."""
    world.node(outcomes={"*": Outcome(engine={"tokens_per_second": 10, "tokens": 60})})
    comments, events = _kill_in_the_middle(world, world.server().start())
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event.get("choices"))
    assert any("goes on" in line for line in comments), comments
    assert events[-1] == {"done": True}
    assert text == "".join(WORDS[at % len(WORDS)] for at in range(60))


def test_a_pod_killed_in_an_answer_that_nobody_may_go_on_with(world: World) -> None:
    """A stream that ends in silence, or with a clean `[DONE]`, looks like a short answer: half a sentence taken for a whole one."""
    world.node(outcomes={"*": Outcome(engine={"tokens_per_second": 10, "tokens": 60})})
    _, events = _kill_in_the_middle(world, world.server(rest="gateway: {continue_streams: false}").start())
    assert events[-1] != {"done": True}, events[-3:]
    assert "error" in events[-1], events[-3:]


@pytest.mark.long
def test_a_node_that_dies(world: World) -> None:
    """A machine that is gone says nothing: its model must be found to be gone, and woken elsewhere."""
    first = world.node("gpu-1")
    server = world.server().start()
    server.order("wake")
    server.until("awake")
    world.node("gpu-2")
    first.die()
    eventually(world.kubelets[1].engine_list, what=f"another node serves: {server.model()}")
    server.until("awake")
    assert ask_stream(server)[1][-1] == {"done": True}


@pytest.mark.long
def test_watches_that_are_cut_and_forgotten(world: World) -> None:
    """Proxies and restarts cut watches, etcd forgets: the keeper must notice a pod that turns ready meanwhile."""
    world.node(outcomes={"*": Outcome(pull=1.0, load=1.0)})
    server = world.server().start()
    server.order("wake")
    eventually(world.pods, what="the wake began")
    for _ in range(3):
        world.cluster.compact()
        world.cluster.cut_watches()
        time.sleep(0.3)
    server.until("awake")
    assert ask_stream(server)[1][-1] == {"done": True}

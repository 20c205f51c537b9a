"""Wakes that fail: the person who asked reads why and what to do, on the stream, in the API and in the status."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import openai
import pytest

from lamplighter.testing.kubernetes import Fault, Outcome
from tests.journeys.harness import Server, eventually
from tests.journeys.kubernetes.world import World, ask_stream


@dataclass(frozen=True)
class Case:
    """What goes wrong, and which words must reach the person."""

    outcome: Outcome
    words: tuple[str, ...]
    reason: str


_LONG = ("memory", "gpu-memory")
CASES = {
    "image": Case(
        Outcome(Fault.IMAGE_PULL, message="failed to authorize: failed to fetch oauth token: unexpected status: 403 Forbidden"),
        ("vllm", "403"), "bad_image",
    ),
    "memory": Case(Outcome(Fault.OOM_KILLED), ("memory",), "out_of_memory"),
    "gpu-memory": Case(
        Outcome(Fault.CRASH, logs=("INFO loading", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("memory",), "out_of_memory",
    ),
    "gated": Case(
        Outcome(Fault.CRASH, logs=("huggingface_hub.errors.GatedRepoError: 401 Client Error. Access to model org/small is restricted.",)),
        ("org/small",), "gated_model",
    ),
    "crash": Case(
        Outcome(Fault.CRASH, logs=("first", "ValueError: the very last words of the engine"), exit=1),
        ("very last words",), "engine_crashed",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=[pytest.mark.long] if name in _LONG else []) for name, case in CASES.items()]
)
def test_why_a_pod_does_not_serve(world: World, case: Case) -> None:
    """`Something went wrong` sends people to kubectl; they must read the cause where they asked."""
    world.node(outcomes={"*": case.outcome}, backoff=0.2)
    server = world.server(rest="gateway: {hold: 60s}").start()
    with pytest.raises(openai.APIStatusError) as caught:
        server.openai().chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}], max_tokens=8)
    told = json.dumps(caught.value.response.json())
    assert caught.value.status_code in (502, 503), told
    for word in case.words:
        assert word in told, told
    assert caught.value.code == case.reason, told
    eventually(lambda: (server.model()["failure"] or {}).get("reason") == case.reason, what="the page says why")
    _, events = ask_stream(server)
    assert events[-1] != {"done": True}
    assert "error" in events[-1], events
    eventually(lambda: world.replicas() == 0, what="what fails does not stay and cost money")


@pytest.mark.long
def test_no_gpu_is_free(world: World) -> None:
    """Waiting for a GPU that nobody will free looks like a hanging server."""
    world.node(gpus=0)
    server = world.server(rest="gateway: {hold: 2s}", boot_deadline="6s").start()
    with pytest.raises(openai.APIStatusError) as caught:
        server.openai().chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}], max_tokens=8)
    assert caught.value.status_code == 503
    eventually(
        lambda: "Insufficient nvidia.com/gpu" in json.dumps(server.model()), what=f"the scheduler's words: {server.model()}"
    )
    server.until("failed")
    assert "no_capacity" in json.dumps(server.model())


@pytest.mark.long
def test_a_missing_secret(world: World, started: Callable[..., Server]) -> None:
    """A hub token that was never made keeps a container from being created; its name must be told."""
    world.node()
    server = world.server(more="hub_token_secret: hub/token", boot_deadline="30s").start()
    server.order("wake")
    eventually(
        lambda: "hub" in json.dumps(server.model()) and server.model()["state"] == "failed",
        what=f"the Secret is named: {server.model()}",
    )
    world.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hub", "namespace": "models"},
            "stringData": {"token": "hf_x"},
        }
    )
    server.order("wake")
    server.until("awake")


@pytest.mark.long
def test_the_namespace_is_not_there(world: World) -> None:
    """The first thing that people forget; it must be named at the first question, not looped over in a log."""
    world.node()
    world.cluster.delete("Namespace", "models")
    server = world.server().start(ready=False)
    eventually(lambda: "models" in server.text() and "namespace" in server.text().lower(), what="the log names the namespace")
    eventually(server._listens, what="it listens nevertheless")
    with pytest.raises(openai.APIStatusError) as caught:
        server.openai().chat.completions.create(model="small", messages=[{"role": "user", "content": "Hi"}], max_tokens=8)
    assert "models" in json.dumps(caught.value.response.json())

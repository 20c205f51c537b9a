"""A pretended cluster with nodes, and a real `lamplighter` whose pool it is."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.providers.kubernetes.client import Access
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Kubelet, Outcome
from tests.journeys.harness import Server

MODELS = "models"
"""Namespace of the models' pods."""
CONFIG = """
models:
  small: {{engine: vllm, pool: cluster, source: hf:org/small}}
pools:
  cluster:
    kind: kubernetes
    kubeconfig: {kubeconfig}
    namespace: models
    sleep_after: {sleep_after}
    boot_deadline: {boot_deadline}
    {more}
{rest}
"""


@dataclass
class World:
    """One cluster and the servers on it. `start()` makes the usual server."""

    cluster: FakeCluster
    folder: Path
    make: Callable[..., Server]
    kubelets: list[Kubelet] = field(default_factory=list)
    controllers: Controllers | None = None

    @property
    def kubelet(self) -> Kubelet:
        """The first node."""
        return self.kubelets[0]

    def node(self, name: str = "gpu-1", *, gpus: int = 1, outcomes: dict[str, Outcome] | None = None, **options: Any) -> Kubelet:
        """Another node."""
        made = Kubelet(self.cluster.access(), name, gpus=gpus, outcomes=outcomes, engines=True, heartbeat=0.3, **options).start()
        self.kubelets.append(made)
        return made

    def access(self) -> Access:
        """The administrator's."""
        return self.cluster.access()

    def config(
        self, *, sleep_after: str = "1h", boot_deadline: str = "2m", more: str = "", rest: str = "", model: str = ""
    ) -> str:
        """The server's configuration."""
        kubeconfig = self.folder / "kubeconfig"
        if not kubeconfig.exists():
            self.cluster.write_kubeconfig(kubeconfig)
        return CONFIG.format(
            kubeconfig=kubeconfig,
            sleep_after=sleep_after,
            boot_deadline=boot_deadline,
            more=more,
            rest=rest,
            model=model and f", {model}",
        )

    def server(self, *arguments: str, name: str = "data", **options: str) -> Server:
        """A server that was not started."""
        return self.make(self.config(**options), *arguments, name=name)

    # ---- what can be seen in the cluster

    def workload(self) -> dict[str, Any] | None:
        """The model's Deployment; None when there is none."""
        found = self.cluster.all("Deployment", MODELS)
        assert len(found) <= 1, "one model has one workload"
        return found[0] if found else None

    def replicas(self) -> int | None:
        """How many it wants; None without a Deployment."""
        found = self.workload()
        return None if found is None else int(found["spec"]["replicas"])

    def pods(self) -> list[dict[str, Any]]:
        """Those that are there, ending or not."""
        return self.cluster.all("Pod", MODELS)

    def pod_names(self) -> list[str]:
        """Their names."""
        return [str(pod["metadata"]["name"]) for pod in self.pods()]

    def end(self) -> None:
        """Stop everything of the cluster."""
        for one in self.kubelets:
            one.stop()
        if self.controllers is not None:
            self.controllers.stop()
        self.cluster.stop()


def ask_stream(
    server: Server, model: str = "small", *, tokens: int = 16, timeout: float = 60.0
) -> tuple[list[str], list[dict[str, Any]]]:
    """One streamed chat, to its end: the comments (without colon) and the events, the last of which may be `[DONE]` as `{"done": True}`."""
    comments: list[str] = []
    events: list[dict[str, Any]] = []
    body = {"model": model, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "Hello!"}]}
    with server.http() as client, client.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as answer:
        if answer.status_code != 200:
            return [], [json.loads(answer.read())]
        for line in answer.iter_lines():
            if line.startswith(":"):
                comments.append(line[1:].strip())
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
                events.append({"done": True} if data == "[DONE]" else json.loads(data))
    return comments, events


def wait(look: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """The first truthy result; like `eventually`, with the journey's own patience."""
    end = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < end, f"waited {timeout:g} s in vain: {what}"
        time.sleep(0.05)
    return found

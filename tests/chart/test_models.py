"""The chart and the pods that the keeper makes beside it: they keep the same policies, and the network and the claims of one fit the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lamplighter.cli import models
from lamplighter.cli.invocation import Invocation
from tests.chart import policies, schemas
from tests.chart.consistency import ports_of
from tests.chart.matrix import EXAMPLES, Values, combined
from tests.chart.network import Actor, Network, actors
from tests.chart.rendering import NAMESPACE, one, render

BASE: Values = {"mode": "distributed", "postgresql": {"mode": "embedded"}}
CASES: dict[str, Values] = {
    "vllm": combined(BASE, EXAMPLES["gpu-vllm"]),
    "ollama": combined(BASE, EXAMPLES["ollama"]),
    "llamacpp": combined(BASE, EXAMPLES["cpu-llamacpp"]),
    "aws": EXAMPLES["aws"],
    "several machines": combined(
        BASE,
        {
            "pools": {"large": {"kind": "kubernetes", "gpus": 8, "nodes": 2, "memory": "512GiB"}},
            "models": {"big": {"engine": "vllm", "pool": "large", "source": "hf:meta-llama/Llama-3.1-405B-Instruct"}},
            "networkPolicy": {"betweenEngines": True},
        },
    ),
}
RULES = (policies.restricted, policies.read_only, policies.probes, policies.images, policies.open_secrets, policies.tokens)
"""What a pool leaves open, its requests and the size of its scratch space, is the person's to say."""


def workloads(values: Values, folder: Path) -> list[Any]:
    """What the keeper would make of the chart's own configuration, as `lamplighter models render` prints it."""
    config = folder / "lamplighter.yaml"
    config.write_text(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"], encoding="utf-8")
    app = typer.Typer()
    models.register(app)
    done = CliRunner().invoke(
        app,
        ["models", "render", "--json", "--namespace", NAMESPACE, "--config", str(config), "--data", str(folder)],
        obj=Invocation(),
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return list(json.loads(done.stdout)["manifests"])


@pytest.mark.parametrize("name", CASES)
def test_the_models_pods_keep_the_same_policies(name: str, tmp_path: Path) -> None:
    """The models' namespace enforces `restricted` (`modelServers.createNamespace`): one field that is missing, and no model ever wakes."""
    made = workloads(CASES[name], tmp_path)
    assert list(policies.pods(made)) != []
    assert policies.broken(made, RULES) == []


@pytest.mark.parametrize("name", [name for name in CASES if name != "several machines"])
def test_the_models_objects_are_valid(name: str, tmp_path: Path) -> None:
    """A field that Kubernetes does not know makes the apply fail, at the first wake and not before."""
    made = workloads(CASES[name], tmp_path)
    assert [problem for document in made for version in schemas.VERSIONS for problem in schemas.problems(document, version)] == []


@pytest.mark.parametrize("name", CASES)
def test_the_network_lets_the_gateway_reach_them_and_nobody_else(name: str, tmp_path: Path) -> None:
    """The policies know the models' pods only by labels and by the name of a port that the keeper gives them."""
    values = CASES[name]
    network, ours = Network(render(values)), actors(render(values))
    stranger = Actor("stranger", NAMESPACE, {"app.kubernetes.io/name": "somebody"})
    engines = 0
    for pod, metadata, spec in policies.pods(workloads(values, tmp_path)):
        if "engine" not in ports_of(spec):
            continue
        engines += 1
        home = values.get("modelServers", {}).get("namespace") or NAMESPACE
        engine = Actor(pod, home, metadata["labels"], ports_of(spec))
        assert network.allows(ours["gateway"], engine, engine.ports["engine"])
        assert network.allows(ours["keeper"], engine, engine.ports["engine"])
        assert not network.allows(stranger, engine, engine.ports["engine"])
        assert not network.allows(engine, ours["gateway"], 9090)
        assert not network.allows(engine, ours["keeper"], 8080)
    assert engines == len(values["models"])


@pytest.mark.parametrize("name", CASES)
def test_what_they_refer_to_is_there(name: str, tmp_path: Path) -> None:
    """A claim of another name, or in another namespace, and the pod waits for ever."""
    values = CASES[name]
    claims = {
        (claim["metadata"]["name"], claim["metadata"]["namespace"])
        for claim in render(values)
        if claim["kind"] == "PersistentVolumeClaim"
    }
    home = values.get("modelServers", {}).get("namespace") or NAMESPACE
    for pod, _, spec in policies.pods(workloads(values, tmp_path)):
        for volume in spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert (volume["persistentVolumeClaim"]["claimName"], home) in claims, pod

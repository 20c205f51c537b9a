"""Carrying a plan out, on a pretended cluster and with a Helm that only notes what it is told."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lamplighter.config import Config
from lamplighter.operations.cluster import plan, prepare, run
from lamplighter.operations.cluster.errors import NoHelm, PartFailed
from lamplighter.operations.cluster.helm import Helm, HelmFailed, Release
from lamplighter.operations.cluster.parts import NAMES, Part
from lamplighter.operations.cluster.plan import Step
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.kinds import CLAIM, DEPLOYMENT, NAMESPACE, Manifest
from lamplighter.testing.kubernetes import FakeCluster

EMPTY: dict[str, Any] = {"models": {}, "pools": {}}
CONFIG = Config.model_validate(EMPTY)


class NotedHelm:
    """Remembers releases as Helm would; `breaks`: the parts that fail, and how their record then reads."""

    def __init__(self, breaks: Mapping[str, str] | None = None) -> None:
        self.breaks = dict(breaks or {})
        self.known: dict[str, Release] = {}
        self.calls: list[str] = []

    def list(self) -> Sequence[Release]:
        return [*self.known.values()]

    def install(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        assert part.name not in self.known, "cannot re-use a name that is still in use"
        self._write("install", part, digest)

    def upgrade(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        assert not self.known[part.name].status.startswith("pending"), "another operation is in progress"
        self._write("upgrade", part, digest)

    def roll_back(self, part: Part) -> None:
        self.calls.append(f"roll back {part.name}")
        self.known[part.name] = replace(self.known[part.name], status="deployed")

    def uninstall(self, part: Part) -> None:
        self.calls.append(f"uninstall {part.name}")
        self.known.pop(part.name, None)

    def stop(self) -> None:
        self.calls.append("stop")

    def _write(self, verb: str, part: Part, digest: str) -> None:
        self.calls.append(f"{verb} {part.name}")
        before = self.known.get(part.name)
        status = self.breaks.get(part.name, "deployed")
        self.known[part.name] = Release(
            part.release,
            part.namespace,
            before.revision + 1 if before else 1,
            status,
            part.chart.name,
            part.chart.version,
            part.name,
            digest,
        )
        if part.name in self.breaks:
            raise HelmFailed("context deadline exceeded")


@pytest.fixture
async def home() -> AsyncIterator[Cluster]:
    with FakeCluster() as fake:
        client = Cluster.connect(fake.access())
        yield client
        await client.close()


def quiet(step: Step, event: str) -> None:
    """Nobody listens."""


async def bring(home: Cluster, helm: NotedHelm, **asked: Any) -> Sequence[Step]:
    """Plan and do, as the command does."""
    _, steps = await prepare.plan(home, helm, CONFIG, prepare.Asked(**asked))
    await run.install(home, helm, steps, quiet)
    return steps


async def test_a_failure_stops_and_the_next_run_goes_on(home: Cluster) -> None:
    """After a failure in the middle a person would have to find out themselves what is there and what is not."""
    helm = NotedHelm({"ingress": "failed"})
    with pytest.raises(PartFailed) as failed:
        await bring(home, helm)
    assert failed.value.part == "ingress"
    assert "context deadline exceeded" in failed.value.message
    assert "run the same command again" in failed.value.next_step
    assert helm.calls == ["install cert-manager", "install monitoring", "install ingress"]
    helm.breaks, helm.calls = {}, []
    await bring(home, helm)
    assert helm.calls == [
        "uninstall ingress", "install ingress", "install device-plugin", "install dcgm-exporter", "install lamplighter",
    ]  # fmt: skip
    helm.calls = []
    assert not any(step.action.changes for step in await bring(home, helm)), "a second run changes nothing"
    assert helm.calls == []


async def test_an_upgrade_that_was_cut_off_is_undone_first(home: Cluster) -> None:
    """Helm refuses every further word about a release that it holds to be in the making: only by hand it would get on."""
    helm = NotedHelm()
    await bring(home, helm, only=("monitoring",))
    helm.known["monitoring"] = replace(helm.known["monitoring"], status="pending-upgrade", revision=3)
    helm.calls = []
    await bring(home, helm, only=("monitoring",))
    assert helm.calls == ["roll back monitoring", "upgrade monitoring"]
    helm.known["monitoring"] = replace(helm.known["monitoring"], status="failed", revision=3)
    helm.calls = []
    await bring(home, helm, only=("monitoring",))
    assert helm.calls == ["upgrade monitoring"]


async def test_namespaces_allow_what_their_pods_need_and_no_more(home: Cluster) -> None:
    """PodSecurity refuses the node exporter and the device plugin, and Helm waits for them until its time is up."""
    await home.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nvidia", "labels": {"team": "ml"}}})
    await bring(home, NotedHelm())
    labels = {
        space: (await home.get(NAMESPACE, space))["metadata"]["labels"] for space in ("nvidia", "monitoring", "cert-manager")
    }
    assert labels["monitoring"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert labels["monitoring"]["lamplighter.dev/part"] == "monitoring"
    assert not any(name.startswith("pod-security") for name in labels["cert-manager"])
    assert labels["nvidia"]["team"] == "ml"
    assert labels["nvidia"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert "lamplighter.dev/part" not in labels["nvidia"], "it is the user's, and is not deleted with our parts"


def claim(namespace: str, name: str, **labels: str) -> Manifest:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    told = {name.replace("__", "/").replace("_", "."): value for name, value in labels.items()}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "labels": told},
        "spec": spec,
    }


def deployment(namespace: str, name: str, labels: Mapping[str, str]) -> Manifest:
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "registry.test/own:1"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": spec,
    }


@pytest.mark.parametrize("delete", [False, True])
async def test_data_stays_unless_somebody_says_otherwise(home: Cluster, delete: bool) -> None:
    """Metrics of a year, or all chats, would be gone with one word; or, the other way, cost money for ever."""
    helm = NotedHelm()
    await bring(home, helm)
    await home.create(claim("monitoring", "prometheus-data-0", operator_prometheus_io__name="monitoring"))
    await home.create(claim("monitoring", "theirs"))
    await home.create(claim("lamplighter", "lamplighter-single", app_kubernetes_io__instance="lamplighter"))
    models = {"app.kubernetes.io/managed-by": "lamplighter", "app.kubernetes.io/name": "lamplighter-model"}
    await home.create(deployment("lamplighter", "lamplighter-gpu-llama", models))
    seen, _ = await run.status(home, helm)
    helm.calls = []
    left = await run.uninstall(home, helm, plan.uninstall(seen, helm.list(), NAMES), quiet, delete_data=delete)
    assert helm.calls[0] == "uninstall lamplighter"
    assert helm.calls[-1] == "uninstall cert-manager"
    claims = {f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in await home.list(CLAIM, "*")}
    both = {"monitoring/prometheus-data-0", "lamplighter/lamplighter-single"}
    assert claims == ({"monitoring/theirs"} if delete else {"monitoring/theirs", *both})
    assert (set(left.deleted), set(left.claims)) == ((both, set()) if delete else (set(), both))
    assert await home.list(DEPLOYMENT, "lamplighter") == [], (
        "a model's workload would hold its GPU for ever: no keeper is there to end it"
    )
    assert "monitoring" in left.namespaces, "somebody's claim is in it"
    assert await home.get_or_none(NAMESPACE, "cert-manager") is None


async def test_status_says_whose_each_part_is_and_what_is_late(home: Cluster) -> None:
    """`all is well` over a release whose pods never came up."""
    helm = NotedHelm()
    await bring(home, helm, only=("cert-manager", "monitoring"))
    late = deployment("monitoring", "grafana", {})
    late["spec"]["replicas"] = 1
    late["metadata"]["annotations"] = {"meta.helm.sh/release-name": "monitoring", "meta.helm.sh/release-namespace": "monitoring"}
    await home.create(late)
    theirs = deployment("default", "traefik", {})
    theirs["spec"]["template"]["spec"]["containers"][0]["image"] = "docker.io/traefik:v3.5.0"
    await home.create(theirs)
    helm.known["cert-manager"] = replace(helm.known["cert-manager"], version="v1.20.0")
    _, standing = await run.status(home, helm)
    states = {one.part.name: one for one in standing}
    assert states["cert-manager"].state == "ready"
    assert "cluster upgrade" in states["cert-manager"].text
    assert (states["monitoring"].state, states["monitoring"].text) == ("starting", "not ready: Deployment monitoring/grafana")
    assert states["ingress"].state == "own"
    assert states["liqo"].state == "absent"


async def test_liqo_needs_a_federation(home: Cluster) -> None:
    """Three controllers for nobody; or, when it is asked for by name, an installation without the networks that it must know."""
    helm = NotedHelm()
    _, steps = await prepare.plan(home, helm, CONFIG, prepare.Asked())
    (liqo,) = [step for step in steps if step.part.name == "liqo"]
    assert (liqo.action.value, liqo.why) == ("leave", prepare.NO_FEDERATION)
    config = Config.model_validate({**EMPTY, "federation": {"pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/12"}})
    _, steps = await prepare.plan(home, helm, config, prepare.Asked(only=("liqo",)))
    (liqo,) = [step for step in steps if step.part.name == "liqo"]
    assert liqo.action.value == "install"
    assert liqo.values["ipam"]["podCIDRs"] == ["10.244.0.0/16"]
    assert "10.77.0.0/16" in liqo.values["ipam"]["reservedSubnets"]
    older = config.model_copy(update={"federation": config.federation.model_copy(update={"liqo_version": "v1.1.2"})})
    _, steps = await prepare.plan(home, helm, older, prepare.Asked(only=("liqo",)))
    (liqo,) = [step for step in steps if step.part.name == "liqo"]
    assert (liqo.part.chart.version, liqo.values["tag"]) == ("v1.1.2", "v1.1.2"), "both sides of a federation must have the same"


def test_without_the_extra_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError of a library that the person never heard of."""
    import sys

    monkeypatch.setitem(sys.modules, "helm_python", None)
    with pytest.raises(NoHelm) as lacking:
        Helm(Access())
    assert lacking.value.next_step == "pip install 'lamplighter[cluster]'"

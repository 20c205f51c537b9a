"""`lamplighter cluster` with the real Helm against a real API server, with small charts in place of the upstream ones.

Long: it needs a real control plane (tests/cluster_lab). Nothing runs there: the charts' workloads have no replicas.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from lamplighter.cli import cluster as command
from lamplighter.cli.invocation import Invocation
from lamplighter.operations.cluster.errors import ClusterError, PartFailed
from lamplighter.operations.cluster.parts import NAMES, PARTS
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.kinds import (
    CLAIM,
    CLUSTER_ROLE,
    CONFIG_MAP,
    DEPLOYMENT,
    NAMESPACE,
    SECRET,
    VOLUME,
    Kind,
    Manifest,
)
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster
from tests.journeys.cluster import charts
from tests.journeys.harness import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
HEARING = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Whoever runs these tests in the background of a shell has Ctrl-C ignored, and so would their children."""
PROGRAM = (
    "import sys\nfrom lamplighter.cli import cluster, main\n"
    "any(group.name == 'cluster' for group in main.app.registered_groups) or cluster.register(main.app)\n"
    "sys.exit(main.run(sys.argv[1:]))\n"
)
"""The program, also while `lamplighter.cli.main` does not register the group."""
SPACES = {part.namespace for part in PARTS}


@dataclass
class Bench:
    """The command, the cluster and the charts."""

    kubeconfig: Path
    charts: Path
    folder: Path
    access: Access

    def say(self, *words: str) -> dict[str, Any]:
        """Run it; its JSON. Raises what the command raises."""
        app = typer.Typer()
        command.register(app)
        app.command("other")(lambda: None)  # a group alone would lose its name
        made = Invocation()
        done = CliRunner().invoke(
            app, ["cluster", *words, "--kubeconfig", str(self.kubeconfig), "--json"], obj=made, catch_exceptions=True
        )
        if isinstance(done.exception, ClusterError):
            raise done.exception
        assert done.exit_code in (0, 1), (done.output, done.exception)
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def bring(self, *words: str, values: Mapping[str, Any] | None = None, verb: str = "install") -> dict[str, str]:
        """Install or upgrade; the action of each part."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values or {})))
        config = self.folder / "lamplighter.yaml"
        config.write_text("models: {}\npools: {}\nfederation: {pod_cidr: 10.244.0.0/16, service_cidr: 10.96.0.0/12}\n")
        told = self.say(
            verb, "--yes", "--charts", str(self.charts), "--values", str(file), "--timeout", "10", "--config", str(config), "--data",
            str(self.folder), *words,
        )  # fmt: skip
        return {step["part"]: step["action"] for step in told["steps"]}

    def states(self) -> dict[str, str]:
        return {part["part"]: part["state"] for part in self.say("status")["parts"]}

    def listed(self, kind: Kind, namespace: str | None = None) -> list[Manifest]:
        """Objects, of one namespace or of all that are ours."""
        found = asyncio.run(self._with(lambda home: home.list(kind, namespace or "*")))
        return [one for one in found if not kind.namespaced or one["metadata"]["namespace"] in SPACES]

    def create(self, manifest: Manifest) -> None:
        asyncio.run(self._with(lambda home: home.create(manifest)))

    def delete(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        asyncio.run(self._with(lambda home: home.delete(kind, name, namespace)))

    def values_of(self, release: str, namespace: str) -> dict[str, Any]:
        """What a chart was given."""
        (found,) = [one for one in self.listed(CONFIG_MAP, namespace) if one["metadata"]["name"] == f"{release}-values"]
        content = json.loads(found["data"]["values.json"])
        assert isinstance(content, dict)
        return content

    async def _with(self, ask: Any) -> Any:
        home = Cluster.connect(self.access)
        try:
            return await ask(home)
        finally:
            await home.close()


@pytest.fixture
def bench(real_cluster: ControlPlane | LentCluster, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(
        real_cluster.write_kubeconfig(tmp_path / "kubeconfig"), charts.write(tmp_path / "charts"), tmp_path, real_cluster.access()
    )
    volumes = [f"lamplighter-test-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    for name in volumes:
        made.create(volume(name))
    try:
        yield made
    finally:
        made.say("uninstall", "--yes", "--delete-data", "--timeout", "30")
        for name in volumes:
            made.delete(VOLUME, name)


def volume(name: str) -> Manifest:
    """A volume for a chart's claim: nothing here makes any by itself."""
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": f"/nowhere/{name}"}}
    meta = {"name": name}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": meta,
        "spec": {**spec, "persistentVolumeReclaimPolicy": "Retain"},
    }


@contextmanager
def theirs(bench: Bench) -> Iterator[None]:
    """A cert-manager that somebody else put there."""
    pod = {
        "metadata": {"labels": {"app": "theirs"}},
        "spec": {"containers": [{"name": "c", "image": "registry.test/cert-manager-controller:v1.18.0"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "theirs"}}, "template": pod}
    bench.create(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "theirs", "namespace": "default"}, "spec": spec}
    )
    try:
        yield
    finally:
        bench.delete(DEPLOYMENT, "theirs", "default")


def test_everything_comes_in_order_changes_and_goes_without_a_trace(bench: Bench) -> None:
    """The whole life: what a person gets from `install`, `upgrade`, `status`, and what is left after `uninstall`."""
    done = bench.bring()
    assert done == {**dict.fromkeys(NAMES, "install"), "liqo": "leave"}
    born = {one["metadata"]["namespace"]: one["metadata"]["creationTimestamp"] for one in bench.listed(DEPLOYMENT)}
    assert born["cert-manager"] <= born["monitoring"] <= born["traefik"] <= born["lamplighter"]
    assert bench.states() == {**dict.fromkeys(NAMES, "ready"), "liqo": "absent"}
    assert bench.values_of("lamplighter", "lamplighter")["metrics"]["discovery"] == "serviceMonitor"
    assert bench.values_of("monitoring", "monitoring")["prometheus"]["prometheusSpec"]["retentionSize"] == "18GB"
    # The definitions of a real stack would be there now; the small charts bring none, so that no monitor is asked for any more.
    assert set(bench.bring("--skip", "lamplighter", "--skip", "dcgm-exporter").values()) <= {"keep", "leave"}

    told = bench.bring(
        "--only", "monitoring", values={"monitoring": {"prometheus": {"prometheusSpec": {"retention": "60d"}}}}, verb="upgrade"
    )
    assert told["monitoring"] == "change"
    assert bench.values_of("monitoring", "monitoring")["prometheus"]["prometheusSpec"]["retention"] == "60d"

    ended = bench.say("uninstall", "--yes", "--timeout", "30")
    assert sorted(ended["kept"]["claims"]) == ["lamplighter/lamplighter-data", "monitoring/monitoring-data"]
    assert bench.listed(DEPLOYMENT) == []
    assert sorted(one["metadata"]["name"] for one in bench.listed(CLAIM)) == ["lamplighter-data", "monitoring-data"]
    assert not [one for one in bench.listed(CLUSTER_ROLE) if one["metadata"]["name"].endswith("-role")]
    assert not [one for one in bench.listed(SECRET) if one["type"] == "helm.sh/release.v1"]
    spaces = {one["metadata"]["name"]: one for one in bench.listed(NAMESPACE)}
    for name in SPACES - {"lamplighter", "monitoring"}:
        assert name not in spaces or spaces[name]["metadata"].get("deletionTimestamp"), name


def test_a_failure_in_the_middle_is_named_and_mended_by_the_same_command(bench: Bench) -> None:
    """Half an installation that neither goes on nor can be begun anew is what people fear most of such commands."""
    with pytest.raises(PartFailed) as failed:
        bench.bring(values={"ingress": {"hangs": True}})
    assert failed.value.part == "ingress"
    assert "Helm says" in failed.value.message
    states = bench.states()
    assert states["monitoring"] == "ready"
    assert states["ingress"] == "failed"
    assert states["lamplighter"] == "absent"
    done = bench.bring()
    assert done["ingress"] == "mend"
    assert {done[name] for name in ("cert-manager", "monitoring")} == {"keep"}
    assert {done[name] for name in ("device-plugin", "dcgm-exporter", "lamplighter")} == {"install"}
    assert bench.states()["ingress"] == "ready"


def test_an_upgrade_that_fails_leaves_what_worked_and_is_mended(bench: Bench) -> None:
    """One wrong value, and every next command would be refused by Helm."""
    bench.bring("--only", "ingress")
    with pytest.raises(PartFailed):
        bench.bring("--only", "ingress", values={"ingress": {"hangs": True}}, verb="upgrade")
    assert bench.states()["ingress"] == "failed"
    assert bench.bring("--only", "ingress", verb="upgrade")["ingress"] == "mend"
    assert bench.states()["ingress"] == "ready"
    charts.age(bench.charts, "ingress", "1.0.0")  # what is there is the newer one: it stays
    assert bench.bring("--only", "ingress")["ingress"] == "keep"


def test_what_is_somebody_elses_stays_theirs(bench: Bench) -> None:
    """Their certificates would depend on our command from then on, or be gone after it."""
    with theirs(bench):
        done = bench.bring("--only", "cert-manager", "--only", "monitoring")
        assert (done["cert-manager"], done["monitoring"]) == ("own", "install")
        assert bench.states()["cert-manager"] == "own"
        ended = bench.say("uninstall", "--yes", "--timeout", "30")
        assert {step["part"]: step["action"] for step in ended["steps"]}["cert-manager"] == "own"
        home = asyncio.run(bench._with(lambda home: home.get_or_none(DEPLOYMENT, "theirs", "default")))
        assert home is not None


def test_nothing_is_changed_without_a_yes(bench: Bench) -> None:
    """A program that runs the command by mistake would change a cluster."""
    with pytest.raises(ClusterError) as refused:
        bench.say("install", "--charts", str(bench.charts), "--data", str(bench.folder), "--only", "ingress")
    assert refused.value.exit_code == 2
    assert set(bench.states().values()) == {"absent"}


def test_a_chart_that_is_not_in_the_folder_is_named(bench: Bench) -> None:
    """On a machine without the internet a person must learn which file to bring."""
    (bench.charts / "traefik").rename(bench.charts / "elsewhere")
    with pytest.raises(PartFailed) as failed:
        bench.bring("--only", "ingress")
    assert "no chart traefik" in failed.value.message
    assert "helm pull traefik --repo https://traefik.github.io/charts --version" in failed.value.next_step


def test_without_the_internet_the_folder_of_charts_is_named(bench: Bench) -> None:
    """A name that cannot be looked up says nothing about what to do instead; and nothing of it may be left."""
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "cluster", "install", "--yes", "--only", "ingress", "--kubeconfig", bench.kubeconfig, "--data", bench.folder],
        env={**os.environ, **proxy}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--charts" in done.stderr
    assert "traefik" in [one["metadata"]["name"] for one in bench.listed(NAMESPACE)]
    bench.say("uninstall", "--yes", "--timeout", "30")
    assert "traefik" not in [one["metadata"]["name"] for one in bench.listed(NAMESPACE)]


def test_ctrl_c_ends_it_at_once_and_the_next_run_goes_on(bench: Bench) -> None:
    """A person who sees that it hangs would wait a quarter of an hour for their shell."""
    values = bench.folder / "hangs.yaml"
    values.write_text("ingress: {hangs: true}\n")
    words: list[str | Path] = [
        "cluster",
        "install",
        "--yes",
        "--only",
        "ingress",
        "--charts",
        bench.charts,
        "--values",
        values,
        "--kubeconfig",
        bench.kubeconfig,
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING + PROGRAM, *words, "--data", bench.folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: bench.listed(DEPLOYMENT, "traefik"), what="Helm is at it")
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 20
        assert process.returncode != 0
    finally:
        process.kill()
    assert bench.states()["ingress"] in ("failed", "starting")
    assert bench.bring("--only", "ingress")["ingress"] == "mend"
    assert bench.states()["ingress"] == "ready"

"""`lamplighter federation ...` as a person types it, against two pretended clusters with a pretended Liqo between them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import typer
import yaml

from lamplighter.cli import federation, federation_watch, main
from lamplighter.operations.cluster import helm
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes import FakeCluster
from lamplighter.testing.liqo import FakeLiqo
from tests.unit.federation.harness import NODE, clusters


@dataclass
class Desk:
    """A terminal with a configuration, and both clusters."""

    home: FakeCluster
    gpu: FakeCluster
    liqo: FakeLiqo
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> SimpleNamespace:
        """Run it: its status, what it printed, what it said."""
        self.capsys.readouterr()
        status = main.run(["federation", *words, "--config", str(self.folder / "lamplighter.yaml")])
        told = self.capsys.readouterr()
        return SimpleNamespace(status=status, out=told.out, err=told.err, json=lambda: json.loads(told.out))

    def peer(self, *words: str) -> SimpleNamespace:
        return self(
            "peer",
            "gpu-1",
            "--kubeconfig",
            str(self.folder / "gpu.yaml"),
            "--address",
            NODE,
            "--instance-type",
            "g5.xlarge",
            *words,
        )


@contextmanager
def played(home: FakeCluster, gpu: FakeCluster) -> Iterator[FakeLiqo]:
    """Liqo's controllers, in a thread of their own."""
    liqo, ready, end = FakeLiqo(not_ready_after=0.0), threading.Event(), threading.Event()

    async def play() -> None:
        await liqo.add("home", Cluster.connect(home.access()), pods="10.244.0.0/16", reserved=("10.77.0.0/16",))
        await liqo.add("gpu-1", Cluster.connect(gpu.access()), api_server=f"https://{NODE}:6443")
        ready.set()
        async with liqo.running(0.02):
            while not end.is_set():  # noqa: ASYNC110 - the other thread is the test
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(play()), name="liqo")
    thread.start()
    try:
        assert ready.wait(20)
        yield liqo
    finally:
        end.set()
        thread.join(20)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    app = typer.Typer()
    app.callback()(lambda: None)
    federation.register(app)
    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(federation, "_PAUSE", 0.05)
    monkeypatch.setattr(federation_watch, "_PAUSE", 0.05)
    with clusters() as (home, gpu), played(home, gpu) as liqo:
        home.write_kubeconfig(tmp_path / "home.yaml")
        gpu.write_kubeconfig(tmp_path / "gpu.yaml")
        settings = {"kubeconfig": str(tmp_path / "home.yaml"), "pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/12"}
        (tmp_path / "lamplighter.yaml").write_text(yaml.safe_dump({"federation": settings}))
        yield Desk(home, gpu, liqo, tmp_path, capsys)


def test_the_whole_way(desk: Desk) -> None:
    """Join, open, look, part: the path of the guide."""
    joined = desk.peer("--limit", "60")
    assert joined.status == 0, joined.err
    assert "gpu-1 is joined: virtual node gpu-1 is ready." in joined.err
    opened = desk("offload", "--limit", "20")
    assert opened.status == 0, opened.err
    assert "llm-inference is open: gpu-1" in opened.err
    seen = desk("status", "--json")
    assert seen.status == 0, seen.out
    assert seen.json()["peers"][0]["tunnel"] == "Connected"
    shown = desk("status")
    assert "gpu-1: gpu-1 is ready." in shown.out
    parted = desk("unpeer", "gpu-1", "--kubeconfig", str(desk.folder / "gpu.yaml"), "--yes", "--limit", "60")
    assert parted.status == 0, parted.err
    assert desk.home.all("ForeignCluster") == []
    assert desk.gpu.all("Tenant") == []


def test_peer_says_what_it_waits_for(desk: Desk) -> None:
    """A limit that runs out: the last thing that was missing, and what to do, not only "timeout"."""
    desk.liqo.members["gpu-1"].faults.add("slice-unanswered")
    late = desk.peer("--limit", "2")
    assert late.status == 1
    assert "decides on the slice" in late.err
    assert "not ready within 2 s" in late.err
    desk.liqo.members["gpu-1"].faults.clear()
    assert desk.peer("--limit", "60").status == 0


def test_peer_fails_at_once_when_waiting_is_no_use(desk: Desk) -> None:
    """A refusal is not waited for, and the exit status and JSON say it."""
    desk.liqo.members["gpu-1"].faults.add("slice-denied")
    refused = desk.peer("--limit", "60", "--json")
    assert refused.status == 1
    assert (refused.json()["state"], refused.json()["reason"]) == ("failed", "slice_refused")


def test_tunnel_must_go_through_the_mesh(desk: Desk) -> None:
    """An address outside of the mesh: Liqo would go around it, over the internet."""
    outside = desk(
        "peer", "gpu-1", "--kubeconfig", str(desk.folder / "gpu.yaml"), "--address", "203.0.113.7", "--instance-type", "g5.xlarge"
    )
    assert outside.status == 1
    assert "does not lie in the mesh" in outside.err
    unnamed = desk("peer", "gpu-1", "--kubeconfig", str(desk.folder / "gpu.yaml"), "--instance-type", "g5.xlarge")
    assert "--address" in unnamed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("peer", "gpu-1"), "--kubeconfig"),
        (("unpeer", "gpu-1", "--yes"), "--force when that cluster is gone"),
        (("unpeer", "gpu-1", "--force"), "Add --yes"),
        (("install", "--cluster-id", "gpu-2"), "needs --kubeconfig and --cluster-id"),
        (("install", "--kind", "windows"), "talos, k3s or generic"),
        (("canary",), "federation offload"),
    ],
)
def test_what_is_missing_is_named(desk: Desk, words: tuple[str, ...], said: str) -> None:
    """A command that lacks something says what."""
    answer = desk(*words)
    assert answer.status != 0
    assert said in answer.err


def test_force_after_a_loss(desk: Desk) -> None:
    """The machine is gone: one command clears what is left; while it still answers it refuses."""
    assert desk.peer("--limit", "60").status == 0
    refused = desk("unpeer", "gpu-1", "--force", "--yes", "--limit", "1")
    assert refused.status == 1
    assert "still answers" in refused.err
    desk.liqo.lose("gpu-1")
    desk.gpu.stop()
    done = desk("unpeer", "gpu-1", "--force", "--yes", "--limit", "60")
    assert done.status == 0, done.err
    assert desk.home.all("Node") == []


def test_doctor(desk: Desk) -> None:
    """What must be right before: each wrong setting with its next step, and exit status 1."""
    desk.home.create(_reserved("10.77.0.0/16"))
    well = desk("doctor")
    assert well.status == 0, well.out
    assert "Liqo's MTU 1240 fits into the mesh's 1300." in well.out
    assert "10.77.0.0/16 is reserved" in well.out
    path = desk.folder / "lamplighter.yaml"
    changed = yaml.safe_load(path.read_text())
    changed["federation"] |= {"mtu": 1340, "pod_cidr": "10.77.0.0/20", "liqo_version": "v1.3.0"}
    path.write_text(yaml.safe_dump(changed))
    desk.home.delete("Network", "reserved", "liqo")
    wrong = desk("doctor", "--json")
    assert wrong.status == 1
    texts = " ".join(one["text"] for one in wrong.json()["findings"] if one["level"] == "wrong")
    for words in (
        "MTU 1340 does not fit",
        "overlaps the mesh's",
        "v1.2.0 at home, configured is v1.3.0",
        "does not know that the mesh's network",
    ):
        assert words in texts, texts
    assert all(one["next_step"] for one in wrong.json()["findings"] if one["level"] == "wrong")


def test_install_printed(desk: Desk) -> None:
    """For GitOps: namespace, values and the exact release, and nothing is touched."""
    before = desk.home.store.version
    told = desk("install", "--print", "--json")
    assert told.status == 0, told.err
    printed = told.json()
    assert printed["values"]["ipam"]["reservedSubnets"] == ["10.77.0.0/16"]
    assert (printed["chart"], printed["version"], printed["repository"]) == ("liqo", "v1.2.0", "https://helm.liqo.io/")
    text = desk("install", "--print").out
    documents = [one for one in yaml.safe_load_all(text) if one]
    assert documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert documents[1]["discovery"]["config"]["clusterID"] == "home"
    assert "# helm upgrade --install liqo" in text
    assert desk.home.store.version == before


class Recorded:
    """Stands in for Helm: what it was told."""

    told: ClassVar[list[tuple[str, Any, Any, str]]] = []
    there: ClassVar[list[helm.Release]] = []

    def __init__(self, access: object) -> None:
        self.access = access

    def list(self) -> list[helm.Release]:
        return self.there

    def install(self, part: Any, values: Any, digest: str) -> None:
        self.told.append(("install", part, values, digest))

    def upgrade(self, part: Any, values: Any, digest: str) -> None:
        self.told.append(("upgrade", part, values, digest))


def test_install_by_helm(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: installed, with its namespace before it. Again: nothing. Another version while clusters are joined: refused."""
    monkeypatch.setattr(helm, "Helm", Recorded)
    monkeypatch.setattr(Recorded, "told", [])
    monkeypatch.setattr(Recorded, "there", [])
    kubeconfig = (
        "--kubeconfig",
        str(desk.folder / "gpu.yaml"),
        "--cluster-id",
        "gpu-1",
        "--kind",
        "k3s",
        "--gpu",
        "--api-server",
        f"https://{NODE}:6443",
        "--yes",
    )
    first = desk("install", *kubeconfig)
    assert first.status == 1, "a cluster that does not tell its networks: --kind k3s gives no network"
    desk.gpu.create(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n"},
            "status": {"nodeInfo": {"kubeletVersion": "v1.34.1+k3s1"}},
        }
    )
    first = desk("install", *kubeconfig)
    assert first.status == 0, first.err
    (action, part, values, digest), *_ = Recorded.told
    assert (action, part.chart.version, part.namespace) == ("install", "v1.2.0", "liqo")
    assert values["discovery"]["config"]["clusterLabels"] == {"liqo.io/provider": "k3s", "node-type": "gpu"}
    assert desk.gpu.get("Namespace", "liqo")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    known = helm.Release("liqo", "liqo", 1, "deployed", "liqo", "v1.2.0", "liqo", digest)
    monkeypatch.setattr(Recorded, "there", [known])
    again = desk("install", *kubeconfig)
    assert "as it should be already" in again.err
    assert len(Recorded.told) == 1
    old = helm.Release("liqo", "liqo", 1, "deployed", "liqo", "v1.1.2", "liqo", "other")
    monkeypatch.setattr(Recorded, "there", [old])
    desk.gpu.create(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gpu-7", "labels": {"liqo.io/type": "virtual-node"}}}
    )
    refused = desk("install", *kubeconfig)
    assert refused.status == 1
    assert "cannot be upgraded while clusters are joined (gpu-7)" in refused.err


def test_home_away(desk: Desk) -> None:
    """The home cluster does not answer: one sentence and a next step, no traceback."""
    desk.home.stop()
    answer = desk("status")
    assert answer.status == 1
    assert "cannot be reached" in answer.err
    assert "unexpected" not in answer.err


def _reserved(cidr: str) -> dict[str, Any]:
    meta = {"name": "reserved", "namespace": "liqo", "labels": {"ipam.liqo.io/network-type": "reserved"}}
    return {"apiVersion": "ipam.liqo.io/v1alpha1", "kind": "Network", "metadata": meta, "spec": {"cidr": cidr}}

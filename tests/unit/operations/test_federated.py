"""What doctor says of the federation: nothing where there is none, and where there should be one, why it does not work."""

from pathlib import Path

from lamplighter.config import Config, parse
from lamplighter.core.findings import Verdict
from lamplighter.operations import federated
from lamplighter.testing.kubernetes.cluster import FakeCluster


def config(kubeconfig: Path, federation: str = "liqo") -> Config:
    return parse(
        f"federation: {{kubeconfig: '{kubeconfig}'}}\npools: {{spot: {{kind: aws, region: eu-central-1, federation: {federation}}}}}"
    )


def test_who_federates_nothing_hears_nothing(tmp_path: Path) -> None:
    """A laptop's doctor would complain of a cluster that nobody wants."""
    assert list(federated.examine(config(tmp_path / "none", "none"))) == []


def test_a_home_cluster_that_cannot_be_reached(tmp_path: Path) -> None:
    """Else the first person who asks a federated model finds out, after a machine was paid for."""
    found = list(federated.examine(config(tmp_path / "none")))
    assert [one.verdict for one in found] == [Verdict.FAIL]
    assert found[0].next_step


def test_a_home_cluster_without_liqo(tmp_path: Path) -> None:
    """The usual state of somebody who just wrote `federation: liqo`."""
    with FakeCluster() as cluster:
        found = list(federated.examine(config(cluster.write_kubeconfig(tmp_path / "config"))))
    assert [(one.verdict, one.message) for one in found] == [(Verdict.FAIL, "Liqo is not installed.")]
    assert "federation install" in found[0].next_step

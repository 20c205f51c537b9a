"""The values that a chart gets: ours, what the cluster decides, what the person says."""

from pathlib import Path

import pytest

from lamplighter.operations.cluster import values
from lamplighter.operations.cluster.errors import ClusterError
from tests.chart.rendering import render


def test_a_person_wins_key_by_key(tmp_path: Path) -> None:
    """One changed number would drop the volume, and with it the metrics of a month."""
    file = tmp_path / "values.yaml"
    file.write_text("monitoring: {prometheus: {prometheusSpec: {retention: 60d}}}\nlamplighter: {metrics: {discovery: none}}\n")
    whole = values.complete(values.read(file), monitors=True, liqo={"tag": "v1.2.0"}, federation=True)
    spec = whole["monitoring"]["prometheus"]["prometheusSpec"]
    assert spec["retention"] == "60d"
    assert spec["retentionSize"] == "18GB"
    assert spec["storageSpec"]["volumeClaimTemplate"]["metadata"]["name"] == "prometheus-data"
    assert whole["lamplighter"]["metrics"]["discovery"] == "none"
    assert whole["lamplighter"]["federation"] == {"enabled": True}
    assert whole["liqo"] == {"tag": "v1.2.0"}
    assert whole["dcgm-exporter"]["serviceMonitor"] == {"enabled": True}


def test_without_prometheus_nothing_asks_to_be_watched() -> None:
    """Helm refuses a ServiceMonitor that the cluster does not know, and with it the whole part."""
    whole = values.complete({}, monitors=False, liqo=None, federation=False)
    assert "metrics" not in whole["lamplighter"]
    assert "federation" not in whole["lamplighter"]
    assert whole["dcgm-exporter"]["serviceMonitor"] == {"enabled": False}


@pytest.mark.parametrize(
    ("text", "said"),
    [("prometheus: {}", "no part"), ("- monitoring", "at the top"), ("monitoring: 3", "at the top"), ("a: [", "no YAML")],
)
def test_a_file_that_would_do_nothing_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A slip in a part's name would be ignored, and the person would wonder why."""
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(ClusterError, match=said):
        values.read(file)
    with pytest.raises(ClusterError, match="cannot be read"):
        values.read(tmp_path / "none.yaml")


@pytest.mark.parametrize("monitors", [False, True])
@pytest.mark.parametrize("federation", [False, True])
def test_lamplighters_own_chart_takes_what_it_is_given(monitors: bool, federation: bool) -> None:
    """The last part of the installation would be refused by its own schema, after ten minutes of all the others."""
    whole = values.complete({}, monitors=monitors, liqo=None, federation=federation)["lamplighter"]
    kinds = {document["kind"] for document in render(whole)}
    assert "StatefulSet" in kinds
    assert ({"ServiceMonitor", "PrometheusRule"} <= kinds) is monitors


def test_prometheus_keeps_less_than_its_volume_holds() -> None:
    """A full volume stops Prometheus, and with it every alert."""
    spec = values.complete({}, monitors=True, liqo=None, federation=False)["monitoring"]["prometheus"]["prometheusSpec"]
    volume = spec["storageSpec"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
    assert float(spec["retentionSize"].removesuffix("GB")) * 1e9 < float(volume.removesuffix("Gi")) * 2**30 * 0.9

"""Dashboards and rules: every metric exists, every alert has a runbook that exists, and promtool agrees with what we say they do."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamplighter.observability.metrics import Family, Metrics
from tests.chart.matrix import Values
from tests.chart.rendering import of, one, render
from tools import dashboards

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules" / "lamplighter.yaml"
PROCESS = {"process_resident_memory_bytes"}
"""What the Prometheus client itself adds on Linux."""


def families() -> dict[str, Family[Any]]:
    """Every metric of the program, by its name as it is scraped."""
    return {
        f"{one.name}_total" if one.kind == "counter" and not one.name.endswith("_total") else one.name: one
        for one in vars(Metrics()).values()
        if isinstance(one, Family)
    }


def queries() -> Iterator[tuple[str, str]]:
    """Every query of dashboards and rules, and where it stands."""
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]


QUERIES = list(queries())


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_metric_and_label_exists(where: str, query: str) -> None:
    """A panel about a metric that nobody has is empty for ever, and an alert on it never comes."""
    known = families()
    recorded = {
        rule["record"]
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    named = re.findall(r"\b(lamplighter[a-z_:0-9]*|process_[a-z_]+)\b(?:\{([^}]*)\})?", query)
    assert named, query
    for name, selector in named:
        if name in recorded or name in PROCESS:
            continue
        base = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
        assert base in known, name
        assert (known[base].kind == "histogram") == (base != name), f"{name} is a {known[base].kind}"
        if known[base].kind == "counter":
            assert re.search(rf"(rate|increase)\(\s*{name}", query), f"{name} only ever grows"
        for label in re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selector):
            assert label in known[base].label_names, f"{name} has no label {label}"


def test_every_metric_of_the_program_is_shown() -> None:
    """What is measured and nowhere to be seen is of no use at night."""
    text = "\n".join(query for _, query in QUERIES)
    assert [name for name in families() if name not in text] == []


def test_dashboards_are_as_they_are_made() -> None:
    """Else a change by hand is lost with the next one, and the chart ships another than deploy/monitoring."""
    for path, text in dashboards.made().items():
        assert path.read_text(encoding="utf-8") == text
    for path in (MONITORING / "dashboards").glob("*.json"):
        assert path in dashboards.made()


def test_dashboards_are_whole() -> None:
    """Panels on top of each other, two of one id, or a data source of somebody else's Grafana."""
    for path in dashboards.made():
        made = json.loads(path.read_text(encoding="utf-8"))
        panels = made["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells
            assert panel["datasource"]["uid"] == "${datasource}"


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_a_runbook_that_exists(alert: dict[str, Any]) -> None:
    """Who is woken by it needs to know what to do."""
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    if anchor:
        assert anchor == alert["alert"].lower()
        assert f"\n## {alert['alert']}\n" in text
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"]


def _promtool(*words: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([program, *words], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_takes_the_rules() -> None:
    """Prometheus refuses a whole file for one mistake in it."""
    done = _promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_come_when_they_should_and_not_otherwise() -> None:
    """An alert that never comes is worse than none; one that comes for nothing is switched off."""
    done = _promtool("test", "rules", "tests/rules.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """One that no rule test knows may never come, or always."""
    tests = yaml.safe_load((MONITORING / "tests" / "rules.test.yaml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for alert in alerts():
        mine = [case for case in cases if case["alertname"] == alert["alert"]]
        assert any(case["exp_alerts"] for case in mine), f"{alert['alert']} never comes in a test"
        assert any(not case["exp_alerts"] for case in mine), f"{alert['alert']} always comes in a test"


# -- in the chart


def test_the_chart_ships_the_same() -> None:
    """Rules as a resource of the operator or as a file: the same rules, with links when there is a place to link to."""
    source = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    values: Values = {"metrics": {"rules": {"kind": "prometheusRule"}, "labels": {"release": "monitoring"}}}
    (rule,) = of(render(values), "PrometheusRule")
    assert rule["spec"] == source
    assert rule["metadata"]["labels"]["release"] == "monitoring"
    values = {"metrics": {"rules": {"kind": "configMap", "runbookBase": "https://docs.example.com/"}}}
    groups = yaml.safe_load(one(render(values), "ConfigMap", "lamplighter-rules")["data"]["lamplighter.yaml"])["groups"]
    links = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert "https://docs.example.com/docs/runbooks/circuit-open.md" in links
    assert len(links) == len(alerts())


def test_dashboards_come_as_files_for_the_sidecar() -> None:
    """Grafana's sidecar takes what has its label."""
    documents = render({"metrics": {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "LLM"}}}})
    found = [one for one in of(documents, "ConfigMap") if "dashboard" in one["metadata"]["name"]]
    assert len(found) == len(dashboards.made())
    for config in found:
        assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert config["metadata"]["annotations"] == {"grafana_folder": "LLM"}
        ((name, text),) = config["data"].items()
        assert json.loads(text) == json.loads((MONITORING / "dashboards" / name).read_text(encoding="utf-8"))
        assert len(text) < 500_000


def test_metrics_are_scraped_where_no_key_is_needed_or_with_one() -> None:
    """A monitor that gets 401 shows nothing, and a metrics port open to everybody shows who asks what."""
    base: Values = {"mode": "distributed", "postgresql": {"mode": "embedded"}, "metrics": {"discovery": "podMonitor"}}
    found = {one["metadata"]["name"]: one["spec"]["podMetricsEndpoints"][0] for one in of(render(base), "PodMonitor")}
    assert {name: endpoint["port"] for name, endpoint in found.items()} == {
        "lamplighter-gateway": "admin",
        "lamplighter-keeper": "http",
    }
    keyed = {
        **base,
        "adminPort": {"enabled": False},
        "metrics": {"discovery": "podMonitor", "keySecret": {"name": "scrape", "key": "k"}},
    }
    (monitor,) = of(render(keyed), "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["authorization"]["credentials"] == {"name": "scrape", "key": "k"}

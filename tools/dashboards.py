"""Writes Grafana's dashboards into deploy/monitoring/dashboards, or with `--check` says that they are not up to date.

A dashboard's JSON is long and says little; here a panel is a title, a unit and its queries. tests/chart/test_monitoring.py checks that every
metric named exists. Standard library only.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "monitoring" / "dashboards"
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries`: PromQL and the legend of its series. `kind`: timeseries, stat, bargauge or state-timeline."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    description: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


MODEL = '{model=~"$model"}'


def _rate(metric: str, by: str, more: str = "") -> str:
    return f'sum by ({by}) (rate({metric}{{model=~"$model"{more}}}[$__rate_interval]))'


def _quantile(share: float, metric: str, by: str = "model") -> str:
    return f'histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{model=~"$model"}}[$__rate_interval])))'


OVERVIEW = (
    Panel(
        "Keepers that lead",
        [("sum(lamplighter_keeper_leads)", "")],
        kind="stat",
        width=4,
        description="One is right. None: nothing wakes.",
    ),
    Panel("Running now", [("sum(lamplighter_requests_in_flight)", "")], kind="stat", width=4),
    Panel(
        "Waiting now",
        [("sum(lamplighter_requests_held)", "")],
        kind="stat",
        width=4,
        description="For a wake, or for a free place.",
    ),
    Panel(
        "Models awake",
        [('sum(lamplighter_replicas{state="ready"})', "")],
        kind="stat",
        width=4,
        description="Replicas that are ready.",
    ),
    Panel("Open circuits", [("count(lamplighter_breaker_state == 2) or vector(0)", "")], kind="stat", width=4),
    Panel(
        "Limits without Redis",
        [("max(lamplighter_limits_degraded)", "")],
        kind="stat",
        width=4,
        description="1: each gateway counts by itself.",
    ),
    Panel(
        "Requests",
        [(_rate("lamplighter_requests_total", "status"), "{{status}}")],
        "reqps",
        stacked=True,
        description="499: the client left.",
    ),
    Panel(
        "Time to first token",
        [
            (_quantile(0.5, "lamplighter_time_to_first_token_seconds"), "{{model}} p50"),
            (_quantile(0.95, "lamplighter_time_to_first_token_seconds"), "{{model}} p95"),
        ],
        "s",
        "Streamed answers, waiting included.",
    ),
    Panel(
        "Tokens",
        [
            (_rate("lamplighter_tokens_total", "kind"), "{{kind}}"),
            (_rate("lamplighter_tokens_estimated_total", "kind"), "{{kind}}, estimated"),
        ],
        "short",
    ),
    Panel(
        "Refused",
        [(_rate("lamplighter_refusals_total", "reason"), "{{reason}}")],
        "reqps",
        "By limits, budgets or for want of room.",
    ),
    Panel(
        "Failures of engines", [(_rate("lamplighter_upstream_errors_total", "model, reason"), "{{model}} {{reason}}")], "reqps"
    ),
    Panel("Clients that left", [(_rate("lamplighter_client_disconnects_total", "model"), "{{model}}")], "reqps"),
    Panel(
        "Accounts that wait for the store",
        [("sum(lamplighter_accounts_waiting)", "waiting"), ("sum(increase(lamplighter_accounts_lost_total[$__range]))", "lost")],
    ),
    Panel("Memory of request bodies", [("sum by (instance) (lamplighter_body_memory_bytes)", "{{instance}}")], "bytes"),
    Panel("Connections to engines", [("sum by (state) (lamplighter_upstream_connections)", "{{state}}")], stacked=True),
)

MODELS = (
    Panel("Requests", [(_rate("lamplighter_requests_total", "model"), "{{model}}")], "reqps"),
    Panel("Running", [(f"sum by (model) (lamplighter_requests_in_flight{MODEL})", "{{model}}")]),
    Panel("Waiting", [(f"sum by (model) (lamplighter_requests_held{MODEL})", "{{model}}")]),
    Panel("Length of requests, p95", [(_quantile(0.95, "lamplighter_request_seconds"), "{{model}}")], "s"),
    Panel("Time between tokens, p50", [(_quantile(0.5, "lamplighter_inter_token_seconds"), "{{model}}")], "s"),
    Panel("Tokens written", [(_rate("lamplighter_tokens_total", "model", ',kind="completion"'), "{{model}}")], "short"),
    Panel("Wait for a wake, p95", [(_quantile(0.95, "lamplighter_held_seconds"), "{{model}}")], "s"),
    Panel("Wait for a place, p95", [(_quantile(0.95, "lamplighter_queue_seconds"), "{{model}}")], "s"),
    Panel(
        "Inside engines",
        [(f"sum by (model, state) (lamplighter_engine_requests{MODEL})", "{{model}} {{state}}")],
        description="Of engines that tell.",
    ),
    Panel(
        "KV cache of the fullest engine",
        [(f"max by (model) (lamplighter_engine_cache_usage{MODEL})", "{{model}}")],
        "percentunit",
    ),
    Panel(
        "Circuits",
        [(f"max by (model, replica) (lamplighter_breaker_state{MODEL})", "{{model}} {{replica}}")],
        kind="state-timeline",
        description="0 closed, 1 half-open, 2 open.",
    ),
    Panel(
        "Retries",
        [
            (_rate("lamplighter_upstream_retries_total", "model"), "{{model}}"),
            (_rate("lamplighter_upstream_retries_refused_total", "model"), "{{model}}, refused"),
        ],
        "reqps",
    ),
    Panel(
        "Streams that went on elsewhere",
        [(_rate("lamplighter_streams_continued_total", "model, result"), "{{model}} {{result}}")],
        "reqps",
        width=12,
    ),
    Panel(
        "Circuits that opened",
        [('sum by (model) (increase(lamplighter_breaker_opened_total{model=~"$model"}[$__rate_interval]))', "{{model}}")],
        width=12,
    ),
    Panel(
        "Share of each target",
        [("max by (name, target) (lamplighter_rollout_weight)", "{{name}}: {{target}}")],
        "percentunit",
        "Of names whose model is being changed, or was.",
        stacked=True,
    ),
    Panel(
        "Requests of a change",
        [
            (
                "sum by (name, side, result) (rate(lamplighter_rollout_requests_total[$__rate_interval]))",
                "{{name}} {{side}} {{result}}",
            )
        ],
        "reqps",
        "While one is under way.",
    ),
    Panel(
        "Changes",
        [
            ("max by (name, candidate, phase) (lamplighter_rollout_phase)", "{{name}} to {{candidate}}: {{phase}}"),
            ("sum by (name, outcome) (increase(lamplighter_rollouts_total[$__range]))", "{{name}}: {{outcome}}"),
        ],
    ),
)

CAPACITY = (
    Panel("Replicas", [("sum by (pool, state) (lamplighter_replicas)", "{{pool}} {{state}}")], stacked=True, width=12),
    Panel(
        "Wakes",
        [
            (
                'sum by (model, outcome) (increase(lamplighter_wakes_total{model=~"$model"}[$__rate_interval]))',
                "{{model}} {{outcome}}",
            )
        ],
        width=12,
    ),
    Panel(
        "Length of wakes",
        [
            (
                'histogram_quantile(0.5, sum by (pool, model, le) (rate(lamplighter_wake_seconds_bucket{model=~"$model"}[1d])))',
                "{{pool}} {{model}} p50",
            ),
            (
                'histogram_quantile(0.9, sum by (pool, model, le) (rate(lamplighter_wake_seconds_bucket{model=~"$model"}[1d])))',
                "{{pool}} {{model}} p90",
            ),
        ],
        "s",
        "Over the last day.",
        width=12,
    ),
    Panel(
        "Why wakes failed",
        [
            (
                'sum by (pool, reason) (increase(lamplighter_wakes_total{outcome="failed",model=~"$model"}[$__range]))',
                "{{pool}} {{reason}}",
            )
        ],
        kind="bargauge",
        width=12,
    ),
    Panel("Cost an hour", [("sum by (pool, currency) (lamplighter_pool_hourly_cost)", "{{pool}} {{currency}}")]),
    Panel(
        "Spent",
        [("sum by (pool, currency) (lamplighter_pool_spent)", "{{pool}} {{currency}}")],
        description="In the budget's period, or else this month.",
    ),
    Panel(
        "Share of the budget",
        [("lamplighter_pool_spent / on (pool, currency) (lamplighter_pool_budget > 0)", "{{pool}}")],
        "percentunit",
        kind="bargauge",
    ),
    Panel(
        "Rounds of the keeper, p90",
        [("histogram_quantile(0.9, sum by (le) (rate(lamplighter_keeper_step_seconds_bucket[$__rate_interval])))", "p90")],
        "s",
    ),
    Panel(
        "Reservations", [("sum(lamplighter_reservations)", "open"), ("sum(lamplighter_spend_unwritten)", "sums not written yet")]
    ),
    Panel(
        "Memory",
        [("sum by (instance) (process_resident_memory_bytes)", "{{instance}}")],
        "bytes",
        description="Of every process that this data source scrapes.",
    ),
)

DASHBOARDS = {
    "lamplighter-overview": ("Lamplighter: overview", OVERVIEW),
    "lamplighter-models": ("Lamplighter: models", MODELS),
    "lamplighter-capacity": ("Lamplighter: capacity and cost", CAPACITY),
}


def _placed(panels: Sequence[Panel]) -> Iterator[tuple[Panel, dict[str, int]]]:
    """Panels from left to right, a new row where one does not fit."""
    x = y = deepest = 0
    for panel in panels:
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > _WIDTH:
            x, y, deepest = 0, y + deepest, 0
        yield panel, {"x": x, "y": y, "w": panel.width, "h": height}
        x, deepest = x + panel.width, max(deepest, height)


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    custom = {"fillOpacity": 20 if panel.stacked else 5, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    instant = panel.kind in ("stat", "bargauge")
    return {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, **({"custom": custom} if panel.kind == "timeseries" else {})},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": query,
                "legendFormat": legend or "__auto",
                "instant": instant,
                "range": not instant,
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def dashboard(uid: str, title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """One dashboard as Grafana imports it: the data source and the models are chosen above it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["lamplighter"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model",
                    "label": "Model",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "query": {"query": "label_values(lamplighter_requests_total, model)", "refId": "model"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": ["All"], "value": ["$__all"]},
                },
            ]
        },
        "panels": [_panel(number, panel, place) for number, (panel, place) in enumerate(_placed(panels), start=1)],
    }


def made() -> dict[Path, str]:
    """Every file, as it should be."""
    return {
        FOLDER / f"{uid}.json": json.dumps(dashboard(uid, title, panels), indent=1) + "\n"
        for uid, (title, panels) in DASHBOARDS.items()
    }


def main() -> int:
    """Write what is not up to date; with `--check` only say it and exit 1."""
    wrong = {path: text for path, text in made().items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
    for path, text in wrong.items():
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is not up to date; run `python -m tools.dashboards`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"Wrote {path.relative_to(ROOT)}")
    return 1 if wrong and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())

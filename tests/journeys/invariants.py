"""What must be zero when nothing is under way, whatever went wrong before: read from outside, as an operator would.

A count that stays behind is a place that nobody gets any more, a budget that shrinks by itself, or a GPU that never sleeps.
"""

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.journeys.harness import Server

ZERO = {
    "lamplighter_requests_in_flight": {},
    "lamplighter_requests_held": {},
    "lamplighter_upstream_connections": {"state": "busy"},
    "lamplighter_reservations": {},
    "lamplighter_body_memory_bytes": {},
}
"""Gauges that are zero when nothing is under way, with the labels that count."""
_PATIENCE = 15.0


def remains(server: "Server") -> list[str]:
    """What is not zero, one sentence each."""
    with server.http() as client:
        text = client.get("/metrics").raise_for_status().text
        status = client.get("/api/status").raise_for_status().json()
    left = []
    for family in text_string_to_metric_families(text):
        wanted = ZERO.get(family.name)
        if wanted is None:
            continue
        left += [
            f"{sample.name}{sample.labels or ''} is {sample.value:g}"
            for sample in family.samples
            if sample.value and all(sample.labels.get(name) == value for name, value in wanted.items())
        ]
    for model in status["models"]:
        left += [f"{model['name']} has {model[name]} {name} (status)" for name in ("in_flight", "queued") if model[name]]
    for pool in status["pools"]:
        left += [f"{one['id']} has {one['in_flight']} in flight (status)" for one in pool["replicas"] if one["in_flight"]]
    return left + _demand(server) + _engines(server, sum(len(pool["replicas"]) for pool in status["pools"]))


def _demand(server: "Server") -> list[str]:
    """Demand that the keeper would still act upon; only where the store is a file."""
    file = server.data / "lamplighter.db"
    if not file.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT d.model, d.queued, d.in_flight FROM demand d WHERE (d.queued > 0 OR d.in_flight > 0) AND d.heartbeat_at > ?",
            (time.time() - 30,),
        ).fetchall()
    return [f"the demand of {model} is {queued} queued, {running} running (store)" for model, queued, running in rows]


def _engines(server: "Server", replicas: int) -> list[str]:
    """Engine processes that belong to no replica."""
    folders = {
        part.split("/run/engines/")[1].split("/")[0]
        for process in server.engines()
        for part in process.info["cmdline"] or []
        if "/run/engines/" in part
    }
    return [f"{len(folders)} engines run for {replicas} replicas"] if len(folders) > replicas else []


def assert_quiet(server: "Server", *, patience: float = _PATIENCE) -> None:
    """Nothing is left behind: every count returns to zero within `patience` seconds. Raises AssertionError naming what does not."""
    end = time.monotonic() + patience
    left = ["it does not answer"]
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError, OSError, sqlite3.OperationalError):
            left = remains(server)
            if not left:
                return
        time.sleep(0.1)
    raise AssertionError("left behind: " + "; ".join(left))

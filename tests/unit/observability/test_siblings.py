"""Metrics of several workers through one of them."""

import asyncio
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lamplighter.observability.metrics import Metrics
from lamplighter.observability.siblings import Siblings, merged


def _listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(4)
    made.setblocking(False)
    return made


def test_series_keep_apart_and_families_stay_whole() -> None:
    """If this fails, Prometheus refuses the page, or takes one worker's counter for another's."""
    one, two = Metrics(process=False), Metrics(process=False)
    one.requests.labels("chat", 'odd"{name}', "2xx").inc(3)
    two.requests.labels("chat", "m", "2xx").inc(4)
    one.request_seconds.labels("chat", "m").observe(0.2)
    text = merged({"1": one.render(), "2": two.render()})
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    (requests,) = (family for family in families if family.name == "lamplighter_requests")
    found = {(sample.labels["worker"], sample.labels["model"]): sample.value for sample in requests.samples}
    assert found == {("1", 'odd"{name}'): 3.0, ("2", "m"): 4.0}
    (seconds,) = (family for family in families if family.name == "lamplighter_request_seconds")
    assert {sample.labels["worker"] for sample in seconds.samples} == {"1"}


async def test_whoever_is_asked_tells_of_all(tmp_path: Path) -> None:
    """If this fails, a scrape shows one worker in N, another one each time."""
    metrics = {name: Metrics(process=False) for name in ("1", "2")}
    for name, one in metrics.items():
        one.requests.labels("chat", "m", "2xx").inc(float(name))
    paths = {name: str(tmp_path / name) for name in metrics}
    siblings = [
        Siblings(name, {other: path for other, path in paths.items() if other != name}, one.render)
        for name, one in metrics.items()
    ]
    for end, name in zip(siblings, metrics, strict=True):
        await end.start(_listener(tmp_path / name))
    for end in siblings:
        text = (await end.collect()).decode()
        assert 'lamplighter_requests_total{worker="1",model="m",route="chat",status="2xx"} 1.0' in text
        assert 'lamplighter_requests_total{worker="2",model="m",route="chat",status="2xx"} 2.0' in text
        assert text.count("lamplighter_worker_up{") == 2
    for end in siblings:
        await end.stop()


async def test_a_worker_that_hangs_or_is_gone_hides_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, one frozen worker takes the metrics of all away, in the moment when they are needed."""
    monkeypatch.setattr("lamplighter.observability.siblings.LIMIT", 0.2)
    silent = _listener(tmp_path / "silent")  # accepts and never says a word: a frozen process
    own = Metrics(process=False)
    one = Siblings("1", {"2": str(tmp_path / "silent"), "3": str(tmp_path / "nobody")}, own.render)
    text = (await asyncio.wait_for(one.collect(), 5)).decode()
    silent.close()
    assert 'lamplighter_worker_up{worker="1"} 1.0' in text
    assert 'lamplighter_worker_up{worker="2"} 0.0' in text
    assert 'lamplighter_worker_up{worker="3"} 0.0' in text

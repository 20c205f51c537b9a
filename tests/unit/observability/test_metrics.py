"""Instruments and their exposition."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lamplighter.observability.metrics import Histogram, Metrics, metrics_markdown


def test_the_exposition_is_understood() -> None:
    """Prometheus would refuse to scrape."""
    metrics = Metrics(process=False)
    metrics.requests.labels("chat", 'a"b\\c', "2xx").inc()
    metrics.request_seconds.labels("chat", "big").observe(0.3)
    metrics.in_flight.labels("big").set(2)
    families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    assert families["lamplighter_requests"].samples[0].labels["model"] == 'a"b\\c'
    assert families["lamplighter_requests_in_flight"].samples[0].value == 2
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families["lamplighter_request_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert buckets["0.25"] == 0
    assert buckets["0.5"] == 1
    assert buckets["+Inf"] == 1


def test_a_bound_belongs_to_its_bucket() -> None:
    """Latencies would be shown one bucket too high."""
    histogram = Histogram((1, 2))
    for value in (1, 2, 3):
        histogram.observe(value)
    assert histogram.counts == [1, 1, 1]
    assert (histogram.count, histogram.sum) == (3, 6)


def test_labels_are_counted() -> None:
    """A metric with the wrong labels would break every scrape."""
    with pytest.raises(ValueError, match="wants the labels"):
        Metrics(process=False).requests.labels("chat")


def test_replaced_gauges_forget_what_is_gone() -> None:
    """A model that was removed would be shown with its last count for ever."""
    metrics = Metrics(process=False)
    metrics.held.replace({("old",): 3})
    metrics.held.replace({("new",): 1})
    assert list(metrics.held.children) == [("new",)]


def test_refreshers_run_before_each_scrape() -> None:
    """Gauges would show what was true at the last scrape."""
    metrics = Metrics(process=False)
    metrics.refreshers.append(lambda: metrics.held.labels("big").inc())
    metrics.render()
    assert b'lamplighter_requests_held{model="big"} 2.0' in metrics.render()


def test_every_metric_is_documented() -> None:
    """An operator would have to read the source."""
    text = metrics_markdown()
    for family in Metrics(process=False).families():
        assert f"`{family.name}`" in text
        assert family.name.startswith("lamplighter_")
        assert family.help.endswith(".")
        if family.kind == "counter":
            assert family.name.endswith("_total")

"""Every metric of the program, declared in one place; the reference in the docs is generated from here.

Instruments are a few plain Python operations, because the gateway touches several for each request; the Prometheus client library only
renders them when somebody scrapes. Not responsible for who may scrape.
"""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Bucket bounds in seconds for what a request goes through."""
TOKENS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
"""Bucket bounds in seconds between two tokens."""
SLOW = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Bucket bounds in seconds for wakes."""


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Gauge:
    """A number that comes and goes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def dec(self, amount: float = 1.0) -> None:
        self.value -= amount


class Histogram:
    """Observations counted by bucket."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = FAST) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


I = TypeVar("I", Counter, Gauge, Histogram)  # noqa: E741 - the instrument


class Family(Generic[I]):
    """One metric and its children by label values. `labels` is meant to be called once and its child kept."""

    def __init__(self, name: str, help: str, make: Callable[[], I], labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.label_names = tuple(labels)
        self.children: dict[tuple[str, ...], I] = {}
        self._make: Callable[[], I] = make
        if not labels:
            self.labels()  # a metric without labels exists from the start, at zero

    def labels(self, *values: str) -> I:
        """The child for these label values, in the order of declaration. Raises ValueError when their number is wrong."""
        child = self.children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} wants the labels {self.label_names}, got {values}")
            child = self.children[values] = self._make()
        return child

    def replace(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Make `values` the whole truth of this family of gauges: children that are not in it vanish."""
        self.children.clear()
        for labels, value in values.items():
            child = self.labels(*labels)
            if isinstance(child, Gauge):
                child.set(value)

    @property
    def kind(self) -> str:
        return type(self._make()).__name__.lower()

    def export(self) -> Metric:
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.help, labels=self.label_names)
            for values, child in self.children.items():
                if isinstance(child, Histogram):
                    histogram.add_metric(values, list(_cumulated(child)), child.sum)
            return histogram
        family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = family(self.name, self.help, labels=self.label_names)
        for values, child in self.children.items():
            if not isinstance(child, Histogram):
                metric.add_metric(values, child.value)
        return metric


def _cumulated(histogram: Histogram) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(repr, map(float, histogram.bounds)), "+Inf"), histogram.counts, strict=True):
        total += count
        yield bound, total


class Metrics(Collector):
    """All metrics of one process. `refreshers` are called before each scrape, for gauges that are cheaper to read than to keep."""

    def __init__(self, *, process: bool = True) -> None:
        """`process`: also those of the process itself (memory, CPU, open files)."""
        self.refreshers: list[Callable[[], None]] = []
        self.gather: Callable[[], Awaitable[bytes]] | None = None
        """Renders the metrics of several processes that share a port; None: this one is alone."""
        # The gateway.
        self.requests = Family(
            "lamplighter_requests_total",
            "Requests answered, by route, model ('' when it is not known) and class of status ('499' when the client left).",
            Counter,
            ("route", "model", "status"),
        )
        self.in_flight = Family(
            "lamplighter_requests_in_flight", "Requests that are being answered by an engine.", Gauge, ("model",)
        )
        self.held = Family(
            "lamplighter_requests_held", "Requests that wait for a model to wake, or for a free place on it.", Gauge, ("model",)
        )
        self.request_seconds = Family(
            "lamplighter_request_seconds", "From a request's arrival to its last byte.", Histogram, ("route", "model")
        )
        self.first_token_seconds = Family(
            "lamplighter_time_to_first_token_seconds",
            "From a streamed request's arrival to its first event.",
            Histogram,
            ("model",),
        )
        self.inter_token_seconds = Family(
            "lamplighter_inter_token_seconds",
            "Mean time between the tokens of a streamed answer: from its first to its last, by the tokens after the first.",
            lambda: Histogram(TOKENS),
            ("model",),
        )
        self.queue_seconds = Family(
            "lamplighter_queue_seconds", "How long requests waited for a free place on an awake model.", Histogram, ("model",)
        )
        self.held_seconds = Family(
            "lamplighter_held_seconds", "How long requests waited for a model to wake.", lambda: Histogram(SLOW), ("model",)
        )
        self.tokens = Family(
            "lamplighter_tokens_total",
            "Tokens, as the engines count them; `kind` is prompt or completion.",
            Counter,
            ("model", "kind"),
        )
        self.tokens_estimated = Family(
            "lamplighter_tokens_estimated_total",
            "Tokens that no engine told and the gateway estimated; not part of lamplighter_tokens_total.",
            Counter,
            ("model", "kind"),
        )
        self.continued = Family(
            "lamplighter_streams_continued_total",
            "Streamed answers that broke off; `result` is continued (another replica went on) or failed.",
            Counter,
            ("model", "result"),
        )
        self.accounts_waiting = Family(
            "lamplighter_accounts_waiting", "Accounts of requests that are not in the store yet.", Gauge
        )
        self.accounts_lost = Family(
            "lamplighter_accounts_lost_total",
            "Accounts of requests that were dropped because the store was away for too long.",
            Counter,
        )
        self.upstream_errors = Family(
            "lamplighter_upstream_errors_total",
            "Failures of engines as the gateway saw them: connect, status, lost, timeout, protocol.",
            Counter,
            ("model", "reason"),
        )
        self.retries = Family(
            "lamplighter_upstream_retries_total", "Requests tried again before their first byte.", Counter, ("model",)
        )
        self.retries_refused = Family(
            "lamplighter_upstream_retries_refused_total",
            "Retries that were not made because the model had spent its retry budget.",
            Counter,
            ("model",),
        )
        self.breaker_state = Family(
            "lamplighter_breaker_state",
            "The circuit to each endpoint: 0 closed, 1 half-open (one request tries it), 2 open.",
            Gauge,
            ("model", "replica"),
        )
        self.breaker_opened = Family(
            "lamplighter_breaker_opened_total", "How often a circuit opened because its endpoint failed.", Counter, ("model",)
        )
        self.disconnects = Family(
            "lamplighter_client_disconnects_total", "Clients that left before their answer was whole.", Counter, ("model",)
        )
        self.connections = Family(
            "lamplighter_upstream_connections", "Open connections to engines; `state` is busy or idle.", Gauge, ("state",)
        )
        self.refusals = Family(
            "lamplighter_refusals_total",
            "Requests that admission refused, by the limit (or `scope`, `model`, `gateway_full`) that refused them.",
            Counter,
            ("reason", "model"),
        )
        self.reservations = Family(
            "lamplighter_reservations", "Requests that were admitted and are not settled; zero when nothing runs.", Gauge
        )
        self.body_memory = Family("lamplighter_body_memory_bytes", "Memory that the bodies of requests take.", Gauge)
        self.limits_degraded = Family(
            "lamplighter_limits_degraded", "1 while Redis is gone and each gateway counts limits for itself.", Gauge
        )
        self.spend_unwritten = Family(
            "lamplighter_spend_unwritten", "Sums of what was used that are not in the store yet.", Gauge
        )
        self.rollout_requests = Family(
            "lamplighter_rollout_requests_total",
            "Requests that count for a change under way; `side` is stable or candidate, `result` ok or failed.",
            Counter,
            ("name", "side", "result"),
        )
        # The keeper.
        self.replicas = Family("lamplighter_replicas", "Replicas that are not gone, by pool and state.", Gauge, ("pool", "state"))
        self.wakes = Family(
            "lamplighter_wakes_total",
            "Wakes that ended, by outcome and, when they failed, reason.",
            Counter,
            ("pool", "model", "outcome", "reason"),
        )
        self.wake_seconds = Family(
            "lamplighter_wake_seconds", "Length of successful wakes.", lambda: Histogram(SLOW), ("pool", "model")
        )
        self.engine_requests = Family(
            "lamplighter_engine_requests",
            "Requests inside engines, as those count them that tell; `state` is running or waiting.",
            Gauge,
            ("pool", "model", "state"),
        )
        self.engine_cache = Family(
            "lamplighter_engine_cache_usage", "Share of the fullest engine's KV cache in use, 0 to 1.", Gauge, ("pool", "model")
        )
        self.keeper_step_seconds = Family("lamplighter_keeper_step_seconds", "Length of one round of the keeper.", Histogram)
        self.pool_hourly = Family(
            "lamplighter_pool_hourly_cost",
            "What the pool's replicas cost an hour now, in units of `currency`; 0 when nothing of it costs.",
            Gauge,
            ("pool", "currency"),
        )
        self.pool_spent = Family(
            "lamplighter_pool_spent",
            "What the pool's replicas cost in the budget's period, or else this calendar month (UTC), in units of `currency`.",
            Gauge,
            ("pool", "currency"),
        )
        self.pool_budget = Family(
            "lamplighter_pool_budget", "The pool's budget for that period, in units of `currency`.", Gauge, ("pool", "currency")
        )
        self.rollout_weight = Family(
            "lamplighter_rollout_weight",
            "Share of a name's requests that each of its targets gets, 0 to 1; only names whose serving was changed, or is being changed.",
            Gauge,
            ("name", "target"),
        )
        self.rollout_phase = Family(
            "lamplighter_rollout_phase", "1 for the phase of each change under way.", Gauge, ("name", "candidate", "phase")
        )
        self.rollouts = Family(
            "lamplighter_rollouts_total",
            "Changes that ended, promoted or rolled_back, and why.",
            Counter,
            ("name", "outcome", "reason"),
        )
        self.keeper_leads = Family("lamplighter_keeper_leads", "1 while this process's keeper leads.", Gauge)

        self.registry = CollectorRegistry()
        self.registry.register(self)
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    def families(self) -> list[Family[Counter] | Family[Gauge] | Family[Histogram]]:
        """Every metric of ours, in the order of declaration."""
        return [value for value in vars(self).values() if isinstance(value, Family)]

    def collect(self) -> Iterator[Metric]:
        """For the Prometheus client."""
        for family in self.families():
            yield family.export()

    def describe(self) -> list[Metric]:
        """For the Prometheus client: nothing to check at registration."""
        return []

    def render(self) -> bytes:
        """The exposition text; its type is `CONTENT_TYPE`."""
        for refresh in self.refreshers:
            refresh()
        return generate_latest(self.registry)


def metrics_markdown() -> str:
    """`docs/reference/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "`GET /metrics`, in Prometheus's text format. It needs a key unless the client is on loopback or `server.metrics_without_key` is set.",
        "Reading it never wakes a model. Beside these there are the usual ones of the process (`process_*`, `python_*`).",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in Metrics(process=False).families():
        labels = ", ".join(f"`{name}`" for name in family.label_names) or "-"
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(lines) + "\n"

"""What is counted of a request: by whom, how exactly, and how cheaply."""

import time

import pytest

from lamplighter.core.clock import SystemClock
from lamplighter.gateway.metering import Meter, Record
from lamplighter.gateway.sse import Usage
from lamplighter.observability.metrics import Metrics
from lamplighter.testing.clock import VirtualClock


class Kept:
    """A ledger that remembers."""

    def __init__(self) -> None:
        self.added: list[tuple[Record, float, float | None]] = []

    def add(self, record: Record, ended: float, itl: float | None) -> None:
        self.added.append((record, ended, itl))


def record(**more: object) -> Record:
    fields = {"route": "chat", "request_id": "req_1", "began": 0.0, "model": "big", "key_id": "key_1", "principal_id": "prn_1"}
    return Record(**{**fields, "status": 200, **more})  # type: ignore[arg-type] # values are of many types


async def test_the_time_between_tokens_is_measured_from_the_first_to_the_last() -> None:
    """A slow engine would look fast because its prompt was short, or the other way round."""
    clock, kept, metrics = VirtualClock(), Kept(), Metrics(process=False)
    await clock.advance(10)
    Meter(metrics, None, clock, kept).finish(record(first_at=2.0, usage=Usage(7, 41)))
    [(_, ended, itl)] = kept.added
    assert (ended, itl) == (10.0, 0.2)
    assert metrics.inter_token_seconds.labels("big").count == 1


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    """The histogram would be filled with noughts, or a division by zero would end the request."""
    kept, metrics = Kept(), Metrics(process=False)
    meter = Meter(metrics, None, VirtualClock(), kept)
    for count in (0, 1):
        meter.finish(record(first_at=0.0, usage=Usage(7, count)))
    assert [itl for _, _, itl in kept.added] == [None, None]
    assert metrics.inter_token_seconds.labels("big").count == 0


def test_waiting_for_a_wake_and_for_a_place_are_told_apart() -> None:
    """Whoever looks at slow requests could not say whether to add replicas or to keep the model warm."""
    metrics = Metrics(process=False)
    meter = Meter(metrics, None, VirtualClock())
    meter.finish(record(held=5.0, asleep=5.0))
    meter.finish(record(held=0.5))
    assert (metrics.held_seconds.labels("big").count, metrics.queue_seconds.labels("big").count) == (1, 1)


def test_estimates_are_counted_apart() -> None:
    """Bills would be made of guesses without anybody knowing."""
    metrics = Metrics(process=False)
    meter = Meter(metrics, None, VirtualClock())
    meter.finish(record(usage=Usage(3, 5)))
    guessed = record(reached=True, first_at=0.0, outcome="cancelled", status=499, events=9)
    guessed.estimate("chat", 40)
    meter.finish(guessed)
    assert (metrics.tokens.labels("big", "completion").value, metrics.tokens_estimated.labels("big", "completion").value) == (
        5,
        8,
    )
    assert metrics.tokens_estimated.labels("big", "prompt").value == 10


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        ("chat", {"first_at": 1.0, "events": 13}, (11, 10)),  # role, end and [DONE] are no tokens
        ("chat", {"first_at": 1.0, "events": 11, "outcome": "lost"}, (11, 10)),  # it never said its end
        ("chat", {"first_at": 1.0, "events": 1, "outcome": "cancelled", "status": 499}, (11, 1)),
        ("chat", {"answered": 400}, (11, 100)),
        ("embeddings", {"answered": 40_000}, (11, 0)),
        ("chat", {"outcome": "cancelled", "status": 499}, (11, 0)),  # the engine was reading the prompt
        ("chat", {"outcome": "failed", "status": 502}, None),
        ("chat", {"outcome": "refused", "status": 400}, None),
        ("tokenize", {"answered": 400}, None),
        ("chat", {"reached": False}, None),
    ],
)
def test_what_no_engine_told_is_estimated(route: str, fields: dict[str, object], expected: tuple[int, int] | None) -> None:
    """A client that always leaves before the usage event would pay nothing, or a failed request would be charged."""
    one = record(**{"reached": True, **fields})
    one.estimate(route, 42)
    assert one.estimated == (expected is not None)
    assert (one.usage and (one.usage.prompt_tokens, one.usage.completion_tokens)) == expected


def test_what_the_engine_told_is_not_estimated_over() -> None:
    """The exact count would be replaced by a guess."""
    one = record(reached=True, usage=Usage(1, 2), first_at=0.0, events=50)
    one.estimate("chat", 1000)
    assert (one.usage, one.estimated) == (Usage(1, 2), False)


def test_of_strangers_nothing_is_kept() -> None:
    """Anybody on the network could fill the disk with accounts of refused requests."""
    kept = Kept()
    Meter(Metrics(process=False), None, VirtualClock(), kept).finish(record(principal_id="", key_id="", status=401))
    assert kept.added == []


def test_accounting_is_cheap() -> None:
    """Every request would be slower. Far above what it takes (about 3 us on a quiet machine), so that a busy one fails nothing."""
    meter = Meter(Metrics(process=False), None, SystemClock(), Kept())
    one = record(first_at=0.0, usage=Usage(7, 41), held=None)
    meter.finish(one)
    best = min(_timed(meter, one) for _ in range(20))
    assert best < 40e-6


def _timed(meter: Meter, one: Record) -> float:
    began = time.perf_counter()
    for _ in range(500):
        meter.finish(one)
    return (time.perf_counter() - began) / 500

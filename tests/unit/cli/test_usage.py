"""`lamplighter usage`: what people read, and what programs read."""

from collections.abc import Callable
from typing import Any

from tests.unit.cli.conftest import Api, Result

Run = Callable[..., Result]

TOTAL: dict[str, Any] = {
    "name": "key_1", "label": "ada", "requests": 1200, "failed": 2, "estimated": 0, "prompt_tokens": 5000, "completion_tokens": 70_000,
    "engine_seconds": 90.5, "queue_seconds": 1.0, "wake_seconds": 4.0, "cost_micros": 1_250_000,
}  # fmt: skip
REQUEST: dict[str, Any] = {
    "id": "gtw-1", "at": 0.0, "request_id": "req_1", "gateway_id": "gtw", "key_id": "key_1", "key": "ada", "principal_id": "prn_1",
    "route": "chat", "model": "small", "asked": "big", "replica_id": "rep_1", "status": 200, "outcome": "ok", "prompt_tokens": 3,
    "completion_tokens": 9, "estimated": True, "seconds": 1.5, "ttft": 0.25, "itl": 0.02, "tokens_per_second": 50.0,
    "queue_seconds": 0.0, "wake_seconds": 0.0, "engine_seconds": 1.4, "retries": 0, "cost_micros": None,
}  # fmt: skip


def test_sums_are_shown_with_their_sum(lamplighter: Run, running: Api) -> None:
    """Who pays would have to add up a column by hand."""
    running.answers["GET /api/usage"] = (
        200,
        {"by": "key", "since": 0.0, "totals": [TOTAL, {**TOTAL, "label": "bob", "estimated": 1}]},
    )
    answer = lamplighter("usage", "--by", "key", "--since", "30d")
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert rows[1] == ["ada", "1,200", "2", "5,000", "70,000", "90 s", "5.00 s", "1.2500"]
    assert rows[2][3] == "~5,000", "an estimate is marked"
    assert rows[3][:3] == ["all", "2,400", "4"]


def test_requests_are_shown_one_by_one(lamplighter: Run, running: Api) -> None:
    """Whoever looks for the slow one could not see which it was."""
    running.answers["GET /api/requests"] = 200, {"requests": [REQUEST]}
    (_, row) = lamplighter("usage", "--requests", "5").out.splitlines()
    assert "small for big" in row
    assert "~3+9" in row
    assert row.endswith("50.0\treq_1")


def test_programs_get_the_answer_as_it_is(lamplighter: Run, running: Api) -> None:
    """Programs rely on the documented shape."""
    whole = {"by": "model", "since": 0.0, "totals": [TOTAL]}
    running.answers["GET /api/usage"] = 200, whole
    assert lamplighter("usage", "--json").json == whole


def test_a_time_that_is_none_is_refused(lamplighter: Run, running: Api) -> None:
    """A typo would show another span than the person thinks."""
    answer = lamplighter("usage", "--since", "yesterday")
    assert answer.exit == 2
    assert "is not a duration" in answer.err

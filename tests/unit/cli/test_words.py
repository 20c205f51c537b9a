"""How times, sizes and states read."""

import pytest

from lamplighter.cli.words import ago, amount, bills, circuits, doing, price, size, span
from tests.unit.cli.conftest import model


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (9.6, "0:10"), (250, "4:10"), (3723, "1:02:03")])
def test_spans(seconds: float, text: str) -> None:
    """A countdown must not show 60 seconds, or less than none."""
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago")]
)
def test_ago(seconds: float, text: str) -> None:
    """One unit is enough to judge by."""
    assert ago(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (4_700_000_000, "4.7 GB"), (123e9, "123 GB")]
)
def test_sizes(count: float, text: str) -> None:
    """Decimal units, as downloads are shown elsewhere."""
    assert size(count) == text


STAGES = [
    {"name": "pull", "started_at": 990.0, "ended_at": 995.0, "progress": 1.0},
    {"name": "load", "started_at": 995.0, "ended_at": None, "progress": 0.4},
    {"name": "later", "started_at": None, "ended_at": None, "progress": None},
]


QUOTE = {
    "hourly": "0.2104", "least": "0.0531", "currency": "USD", "basis": "spot g4dn.xlarge", "source": "AWS spot price history", "at": 1.0
}  # fmt: skip
RUNNING = {"hourly": "0.2104", "currency": "USD", "basis": "spot g4dn.xlarge, eu-central-1a", "since": 990.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.2104", "0.21 USD"), ("0.0531", "0.053 USD"), ("0.05", "0.05 USD"), ("0.0004", "less than 0.001 USD"), ("0", "0.00 USD"),
        ("1234.5", "1,234.50 USD"),
    ],
)  # fmt: skip
def test_amounts(text: str, words: str) -> None:
    """A machine that runs must never seem to cost nothing."""
    assert amount(text, "USD") == words


def test_a_price_is_called_an_estimate_and_says_where_it_is_from() -> None:
    """A person would take a spot price for a promise."""
    said = "waking costs about 0.21 USD/h, at least 0.053 USD (an estimate: spot g4dn.xlarge; AWS spot price history)"
    assert price(QUOTE) == said


def test_pools_that_cost_money_are_told_with_what_is_left() -> None:
    """Nobody would notice what runs, nor that the month's budget is nearly spent."""
    budget = {"limit": "60", "period": "month", "spent": "12.31", "left": "47.69", "currency": "USD", "since": 1.0}
    pools = [
        {"name": "here", "replicas": [{"cost": None}], "budget": None},
        {"name": "spot", "replicas": [{"cost": RUNNING}, {"cost": RUNNING}, {}], "budget": budget},
        {"name": "rare", "replicas": [], "budget": {**budget, "spent": "0", "left": "60"}},
        {"name": "old", "replicas": []},
    ]
    assert bills({"pools": pools}) == [
        "pool spot: 0.42 USD/h now (spot g4dn.xlarge, eu-central-1a); 12.31 USD of 60 USD/month spent, 47.69 USD left.",
        "pool rare: 0.00 USD of 60 USD/month spent, 60.00 USD left.",
    ]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (model(), "asleep"),
        (model(state="awake"), "awake"),
        (model(state="awake", always_on=True), "always on"),
        (model(state="awake", in_flight=1), "awake: 1 request"),
        (model(state="awake", in_flight=1, queued=2), "awake: 3 requests"),
        (model(state="awake", sleeping_at=1250.0), "awake, sleeps in 4:10"),
        (model(state="waking"), "waking"),
        (
            model(state="waking", wake={"started_at": 990.0, "stages": STAGES, "eta": {"p50": 13.0}}),
            "waking: load 40%, about 0:03 more",
        ),
        (model(state="waking", wake={"started_at": 990.0, "stages": STAGES, "eta": {"p50": 5.0}}), "waking: load 40%, for 0:10"),
        (model(state="waking", wake={"started_at": 990.0, "stages": STAGES[2:], "eta": None}), "waking, for 0:10"),
        (model(quote=QUOTE), "asleep, wakes for about 0.21 USD/h"),
        (
            model(state="waking", wake={"started_at": 990.0, "stages": STAGES, "eta": None, "cost": RUNNING}),
            "waking: load 40%, for 0:10, less than 0.001 USD so far",
        ),
        (model(state="failed"), "failed"),
        (model(state="failed", failure={"message": "Too big.", "retry_at": None}), "failed: Too big."),
        (model(state="failed", failure={"message": "Offline.", "retry_at": 1005.0}), "failed: Offline. Tries again in 0:05."),
    ],
)
def test_what_a_model_is_doing(status: dict[str, object], text: str) -> None:
    """The one line by which a person judges what is going on; an exceeded estimate is never shown as negative."""
    assert doing(status, 1000.0) == text


@pytest.mark.parametrize(
    ("switch", "text"),
    [
        (None, "asleep"),
        ({"target": "m@v2", "candidate": None, "weight": 0.0, "phase": None, "of": None}, "asleep; m@v2 serves its name"),
        ({"target": "m", "candidate": "m@v2", "weight": 0.5, "phase": "serving", "of": None}, "asleep; 0.5% to m@v2 (serving)"),
        ({"target": None, "candidate": None, "weight": None, "phase": None, "of": "m"}, "asleep; a revision of m"),
    ],
)
def test_who_answers_for_a_name_is_said(switch: dict[str, object] | None, text: str) -> None:
    """If this fails, a model looks asleep while another one serves its name, and nobody sees which."""
    assert doing({"name": "m", "state": "asleep", "switch": switch}, 1000.0) == text


def test_failing_endpoints_are_named_with_reason_and_time() -> None:
    """A person who asks why nothing answers would see a model that looks well."""

    def replica(name: str, state: str, retry_at: float | None) -> dict[str, object]:
        circuit = {"state": state, "since": 880.0, "failures": 5, "retry_at": retry_at, "reason": "no connection"}
        return {"id": name, "models": ["a", "b"], "breaker": circuit}

    replicas = [replica("rep_1", "open", 1030.0), replica("rep_2", "half_open", 1010.0), replica("rep_3", "closed", None)]
    replicas.append({"id": "rep_4", "models": [], "breaker": None})
    assert circuits({"now": 1000.0, "pools": [{"name": "nas", "replicas": replicas}]}) == [
        "rep_1 in pool nas (a, b) has been failing for 2:00: no connection; tried again in 0:30.",
        "rep_2 in pool nas (a, b) has been failing for 2:00: no connection; being tried again.",
    ]

"""The reference page and the metrics say what the tables say."""

import re

from lamplighter.capacity.lifecycle import lifecycle_markdown
from lamplighter.core.reasons import VERDICTS, HealthReason, LossReason, StopReason, WakeFailure
from lamplighter.core.states import HOLDING, TRANSITIONS, ReplicaState
from tests.unit.capacity.world import world


def test_the_diagram_is_the_table() -> None:
    """If this fails, the documentation shows a state machine that is not the program's."""
    arrows = set(re.findall(r"^    (\w+) --> (\w+)$", lifecycle_markdown(), re.MULTILINE))
    assert arrows == {(state.value, target.value) for state, targets in TRANSITIONS.items() for target in targets}


def test_every_state_and_reason_is_explained() -> None:
    """If this fails, a person reads a word in the status that no page explains."""
    page = lifecycle_markdown()
    for word in (*ReplicaState, *VERDICTS, *LossReason, *StopReason, *HealthReason):
        rows = re.findall(rf"^\| `{word.value}` \|(.*)$", page, re.MULTILINE)
        assert rows, word
        assert all(cell.strip() for row in rows for cell in row.strip("|").split("|")), word
    assert set(VERDICTS) == set(WakeFailure)


async def test_the_metrics_count_every_state_that_holds_capacity() -> None:
    """If this fails, a dashboard hides replicas in some state."""
    async with world() as w:
        await w.serve("m", 1)
        counted = {labels: gauge.value for labels, gauge in w.metrics.replicas.children.items()}
        assert counted == {("cloud", state.value): float(state is ReplicaState.READY) for state in HOLDING}
        assert set(ReplicaState) - {ReplicaState.GONE} == HOLDING
        assert w.metrics.keeper_leads.labels().value == 1
        assert w.metrics.wakes.labels("cloud", "m", "ready", "").value == 1
        assert w.metrics.wake_seconds.labels("cloud", "m").count == 1
        assert w.metrics.keeper_step_seconds.labels().count > 0

"""What a model's status says of changes: who serves its name, or whose target it is. Pure."""

from typing import Any

from lamplighter.core.rollouts import REVISION_MARK, WHOLE
from lamplighter.gateway.view import Snapshot


def switch_json(snapshot: Snapshot, name: str) -> dict[str, Any] | None:
    """Of a model in the status: who serves its name, or whose target it is; None when neither is changed."""
    route = snapshot.changes.routes().get(name)
    if route is not None:
        one = snapshot.changes.active.get(name)
        return {
            "target": route.stable,
            "candidate": route.candidate,
            "weight": route.weight * 100 / WHOLE,
            "phase": one.phase.value if one is not None else None,
            "of": None,
        }
    of = name.partition(REVISION_MARK)[0]
    return {"target": None, "candidate": None, "weight": None, "phase": None, "of": of} if of != name else None

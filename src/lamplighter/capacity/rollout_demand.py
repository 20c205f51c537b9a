"""What rollouts add to a pool's demand: candidates are woken before anybody is sent there, and stable targets stay for a way back.

An exception to the rule that only inference makes demand: an admin ordered it, it ends with the rollout, which has a deadline, and budgets are
asked as for any wake. It is worked out anew at each round of a keeper that leads and never stored: without a keeper there is none.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from lamplighter.capacity.plan import STAYING, Policy
from lamplighter.core.rollouts import WHOLE, Order
from lamplighter.core.states import HOLDING, ReplicaState
from lamplighter.store.demand import Demand
from lamplighter.store.replicas import Replica
from lamplighter.store.rollouts import Changes, Rollout

TERM = 60.0
"""Seconds for which a round's word counts: far longer than the next one takes to come."""


def wanted(rollout: Rollout, stable_ready: int) -> int:
    """How many replicas of the candidate there should be: enough for its share at the next step, as many replicas serve the name now."""
    weights = rollout.settings.weights
    share = weights[min(rollout.step + 1, len(weights) - 1)] / WHOLE
    return max(1, math.ceil(stable_ready * share - 1e-9))


def place(rollout: Rollout, model_pool: str, stable_pool: str, rows: Sequence[Replica], policy: Policy) -> tuple[int, str | None]:
    """The most replicas of the candidate that its pool can hold, and why there are not more. `rows`: of the candidate's pool."""
    if not policy.elastic:
        return 1, "it is a server that is always on"
    most, others = policy.max_replicas, 0
    if model_pool == stable_pool:
        others = sum(rollout.stable in row.models and row.state in STAYING for row in rows)
    if policy.per_model < most - others:
        return policy.per_model, f"the pool {model_pool!r} holds each model once"
    return max(0, most - others), f"the pool {model_pool!r} holds at most {most} replicas"


def crowd(candidate: str, pool: str, rows: Sequence[Replica], policy: Policy) -> str | None:
    """Why there is no place for the first replica of the candidate now; None when there is one. `rows`: of its pool."""
    holding = [row for row in rows if row.state in HOLDING]
    if not policy.elastic or len(holding) < policy.max_replicas or any(candidate in row.models for row in holding):
        return None
    names = sorted({model for row in holding for model in row.models})
    return (
        f"the pool {pool!r} is full ({', '.join(names[:5])}): raise its max_replicas, let another model sleep, or put the "
        "candidate into another pool"
    )


def kept(
    demand: Mapping[str, Demand],
    changes: Changes,
    models: Collection[str],
    rows: Sequence[Replica],
    everywhere: Sequence[Replica],
    policy: Policy,
    now: float,
) -> dict[str, Demand]:
    """`demand` with what the rollouts under way add to it, for the `models` and the `rows` of one pool. `everywhere`: the rows of all pools."""
    found = dict(demand)
    for rollout in changes.active.values():
        if rollout.asked is Order.ROLLBACK or now >= rollout.created_at + rollout.settings.within:
            continue
        ready = sum(rollout.stable in row.models and row.state is ReplicaState.READY for row in everywhere)
        inside = rollout.stable in models
        if inside and ready:  # it stays; but nobody wakes it for this
            _want(found, rollout.stable, now + TERM, 0)
        if rollout.candidate in models:
            room, _ = place(rollout, "here", "here" if inside else "elsewhere", rows, policy)
            _want(found, rollout.candidate, now + TERM, max(1, min(wanted(rollout, ready), room)))
    return found


def _want(found: dict[str, Demand], model: str, until: float, replicas: int) -> None:
    known = found.get(model) or Demand(model)
    found[model] = replace(known, wanted_until=max(known.wanted_until or 0.0, until), replicas=max(known.replicas, replicas))

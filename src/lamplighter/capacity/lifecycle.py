"""The reference of the lifecycle, generated from the tables that the program itself obeys: `docs/reference/lifecycle.md`.

Not responsible for any transition: `store.replicas.advance` checks them, `reconcile` and `plan` choose them.
"""

import ast
import inspect
from enum import StrEnum

from lamplighter.core.reasons import VERDICTS, HealthReason, LossReason, StopReason
from lamplighter.core.rollouts import TRANSITIONS as MOVES
from lamplighter.core.rollouts import Because, Phase
from lamplighter.core.states import TRANSITIONS, PoolState, ReplicaState

_HEAD = """# Lifecycle

How a replica (one running engine in a pool) lives, and why a wake can fail. Generated from the program's own tables by `make docs`.

## States of a replica
"""

_POOLS = """
## Condition of a pool, and of a model

Derived from the replicas, never stored. Awake wins over waking, waking over draining, all over asleep.

| condition | means |
|---|---|
"""

_RULES = """
## What makes it move

- **Demand** is what clients ask for: requests that wait or run, and orders of people (`lamplighter wake`, `keep_warm` hours, and `lamplighter models
  switch`, which wakes its candidate and keeps the old target awake until it ends). Nothing else makes demand. A gateway's expires 30 s after its
  last heartbeat.
- **Wake.** Demand for a model without a replica begins one wake, however many ask. While it lasts no other begins for this model. Its stages and its
  ETA (from past wakes, warm and cold apart) are in the store.
- **More, and less.** `ceil((queued + running) / target_per_replica)` replicas, up to `max_replicas`: the first at once, more when they were needed
  all through `scale_up_after` (then a batch, and not before another such time the next), down when fewer have been enough for
  `scale_down_after`. Everything that is not proven gone occupies its place.
- **Sleep.** A replica drains when its model was idle for `sleep_after`, counted from the end of the last answer; or at once when a person orders it.
  Running answers finish. A drain ends when every live gateway has let go, or after `keeper.drain_deadline`. Demand that returns calls it off.
- **Many models, one pool.** When the pool is full, a model that waits gets the place of a resident that was idle for `swap_after` and is there for
  at least `min_residency`; the longest waiting first. Being kept warm does not protect a resident from somebody who waits. No model holds a second
  place while another has none. In a pool of one, a model under constant load keeps its place: give the other one a pool of its own, or more
  replicas.
- **What the provider takes back.** An announced end (a spot interruption) drains the replica at once; a mere warning (a rebalance recommendation)
  lets it serve until its successor is ready. Where an answer runs or a conversation is younger than two minutes, the successor starts at once and
  may stand beside it although the pool is full; an idle model is not replaced.
- **Money.** A wake that a pool's `budget` cannot pay is refused before it costs anything; what runs is drained when the budget is spent, and running
  answers get two minutes. See [decision 0017](../decisions/0017-price-before-wake.md).
- **After a failed wake** the keeper waits `keeper.backoff`, doubled with each failure in a row up to `keeper.backoff_max`. An order to wake, and
  changed settings, end the wait. A replica that falls within `keeper.steady_after` of being ready counts as a failed wake.
- **A serving replica** that fails `keeper.unreachable_after` health checks in a row is unreachable; after `keeper.hung_after` it is ended and, if
  somebody asks, replaced. An always-on server (`static`) is only watched.
- **After a crash of Lamplighter** the next keeper adopts what runs. What nobody adopts ends itself within a minute, because nobody renews its lease.
"""

_FAILURES = """
## Why a wake fails

*Tried again*: by the keeper itself, while somebody still asks. Those who wait are told at once when it is not, or after three failures in a row.

| reason | tried again | falls back | HTTP | what is said | next step |
|---|---|---|---|---|---|
"""


_CHANGES = """
## Phases of a model's change

What `lamplighter models switch` begins; [the guide](../guides/model-changes.md) says how it is decided.

| phase | means | goes to |
|---|---|---|
"""


def lifecycle_markdown() -> str:
    """The whole page."""
    parts = [_HEAD, _diagram(), "\n| state | means | goes to |\n|---|---|---|\n"]
    meanings = _docs(ReplicaState)
    for state, targets in TRANSITIONS.items():
        goes = ", ".join(f"`{target}`" for target in ReplicaState if target in targets) or "-"
        parts.append(f"| `{state}` | {meanings[state.name]} | {goes} |\n")
    parts.append(_POOLS)
    parts += [f"| {condition} | {meaning} |\n" for condition, meaning in _conditions()]
    parts.append(_RULES)
    parts.append(_FAILURES)
    for reason, verdict in VERDICTS.items():
        again, back = ("yes" if flag else "no" for flag in (verdict.retry, verdict.fall_back))
        parts.append(f"| `{reason}` | {again} | {back} | {verdict.status} | {verdict.message} | {verdict.next_step} |\n")
    parts.append(_CHANGES)
    phases = _docs(Phase)
    for phase, following in MOVES.items():
        goes = ", ".join(f"`{one}`" for one in Phase if one in following) or "-"
        parts.append(f"| `{phase}` | {phases[phase.name]} | {goes} |\n")
    for title, kind in (
        ("Why a replica was lost", LossReason),
        ("Why a replica ends", StopReason),
        ("Health", HealthReason),
        ("Why a change of a model moves", Because),
    ):
        parts.append(f"\n## {title}\n\n| reason | means |\n|---|---|\n")
        explained = _docs(kind)
        parts += [f"| `{reason}` | {explained.get(reason.name, _WORDS.get(reason, ''))} |\n" for reason in kind]
    return "".join(parts)


_WORDS: dict[StrEnum, str] = {
    LossReason.SPOT_RECLAIMED: "The provider took its spot machine back.",
    StopReason.IDLE: "Nobody asked for `sleep_after`.",
    StopReason.SWAP: "It made room for another model of its pool.",
    StopReason.SCALE_DOWN: "Fewer replicas are enough.",
    StopReason.ASKED: "A person asked for it.",
    StopReason.SHUTDOWN: "Lamplighter ended.",
    StopReason.FAILED: "It had failed, or was lost; what is left of it is removed.",
    HealthReason.NO_ANSWER: "It fails its health checks.",
    HealthReason.ANSWERED: "It answers again.",
}


def _conditions() -> list[tuple[str, str]]:
    meanings = {
        PoolState.ASLEEP: "nothing runs",
        PoolState.WAKING: "a replica is launching or starting",
        PoolState.AWAKE: "a replica is ready, or only out of sight",
        PoolState.DRAINING: "replicas finish what they have, or end",
        PoolState.FAILED: "nothing runs, and the last wake failed",
    }
    return [(state.value, meanings[state]) for state in PoolState]


def _diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {ReplicaState.LAUNCHING}"]
    for state, targets in TRANSITIONS.items():
        lines += [f"    {state} --> {target}" for target in ReplicaState if target in targets]
    return "\n".join([*lines, f"    {ReplicaState.GONE} --> [*]", "```", ""])


def _docs(kind: type[StrEnum]) -> dict[str, str]:
    """The text under each member of an enum, by the member's name; a member without one is left out."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - the source of a class is a class
    found: dict[str, str] = {}
    name = ""
    for node in body.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
    return found

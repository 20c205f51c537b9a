"""From a picture and what nodes said to what the keeper is told: one observation for each order or node. Pure.

Not responsible for anything that is done about it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.aws.decide import open_orders, owners
from lamplighter.providers.aws.dial import NodeStage
from lamplighter.providers.aws.duty import Contained
from lamplighter.providers.aws.nodes import Node
from lamplighter.providers.aws.picture import Machine, Order, Picture
from lamplighter.providers.base import Notice, Observation, Presence, Rate, StageReport

CAPACITY = "capacity"
"""The stage before those of the node itself."""
WAKE = (CAPACITY, *Contained.stages)
"""The stages of a wake, in order, where nodes run the engine themselves."""
LAST_WORDS_WITHIN = 2.0
"""Seconds for which an instance that ended by itself is not told as ended yet, while the queue may still say why."""
_SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")
_ENDS = {
    "boot_deadline": "It ended itself: nobody had given it a lease before its boot deadline.",
    "lease": "It ended itself: nobody renewed its lease, and running answers had their time.",
    "asked": "It ended itself, as it was asked to.",
    "spot": "AWS took the spot machine back.",
    "failed": "It ended itself after a failure.",
}


def observations(
    picture: Picture,
    nodes: Mapping[str, Node],
    doomed: Collection[str],
    now: float,
    *,
    key: Callable[[Machine], str],
    rate: Callable[[Machine], Rate | None],
    ended_since: Mapping[str, float],
    names: Sequence[str] = Contained.stages,
    serves: bool = True,
) -> list[Observation]:
    """Everything of this pool, oldest first. `key`: of a node's engine. `ended_since`: when a dead instance was first seen so, if that was seen.

    `names`: the stages of its nodes, in order; `serves`: whether an engine answers at a node's own address.
    """
    found = [_waiting(order) for order, _ in open_orders(picture).values() if order.id not in doomed]
    by_id = {machine.id: machine for machine in picture.machines}
    for order, instance in owners(picture.machines).items():
        machine = by_id[instance]
        if machine.gone and order in doomed:
            continue  # proven
        node = nodes.get(instance) or Node(instance)
        found.append(_node(machine, node, order in doomed, now, key, rate(machine), ended_since.get(instance), names, serves))
    return sorted(found, key=lambda one: (one.started_at, one.handle))


def _waiting(order: Order) -> Observation:
    """An order without an instance."""
    failed = order.failure is not None
    stage = StageReport(CAPACITY, order.at, None, detail=order.note or None)
    return Observation(
        handle=order.id,
        models=(order.model,),
        presence=Presence.ENDED if failed else Presence.RUNNING,
        stages=(stage,),
        failure=order.failure,
        detail=_sentence(order.note) if failed else order.note or None,
        started_at=order.at,
    )


def _node(
    machine: Machine,
    node: Node,
    doomed: bool,
    now: float,
    key: Callable[[Machine], str],
    rate: Rate | None,
    ended_since: float | None,
    names: Sequence[str],
    serves: bool,
) -> Observation:
    failure = node.failure
    presence, loss, detail = Presence.RUNNING, None, failure.detail if failure is not None else machine.note or None
    reason = failure.reason if failure is not None else None
    if doomed:
        presence = Presence.STOPPING
    elif not machine.living and (ended_since is None or now - ended_since >= LAST_WORDS_WITHIN or node.last_words is not None):
        presence = Presence.ENDED
        loss, why = _loss(machine, node)
        detail = f"{detail} ({why})" if failure is not None and detail else why
        if node.last_words is not None and node.last_words[0] == "boot_deadline" and reason is None:
            reason = WakeFailure.BOOT_DEADLINE
    ready = node.ready_at is not None and machine.overlay is not None and machine.port
    serves = serves and bool(ready) and presence is not Presence.ENDED and failure is None
    return Observation(
        handle=machine.replica,
        models=(machine.model,),
        presence=presence,
        stages=stages(machine, node, now, names),
        endpoint=Endpoint(f"http://{machine.overlay}:{machine.port}", key(machine)) if serves else None,
        failure=reason,
        loss=loss,
        detail=detail,
        started_at=machine.ordered_at or machine.launched_at,
        notice=_notice(node, machine),
        rate=rate,
        billed_from=machine.launched_at or None,
    )


def stages(machine: Machine, node: Node, now: float, names: Sequence[str] = Contained.stages) -> tuple[StageReport, ...]:
    """The wake's stages: each begins where the one before ended; what a node says of its own clock is bent into that order."""
    began = machine.ordered_at or machine.launched_at
    came = min(max(began, machine.launched_at), max(began, now))
    found = [StageReport(CAPACITY, began, came, 1.0, machine.note or None)]
    for index, name in enumerate(names):
        report = node.reports.get(name)
        begun = max(came, min(report.started_at, now)) if report is not None else came
        ended = _ended(name, report, node, names[index + 1 :])
        if ended is not None:
            came = max(begun, min(ended, now))
        progress, detail = (report.progress, report.detail) if report is not None else (None, None)
        found.append(StageReport(name, begun, None if ended is None else came, progress, detail))
        if ended is None:
            break
    return tuple(found)


def _ended(name: str, report: NodeStage | None, node: Node, later: Sequence[str]) -> float | None:
    """When a stage ended, as far as anything tells."""
    ended = report.ended_at if report is not None else None
    following = next((node.reports[other].started_at for other in later if other in node.reports), None)
    if name == "boot" and ended is None and node.assigned_at is not None and node.met_at is not None:
        ended = node.assigned_at
    if name == "mesh" and node.met_at is None:
        return None  # up is what we can reach, whatever the node believes
    if not later and node.ready_at is None:
        return None  # the last one ends when the node says that it is ready
    if ended is None:
        ended = following
    return ended if ended is not None else node.ready_at


def _notice(node: Node, machine: Machine) -> Notice | None:
    if node.notice is None or not machine.living:
        return None
    what = "AWS takes this spot machine back." if node.notice.certain else "AWS recommends to move away from this machine."
    return Notice(node.notice.at, f"{what} {node.notice.detail}" if node.notice.detail else what)


def _loss(machine: Machine, node: Node) -> tuple[LossReason, str]:
    """Why a node that nobody doomed is no more."""
    code, message = machine.ended
    words = node.last_words[0] if node.last_words is not None else ""
    taken = node.notice is not None and node.notice.certain and machine.market == "spot"
    if code in _SPOT or words == "spot" or (taken and words in ("", "asked")):
        return LossReason.SPOT_RECLAIMED, f"AWS took the spot machine back ({machine.kind} in {machine.zone})."
    if node.failure is not None:
        return LossReason.CRASHED, _ENDS["failed"]
    if node.last_words is not None:
        detail = node.last_words[1]
        text = _ENDS.get(words, "It ended itself.")
        return (LossReason.CRASHED if words == "failed" else LossReason.VANISHED), f"{text} {detail}" if detail else text
    said = f" AWS says: {message or code}." if message or code else ""
    return LossReason.VANISHED, f"The machine was ended from outside.{said}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""

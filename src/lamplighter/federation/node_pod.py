"""What the pod of one machine says, as home's API server shows it: its stages, its address, and why it does not run. Pure.

Liqo writes into home's pod what the kubelet over there says, so the words and the reasons are those of any pod (`providers.kubernetes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.base import StageReport
from lamplighter.providers.kubernetes import reasons
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import Event, Running, container, created, deleting, over, true, uid
from lamplighter.providers.kubernetes.stages import Words, stages
from lamplighter.providers.kubernetes.workload import CONTAINER, PORT

CRASHES = 3
"""Ends of an engine that has never answered after which it is not waited for any more."""


@dataclass(frozen=True, slots=True)
class PodView:
    """`address`: `ip:port` once there is one. `ready`: its engine answers. `gone`: it will never answer again, and why."""

    uid: str
    created: float
    node: str
    stages: tuple[StageReport, ...]
    address: str | None = None
    ready: bool = False
    failure: WakeFailure | None = None
    loss: LossReason | None = None
    detail: str | None = None
    leaving: bool = False


def view(pod: Manifest, events: Sequence[Event], now: float, *, log: str = "", was_ready: bool = False) -> PodView:
    """`log`: the end of the engine's, when it ended. `was_ready`: it has answered before, so an end is a loss and not a failed wake."""
    engine = container(pod, CONTAINER)
    ready = true(pod, "Ready") and engine.ready
    space = str(pod["metadata"].get("namespace") or "")
    held: reasons.Hindrance | None = None
    loss: LossReason | None = None
    if over(pod):
        held, loss = reasons.failed(pod), reasons.loss(pod) if was_ready else None
    elif not was_ready and not ready:
        held = _held(pod, engine, events, space, log)
    detail = held.detail if held is not None else None
    waited = now - created(pod)
    ended = held is not None and (over(pod) or waited >= held.patience)
    return PodView(
        uid=uid(pod),
        created=created(pod),
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        stages=stages(pod, engine, events, Words(engine=log), now, loaded=ready or was_ready, detail=detail),
        address=_address(pod),
        ready=ready,
        failure=held.failure if held is not None and ended and loss is None else None,
        loss=loss,
        detail=detail,
        leaving=deleting(pod),
    )


def crashing(pod: Manifest) -> bool:
    """Whether its engine ended and its log is worth being asked for."""
    return container(pod, CONTAINER).ended is not None


def _held(pod: Manifest, engine: Running, events: Sequence[Event], space: str, log: str) -> reasons.Hindrance | None:
    if (found := reasons.unscheduled(pod, events)) is not None:
        return found
    if engine.ended is not None and not engine.started:
        crashed = reasons.crashed(engine.ended, log, None)
        forever = engine.restarts < CRASHES and crashed.failure in (WakeFailure.ENGINE_CRASHED, WakeFailure.DOWNLOAD_FAILED)
        return reasons.Hindrance(crashed.failure, crashed.detail, reasons.FOREVER if forever else reasons.AT_ONCE)
    return reasons.held_up(pod, engine, events, container=CONTAINER, namespace=space)


def _address(pod: Manifest) -> str | None:
    """By which home reaches it: the address into which Liqo maps the one over there."""
    ip = (pod.get("status") or {}).get("podIP")
    ports = [
        port.get("containerPort")
        for one in (pod.get("spec") or {}).get("containers") or ()
        for port in one.get("ports") or ()
        if port.get("name") == PORT
    ]
    return f"{ip}:{ports[0]}" if ip and ports else None

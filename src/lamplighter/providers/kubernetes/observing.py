"""From pods, workloads and events to what the keeper is told: one observation for each pod that answers or will. Pure.

Not responsible for where the objects come from (`mirror`), nor for anything that is done about them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.providers.base import Notice, Observation, Presence
from lamplighter.providers.kubernetes import names, reasons
from lamplighter.providers.kubernetes.decide import Held, ordinal
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import (
    Event,
    Running,
    annotations,
    container,
    created,
    deleting,
    labels,
    name,
    over,
    phase,
    true,
    uid,
)
from lamplighter.providers.kubernetes.reasons import Hindrance, Judge
from lamplighter.providers.kubernetes.stages import Words, stages
from lamplighter.providers.kubernetes.template import CONTAINER, PORT, PRELOAD

LAST_CHANCE = 0.95
"""Share of the wake's deadline after which what only holds up is told as the reason: the deadline itself would say nothing."""

LOG_WITHIN = 3.0
"""Seconds for which the end of an engine is kept back while its log is read."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known around one pod.

    `restarts`: of its engine, which do not count: they were before it was first seen, serving. `log`: the end of what a crashed engine wrote; None
    while it is being read. `held`: seconds for which a hindrance has been seen. `gone`: its node is no longer there. `leaving`: why its node will
    not be there for long. `deadline`: of a wake, in seconds. `note`: something about its workload that a person should know.
    """

    namespace: str
    events: Sequence[Event] = ()
    restarts: int = 0
    words: Words = field(default_factory=Words)
    log: str | None = None
    judge: Judge | None = None
    held: Callable[[Hindrance], float] = field(default=lambda _: 0.0)
    gone: bool = False
    leaving: str | None = None
    doomed: bool = False
    key: str | None = field(default=None, repr=False)
    deadline: float = 900.0
    note: str | None = None


def handle(pod: Manifest) -> str:
    """A pod's own for its life: names of StatefulSets' pods come again."""
    return f"{name(pod)}.{uid(pod)[:8]}"


def model_of(pod: Manifest, slugs: Mapping[str, str]) -> str | None:
    """The model that it serves: as its annotation says, else by its label. `slugs`: the configured models by their slug."""
    return annotations(pod).get(names.MODEL_NAME) or slugs.get(labels(pod).get(names.MODEL, ""))


def serves(pod: Manifest) -> bool:
    """Whether it is one that answers, and not another member of a group."""
    worker = labels(pod).get("leaderworkerset.sigs.k8s.io/worker-index", "0")
    return labels(pod).get(names.ROLE, names.ENGINE) == names.ENGINE and worker == "0"


def group(pod: Manifest) -> str | None:
    """What the members of one replica have in common."""
    return labels(pod).get("leaderworkerset.sigs.k8s.io/group-key")


def loaded(pod: Manifest, engine: Running) -> bool:
    """Whether its model has answered since the engine began: its startup probe passed. Without such a probe, whether it is ready now."""
    if engine.over or engine.since is None:
        return False
    spec: Manifest = next((one for one in (pod.get("spec") or {}).get("containers") or () if one.get("name") == CONTAINER), {})
    return (engine.started and "startupProbe" in spec) or true(pod, "Ready")


def crashed(engine: Running, before: int) -> bool:
    """Whether its engine ended since it was first seen serving. `before`: how often it had, then."""
    return engine.ends > before


def observation(pod: Manifest, model: str, view: View, now: float) -> Observation:
    """One pod."""
    engine = container(pod, CONTAINER)
    hindrance: Hindrance | None = None
    presence, loss, detail = Presence.RUNNING, None, view.note
    failure: WakeFailure | None = None
    answered = loaded(pod, engine)
    if view.doomed or deleting(pod):
        presence = Presence.STOPPING
        detail = None if view.doomed else reasons.disruption(pod, view.events)
    elif over(pod):
        hindrance, presence, loss = reasons.failed(pod), Presence.ENDED, reasons.loss(pod)
    elif view.gone:
        presence, loss = Presence.ENDED, LossReason.VANISHED
        detail = f"Its node {(pod.get('spec') or {}).get('nodeName')} is gone."
    elif crashed(engine, view.restarts) and engine.ended is not None:
        found = reasons.crashed(engine.ended, view.log or "", view.judge, _memory(pod))
        if view.log is not None or view.held(found) >= LOG_WITHIN:
            hindrance, presence, loss = found, Presence.ENDED, LossReason.CRASHED
    elif not answered:
        hindrance = _hindrance(pod, engine, view)
        if hindrance is not None and not _counts(hindrance, view, now - created(pod)):
            detail, hindrance = hindrance.detail, None
    if hindrance is not None:
        failure, detail = hindrance.failure, hindrance.detail
    running = presence is Presence.RUNNING
    return Observation(
        handle=handle(pod),
        models=(model,),
        presence=presence,
        stages=stages(pod, engine, view.events, view.words, now, loaded=answered, detail=detail if running else None),
        endpoint=endpoint(pod, view.key) if answered and presence is not Presence.ENDED and failure is None else None,
        failure=failure,
        loss=loss,
        detail=detail,
        started_at=min(created(pod) or now, now),
        notice=Notice(None, view.leaving) if view.leaving is not None and running else None,
    )


def ended(pod: Manifest, model: str, events: Sequence[Event], now: float, why: str | None = None) -> Observation:
    """A pod that is gone although nobody doomed it, from how it was seen last."""
    detail = why or reasons.disruption(pod, events)
    return Observation(
        handle=handle(pod),
        models=(model,),
        presence=Presence.ENDED,
        loss=LossReason.VANISHED,
        detail=detail,
        started_at=min(created(pod) or now, now),
    )


def endpoint(pod: Manifest, key: str | None) -> Endpoint | None:
    """Where it answers."""
    address = str((pod.get("status") or {}).get("podIP") or "")
    ports = [
        port
        for one in (pod.get("spec") or {}).get("containers") or ()
        for port in one.get("ports") or ()
        if port.get("name") == PORT
    ]
    if not address or not ports:
        return None
    host = f"[{address}]" if ":" in address else address
    return Endpoint(f"http://{host}:{ports[0]['containerPort']}", key)


def held(pod: Manifest, seen: Observation, *, doomed: bool, ordinals: bool) -> Held:
    """What is decided with."""
    return Held(
        name=name(pod),
        uid=uid(pod),
        doomed=doomed,
        dead=seen.presence is Presence.ENDED or seen.failure is not None,
        ordinal=ordinal(name(pod)) if ordinals else None,
        assigned=bool((pod.get("spec") or {}).get("nodeName")),
        running=phase(pod) == "Running",
        ready=true(pod, "Ready"),
    )


def _counts(hindrance: Hindrance, view: View, age: float) -> bool:
    """Whether a hindrance has lasted long enough to be the end of the wake."""
    return view.held(hindrance) >= hindrance.patience or age >= LAST_CHANCE * view.deadline


def _hindrance(pod: Manifest, engine: Running, view: View) -> Hindrance | None:
    if (found := reasons.unscheduled(pod, view.events)) is not None:
        return found
    status = pod.get("status") or {}
    for init in (True, False):
        for one in status.get("initContainerStatuses" if init else "containerStatuses") or ():
            named = str(one.get("name"))
            running = container(pod, named, init=init)
            if running.waiting[0] not in ("", "PodInitializing", "ContainerCreating", "CrashLoopBackOff"):
                return reasons.held_up(pod, running, view.events, container=named, namespace=view.namespace)
            if init and running.ended is not None and running.ended.code != 0:
                return _preload(named, running, view)
    if engine.since is None:
        return reasons.held_up(pod, engine, view.events, container=CONTAINER, namespace=view.namespace)
    return _probe(view.events)


def _preload(named: str, running: Running, view: View) -> Hindrance:
    """An init container that failed; it is begun again by the kubelet, and goes on where it stopped."""
    assert running.ended is not None  # noqa: S101 - the caller has looked
    found = reasons.crashed(running.ended, view.words.preload if named == PRELOAD and not running.ended.message else "", None)
    again = found.failure in (WakeFailure.DOWNLOAD_FAILED, WakeFailure.ENGINE_CRASHED) and running.restarts < 2
    failure = WakeFailure.DOWNLOAD_FAILED if found.failure is WakeFailure.ENGINE_CRASHED else found.failure
    return Hindrance(failure, f"The init container {named} failed: {found.detail}", reasons.LONG if again else reasons.AT_ONCE)


def _probe(events: Sequence[Event]) -> Hindrance | None:
    """What a startup probe says that will never pass: what an engine's own command wrote (a model that cannot be pulled)."""
    said = [
        one.message
        for one in sorted(events, key=lambda one: one.at)
        if one.reason == "Unhealthy" and "Startup probe" in one.message
    ]
    return reasons.said_by_probe(said[-1]) if said else None


def _memory(pod: Manifest) -> str:
    containers = (pod.get("spec") or {}).get("containers") or ()
    one: Manifest = next((found for found in containers if found.get("name") == CONTAINER), {})
    limit = str(((one.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return f"{int(limit) / 2**30:.1f} GiB" if limit.isdigit() else limit

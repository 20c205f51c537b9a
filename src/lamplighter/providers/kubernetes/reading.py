"""What a pod, a node or an event says, as values: times, containers, conditions. Pure and tolerant: any field may be missing.

Not responsible for what it means (`reasons`, `stages`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lamplighter.providers.kubernetes.kinds import Manifest


def moment(text: object) -> float | None:
    """Unix seconds of a time as the API writes it; None when there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def meta(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its metadata."""
    return found.get("metadata") or {}


def name(found: Mapping[str, Any]) -> str:
    """Its name."""
    return str(meta(found).get("name", ""))


def labels(found: Mapping[str, Any]) -> Mapping[str, str]:
    """Its labels."""
    return meta(found).get("labels") or {}


def annotations(found: Mapping[str, Any]) -> Mapping[str, str]:
    """Its annotations."""
    return meta(found).get("annotations") or {}


def status(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Its status; empty when it has none."""
    return (found or {}).get("status") or {}


def uid(found: Mapping[str, Any]) -> str:
    """Its uid."""
    return str(meta(found).get("uid", ""))


def created(found: Mapping[str, Any]) -> float:
    """Unix seconds of its creation; 0 when it does not say."""
    return moment(meta(found).get("creationTimestamp")) or 0.0


def deleting(found: Mapping[str, Any]) -> bool:
    """Whether its end was asked for."""
    return bool(meta(found).get("deletionTimestamp"))


def phase(pod: Mapping[str, Any]) -> str:
    """A pod's phase."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def over(pod: Mapping[str, Any]) -> bool:
    """Whether it has run and will never run again."""
    return phase(pod) in ("Failed", "Succeeded")


def condition(found: Mapping[str, Any], type: str) -> Mapping[str, Any]:
    """One of its conditions; empty when it has none of that type."""
    conditions: Iterable[Mapping[str, Any]] = (found.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == type), {})


def true(found: Mapping[str, Any], type: str) -> bool:
    """Whether a condition is True."""
    return condition(found, type).get("status") == "True"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    code: int
    reason: str = ""
    message: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """One container's status. `waiting`: reason and message. `ended`: of its last run, if one ended. `started`: its startup probe has passed."""

    there: bool = False
    waiting: tuple[str, str] = ("", "")
    since: float | None = None
    ended: Ended | None = None
    over: bool = False
    ready: bool = False
    started: bool = False
    restarts: int = 0

    @property
    def ends(self) -> int:
        """How often it has ended. (While it waits to be started again, its last end is not counted as a restart yet.)"""
        return self.restarts + (self.ended is not None and self.since is None)


def container(pod: Manifest, wanted: str, *, init: bool = False) -> Running:
    """The status of the container `wanted`; of the first one when no container has that name (a workload that others made)."""
    statuses = (pod.get("status") or {}).get("initContainerStatuses" if init else "containerStatuses") or ()
    found = next((one for one in statuses if one.get("name") == wanted), None)
    if found is None and not init:
        found = next(iter(statuses), None)
    if found is None:
        return Running()
    state, last = found.get("state") or {}, found.get("lastState") or {}
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or last.get("terminated")
    running = state.get("running") or {}
    return Running(
        there=True,
        waiting=(str(waiting.get("reason") or ""), " ".join(str(waiting.get("message") or "").split())),
        since=moment(running.get("startedAt")),
        ended=None
        if not ended
        else Ended(
            int(ended.get("exitCode") or 0),
            str(ended.get("reason") or ""),
            str(ended.get("message") or ""),
            moment(ended.get("finishedAt")),
        ),
        over=bool(state.get("terminated")),
        ready=bool(found.get("ready")),
        started=bool(found.get("started")) if found.get("started") is not None else bool(found.get("ready")),
        restarts=int(found.get("restartCount") or 0),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """What some controller said about an object. `at`: Unix seconds of the last time."""

    reason: str
    message: str
    at: float
    source: str = ""
    count: int = 1


def event(found: Manifest) -> Event:
    """An event of either API."""
    series = found.get("series") or {}
    times = (
        found.get("lastTimestamp"),
        series.get("lastObservedTime"),
        found.get("eventTime"),
        meta(found).get("creationTimestamp"),
    )
    source = (found.get("source") or {}).get("component") or found.get("reportingComponent") or ""
    return Event(
        str(found.get("reason") or ""),
        " ".join(str(found.get("message") or "").split()),
        next((at for at in map(moment, times) if at is not None), 0.0),
        str(source),
        int(found.get("count") or series.get("count") or 1),
    )


def subject(found: Manifest) -> tuple[str, str, str]:
    """Kind, name and uid of what an event is about."""
    about = found.get("involvedObject") or {}
    return str(about.get("kind") or ""), str(about.get("name") or ""), str(about.get("uid") or "")


def image(pod: Manifest, wanted: str) -> str:
    """The image of a container of it."""
    spec = pod.get("spec") or {}
    both = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return next((str(one.get("image")) for one in both if one.get("name") == wanted), str(both[0].get("image")) if both else "")

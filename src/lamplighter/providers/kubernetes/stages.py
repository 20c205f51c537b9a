"""A pod's start as the stages of a wake: schedule, pull, load. Pure.

Each begins where the one before ended; what the cluster's clock says is bent into that order and never lies in the future.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamplighter.providers.base import StageReport
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import Event, Running, condition, container, created, moment
from lamplighter.providers.kubernetes.template import CONTAINER, PRELOAD

WAKE = ("schedule", "pull", "load")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s?%")
_PULLING = re.compile(r'Pulling image "(?P<image>[^"]+)"')


@dataclass(frozen=True, slots=True)
class Words:
    """What the logs say last: of the init container that fetches weights, and of the engine."""

    preload: str = ""
    engine: str = ""


def stages(
    pod: Manifest, engine: Running, events: Sequence[Event], words: Words, now: float, *, loaded: bool, detail: str | None
) -> tuple[StageReport, ...]:
    """As far as it is. `loaded`: whether it has answered. `detail`: what holds it up, for the stage that it is in."""
    began = min(created(pod) or now, now)
    placed = _placed(pod)
    schedule = _bent(placed, began, now)
    if schedule is None:
        return (StageReport("schedule", began, None, None, detail or _waits(events)),)
    found = [StageReport("schedule", began, schedule, 1.0, _node(pod))]
    runs = engine.since if engine.since is not None else (engine.ended.at if engine.ended is not None else None)
    pulled = _bent(runs, schedule, now)
    if pulled is None and not loaded:
        share, said = _pull(pod, events, words)
        return (*found, StageReport("pull", schedule, None, share, detail or said))
    pulled = pulled if pulled is not None else schedule
    found.append(StageReport("pull", schedule, pulled, 1.0))
    if not loaded:
        share, said = progress(words.engine)
        return (*found, StageReport("load", pulled, None, share, detail or said))
    ready = _bent(moment(condition(pod, "Ready").get("lastTransitionTime")), pulled, now)
    return (*found, StageReport("load", pulled, ready if ready is not None else pulled, 1.0))


def progress(line: str) -> tuple[float | None, str | None]:
    """What a log's last line says of how far it is: the share when it names a percentage, and the line for people."""
    text = " ".join(line.split())
    if not text:
        return None, None
    shares = _PERCENT.findall(text)
    return (min(1.0, float(shares[-1]) / 100) if shares else None), text[:160]


def _placed(pod: Manifest) -> float | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "True":
        return moment(scheduled.get("lastTransitionTime"))
    return created(pod) if (pod.get("spec") or {}).get("nodeName") else None


def _bent(at: float | None, after: float, now: float) -> float | None:
    return None if at is None else max(after, min(at, now))


def _node(pod: Manifest) -> str | None:
    name = (pod.get("spec") or {}).get("nodeName")
    return f"on {name}" if name else None


def _waits(events: Sequence[Event]) -> str | None:
    helps = [one for one in events if one.reason in ("TriggeredScaleUp", "Nominated")]
    return f"a node is being added ({helps[-1].message[:160]})" if helps else None


def _pull(pod: Manifest, events: Sequence[Event], words: Words) -> tuple[float | None, str | None]:
    """How far the image, or after it the weights, are."""
    preload = container(pod, PRELOAD, init=True)
    if preload.there and preload.since is not None and not preload.over:
        share, said = progress(words.preload)
        return share, f"weights: {said}" if said else "fetching the weights"
    pulling = [one for one in sorted(events, key=lambda one: one.at) if one.reason in ("Pulling", "Pulled")]
    if pulling and pulling[-1].reason == "Pulling":
        image = _PULLING.search(pulling[-1].message)
        return None, f"pulling {image['image']}" if image else "pulling the image"
    engine = container(pod, CONTAINER)
    return None, "starting the container" if pulling and engine.there else None

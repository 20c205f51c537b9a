"""What the workloads of a pool say beside their pods: pods that cannot be made, pods that only pass, and who else writes replicas. Pure.

Not responsible for pods that are there (`observing`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.base import Observation, Presence
from lamplighter.providers.kubernetes import applying, names, reasons
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.observing import handle, serves
from lamplighter.providers.kubernetes.reading import Event, condition, created, deleting, event, labels, name, over, subject, uid
from lamplighter.providers.kubernetes.scaling import Written

UNMADE = ".unmade-"
"""In the handle of a replica whose pod could not be made."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workloads of a pool and all that is there of them. `written`: by workload, what this keeper wrote last."""

    workloads: Sequence[Manifest]
    pods: Sequence[Manifest]
    events: Sequence[Manifest]
    written: Mapping[str, Written]

    def of(self, workload: Manifest) -> list[Manifest]:
        """The pods of a workload that answer, or will."""
        mine = labels(workload).get(names.MODEL)
        return [pod for pod in self.pods if labels(pod).get(names.MODEL) == mine and serves(pod)]

    def passing(self, shown: Collection[str], doomed: Callable[[Manifest], bool]) -> set[str]:
        """Handles of pods that a ReplicaSet made in place of a doomed one before it heard that fewer are wanted: it ends them at once.

        `shown`: handles of pods that were told already, those of the first look included.
        """
        hidden = {handle(pod) for pod in self.pods if deleting(pod) and not doomed(pod)} - set(shown)
        for workload in self.workloads:
            there = [pod for pod in self.of(workload) if active(pod) and not doomed(pod)]
            beyond = len(there) - replicas(workload)
            fresh = [pod for pod in there if handle(pod) not in shown]
            newest = sorted(fresh, key=created, reverse=True)
            hidden |= {handle(pod) for pod in newest[: max(0, beyond)]}
        return hidden

    def unmade(self, model_of: Callable[[Manifest], str], held: Callable[[str], float], now: float) -> list[Observation]:
        """Pods that are wanted and cannot be made, each as an ended replica. `held`: seconds for which a refusal has been seen, by its key."""
        found: list[Observation] = []
        ending = any(deleting(pod) for pod in self.pods)
        for workload in self.workloads:
            absent = replicas(workload) - len([pod for pod in self.of(workload) if active(pod)])
            said = self._refusal(workload, now) if absent > 0 else None
            if said is None:
                continue
            hindrance = reasons.not_made(said)
            lasts = held(f"{uid(workload)} {said[:60]}")
            if lasts < hindrance.patience or (ending and hindrance.failure is WakeFailure.QUOTA):
                continue
            written = self.written.get(name(workload))
            found += [
                Observation(
                    f"{name(workload)}.{uid(workload)[:8]}{UNMADE}{number}",
                    (model_of(workload),),
                    Presence.ENDED,
                    failure=hindrance.failure,
                    detail=hindrance.detail,
                    started_at=written.at if written is not None else now,
                )
                for number in range(absent)
            ]
        return found

    def _refusal(self, workload: Manifest, now: float) -> str | None:
        """What the controller says that keeps it from making pods, since replicas were last raised."""
        failure = condition(workload, "ReplicaFailure")
        if failure.get("status") == "True":
            return str(failure.get("message") or "")
        written = self.written.get(name(workload))
        since = written.at - 5.0 if written is not None else now - 120.0
        said = [
            one
            for kind, about, one in _read(self.events)
            if one.reason == "FailedCreate" and kind != "Pod" and belongs(about, name(workload)) and one.at >= since
        ]
        return max(said, key=lambda one: one.at).message if said else None

    def other_writer(self, pod: Manifest) -> tuple[str, str] | None:
        """Who else wrote the replicas of a pod's workload since we did, and that as a sentence."""
        workload = next((one for one in self.workloads if belongs(name(pod), name(one))), None)
        written = self.written.get(name(workload)) if workload is not None else None
        if workload is None or written is None or replicas(workload) == written.replicas:
            return None
        who = applying.writer(workload)
        if who is None:
            return None
        return who, (
            f"{who} also writes the replicas of {name(workload)} ({replicas(workload)} instead of {written.replicas}): only one may. "
            "Remove the autoscaler, or `replicas` from what applies the manifest."
        )


def replicas(workload: Manifest) -> int:
    """As they are written."""
    return int((workload.get("spec") or {}).get("replicas", 1) or 0)


def active(pod: Manifest) -> bool:
    """Whether it is counted by the workload that it belongs to."""
    return not deleting(pod) and not over(pod)


def belongs(one: str, workload: str) -> bool:
    """Whether the name of a pod or ReplicaSet is one that `workload` gives."""
    return one == workload or one.startswith(f"{workload}-")


def _read(events: Iterable[Manifest]) -> list[tuple[str, str, Event]]:
    return [(*subject(one)[:2], event(one)) for one in events]

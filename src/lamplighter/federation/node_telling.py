"""What the keeper is told of one machine of the chain: AWS's observation, the peering and the pod, as one. Pure.

The stages follow one another whatever the three clocks say: each begins where the one before ended.
"""

from collections.abc import Iterable
from dataclasses import replace

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import LossReason
from lamplighter.federation.node_passage import Passage
from lamplighter.federation.node_pod import PodView
from lamplighter.providers.base import Observation, Presence, StageReport

CHAIN = ("capacity", "boot", "mesh", "cluster", "federation", "schedule", "pull", "load")
"""The stages of a wake, in order."""
_SHARES = {"network": 0.0, "authentication": 0.25, "resources": 0.5, "virtual-node": 0.75, "ready": 1.0}


def merged(
    one: Observation, passage: Passage | None, pod: PodView | None, key: str | None, *, doomed: bool, now: float
) -> Observation:
    """`one`: the machine's. `doomed`: its end was asked for. `key`: which its engine demands."""
    told = replace(one, stages=chained(one.stages, passage, pod, now), endpoint=None)
    if one.presence is Presence.ENDED and not doomed:
        return told
    if doomed or one.presence is not Presence.RUNNING:
        return replace(told, presence=Presence.STOPPING, loss=None, detail=passage.detail if passage is not None else one.detail)
    if one.failure is not None or passage is None:
        return told
    if passage.failure is not None:
        return replace(told, failure=passage.failure[0], detail=passage.failure[1])
    if passage.served is not None and (pod is None or pod.uid != passage.served or pod.loss is not None or pod.leaving):
        loss = pod.loss if pod is not None and pod.uid == passage.served and pod.loss is not None else LossReason.VANISHED
        why = pod.detail if pod is not None and pod.uid == passage.served else None
        return replace(told, presence=Presence.ENDED, loss=loss, detail=why or "Its pod was taken out of the home cluster.")
    if pod is None:
        return told
    if pod.failure is not None:
        return replace(told, failure=pod.failure, detail=pod.detail)
    serves = (pod.ready or pod.uid == passage.served) and pod.address is not None and not pod.leaving
    return replace(told, endpoint=Endpoint(f"http://{pod.address}", key) if serves else None)


def chained(
    machine: tuple[StageReport, ...], passage: Passage | None, pod: PodView | None, now: float
) -> tuple[StageReport, ...]:
    """The whole wake, as far as it is."""
    if not machine or machine[-1].name != "cluster" or machine[-1].ended_at is None:
        return machine
    began = machine[-1].ended_at
    if pod is None:
        peer = passage.peer if passage is not None else None
        detail = passage.detail if passage is not None else None
        share = None if peer is None else _SHARES.get(peer.state)
        return (*machine, StageReport("federation", began, None, share, detail))
    joined = max(began, min(pod.created or now, now))
    return (*machine, StageReport("federation", began, joined, 1.0), *_after(pod.stages, joined))


def _after(stages: Iterable[StageReport], end: float) -> Iterable[StageReport]:
    for stage in stages:
        ended = None if stage.ended_at is None else max(end, stage.ended_at)
        begun = end if ended is not None else max(end, stage.started_at)
        yield replace(stage, started_at=begun, ended_at=ended)
        end = ended if ended is not None else begun

"""Joins a GPU cluster to the home cluster, and parts them again, by Liqo's objects in both.

`advance` and `retreat` may be called at any time and any number of times: each call does what can be done now, and tells where it stands.
What a call leaves undone the next one does; nothing is kept in memory. Not responsible for Liqo's own controllers, which do the rest.
"""

import asyncio
from collections.abc import Awaitable

from lamplighter.core.clock import Clock
from lamplighter.federation import names
from lamplighter.federation.authentication import authenticate
from lamplighter.federation.network import connect, examine
from lamplighter.federation.reach import Unheard
from lamplighter.federation.resources import obtain
from lamplighter.federation.retreat import Retreat, retreat
from lamplighter.federation.side import Side
from lamplighter.federation.slice import Slice, slice_for, slice_of
from lamplighter.federation.standing import Halt, PeerSpec, PeerStatus, State, Why
from lamplighter.providers.kubernetes.client import Cluster

__all__ = ["PeerSpec", "PeerStatus", "Retreat", "Slice", "Why", "advance", "retreat", "slice_for", "slice_of"]

_ORDER: tuple[State, ...] = ("failed", "network", "authentication", "resources", "virtual-node")


async def advance(home: Cluster, remote: Cluster, spec: PeerSpec, *, clock: Clock | None = None) -> PeerStatus:
    """One step of all that can be taken now, of home's use of the remote cluster (and of the other way, when `bidirectional`).

    Raises KubernetesError when the home cluster itself does not answer: then nothing is known. The remote one's silence is a status.
    """
    here = Side(home, "the home cluster", spec.home_id, spec.cluster_id, spec.liqo_namespace, clock)
    there = Side(remote, f"cluster {spec.cluster_id}", spec.cluster_id, spec.home_id, spec.liqo_namespace, clock)
    try:
        ours, theirs = await examine(here, there, spec)
    except Halt as halt:
        return halt.status
    except Unheard as unheard:
        return _unheard(unheard, here, "network")
    outcomes = await asyncio.gather(
        _outcome(connect(here, there, spec, ours, theirs), here, "network"),
        _outcome(_use(here, there, spec), here, "authentication"),
        *([_outcome(_use_home(there, here), here, "authentication")] if spec.bidirectional else []),
        return_exceptions=True,  # so that none goes on writing after this call has ended
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    open_ones = [outcome for outcome in outcomes if isinstance(outcome, PeerStatus)]
    node = next((outcome for outcome in outcomes if isinstance(outcome, str)), None)
    if not open_ones:
        return PeerStatus("ready", ready=True, node=node)
    first = min(open_ones, key=lambda status: _ORDER.index(status.state))
    return first if first.node or not node else PeerStatus(first.state, False, first.reason, first.detail, node, first.next_step)


async def _use(consumer: Side, provider: Side, spec: PeerSpec) -> str:
    await authenticate(consumer, provider)
    labels = {names.NODE_LABEL[0]: names.NODE_LABEL[1], **spec.labels}
    return await obtain(consumer, provider, spec.resources(), labels, spec.gpu_resource)


async def _use_home(consumer: Side, provider: Side) -> None:
    """The other direction: what home grants by itself (Liqo's own default), without GPUs."""
    await authenticate(consumer, provider)
    await obtain(consumer, provider, {}, {})


async def _outcome(step: Awaitable[str | None], home: Side, state: State) -> PeerStatus | str | None:
    try:
        return await step
    except Halt as halt:
        return halt.status
    except Unheard as unheard:
        return _unheard(unheard, home, state)


def _unheard(unheard: Unheard, home: Side, state: State) -> PeerStatus:
    """A call that failed, as a status: most pass by themselves. Home's own silence is the caller's to know."""
    side, error = unheard.reach, unheard.error
    if side is home and (error.status == 0 or error.status >= 500):
        raise error
    detail, step = f"In {side.name}: {error.message}", error.next_step
    match error.status:
        case 409:
            return PeerStatus(state, reason=Why.CONTESTED, detail=detail, next_step=step)
        case 401 | 403:
            return PeerStatus(state, reason=Why.FORBIDDEN, detail=detail, next_step=step)
        case 404:
            return PeerStatus(
                state,
                reason=Why.LIQO_MISSING,
                detail=detail,
                next_step="Install Liqo: `lamplighter federation install`. On a cloud node it is still starting.",
            )
        case 400 | 422:
            return PeerStatus("failed", reason=Why.REFUSED, detail=detail, next_step=step)
        case _:
            return PeerStatus(
                state, reason=Why.UNREACHABLE, detail=detail, next_step="It is reached over the mesh: `lamplighter mesh check`."
            )

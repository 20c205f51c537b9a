"""Waiting for a sleeping model: one bounded queue per model, and the honest words for those who cannot or need not wait.

Not responsible for waking it: waiting is what makes the demand that the keeper acts upon.
"""

import math
from collections.abc import Callable
from typing import Any

from lamplighter.config import GatewayConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.gateway.routing import Asker, Lane, Target
from lamplighter.store.wakes import Wake

MOST_RETRY_AFTER = 60
"""Seconds: clients' libraries give up when they are told to wait longer."""
UNKNOWN_RETRY_AFTER = 10
"""Seconds, when no past wake tells how long it takes."""
LAST_ATTEMPT = 3
"""After this many failures in a row nobody is kept waiting, even when the keeper goes on trying."""
_STATIC_GRACE = 5.0
"""Seconds that an always-on server may take to be found after the start."""

OnBeat = Callable[[Wake | None], float | None]
"""Called when a wait begins, at every change, and after the seconds that it returned last (None: only at changes)."""


class NotReady(RequestError):
    """The model sleeps or wakes; the error's body tells how far it is."""

    def __init__(self, message: str, *, lane: Lane, now: float, code: str, next_step: str) -> None:
        super().__init__(
            message,
            status=503,
            type="service_unavailable",
            code=code,
            param="model",
            next_step=next_step,
            retry_after=retry_after(lane, now),
        )
        self.stage = stage(lane.wake)
        self.eta = eta(lane.wake, now)

    def body(self) -> dict[str, Any]:
        body = super().body()
        body["error"]["stage"] = self.stage
        body["error"]["eta_seconds"] = None if self.eta is None else round(self.eta, 1)
        return body


def stage(wake: Wake | None) -> str | None:
    """The stage at which a wake is; None when none is under way."""
    if wake is None or wake.outcome is not None:
        return None
    for item in wake.stages:
        if item.ended_at is None:
            return item.name
    return wake.stages[-1].name if wake.stages else None


def eta(wake: Wake | None, now: float) -> float | None:
    """Seconds until a wake that is under way is expected to be done; None when that is not known. `now`: Unix seconds."""
    if wake is None or wake.outcome is not None or wake.eta_p50 is None:
        return None
    return max(0.0, wake.started_at + wake.eta_p50 - now)


def retry_after(lane: Lane, now: float) -> int:
    """Whole seconds, 1 to 60, after which asking again makes sense."""
    wake = lane.wake
    if wake is not None and wake.outcome == "failed" and wake.retry_at is not None:
        left: float | None = wake.retry_at - now
    else:
        left = eta(wake, now)
    return min(MOST_RETRY_AFTER, max(1, math.ceil(left if left is not None else UNKNOWN_RETRY_AFTER)))


def refusal(lane: Lane, *, since: float, now: float) -> RequestError | None:
    """Why a request that began to wait at `since` need not wait (any longer); None while there is hope. Unix seconds."""
    if lane.closing:
        return stopping()
    if not lane.known:
        return RequestError(
            f"The model `{lane.name}` was removed while this request waited.", status=404, code="model_not_found", param="model"
        )
    wake = lane.wake
    if lane.static and _unreachable(lane, now):
        return unreachable(lane)
    if wake is None or wake.outcome != "failed" or wake.reason is None:
        return None
    if not lane.static and VERDICTS[wake.reason].retry and wake.attempt < LAST_ATTEMPT:
        return None  # the keeper tries again while we wait
    during = wake.ended_at is not None and wake.ended_at >= since
    barred = wake.retry_at is not None and wake.retry_at > now
    return wake_failed(lane, wake, now) if during or barred else None


def stopping() -> RequestError:
    """For those who come, or still wait, when the gateway ends."""
    return RequestError(
        "The gateway is stopping.",
        status=503,
        type="service_unavailable",
        code="gateway_stopping",
        next_step="Ask again in a moment.",
        retry_after=5,
        headers=(("connection", "close"),),
    )


def wake_failed(lane: Lane, wake: Wake, now: float) -> RequestError:
    """What those who asked for a model are told when its wake failed."""
    reason = wake.reason or WakeFailure.PROVIDER_ERROR
    verdict = VERDICTS[reason]
    detail = f" {wake.detail}" if wake.detail and wake.detail not in verdict.message else ""
    return RequestError(
        f"The model `{lane.name}` could not be woken. {verdict.message}{detail}",
        status=verdict.status,
        type="service_unavailable" if verdict.status >= 500 else "insufficient_quota",
        code=reason.value,
        param="model",
        next_step=verdict.next_step,
        retry_after=retry_after(lane, now) if verdict.status >= 500 else None,
    )


def unreachable(lane: Lane, detail: str = "") -> RequestError:
    """An always-on server does not answer."""
    verdict = VERDICTS[WakeFailure.UNREACHABLE]
    return RequestError(
        f"The model `{lane.name}` cannot be reached. {verdict.message}{f' ({detail})' if detail else ''}",
        status=503,
        type="service_unavailable",
        code=WakeFailure.UNREACHABLE.value,
        param="model",
        next_step=verdict.next_step,
        retry_after=UNKNOWN_RETRY_AFTER,
    )


def _unreachable(lane: Lane, now: float) -> bool:
    """Whether an always-on server is known not to answer. Right after the start it is just not known yet."""
    if lane.targets:
        return not lane.awake  # it refused a moment ago
    waiting = (ReplicaState.LAUNCHING, ReplicaState.STARTING)
    return bool(lane.replicas) and not any(
        replica.state in waiting and now - replica.created_at < _STATIC_GRACE for replica in lane.replicas
    )


def asleep(lane: Lane, now: float) -> NotReady:
    """For a client that does not want to wake the model."""
    at = stage(lane.wake)
    state = f"is waking (stage {at})" if at else "is asleep, and this request asked not to wake it"
    return NotReady(
        f"The model `{lane.name}` {state}.",
        lane=lane,
        now=now,
        code="model_waking" if at else "model_asleep",
        next_step="Send it with `Lamplighter-Wake: wait` to wake the model.",
    )


def still_waking(lane: Lane, now: float, waited: float) -> NotReady:
    """For a client that waited as long as it may."""
    at, left = stage(lane.wake), eta(lane.wake, now)
    where = f", now at stage {at}" if at else ""
    when = f", about {math.ceil(left)}s to go" if left is not None else ""
    return NotReady(
        f"The model `{lane.name}` is still waking after {waited:.0f}s{where}{when}.",
        lane=lane,
        now=now,
        code="model_waking",
        next_step="Ask again: the wake goes on. A request with `stream` is held for as long as the wake takes.",
    )


def full(lane: Lane, now: float, bound: int) -> RequestError:
    """For one more than may wait."""
    return RequestError(
        f"{bound} requests already wait for the model `{lane.name}` to wake.",
        status=429,
        type="rate_limit_error",
        code="queue_full",
        param="model",
        next_step="Ask again in a moment.",
        retry_after=retry_after(lane, now),
    )


async def hold(
    lane: Lane, asker: Asker, config: GatewayConfig, clock: Clock, *, began: float, limit: float, on_beat: OnBeat | None
) -> Target:
    """Wait in the lane's queue until a target can be seized: it is, when this returns.

    `began`: monotonic time of the request's arrival; `limit`: seconds from then after which it ends. Raises RequestError: 429 when the
    queue is full, 503 (or what the failure says) when waiting longer is of no use.
    """
    since = clock.time()
    if (error := refusal(lane, since=since, now=since)) is not None:
        raise error
    if lane.queued >= config.max_held:
        raise full(lane, since, config.max_held)
    token = object()
    lane.enter(token)
    try:
        while True:
            changed = lane.changed
            if (target := lane.seize(asker)) is not None:
                return target
            if (error := refusal(lane, since=since, now=clock.time())) is not None:
                raise error
            now = clock.monotonic()
            left = began + limit - now
            if left <= 0:
                raise still_waking(lane, clock.time(), now - began)
            waits = [left]
            if on_beat is not None and (beat := on_beat(lane.wake)) is not None:
                waits.append(beat)
            if (readmission := lane.readmission()) is not None:
                waits.append(readmission)
            if lane.static:
                waits.append(_STATIC_GRACE)
            timeout = min(waits)
            await clock.wait(changed, None if timeout == math.inf else max(0.001, timeout))
    finally:
        lane.leave(token)

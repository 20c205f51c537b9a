"""Waiting for a sleeping model, or for a free place on a busy one: a bounded time in the lane's queue, and the honest words for those who
cannot or need not wait.

Not responsible for waking it: waiting is what makes the demand that the keeper acts upon. Whose turn it is decides `lane`.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lamplighter.config import GatewayConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.states import WAKING, ReplicaState
from lamplighter.costs import NANOS
from lamplighter.gateway.breaker import State
from lamplighter.gateway.lane import Asker, Lane, Target, Waiter
from lamplighter.store.wakes import Wake

MOST_RETRY_AFTER = 60
"""Seconds: clients' libraries give up when they are told to wait longer."""
UNKNOWN_RETRY_AFTER = 10
"""Seconds, when no past wake tells how long it takes."""
LAST_ATTEMPT = 3
"""After this many failures in a row nobody is kept waiting, even when the keeper goes on trying."""
_STATIC_GRACE = 5.0
"""Seconds that an always-on server may take to be found after the start."""
_KEEPER_GRACE = 10.0
"""Seconds that the keeper has to find out that an engine of ours is gone, and to begin another, before those who wait are told."""
_TRIAL_PATIENCE = 15.0
"""Seconds for which others wait for the one request that tries an endpoint whose circuit was open."""
_SHOWN_POSITIONS = 1000
"""In a longer queue nobody's position is worked out."""

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
    if (target := lane.tripped()) is not None:
        return circuit_open(lane, target, now) if _hopeless(lane, target, now) else None
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


def _hopeless(lane: Lane, target: Target, now: float) -> bool:
    """Whether waiting for an open circuit is of no use: nobody tries it just now, and the keeper brings no other replica."""
    report = lane.report(target)
    if report.state is State.HALF_OPEN and report.tried_at is not None and now - report.tried_at < _TRIAL_PATIENCE:
        return False
    if lane.static:
        return True
    return now - report.since >= _KEEPER_GRACE and not any(replica.state in WAKING for replica in lane.replicas)


def circuit_open(lane: Lane, target: Target, now: float) -> RequestError:
    """The only endpoints that there are failed again and again: nobody is made to find that out once more."""
    report = lane.report(target)
    since = datetime.fromtimestamp(report.since, UTC).strftime("%H:%M:%S UTC")
    times = f"{report.failures} times in a row" if report.failures > 1 else "too often"
    left = max(0.0, (report.retry_at or now) - now)
    return RequestError(
        f"The engine of `{lane.name}` failed {times} ({report.reason}), so it has not been asked since {since} ({now - report.since:.0f}s ago).",
        status=503,
        type="service_unavailable",
        code="circuit_open",
        param="model",
        next_step="Ask again after Retry-After; `lamplighter status` shows the endpoint, its engine's log the cause.",
        retry_after=min(MOST_RETRY_AFTER, max(1, math.ceil(left))),
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


def full(lane: Lane, now: float, bound: int, *, evicted: bool = False) -> RequestError:
    """For one more than may wait. `evicted`: it waited already, and gave its place to a key with fewer requests."""
    for_what = "a free place on" if lane.awake else "waking"
    message = (
        f"The queue for {for_what} the model `{lane.name}` is full ({bound} requests), and most of it is this key's: "
        "this request, the last that came, gave its place to another key's."
        if evicted
        else f"{bound} requests already wait for {for_what} the model `{lane.name}`."
    )
    left = lane.pace.seconds(1, lane.now()) if lane.awake else None
    return RequestError(
        message,
        status=429,
        type="rate_limit_error",
        code="queue_full",
        param="model",
        next_step="Ask again in a moment, or ask for less at the same time.",
        retry_after=retry_after(lane, now) if left is None else _seconds(left),
    )


def no_place(lane: Lane, waiter: Waiter, waited: float) -> RequestError:
    """For a client that waited for a free place as long as it may."""
    position = _position(lane, waiter)
    left = lane.pace.seconds(position or lane.queued, lane.now())
    where = f"it is number {position} in the queue" if position else f"{lane.queued} requests wait"
    return RequestError(
        f"Every place on the model `{lane.name}` is taken ({lane.in_flight} requests run); after {waited:.0f}s {where}.",
        status=503,
        type="service_unavailable",
        code="model_busy",
        param="model",
        next_step="Ask again, or with `stream`, which is held for longer; more replicas or a larger max_parallel make more places.",
        retry_after=UNKNOWN_RETRY_AFTER if left is None else _seconds(left),
    )


def words(lane: Lane, asker: Asker, *, elapsed: float, now: float) -> str:
    """What a stream that waits is told in a heartbeat. `elapsed`: seconds since it came; `now`: Unix seconds."""
    if lane.awake:
        position = _position(lane, asker.waiter) if asker.waiter is not None else None
        place = f" position={position}" if position else ""
        return f"lamplighter queued{place} waiting={lane.queued} elapsed={elapsed:.0f}s"
    text = f"lamplighter waking stage={stage(lane.wake) or 'queued'} elapsed={elapsed:.0f}s"
    left = eta(lane.wake, now)
    if left is not None:
        text = f"{text} eta={left:.0f}s"
    entry = lane.wake.entry if lane.wake is not None else None
    return text if entry is None else f"{text} price={entry.hourly / NANOS:.4g}{entry.currency}/h"


def _position(lane: Lane, waiter: Waiter) -> int | None:
    return lane.position(waiter) if lane.queued <= _SHOWN_POSITIONS else None


def _seconds(left: float) -> int:
    return min(MOST_RETRY_AFTER, max(1, math.ceil(left)))


async def hold(
    lane: Lane, asker: Asker, config: GatewayConfig, clock: Clock, *, began: float, limit: float, on_beat: OnBeat | None
) -> Target:
    """Wait in the lane's queue until a target was seized for the asker: pair with `Lane.release`.

    `began`: monotonic time of the request's arrival; `limit`: seconds from then after which it ends. Raises RequestError: 429 when the
    queue is full, 503 (or what the failure says) when waiting longer is of no use.
    """
    since = clock.time()
    if (error := refusal(lane, since=since, now=since)) is not None:
        raise error
    if (target := lane.seize(asker)) is not None:
        return target
    if asker.restless and not lane.awake:
        raise asleep(lane, since)
    if lane.queued >= config.max_held and not lane.make_room(asker.key_id):
        raise full(lane, since, config.max_held)
    waiter = lane.enter(asker)
    looked_at, was_awake = clock.monotonic(), lane.awake
    try:
        lane.pump()  # a place may be free although others wait: for what has just become possible again
        while True:
            if waiter.target is not None:
                target, waiter.target = waiter.target, None
                return target
            if asker.restless and not lane.awake:
                raise asleep(lane, clock.time())
            if waiter.evicted:
                raise full(lane, clock.time(), config.max_held, evicted=True)
            if (error := refusal(lane, since=since, now=clock.time())) is not None:
                raise error
            now = clock.monotonic()
            left = began + limit - now
            if left <= 0:
                raise no_place(lane, waiter, now - began) if lane.awake else still_waking(lane, clock.time(), now - began)
            waits = [left]
            if on_beat is not None and (beat := on_beat(lane.wake)) is not None:
                waits.append(beat)
            if (readmission := lane.readmission()) is not None:
                waits.append(readmission)
            elif lane.static:
                waits.append(_STATIC_GRACE)
            timeout = min(waits)
            waiter.event.clear()
            if not await clock.wait(waiter.event, None if timeout == math.inf else max(0.001, timeout)):
                lane.pump()  # what was blocked may be open again
            _note(asker, clock.monotonic() - looked_at, awake=was_awake)
            looked_at, was_awake = clock.monotonic(), lane.awake
    finally:
        _note(asker, clock.monotonic() - looked_at, awake=was_awake)
        lane.leave(waiter)


def _note(asker: Asker, seconds: float, *, awake: bool) -> None:
    """What a request waited for: a free place, or a replica."""
    if awake:
        asker.queued += seconds
    else:
        asker.woke += seconds

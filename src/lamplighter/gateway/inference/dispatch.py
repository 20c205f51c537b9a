"""One request's way to an engine: admission, lane, hold, target, connection, retries. The HTTP routes and the chat page both go through here.

When everything can be had at once, a call is sent within `start`, and its answer is told from the engine's socket: no task, no waiting. A
task runs only while something must be waited for. Not responsible for how the answer reaches whoever asked: `http` and `local` do that.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import structlog

from lamplighter.config import Config
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.gateway import hold
from lamplighter.gateway.admission.base import Admission, Grant
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.breaker import State
from lamplighter.gateway.connection import Cause, Connection, Head, Taker, UpstreamFailure
from lamplighter.gateway.inference import faults, prompts
from lamplighter.gateway.inference.continuation import Continuation
from lamplighter.gateway.inference.dialects.base import StreamReader
from lamplighter.gateway.inference.request import CAPABILITY, UPSTREAM_PATHS, InferenceRequest
from lamplighter.gateway.inference.unbroken import Listener, Unbroken
from lamplighter.gateway.metering import Meter, Record
from lamplighter.gateway.relay import WakeMode
from lamplighter.gateway.retries import backoff, falls_back
from lamplighter.gateway.routing import Asker, Lane, Lanes, Outcome, Target
from lamplighter.gateway.sse import Usage
from lamplighter.gateway.switching import Split
from lamplighter.store.bus import Bus, Topic
from lamplighter.store.wakes import Wake

_NOTHING = Usage()
OUTCOMES = {
    Cause.CONNECT: Outcome.CONNECT,
    Cause.LOST: Outcome.LOST,
    Cause.TIMEOUT: Outcome.TIMEOUT,
    Cause.DEADLINE: Outcome.CANCELLED,
    Cause.PROTOCOL: Outcome.PROTOCOL,
    Cause.STALLED: Outcome.CANCELLED,
    Cause.BUSY: Outcome.CANCELLED,
}
_RETRIED = frozenset({502, 503, 504})
_WANTED_AT_LEAST = 300.0
"""Seconds for which a model that another one stood in for is wanted, unless its pool's boot deadline is longer."""

_log = structlog.get_logger(__name__)


class Asking(Listener, Protocol):
    """Whoever wants the answer of a call. It hears one of these, and closes the call then:

    `on_error`; or `on_head` with a whole answer; or `on_head` with the beginning of a stream, `on_piece` any number of times and `on_end`.
    Between two pieces it may hear `on_lost` and `on_resumed`. It may close the call at any time before. What `on_head`
    raises (RequestError) comes back as `on_error`.
    """

    def on_error(self, error: RequestError) -> None:
        """There is no answer."""
        ...

    def on_beat(self, wake: Wake | None) -> float | None:
        """A streaming request is held: see `hold.OnBeat`."""
        ...


class Call:
    """One request on its way. `start` it, and always `close` it."""

    __slots__ = (
        "_asking",
        "_body",
        "_dispatch",
        "_fallback",
        "_identity",
        "_outcome",
        "_reused",
        "_target",
        "_task",
        "_tries",
        "_unbroken",
        "_wanting",
        "asker",
        "connection",
        "grant",
        "lane",
        "reader",
        "record",
        "request",
        "stood_in_for",
    )

    def __init__(
        self,
        dispatch: "Dispatch",
        lane: Lane,
        request: InferenceRequest,
        record: Record,
        identity: Identity,
        stood_in_for: Lane | None,
        session: bytes = b"",
    ) -> None:
        self._dispatch = dispatch
        self._asking: Asking | None = None
        self._task: asyncio.Task[None] | None = None
        self._target: Target | None = None
        self._body = b""
        self._identity = identity
        self._outcome = Outcome.CANCELLED  # until the engine answered: who leaves before says nothing about it
        self._reused = False
        self._tries = 0
        self._wanting = stood_in_for is not None
        self._fallback: _Fallback | None = None
        self._unbroken: Unbroken | None = None
        self.grant: Grant | None = None
        # To look at the prompt's beginning costs more than the routing itself: only where it can decide.
        prefix = request.prefix() if not session and lane.affinity and len(lane.targets) > 1 else b""
        self.asker = Asker(record.key_id or record.principal_id, session, prefix)
        if record.trial is not None and record.trial.side == "candidate":
            self.asker.restless = True
        self.lane = lane
        self.request = request
        self.record = record
        self.stood_in_for = stood_in_for
        """The lane of the model that was asked for, when `lane` answers in its place."""
        self.connection: Connection | None = None
        """To the engine, while an exchange is under way."""
        self.reader: StreamReader | None = None
        """Of a streamed answer, set by whoever reads it: however it ends, what it used is known."""

    def start(self, asking: Asking) -> None:
        """Ask an engine, at once if one can be had at once; `asking` hears of the answer, or of the error, maybe before this returns."""
        self._asking = asking
        self._begin()

    def _begin(self) -> None:
        """`start`, for the one model that `lane` is."""
        try:
            # Before anything counts as demand: who may not ask wakes nothing.
            grant = self.grant = self._dispatch.admission.admit_now(self._identity, self.request, self.lane.limited_as)
        except RequestError as error:
            self._give_up(error)
            return
        if grant is not None:
            self._prepare()
            target = self._target = self.lane.seize(self.asker)
            if target is not None:
                connection = target.upstream.take()
                if connection is not None:
                    self._send(target, connection)
                    return
        self._wait()

    def close(self) -> None:
        """The request is over, however: the engine's connection is kept or closed at once, the counts return. Safe to call twice."""
        self._asking = None
        self._cancel()
        self._release(self._outcome)
        record = self.record
        if self.reader is not None:
            record.usage, record.events = self.reader.usage, self.reader.events
            self.reader = None
        if self._unbroken is not None:
            record.estimated = self._unbroken.happened and record.usage is not None  # put together of what two engines told
            self._unbroken = None
        if record.usage is None and record.reached:
            record.estimate(self.request.route, self.request.bound()[0])
        if self.grant is not None:
            grant, self.grant = self.grant, None
            began = record.began + (record.held or 0.0)
            # What has no usage even by estimate wrote nothing: an engine refused it, or was lost before its first word.
            # It is billed as it is accounted.
            if record.reached:
                grant.settle(record.usage or _NOTHING, seconds=self._dispatch.clock.monotonic() - began)
            else:
                grant.settle(None, seconds=0.0)

    def stop(self) -> None:
        """The gateway ends, and this call still waits for something."""
        self._cancel()
        self._give_up(hold.stopping())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._dispatch.waiting.discard(self)

    def lost(self, failure: UpstreamFailure) -> None:
        """Note that the answer broke off after its first byte."""
        self._outcome = OUTCOMES[failure.cause]
        if self._outcome is Outcome.CANCELLED and self.record.trial is not None:
            self.record.trial.blameless = True  # it was the client that would not read, or its time was over
        if self._target is not None:
            self._dispatch.failed(self.lane, self._target, failure)

    # -- asking

    def _prepare(self) -> None:
        """It is admitted."""
        if self._wanting and self.stood_in_for is not None:
            self._dispatch.want(self.stood_in_for)
        self._body = self.request.body(self.lane.upstream_model)

    def _send(self, target: Target, connection: Connection) -> None:
        record, dispatch = self.record, self._dispatch
        self.connection = connection
        self._reused = connection.used > 0
        record.replica_id = target.replica_id
        record.reached = True
        record.sent_at = dispatch.clock.monotonic()
        question = target.upstream.head(UPSTREAM_PATHS[self.request.route], record.request_id, len(self._body))
        try:
            connection.ask(question, self._body, self, stream=self.request.stream, deadline=record.began + dispatch.deadline)
        except UpstreamFailure as failure:
            self.on_end(failure, announced=False)

    # -- waiting

    def _wait(self, *, pause: float = 0.0, fresh: bool = False) -> None:
        """Get what cannot be had at once. `pause`: seconds before. `fresh`: only a new connection will do."""
        self._dispatch.waiting.add(self)
        self._task = asyncio.get_running_loop().create_task(self._go(pause, fresh=fresh))

    async def _go(self, pause: float, *, fresh: bool) -> None:
        try:
            await self._find(pause, fresh=fresh)
        except RequestError as error:
            self._waited()
            self._give_up(error)
        except UpstreamFailure as failure:
            self._waited()
            self._failed(failure)
        except Exception:  # noqa: BLE001 - a defect of ours ends one request, with a line in the log
            _log.exception("a request failed in an unforeseen way", request_id=self.record.request_id)
            self._waited()
            self._give_up(faults.defect())

    def _waited(self) -> None:
        """The task has done its work: what follows may begin another."""
        self._task = None
        self._dispatch.waiting.discard(self)

    async def _find(self, pause: float, *, fresh: bool) -> None:
        dispatch, lane = self._dispatch, self.lane
        if pause:
            await dispatch.clock.sleep(pause)
        if self.grant is None:
            self.grant = await dispatch.admission.admit(self._identity, self.request, lane.limited_as)
            self._prepare()
        target = self._target
        if target is None:
            target = self._target = lane.seize(self.asker) or await self._hold()
        connection = None if fresh else target.upstream.take()
        if connection is None:
            left = self.record.began + dispatch.deadline - dispatch.clock.monotonic()
            connection = await target.upstream.acquire(fresh=fresh, patience=max(0.0, left))
        self._waited()
        self._send(target, connection)

    async def _hold(self) -> Target:
        dispatch, record, asking = self._dispatch, self.record, self._asking
        config = dispatch.config.gateway
        limit = min(float(config.max_wait if self.request.stream else config.hold), dispatch.deadline)
        on_beat = asking.on_beat if asking is not None and self.request.stream else None
        began = dispatch.clock.monotonic()
        try:
            return await hold.hold(
                self.lane, self.asker, config, dispatch.clock, began=record.began, limit=limit, on_beat=on_beat
            )
        finally:
            record.held = (record.held or 0.0) + dispatch.clock.monotonic() - began
            record.asleep = self.asker.woke

    # -- what the engine says: a `Taker`

    def on_head(self, head: Head) -> None:
        """The answer begins, or is there."""
        asking, connection = self._asking, self.connection
        if asking is None or connection is None:
            return
        if head.status in _RETRIED:
            self._dispatch.meter.metrics.upstream_errors.labels(self.lane.name, "status").inc()
            self._again(faults.from_answer(head, self.lane), Outcome.STATUS, may=True)
            return
        if head.status < 500:
            self._outcome = Outcome.OK
            target = self._target
            if target is not None and target.breaker.state is not State.CLOSED:
                self.lane.answered(target)
        else:
            self._outcome = Outcome.ERROR
        try:
            if self._unbroken is not None:
                self._go_on(self._unbroken, head, connection)
                return
            if head.body is None:
                connection.hand_over(self._taker(asking))
            asking.on_head(head)
        except RequestError as error:
            if error.status >= 500 and self._on_trial:
                self._again(error, self._outcome if self._outcome is not Outcome.OK else Outcome.ERROR, may=False)
            else:
                asking.on_error(error)
        except Exception:  # noqa: BLE001 - a defect of ours ends one request, with a line in the log
            _log.exception("an answer could not be passed on", request_id=self.record.request_id)
            asking.on_error(faults.defect())

    def on_piece(self, data: bytes) -> None:
        """Never called: a stream is handed over when it begins."""

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """The exchange failed before an answer began."""
        if failure is None or self._asking is None:
            return
        if self._reused and failure.cause is Cause.LOST and not failure.received and self._target is not None:
            # The engine had closed a connection that was kept: no failure of this request. Ask again on a new one.
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.done()
            self._wait(fresh=True)
            return
        self._failed(failure)

    def on_silence(self, seconds: float) -> None:
        """The engine works, and says nothing yet."""
        if self._asking is not None:
            self._asking.on_silence(seconds)

    # -- going on after a loss within a stream

    def _taker(self, asking: Asking) -> Taker:
        """Who hears of the stream that begins."""
        way = self.lane.continues
        if way is None or not self._dispatch.config.gateway.continue_streams:
            return asking
        continuation = Continuation.of(self.request, way)
        if continuation is None:
            return asking
        self._unbroken = Unbroken(self, asking, continuation)
        return self._unbroken

    def resume(self, following: InferenceRequest, failure: UpstreamFailure) -> bool:
        """See `unbroken.Exchanging.resume`."""
        dispatch, lane = self._dispatch, self.lane
        if dispatch.closing or not lane.retry_budget.spend():
            return False
        self.lost(failure)
        self.asker.avoid = self._target
        self.asker.restless = False  # what was begun can only be gone on with here
        self._release(self._outcome)
        self._body = following.body(lane.upstream_model)
        self._tries = 0
        self.record.retries += 1
        self._wait()
        return True

    def _go_on(self, unbroken: Unbroken, head: Head, connection: Connection) -> None:
        """Another engine answers."""
        going = head.status == 200 and head.body is None
        self._dispatch.meter.metrics.continued.labels(self.lane.name, "continued" if going else "failed").inc()
        if going:
            connection.hand_over(unbroken)
            unbroken.resumed()
        else:
            self._release(self._outcome)
            unbroken.give_up()

    # -- failing

    def _failed(self, failure: UpstreamFailure) -> None:
        lane, target = self.lane, self._target
        if target is not None:
            self._dispatch.failed(lane, target, failure)
        outcome = OUTCOMES[failure.cause]
        may = failure.cause is Cause.CONNECT or (failure.cause is Cause.LOST and not failure.received)
        self._again(faults.from_failure(failure, lane), outcome, may=may)

    def _again(self, error: RequestError, outcome: Outcome, *, may: bool) -> None:
        """This try is over: another one after a while if that `may` help and is allowed, else `error` is the answer."""
        dispatch, lane = self._dispatch, self.lane
        self.asker.avoid = self._target
        self._release(outcome)
        if lane.static and outcome is Outcome.CONNECT and not lane.awake:
            may = False  # nothing will wake it: say so at once
        pause = backoff(self._tries + 1)
        if self.record.began + dispatch.deadline - dispatch.clock.monotonic() <= pause:
            may = False
        if not may or self._tries >= dispatch.config.gateway.retries or not lane.retry_budget.spend():
            self._give_up(error)
            return
        self._tries += 1
        self.record.retries = self._tries
        dispatch.meter.metrics.retries.labels(lane.name).inc()
        self._wait(pause=pause)

    def _give_up(self, error: RequestError) -> None:
        """This model cannot answer: its fallbacks are asked in turn; when they cannot either, the error is that of the model itself."""
        asking = self._asking
        if asking is None:
            return
        if self._unbroken is not None:  # another model's words would not fit
            self._dispatch.meter.metrics.continued.labels(self.lane.name, "failed").inc()
            self._unbroken.give_up()
            return
        if self._back_to_stable(error):
            return
        fallback = self._fallback
        if fallback is None:
            asked = self.stood_in_for or self.lane
            if not asked.fallbacks or not falls_back(error, full=self._dispatch.config.routing.fallback_when_full):
                asking.on_error(error)
                return
            if (trial := self.record.trial) is not None:
                self.record.trial = None  # who answers now is neither of the two
                if self.record.reached:
                    trial.failed()
            lanes = self._dispatch.fallbacks(asked, self.request, self._identity)
            fallback = self._fallback = _Fallback(
                asked, error, [lane for lane in lanes if lane is not self.lane and lane is not asked]
            )
        elif not falls_back(error, full=True):
            fallback.lanes.clear()  # no other model would do better: the gateway stops, or this key may not ask
        if fallback.lanes:
            self._turn_to(fallback.lanes.pop(0), fallback.asked)
            self._begin()
        else:
            self._turn_to(fallback.asked, None)
            asking.on_error(fallback.error)

    @property
    def _on_trial(self) -> bool:
        """Whether the candidate of a change answers it, so that the stable target can take it over."""
        trial = self.record.trial
        return trial is not None and self.lane is trial.split.candidate

    def _back_to_stable(self, error: RequestError) -> bool:
        """The candidate of a change cannot answer: the stable target does, as if nobody had tried anything. Whether it was so."""
        trial, lane = self.record.trial, self.lane
        if trial is None or not self._on_trial or self._dispatch.closing:
            return False
        if lane.known and not isinstance(error, hold.NotReady) and not falls_back(error, full=True):
            return False
        if self.record.reached and not isinstance(error, hold.NotReady):
            trial.failed()
        trial.turn_to_stable()
        stable = trial.split.stable
        self._turn_to(stable, None)
        self.record.asked = "" if stable.name == trial.split.route.name else trial.split.route.name
        self.asker.restless = False
        self._begin()
        return True

    def _turn_to(self, lane: Lane, asked: Lane | None) -> None:
        """Let `lane` answer in the place of `asked`; what was reserved for the one before is given back."""
        if self.grant is not None:
            grant, self.grant = self.grant, None
            grant.settle(None, seconds=0.0)
        self.lane, self.stood_in_for, self._wanting = lane, asked, False
        self.asker.avoid = None
        self._tries = 0
        self.record.model, self.record.asked = lane.name, "" if asked is None else asked.name

    def _release(self, outcome: Outcome) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.done()
        target, self._target = self._target, None
        if target is not None:
            self.lane.release(target, outcome)


@dataclass(slots=True)
class _Fallback:
    """A model that cannot answer, why, and those that may in its place."""

    asked: Lane
    error: RequestError
    lanes: list[Lane]


class Dispatch:
    """Admits requests into lanes. `closing`: no new work. `waiting`: the calls that a task works on."""

    def __init__(self, config: Config, clock: Clock, lanes: Lanes, meter: Meter, admission: Admission, bus: Bus) -> None:
        self.config = config
        self.clock = clock
        self.lanes = lanes
        self.meter = meter
        self.admission = admission
        self.closing = False
        self.deadline = float(config.gateway.deadline)
        """Seconds from a request's arrival to its last byte, at the most."""
        self.waiting: set[Call] = set()
        self._bus = bus

    def stop(self) -> None:
        """Nothing is waited for any longer: those who do are told."""
        self.closing = True
        for call in list(self.waiting):
            call.stop()

    def admit(
        self, request: InferenceRequest, record: Record, identity: Identity, wake: WakeMode | None, session: bytes = b""
    ) -> Call:
        """The call for `request`. `wake`: what the client asked for; None: the model's habit. Raises RequestError.

        `session`: what ties it to other requests, which the same replica should answer.
        """
        if self.closing:
            raise hold.stopping()
        request.check_remote(allowed=self.config.gateway.remote_images)
        lane = self.lanes.find(request.model)
        if lane is None:
            raise unknown_model(request.model, self.lanes.names())
        record.model, record.principal_id = lane.name, identity.principal_id
        if lane.split is not None:
            lane = self._target_of(lane.split, request, record, session)
        if self.config.log.prompts:
            prompts.write(record, request)
        self._check_capability(lane, request)
        if lane.awake:
            return Call(self, lane, request, record, identity, None, session)
        if wake == "fail":
            now = self.clock.time()
            raise hold.refusal(lane, since=now, now=now) or hold.asleep(lane, now)
        stand_in = lane.config.while_waking
        if wake == "local" and stand_in is None:
            raise RequestError(
                f"The model `{lane.name}` has no `while_waking` model that could answer in its place.",
                code="no_local_model",
                param="Lamplighter-Wake",
                next_step="Ask with `Lamplighter-Wake: wait`, or set the model's `while_waking`.",
            )
        if stand_in is None or wake == "wait":
            return Call(self, lane, request, record, identity, None, session)
        other = self.lanes.find(stand_in)
        if other is None:
            raise unknown_model(stand_in, self.lanes.names())
        self._check_capability(other, request)
        record.model, record.asked, record.trial = other.name, lane.name, None
        return Call(self, other, request, record, identity, lane, session)

    def _target_of(self, split: Split, request: InferenceRequest, record: Record, session: bytes) -> Lane:
        """The lane that answers for a name that was changed, or is being changed."""
        capability = CAPABILITY[request.route]
        lane, record.trial = split.choose(
            lambda: session or request.prefix() or (record.key_id or record.principal_id).encode(),
            lambda candidate: capability in candidate.capabilities,
        )
        name = split.route.name
        record.model, record.asked = lane.name, "" if lane.name == name else name
        return lane

    def want(self, lane: Lane) -> None:
        """Another model answers in the place of this one: wake it meanwhile."""
        pool = self.config.pools[lane.config.pool]
        lasting = max(_WANTED_AT_LEAST, float(getattr(pool, "boot_deadline", 0.0)))
        lane.want(self.clock.time() + lasting)

    def fallbacks(self, asked: Lane, request: InferenceRequest, identity: Identity) -> Iterator[Lane]:
        """The models that may answer in the place of `asked`: those that can, and that the key may use."""
        for name in asked.fallbacks:
            lane = self.lanes.find(name)
            if lane is not None and CAPABILITY[request.route] in lane.capabilities and identity.may_use(name):
                yield lane

    def _check_capability(self, lane: Lane, request: InferenceRequest) -> None:
        if CAPABILITY[request.route] not in lane.capabilities:
            able = ", ".join(sorted(capability.value for capability in lane.capabilities)) or "nothing"
            raise RequestError(
                f"The model `{lane.name}` does not serve {UPSTREAM_PATHS[request.route]}; it serves: {able}.",
                code="unsupported_operation",
                param="model",
            )

    def failed(self, lane: Lane, target: Target, failure: UpstreamFailure) -> None:
        """An exchange with `target` failed: remember it, and let the keeper look when the engine may be dead."""
        self.meter.metrics.upstream_errors.labels(lane.name, failure.cause.value).inc()
        if failure.cause in {Cause.CONNECT, Cause.LOST, Cause.TIMEOUT}:
            self._bus.publish(Topic.SUSPECT, target.replica_id)


def parse_wake(value: bytes | None) -> WakeMode | None:
    """The `Lamplighter-Wake` header's value. Raises RequestError 400."""
    if value is None:
        return None
    text = value.decode("latin-1").strip().lower()
    if text in {"wait", "local", "fail"}:
        return cast("WakeMode", text)
    raise RequestError("The header Lamplighter-Wake must be wait, local or fail.", param="Lamplighter-Wake", code="invalid_value")


def unknown_model(name: str, known: list[str]) -> RequestError:
    """404 in OpenAI's words."""
    shown = name if len(name) <= 128 else f"{name[:128]}..."
    return RequestError(
        f"The model `{shown}` does not exist.",
        status=404,
        code="model_not_found",
        param="model",
        next_step=f"There are: {', '.join(sorted(known)[:20])}." if known else "No model is configured.",
    )

"""One request's way to an engine: which lane, hold, target, connection, retries. Both the HTTP routes and the chat page go through here.

Not responsible for how the answer reaches whoever asked: `http` and `local` read it from the `Call`.
"""

from collections.abc import Callable, Iterator
from typing import cast

from lamplighter.config import Config
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError
from lamplighter.gateway import hold
from lamplighter.gateway.admission.base import Admission, Grant
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.breaker import State
from lamplighter.gateway.connection import Cause, Connection, Head, UpstreamFailure
from lamplighter.gateway.inference import faults
from lamplighter.gateway.inference.dialects.base import StreamReader
from lamplighter.gateway.inference.request import CAPABILITY, UPSTREAM_PATHS, InferenceRequest
from lamplighter.gateway.metering import Meter, Record
from lamplighter.gateway.relay import WakeMode
from lamplighter.gateway.retries import backoff, falls_back
from lamplighter.gateway.routing import Asker, Lane, Lanes, Outcome, Target
from lamplighter.store.bus import Bus, Topic

OUTCOMES = {
    Cause.CONNECT: Outcome.CONNECT,
    Cause.LOST: Outcome.LOST,
    Cause.TIMEOUT: Outcome.TIMEOUT,
    Cause.PROTOCOL: Outcome.PROTOCOL,
    Cause.STALLED: Outcome.CANCELLED,
    Cause.BUSY: Outcome.CANCELLED,
}
_RETRIED = frozenset({502, 503, 504})
_WANTED_AT_LEAST = 300.0
"""Seconds for which a model that another one stood in for is wanted, unless its pool's boot deadline is longer."""


class Call:
    """One request on its way. `open` it, read from `connection` when the head has no body, and always `close` it."""

    __slots__ = (
        "_body",
        "_dispatch",
        "_identity",
        "_outcome",
        "_target",
        "_wanting",
        "asker",
        "connection",
        "grant",
        "lane",
        "on_silence",
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
        self._target: Target | None = None
        self._body = b""
        self._identity = identity
        self._outcome = Outcome.CANCELLED  # until the engine answered: who leaves before says nothing about it
        self.grant: Grant | None = None
        self.asker = Asker(record.key_id or record.principal_id, session, request.prefix() if len(lane.targets) > 1 else b"")
        self.lane = lane
        self.request = request
        self.record = record
        self.stood_in_for = stood_in_for
        """The lane of the model that was asked for, when `lane` answers in its place."""
        self._wanting = stood_in_for is not None
        self.connection: Connection | None = None
        self.reader: StreamReader | None = None
        """Of a streamed answer, set by whoever reads it: however it ends, what it used is known."""
        self.on_silence: Callable[[float], None] | None = None
        """Called every second or so with the seconds for which the engine has been silent."""

    async def open(self, on_beat: hold.OnBeat | None) -> Head:
        """Wait for an engine as long as it takes and is allowed, ask it, and give the answer's head. Raises RequestError.

        A head with status 400 or above is given as it is only when trying again is of no use. When the model cannot answer, its fallbacks
        are asked in turn; when they cannot either, the error is that of the model itself.
        """
        try:
            return await self._open(on_beat)
        except RequestError as error:
            first, asked = error, self.stood_in_for or self.lane
            if not asked.fallbacks or not falls_back(error, full=self._dispatch.config.routing.fallback_when_full):
                raise
        tried = {self.lane, asked}
        for lane in self._dispatch.fallbacks(asked, self.request, self._identity):
            if lane in tried:
                continue
            tried.add(lane)
            self._turn_to(lane, asked)
            try:
                return await self._open(on_beat)
            except RequestError as error:
                if not falls_back(error, full=True):
                    break  # no other model would do better: the gateway stops, or this key may not ask
        self._turn_to(asked, None)
        raise first

    def _turn_to(self, lane: Lane, asked: Lane | None) -> None:
        """Let `lane` answer in the place of `asked`; what was reserved for the one before is given back."""
        if self.grant is not None:
            grant, self.grant = self.grant, None
            grant.settle(None, seconds=0.0)
        self.lane, self.stood_in_for, self._wanting = lane, asked, False
        self.asker.avoid = None
        self.record.model, self.record.asked = lane.name, "" if asked is None else asked.name

    async def _open(self, on_beat: hold.OnBeat | None) -> Head:
        """`open`, for the one model that `lane` is."""
        dispatch, lane = self._dispatch, self.lane
        admission = dispatch.admission
        # Before anything counts as demand: who may not ask wakes nothing.
        grant = admission.admit_now(self._identity, self.request, lane.name)
        self.grant = grant or await admission.admit(self._identity, self.request, lane.name)
        if self._wanting and self.stood_in_for is not None:
            dispatch.want(self.stood_in_for)
        self._body = self.request.body(lane.upstream_model)
        tries = 0
        while True:
            target = self._target = lane.seize(self.asker) or await self._hold(on_beat)
            self.record.replica_id = target.replica_id
            error: RequestError
            try:
                upstream = target.upstream
                connection = upstream.take()
                if connection is None:
                    connection = await upstream.acquire()
                self.connection = connection
                reused = connection.used > 0
                connection.on_tick = self.on_silence
                question = upstream.head(UPSTREAM_PATHS[self.request.route], self.record.request_id, len(self._body))
                try:
                    self.record.reached = True
                    self.record.sent_at = dispatch.clock.monotonic()
                    await connection.send(question, self._body)
                    head = connection.answer()
                except UpstreamFailure as failure:
                    if not reused or failure.received or failure.cause is not Cause.LOST:
                        raise
                    head = await self._ask_afresh(question)
            except UpstreamFailure as failure:
                error = faults.from_failure(failure, lane)
                dispatch.failed(lane, target, failure)
                outcome = OUTCOMES[failure.cause]
                again = failure.cause is Cause.CONNECT or (failure.cause is Cause.LOST and not failure.received)
            else:
                if head.status not in _RETRIED:
                    self._outcome = Outcome.OK if head.status < 500 else Outcome.ERROR
                    if target.breaker.state is not State.CLOSED and head.status < 500:
                        lane.answered(target)
                    return head
                dispatch.meter.metrics.upstream_errors.labels(lane.name, "status").inc()
                error, again, outcome = faults.from_answer(head, lane), True, Outcome.STATUS
            self._release(outcome)
            if lane.static and outcome is Outcome.CONNECT and not lane.awake:
                again = False  # nothing will wake it: say so at once
            if not again or tries >= dispatch.config.gateway.retries or not lane.retry_budget.spend():
                raise error
            tries += 1
            self.record.retries = tries
            dispatch.meter.metrics.retries.labels(lane.name).inc()
            self.asker.avoid = target
            await dispatch.clock.sleep(backoff(tries))

    async def _hold(self, on_beat: hold.OnBeat | None) -> Target:
        dispatch = self._dispatch
        config = dispatch.config.gateway
        limit = float(config.max_wait if self.request.stream else config.hold)
        began, asleep = dispatch.clock.monotonic(), not self.lane.targets
        try:
            return await hold.hold(
                self.lane, self.asker, config, dispatch.clock, began=self.record.began, limit=limit, on_beat=on_beat
            )
        finally:
            waited = dispatch.clock.monotonic() - began
            self.record.held = (self.record.held or 0.0) + waited
            if asleep:
                self.record.asleep += waited

    async def _ask_afresh(self, question: bytes) -> Head:
        """The engine had closed a connection that was kept: no failure of this request. Ask again on a new one."""
        target, old = self._target, self.connection
        if target is None or old is None:
            raise RuntimeError("nothing was asked before")
        self.connection = None
        old.done()
        self.connection = await target.upstream.acquire(fresh=True)
        self.connection.on_tick = self.on_silence
        await self.connection.send(question, self._body)
        return self.connection.answer()

    def _release(self, outcome: Outcome) -> None:
        if self.connection is not None:
            self.connection.done()
            self.connection = None
        if self._target is not None:
            target, self._target = self._target, None
            self.lane.release(target, outcome)

    def lost(self, failure: UpstreamFailure) -> None:
        """Note that the answer broke off after its first byte."""
        self._outcome = OUTCOMES[failure.cause]
        if self._target is not None:
            self._dispatch.failed(self.lane, self._target, failure)

    def close(self) -> None:
        """The request is over, however: the engine's connection is kept or closed at once, the counts return. Safe to call twice."""
        self.on_silence = None  # it leads back here: without this each stream would wait for the garbage collector
        self._release(self._outcome)
        record = self.record
        if self.reader is not None:
            record.usage, record.events = self.reader.usage, self.reader.events
        if record.usage is None and record.reached:
            record.estimate(self.request.route, self.request.bound()[0])
        if self.grant is not None:
            grant, self.grant = self.grant, None
            began = record.began + (record.held or 0.0)
            grant.settle(record.usage, seconds=self._dispatch.clock.monotonic() - began if record.reached else 0.0)


class Dispatch:
    """Admits requests into lanes. `closing`: no new work."""

    def __init__(self, config: Config, clock: Clock, lanes: Lanes, meter: Meter, admission: Admission, bus: Bus) -> None:
        self.config = config
        self.clock = clock
        self.lanes = lanes
        self.meter = meter
        self.admission = admission
        self.closing = False
        self._bus = bus

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
        record.model, record.asked = other.name, lane.name
        return Call(self, other, request, record, identity, lane, session)

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

"""Generations for callers in this process: the chat page's way through the same queue, routing, metering and cancellation as HTTP."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lamplighter.core.errors import RequestError
from lamplighter.gateway import hold
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.connection import Cause, Head, UpstreamFailure
from lamplighter.gateway.inference import faults
from lamplighter.gateway.inference.dispatch import Call, Dispatch
from lamplighter.gateway.inference.request import encode_fields, from_fields
from lamplighter.gateway.metering import CLIENT_LEFT, Record
from lamplighter.gateway.relay import Event, Item, Started, UpstreamLost, WakeMode, Waking
from lamplighter.gateway.sse import EventTooLarge, Splitter, payload
from lamplighter.store.wakes import Wake

_PAUSE = 512 * 1024
"""Bytes of events that may wait for the caller before the engine is made to wait."""


class LocalRelay:
    """`relay.Relay` over `dispatch`."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    @asynccontextmanager
    async def generate(
        self, *, identity: Identity, model: str, body: Mapping[str, Any], wake: WakeMode | None = None
    ) -> AsyncIterator[AsyncIterator[Item]]:
        """See `relay.Relay.generate`."""
        dispatch = self._dispatch
        fields = encode_fields({**body, "model": model, "stream": True, "stream_options": {"include_usage": True}})
        record = Record("chat", f"req_{random.getrandbits(80):020x}", dispatch.clock.monotonic(), key_id=identity.key_id or "")
        call: Call | None = None
        try:
            try:
                call = dispatch.admit(from_fields("chat", fields), record, identity, wake)
            except RequestError as error:
                record.status, record.outcome = error.status, "refused"
                raise
            generation = _Generation(call, dispatch)
            try:
                yield generation.items()
            finally:
                generation.leave()
        finally:
            if call is not None:
                call.close()
            dispatch.meter.finish(record)


class _Generation:
    """The `dispatch.Asking` of one call: hands over what it hears to whoever iterates."""

    def __init__(self, call: Call, dispatch: Dispatch) -> None:
        self._call = call
        self._dispatch = dispatch
        self._splitter = Splitter()
        self._items: deque[Item] = deque()
        self._size = 0
        self._woken = asyncio.Event()
        self._error: RequestError | UpstreamLost | None = None
        self._over = False
        call.reader = self._splitter
        call.start(self)

    async def items(self) -> AsyncIterator[Item]:
        """What there is, until the answer is whole. Raises RequestError, UpstreamLost."""
        while True:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, Event):
                    self._size -= len(item.data)
                    if self._size <= _PAUSE // 2 and self._call.connection is not None:
                        self._call.connection.resume()
                yield item
            if self._over:
                if self._error is not None:
                    raise self._error
                return
            await self._woken.wait()
            self._woken.clear()

    def leave(self) -> None:
        """Whoever asked wants no more. Closing the call closes the engine's connection at once."""
        record = self._call.record
        if not self._over:
            record.outcome = "cancelled"
            record.status = record.status or CLIENT_LEFT

    def _put(self, item: Item) -> None:
        self._items.append(item)
        self._woken.set()

    def _end(self, outcome: str, status: int, error: RequestError | UpstreamLost | None = None) -> None:
        record = self._call.record
        record.status, record.outcome, self._error = status, outcome, error
        self._over = True
        self._call.close()  # now, not when the reader comes to the end: the engine's place is free
        self._woken.set()

    # -- what the call says

    def on_error(self, error: RequestError) -> None:
        """There is no answer."""
        self._end("refused" if error.status < 500 else "failed", error.status, error)

    def on_head(self, head: Head) -> None:
        """An answer: it must be a stream."""
        call = self._call
        if head.status != 200 or head.body is not None:
            raise faults.from_answer(head, call.lane)
        self._put(Started(call.lane.name, call.record.held))

    def on_piece(self, data: bytes) -> None:
        """More of it."""
        connection = self._call.connection
        try:
            self._emit(self._splitter.feed(data))
        except EventTooLarge as error:
            if connection is not None:
                connection.fail(Cause.PROTOCOL, str(error))

    def on_lost(self) -> None:
        """What came stands; the page waits."""

    def on_resumed(self) -> None:
        """Another engine goes on. How much of it may come is looked at with its first piece."""

    def on_end(self, failure: UpstreamFailure | None, *, announced: bool) -> None:
        """It is whole, or it broke off."""
        self._emit(self._splitter.close())
        splitter = self._splitter
        detail = failure.detail if failure is not None else None
        if failure is None and not splitter.done and (splitter.partial or not splitter.finished):
            detail = "the engine ended the answer without finishing it"
        if detail is None:
            self._end("ok", 200)
            return
        self._call.lost(failure or UpstreamFailure(Cause.LOST, detail, received=True))
        error = faults.lost(detail)
        self._end("lost", 200, UpstreamLost(error.message, next_step=error.next_step))

    def on_silence(self, seconds: float) -> None:
        """The page shows by itself that nothing comes."""

    def on_beat(self, wake: Wake | None) -> float | None:
        """A stage of the wake."""
        shown = wake if wake is not None and hold.stage(wake) is not None else None
        if not self._items or self._items[-1] != Waking(shown):
            self._put(Waking(shown))
        return None

    def _emit(self, whole: bytes) -> None:
        record = self._call.record
        for event in self._splitter.split(whole) if whole else ():
            data = payload(event)
            if data is None or data == b"[DONE]":
                continue
            if record.first_at is None:
                record.first_at = self._dispatch.clock.monotonic()
            self._size += len(data)
            self._put(Event(data))
        if self._size > _PAUSE and self._call.connection is not None:
            self._call.connection.pause()

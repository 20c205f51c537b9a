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
from lamplighter.gateway.connection import Cause, UpstreamFailure
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
        generation: _Generation | None = None
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
                await generation.aclose()
        finally:
            if call is not None:
                call.close()
            dispatch.meter.finish(record)


class _Generation:
    """Runs one call in a task of its own and hands over what it finds."""

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
        self._task = asyncio.create_task(self._run(), name="generation")

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

    async def aclose(self) -> None:
        """Whoever asked wants no more: the engine's connection closes at once."""
        if not self._task.done():
            self._task.cancel()
            self._call.record.outcome = "cancelled"
            self._call.record.status = self._call.record.status or CLIENT_LEFT
        await asyncio.gather(self._task, return_exceptions=True)
        if self._task.done() and not self._task.cancelled() and (defect := self._task.exception()) is not None:
            raise defect

    def _put(self, item: Item) -> None:
        self._items.append(item)
        self._woken.set()

    async def _run(self) -> None:
        record = self._call.record
        try:
            await self._generate()
            record.status = 200
        except RequestError as error:
            record.status, record.outcome, self._error = error.status, "refused" if error.status < 500 else "failed", error
        except UpstreamLost as error:
            record.status, record.outcome, self._error = 200, "lost", error
        finally:
            self._over = True
            self._woken.set()

    async def _generate(self) -> None:
        call, record = self._call, self._call.record
        head = await call.open(self._on_beat)
        connection = call.connection
        if head.status != 200 or head.body is not None or connection is None:
            raise faults.from_answer(head, call.lane)
        self._put(Started(call.lane.name, record.held))
        detail: str | None = None
        failure: UpstreamFailure | None = None
        try:
            await connection.pump(self._sink)
        except UpstreamFailure as caught:
            failure, detail = caught, caught.detail
        self._emit(self._splitter.close())
        splitter = self._splitter
        if failure is None and not splitter.done and (splitter.partial or not splitter.finished):
            detail = "the engine ended the answer without finishing it"
        if detail is not None:
            call.lost(failure or UpstreamFailure(Cause.LOST, detail, received=True))
            error = faults.lost(detail)
            raise UpstreamLost(error.message, next_step=error.next_step)

    def _sink(self, data: bytes) -> None:
        try:
            whole = self._splitter.feed(data)
        except EventTooLarge as error:
            if self._call.connection is not None:
                self._call.connection.fail(Cause.PROTOCOL, str(error))
            return
        self._emit(whole)

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

    def _on_beat(self, wake: Wake | None) -> float | None:
        shown = wake if wake is not None and hold.stage(wake) is not None else None
        if not self._items or self._items[-1] != Waking(shown):
            self._put(Waking(shown))
        return None

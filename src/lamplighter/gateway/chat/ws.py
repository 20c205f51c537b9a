"""One WebSocket of the page: reads its frames, and writes what its tails, its principal's chats and the models' states have to say.

A socket owns nothing: every answer goes on without it. What is sent is bounded by positions in logs, not by queues; the small queue of
direct replies has a bound, and who does not read is closed. Who may open one is decided before, by `gateway.control`.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, RequestError
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.chat import frames
from lamplighter.gateway.chat.generations import Generations
from lamplighter.gateway.chat.hub import Hub
from lamplighter.gateway.chat.log import Log, Snapshot
from lamplighter.gateway.chat.prompt import title_of
from lamplighter.gateway.chat.shapes import chat_json, error_json, message_json
from lamplighter.store.generations import Again, Ask, Begun, Event

PING_SECONDS = 20.0
MAX_TAILS = 64
MAX_SOCKETS = 64
"""Sockets that one principal may have open at one gateway."""
MAX_REPLIES = 512
"""Frames that may wait for a client that does not read; beyond, it is closed."""
FRAMES_PER_SECOND = 20.0
FRAMES_BURST = 60.0
CLOSE_SECONDS = 5.0

_TOO_BIG, _POLICY, _TRY_LATER = 1009, 1008, 1013

_log = structlog.get_logger(__name__)


class Socket:
    """One accepted connection; `serve` lives as long as it does. `check` raises RequestError once the credential opens no more."""

    def __init__(
        self,
        websocket: WebSocket,
        identity: Identity,
        check: Callable[[], Awaitable[Identity]],
        generations: Generations,
        hub: Hub,
        clock: Clock,
    ) -> None:
        self.principal_id = identity.principal_id
        self._websocket = websocket
        self._identity = identity
        self._check = check
        self._generations = generations
        self._hub = hub
        self._clock = clock
        self._wake = asyncio.Event()
        self._replies: deque[dict[str, Any]] = deque()
        self._tails: dict[str, tuple[Log, int]] = {}
        self._told: list[dict[str, Any]] | None = None
        self._ended = asyncio.Event()
        self._code = 1000
        self._allowance = FRAMES_BURST
        self._allowed_at = clock.monotonic()

    async def serve(self) -> None:
        """Read and write until either side closes."""
        self._hub.join(self)
        self._wake.set()
        tasks = [
            asyncio.create_task(self._read(), name="socket-read"),
            asyncio.create_task(self._write(), name="socket-write"),
            asyncio.create_task(
                self._ended.wait(), name="socket-end"
            ),  # ends a writer, too, that waits for a client that does not read
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.leave(self)
            for log, _ in self._tails.values():
                log.unwatch(self._wake.set)
            self._tails.clear()
        for result in results:
            # A client that leaves while we write is not news; everything else is a defect.
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | OSError | RuntimeError):
                _log.error("socket_failed", exc_info=result)
        if self._ended.is_set():
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._websocket.close(self._code)

    # -- what the hub tells

    def status_changed(self) -> None:
        """The models' states changed."""
        self._wake.set()

    def tell(self, frame: dict[str, Any]) -> None:
        """Send a frame soon."""
        if len(self._replies) >= MAX_REPLIES:
            self._end(_TRY_LATER)
            return
        self._replies.append(frame)
        self._wake.set()

    async def recheck(self) -> None:
        """Close unless the credential still opens."""
        try:
            self._identity = await self._check()
        except RequestError:
            self._end(_POLICY)
        except LamplighterError as error:  # a store that cannot be read throws nobody out
            _log.warning("socket_not_rechecked", error=error.message)

    def _end(self, code: int) -> None:
        if not self._ended.is_set():
            self._code = code
            self._ended.set()

    # -- writing

    async def _write(self) -> None:
        while True:
            if not await self._clock.wait(self._wake, PING_SECONDS):
                await self._send({"type": "ping"})
            self._wake.clear()
            while await self._write_some():
                pass

    async def _write_some(self) -> bool:
        """Send a bounded part of what there is; whether there was any. Replies come before tails: `started` before its events."""
        sent = False
        while self._replies:
            await self._send(self._replies.popleft())
            sent = True
        if self._hub.models is not self._told:
            self._told = self._hub.models
            await self._send({"type": "status", "now": self._clock.time(), "models": self._told})
            sent = True
        for generation_id in list(self._tails):
            sent = await self._write_tail(generation_id) or sent
        return sent

    async def _write_tail(self, generation_id: str) -> bool:
        log, after = self._tails[generation_id]
        pieces = log.since(after)
        for piece in pieces:
            if self._tails.get(generation_id, (None, -1)) != (log, after):
                return True  # the reader changed its mind while we were sending
            after = piece.seq
            self._tails[generation_id] = (log, after)
            await self._send(_piece_json(generation_id, piece))
        if log.done and after >= log.seq and self._tails.get(generation_id) == (log, after):
            self._drop(generation_id)
        return bool(pieces)

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._websocket.send_text(msgspec.json.encode(frame).decode())

    # -- reading

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                text = (message.get("bytes") or b"").decode(errors="replace")
            if len(text) > frames.MAX_FRAME or len(text.encode(errors="replace")) > frames.MAX_FRAME:
                self._end(_TOO_BIG)
                return
            await self._paced()
            try:
                await self._handle(frames.parse(text))
            except LamplighterError as error:
                asked, generation_id = frames.subject(text)
                self.tell(
                    {"type": "error", "client_request_id": asked, "generation_id": generation_id, "error": error_json(error)}
                )

    async def _paced(self) -> None:
        """Let a client that sends too much wait: unread frames stay in its own network."""
        now = self._clock.monotonic()
        self._allowance = min(FRAMES_BURST, self._allowance + (now - self._allowed_at) * FRAMES_PER_SECOND) - 1
        self._allowed_at = now
        if self._allowance < 0:
            await self._clock.sleep(-self._allowance / FRAMES_PER_SECOND)

    async def _handle(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Ping):
            self.tell({"type": "pong"})
        elif isinstance(frame, frames.Tail):
            await self._tail(frame.generation_id, frame.after)
        elif isinstance(frame, frames.Untail):
            self._drop(frame.generation_id)
        elif isinstance(frame, frames.Cancel):
            await self._generations.cancel(self._identity, frame.generation_id)
        else:
            await self._begin(frame)

    async def _begin(self, frame: frames.Beginning) -> None:
        if len(self._tails) >= MAX_TAILS:
            raise _too_many_tails()
        begun = await self._generations.begin(
            self._identity,
            frame.client_request_id,
            _what(frame),
            model=None if isinstance(frame, frames.Continue) else frame.model,
            params={} if isinstance(frame, frames.Continue) else frames.params_json(frame.params),
        )
        self.tell(_started_json(frame.client_request_id, begun))
        await self._tail(begun.generation.id, 0)

    async def _tail(self, generation_id: str, after: int) -> None:
        if generation_id not in self._tails and len(self._tails) >= MAX_TAILS:
            raise _too_many_tails()
        log = await self._generations.attach(self._identity, generation_id)
        self._drop(generation_id)
        self._tails[generation_id] = (log, after)
        log.watch(self._wake.set)
        self._wake.set()

    def _drop(self, generation_id: str) -> None:
        tail = self._tails.pop(generation_id, None)
        if tail is not None and not any(log is tail[0] for log, _ in self._tails.values()):
            tail[0].unwatch(self._wake.set)


def _what(frame: frames.Beginning) -> Ask | Again:
    if isinstance(frame, frames.Start):
        return Ask(frame.chat_id, frame.parent_id, frame.content, title_of(frame.content), frame.system)
    return Again(frame.chat_id, frame.message_id, keep=isinstance(frame, frames.Continue))


def _started_json(client_request_id: str, begun: Begun) -> dict[str, Any]:
    return {
        "type": "started",
        "client_request_id": client_request_id,
        "generation_id": begun.generation.id,
        "chat": chat_json(begun.chat),
        "user_message": message_json(begun.user_message) if begun.user_message else None,
        "message": message_json(begun.message),
    }


def _piece_json(generation_id: str, piece: Event | Snapshot) -> dict[str, Any]:
    if isinstance(piece, Snapshot):
        return {"type": "snapshot", "generation_id": generation_id, "seq": piece.seq, "text": piece.text}
    return {"type": "event", "generation_id": generation_id, "seq": piece.seq, "kind": piece.kind, "data": piece.data}


def _too_many_tails() -> RequestError:
    return RequestError(f"One connection follows {MAX_TAILS} answers at the most.", status=429, code="too_many_tails")

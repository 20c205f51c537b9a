"""One answer while it is written: reads the relay, writes the log, and says at the end what became of it.

Not responsible for the store: `generations` writes what is here.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, RequestError
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.chat.log import Log
from lamplighter.gateway.chat.prompt import Prompt
from lamplighter.gateway.chat.shapes import error_json, wake_json
from lamplighter.gateway.money import so_far_json
from lamplighter.gateway.relay import Event, Relay, Started, UpstreamLost, Waking
from lamplighter.store.generations import Begun

DELTA_SECONDS = 0.04
"""Tokens that come closer together than this travel in one event."""
WAKE_SECONDS = 0.25
"""The progress of a wake is told at most this often; a change of stage at once."""
MAX_TEXT = 2_000_000
"""Characters of one answer; a model that never stops is stopped here."""
LOST = "The connection to the engine broke off; the text so far is kept."

_log = structlog.get_logger(__name__)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


_chunks = msgspec.json.Decoder(_Chunk)


@dataclass
class Live:
    """A generation of this gateway. `text` begins with what is kept of an answer that is continued."""

    begun: Begun
    identity: Identity
    prompt: Prompt
    relay: Relay
    clock: Clock
    log: Log
    written: int = 0
    """The seq up to which the store has the log."""
    status: str = "running"
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    answered_by: str | None = None
    watched_at: float = 0.0
    """When somebody was last seen reading (monotonic seconds)."""
    _task: asyncio.Task[None] | None = None
    _ending: str | None = None
    _buffer: list[str] = field(default_factory=list)
    _buffered: str = "delta"
    _emitted_at: float = float("-inf")
    _later: asyncio.Task[None] | None = None
    _wake_at: float = float("-inf")
    _wake: dict[str, Any] | None = None
    _started_at: float | None = None
    _first_at: float | None = None
    _woke_in: float | None = None
    _wake_cost: dict[str, Any] | None = None
    """What the machine had cost when the wake was over."""
    _counts: _Usage | None = None
    _length: int = 0

    @property
    def id(self) -> str:
        return self.begun.generation.id

    @property
    def first_at(self) -> float | None:
        """When the first token came (monotonic seconds): from then on it costs a GPU's time."""
        return self._first_at

    def end(self, status: str) -> None:
        """Stop writing; `status` is what becomes of it (cancelled or interrupted). The first call counts; after the end nothing happens."""
        if self._ending is None and self.status == "running":
            self._ending = status
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> None:
        """Write until the end, whatever it is; never raises. The log's `done` is left to the caller, who knows what was stored."""
        if self.prompt.kept:
            self._length += len(self.prompt.kept)
            self.log.append("delta", {"text": self.prompt.kept})
        self._task = asyncio.create_task(self._consume(), name=f"consume-{self.id}")
        if self._ending is not None:
            self._task.cancel()
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:  # whoever runs us is stopped: so is the engine, before we go on to what must be saved
            self.end("interrupted")
            await asyncio.wait({self._task})
        self._emit()
        self.status = self._verdict()
        self.usage = self._measured()
        if self.usage is not None:
            self.log.append("usage", self.usage)
        if self.error is not None:
            self.log.append("error", self.error)

    def _verdict(self) -> str:
        if self._task is None or self._task.cancelled():
            return self._ending or "interrupted"
        problem = self._task.exception()
        if problem is None:
            return "done"
        if isinstance(problem, UpstreamLost):
            self.error = {
                "code": problem.code,
                "message": problem.message or LOST,
                "next_step": "Continue the answer, or ask again.",
            }
        elif isinstance(problem, LamplighterError):
            self.error = error_json(problem)
            if problem.code == "context_length_exceeded" and not problem.next_step:
                self.error["next_step"] = "Shorten the message, or choose a model with a larger context."
        else:
            _log.error("generation_failed", generation=self.id, exc_info=problem)
            self.error = {
                "code": "internal_error",
                "message": "Something went wrong inside Lamplighter while this answer was written.",
                "next_step": "Ask again; if it happens again, the log says more.",
            }
        return "error"

    async def _consume(self) -> None:
        prompt: Prompt | None = self.prompt
        while prompt is not None:
            try:
                await self._ask(prompt)
            except RequestError as error:
                prompt = None if self._first_at is not None else prompt.after(error)
                if prompt is None:
                    raise
            else:
                return

    async def _ask(self, prompt: Prompt) -> None:
        generation = self.begun.generation
        asking = self.relay.generate(identity=self.identity, model=generation.model, body=prompt.body(), wake="wait")
        async with asking as items:
            async for item in items:
                if isinstance(item, Waking):
                    self._waking(item)
                elif isinstance(item, Started):
                    self._started(item)
                else:
                    self._event(item)
                    if self._length > MAX_TEXT:
                        raise LamplighterError(
                            "The answer grew beyond two million characters and was stopped.", code="answer_too_long"
                        )

    def _waking(self, item: Waking) -> None:
        if item.wake is None:
            return
        shape, now = wake_json(item.wake), self.clock.monotonic()
        old = self._wake
        if old == shape:
            return
        same_stage = old is not None and [(s["name"], s["started_at"]) for s in old["stages"]] == [
            (s["name"], s["started_at"]) for s in shape["stages"]
        ]
        if same_stage and now - self._wake_at < WAKE_SECONDS:
            return
        self._wake, self._wake_at = shape, now
        self.log.append("wake", shape)

    def _started(self, item: Started) -> None:
        self._started_at = self.clock.monotonic()
        if item.model != self.begun.generation.model:
            self.answered_by = item.model
        if item.woke_in is not None:
            self._woke_in = item.woke_in
            self._wake_cost = so_far_json(self._wake["cost"], self.clock.time()) if self._wake is not None else None
            self.log.append("wake", {"woke_in": round(item.woke_in, 3), **({"cost": cost} if (cost := self._wake_cost) else {})})

    def _event(self, item: Event) -> None:
        try:
            chunk = _chunks.decode(item.data)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise UpstreamLost("The engine sent something that is not an answer; the text so far is kept.") from error
        if chunk.error is not None:
            raise UpstreamLost(str(chunk.error.get("message") or LOST))
        if chunk.usage is not None:
            self._counts = chunk.usage
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None:
            return
        if delta.reasoning_content:
            self._write("thinking", delta.reasoning_content)
        if delta.content:
            self._write("delta", delta.content)

    def _write(self, kind: str, text: str) -> None:
        if self._first_at is None:
            self._first_at = self.clock.monotonic()
        if kind != self._buffered:
            self._emit()
            self._buffered = kind
        self._length += len(text)
        self._buffer.append(text)
        if self.clock.monotonic() - self._emitted_at >= DELTA_SECONDS:
            self._emit()
        elif self._later is None:
            self._later = asyncio.create_task(self._emit_later(), name=f"emit-{self.id}")

    async def _emit_later(self) -> None:
        await self.clock.sleep(self._emitted_at + DELTA_SECONDS - self.clock.monotonic())
        self._later = None
        self._emit()

    def _emit(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._buffer:
            text, self._buffer = "".join(self._buffer), []
            self._emitted_at = self.clock.monotonic()
            self.log.append(self._buffered, {"text": text})

    def _measured(self) -> dict[str, Any] | None:
        """Usage as the page shows it: seconds count from the moment at which the engine had the request, the wake apart."""
        if self._started_at is None:
            return None
        now = self.clock.monotonic()
        counts = self._counts or _Usage()
        ttft = None if self._first_at is None else self._first_at - self._started_at
        speed = None
        if self._first_at is not None and counts.completion_tokens:
            # The first token's time belongs to the prompt; with a single token there is nothing else to go by.
            tokens, seconds = counts.completion_tokens - 1, now - self._first_at
            if tokens == 0 or seconds <= 0:
                tokens, seconds = counts.completion_tokens, now - self._started_at
            speed = round(tokens / seconds, 1) if seconds > 0 else None
        return {
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "ttft": None if ttft is None else round(ttft, 3),
            "seconds": round(now - self._started_at, 3),
            "tokens_per_second": speed,
            "wake_seconds": None if self._woke_in is None else round(self._woke_in, 3),
            **({"wake_cost": cost} if (cost := self._wake_cost) else {}),
        }

"""Owns the answers that this gateway writes: begins each exactly once, stores its log in batches, ends it for good reasons only.

A reader's leaving never ends one. Cancel does, and so does nobody reading for five minutes after the first token; a wake is never cut
short for that. What a dead gateway left behind becomes `interrupted`, its text kept.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError, StoreError
from lamplighter.engines.base import Capability, Engine
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.background import forever
from lamplighter.gateway.chat.live import Live
from lamplighter.gateway.chat.log import Log, ended
from lamplighter.gateway.chat.prompt import Prompt
from lamplighter.gateway.chat.shapes import message_json
from lamplighter.gateway.relay import Relay
from lamplighter.gateway.view import View
from lamplighter.store import chats
from lamplighter.store import generations as rows
from lamplighter.store.bus import Topic
from lamplighter.store.chats import RUNNING, Message
from lamplighter.store.generations import Again, Ask, Begun
from lamplighter.store.store import Store

FLUSH_SECONDS = 0.1
UNWATCHED_SECONDS = 300.0
SWEEP_SECONDS = 10.0
FOLLOW_SECONDS = 1.0
"""How often another gateway's log is read without a hint."""
RECHECK_SECONDS = 5.0
"""How often it is looked for cancellations of other gateways without a hint."""
MAX_RUNNING = 32
"""Answers that may be written for one principal at the same time."""
HISTORY = 400
"""Messages of a branch that are considered for a prompt."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """An end that the store refused; tried again."""

    live: Live
    seq: int


class Generations:
    """Every answer being written here. `engines`: by kind, asked only for what a model can do."""

    def __init__(
        self, store: Store, clock: Clock, view: View, relay: Relay, engines: Mapping[str, Engine], gateway_id: str
    ) -> None:
        self._store = store
        self._clock = clock
        self._view = view
        self._relay = relay
        self._engines = engines
        self._gateway_id = gateway_id
        self._live: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._mirrors: dict[str, tuple[Log, asyncio.Task[None]]] = {}
        self._unsaved: dict[str, _Unsaved] = {}
        self._beginning = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self._refusing = False

    async def start(self) -> None:
        """End what a predecessor left behind, then write and watch. Raises StoreError."""
        await self._adopt()
        self._background = [
            forever("generations-flush", self._flush_forever, self._clock),
            forever("generations-cancels", self._obey_forever, self._clock),
            forever("generations-sweep", self._sweep_forever, self._clock),
        ]

    def refuse(self) -> None:
        """Begin nothing more: the gateway is going down."""
        self._refusing = True

    async def settle(self) -> None:
        """Return when nothing is being written any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """Interrupt what is still being written, keep its text, and end."""
        self.refuse()
        for live in list(self._live.values()):
            live.end("interrupted")
        await self.settle()
        ending = [*self._background, *(task for _, task in self._mirrors.values())]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._background = []

    @property
    def running(self) -> int:
        """How many answers are being written here."""
        return len(self._live)

    # -- beginning

    async def begin(
        self, identity: Identity, client_request_id: str, what: Ask | Again, *, model: str | None, params: dict[str, Any]
    ) -> Begun:
        """Save and begin, or find what the same `client_request_id` began before.

        `model` None (for `Again` with `keep`): the one that wrote the answer, with its parameters. Raises RequestError, StoreError.
        """
        # One at a time: a repeat must not see the rows of a beginning whose work is not known here yet.
        async with self._beginning:
            if model is None and isinstance(what, Again):
                model, params = await self._as_before(identity, what)
            known = await rows.find(self._store, identity.principal_id, client_request_id)
            if known is not None:
                return known
            self._admit(identity, model or "")
            begun = await rows.begin(
                self._store, principal_id=identity.principal_id, gateway_id=self._gateway_id, client_request_id=client_request_id,
                what=what, model=model or "", params=params,
            )  # fmt: skip
            if begun.fresh:
                history = await chats.history(self._store, begun.message.parent_id, limit=HISTORY)
                self._launch(begun, identity, self._prompt(begun, history))
        return begun

    async def _as_before(self, identity: Identity, what: Again) -> tuple[str, dict[str, Any]]:
        await chats.get(self._store, identity.principal_id, what.chat_id)
        answer = await chats.message(self._store, what.chat_id, what.message_id)
        before = await rows.of_message(self._store, answer.id)
        if before is None:
            raise RequestError("Only an answer can be continued.", code="not_an_answer", param="message_id")
        return before.model, dict(before.params)

    def _admit(self, identity: Identity, model: str) -> None:
        if self._refusing:
            raise RequestError(
                "Lamplighter is shutting down.",
                status=503,
                code="shutting_down",
                next_step="Ask again in a moment.",
                retry_after=5,
            )
        config = self._view.snapshot.models.get(model)
        if config is None:
            raise RequestError(
                f"There is no model {model!r}.",
                status=404,
                code="model_not_found",
                param="model",
                next_step="Choose another model.",
            )
        engine = self._engines.get(config.engine)
        if engine is not None and Capability.CHAT not in self._view.snapshot.capabilities(model, engine):
            raise RequestError(
                f"The model {model!r} cannot chat.",
                code="unsupported_capability",
                param="model",
                next_step="Choose another model.",
            )
        mine = sum(live.identity.principal_id == identity.principal_id for live in self._live.values())
        if mine >= MAX_RUNNING:
            raise RequestError(
                f"{MAX_RUNNING} answers are being written for you already.",
                status=429, code="too_many_answers", next_step="Wait for one, or stop one.", retry_after=5,
            )  # fmt: skip

    def _prompt(self, begun: Begun, history: list[Message]) -> Prompt:
        config = self._view.snapshot.models.get(begun.generation.model)
        ready = next(
            (one for one in self._view.snapshot.replicas if begun.generation.model in one.models and one.context is not None),
            None,
        )
        llamacpp = config is not None and config.engine == "llamacpp"
        context = ready.context if ready else config.context if config is not None and llamacpp else None
        return Prompt(
            system=begun.chat.system,
            history=history,
            kept=begun.message.content,
            params=begun.generation.params,
            context=context,
            prefill=llamacpp,
        )

    def _launch(self, begun: Begun, identity: Identity, prompt: Prompt) -> None:
        live = Live(begun, identity, prompt, self._relay, self._clock, Log(written=self._dirty.set))
        live.watched_at = self._clock.monotonic()
        self._live[live.id] = live
        task = asyncio.create_task(self._write(live), name=f"generation-{live.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, live: Live) -> None:
        await live.run()
        seq = live.log.seq + 1
        message = live.begun.message
        try:
            stored = await self._save(live, seq)
        except StoreError as error:
            _log.error("generation_not_saved", generation=live.id, error=error.message)
            self._unsaved[live.id] = _Unsaved(live, seq)
            stored = None
        message = stored or replace(
            message,
            content=live.log.text, status=live.status, usage=live.usage, error=live.error, generation_id=None,
            model=live.answered_by or message.model,
        )  # fmt: skip
        live.log.append("done", {"status": live.status, "message": message_json(message)})
        if live.id not in self._unsaved:
            self._live.pop(live.id, None)

    async def _save(self, live: Live, seq: int) -> Message | None:
        return await rows.finish(
            self._store, live.id, status=live.status, content=live.log.text, model=live.answered_by, seq=seq, usage=live.usage,
            error=live.error,
        )  # fmt: skip

    # -- reading and ending

    async def attach(self, identity: Identity, generation_id: str) -> Log:
        """The log of one of the principal's generations, whoever writes it. Raises ChatNotFound, StoreError."""
        live = self._live.get(generation_id)
        if live is not None and live.begun.generation.principal_id == identity.principal_id:
            return live.log
        generation, message, events = await rows.get(self._store, identity.principal_id, generation_id)
        if generation.status == RUNNING:
            return self._mirror(identity, generation_id)
        seq = events[-1].seq if events else 1
        return ended(seq=seq, text=message.content, data={"status": generation.status, "message": message_json(message)})

    async def cancel(self, identity: Identity, generation_id: str) -> None:
        """Stop writing; nothing happens when it has ended. Raises ChatNotFound, RequestError, StoreError."""
        live = self._live.get(generation_id)
        if live is not None and live.begun.generation.principal_id == identity.principal_id:
            live.end("cancelled")
            return
        generation, _, _ = await rows.get(self._store, identity.principal_id, generation_id)
        if generation.status == RUNNING and generation_id not in self._live:
            await rows.ask_cancel(self._store, generation_id)  # another gateway writes it

    async def remove_chat(self, identity: Identity, chat_id: str) -> None:
        """Delete a chat and stop what is being written in it. Raises ChatNotFound, StoreError."""
        async with self._beginning:  # nothing begins in it between the two steps
            for generation_id in await chats.remove(self._store, identity.principal_id, chat_id):
                if (live := self._live.get(generation_id)) is not None:
                    live.end("cancelled")

    # -- background

    async def _flush_forever(self) -> None:
        while True:
            await self._dirty.wait()
            await self._clock.sleep(FLUSH_SECONDS)
            self._dirty.clear()
            try:
                await self.flush()
            except StoreError as error:  # the events stay in memory, and readers have them; the next round writes all
                _log.warning("generation_events_not_written", error=error.message)
                await self._clock.sleep(1.0)
                self._dirty.set()

    async def flush(self) -> None:
        """Write every event that the store does not have yet. Raises StoreError."""
        batches = {live.id: live.log.between(live.written) for live in self._live.values() if live.log.seq > live.written}
        if not batches:
            return
        gone = await rows.append(self._store, batches)
        for generation_id, events in batches.items():
            live = self._live.get(generation_id)
            if live is None:
                continue
            live.written = max(live.written, events[-1].seq)
            if generation_id in gone and live.status == RUNNING:
                live.end("cancelled")  # its chat was deleted by another gateway

    async def _obey_forever(self) -> None:
        """Stop what another gateway was asked to stop. A lost hint costs `RECHECK_SECONDS`."""
        with self._store.bus.subscribe(Topic.CANCELS) as hints:
            while True:
                told = {payload for _, payload in await hints.wait(RECHECK_SECONDS)}
                asked = list(self._live) if not told or "" in told else [one for one in self._live if one in told]
                if not asked or not (told or self._store.shared):
                    continue
                try:
                    for generation_id in await rows.to_stop(self._store, asked):
                        if (live := self._live.get(generation_id)) is not None:
                            live.end("cancelled")
                except StoreError as error:
                    _log.warning("generations_not_rechecked", error=error.message)

    async def _sweep_forever(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("generations_not_swept", error=error.message)

    async def sweep(self) -> None:
        """End what nobody reads, save what could not be saved, adopt what others left behind. Raises StoreError."""
        now = self._clock.monotonic()
        for live in list(self._live.values()):
            if live.log.watched:
                live.watched_at = now
            elif live.first_at is not None and now - max(live.watched_at, live.first_at) >= UNWATCHED_SECONDS:
                _log.info("generation_unwatched", generation=live.id)
                live.end("cancelled")
        for generation_id, unsaved in list(self._unsaved.items()):
            await self._save(unsaved.live, unsaved.seq)
            del self._unsaved[generation_id]
            self._live.pop(generation_id, None)
        await self._adopt()

    async def _adopt(self) -> None:
        # SQLite serves one process, and the folder's lock keeps a second one away: whatever is not ours has no writer.
        if orphans := await rows.interrupt_orphans(self._store, self._gateway_id, alone=not self._store.shared):
            _log.info("generations_interrupted", count=len(orphans))

    # -- answers that another gateway writes

    def _mirror(self, identity: Identity, generation_id: str) -> Log:
        if generation_id in self._mirrors:
            return self._mirrors[generation_id][0]
        log = Log()
        task = asyncio.create_task(self._follow(identity, generation_id, log), name=f"mirror-{generation_id}")
        self._mirrors[generation_id] = (log, task)
        return log

    async def _follow(self, identity: Identity, generation_id: str, log: Log) -> None:
        """Copy another gateway's log, event by event, until it ends."""
        try:
            with self._store.bus.subscribe(Topic.GENERATIONS) as hints:
                while True:
                    try:
                        status, events = await rows.events_after(self._store, generation_id, log.seq)
                        if status != RUNNING:
                            await self._conclude(identity, generation_id, log)
                            return
                        for event in events:
                            log.append(event.kind, event.data)
                    except StoreError as error:  # the writer has all of it; when the store is back it is told
                        _log.warning("generation_not_followed", generation=generation_id, error=error.message)
                    while generation_id not in (told := {payload for _, payload in await hints.wait(FOLLOW_SECONDS)}):
                        if not told or "" in told:
                            break
        except chats.ChatNotFound:
            return
        finally:
            self._mirrors.pop(generation_id, None)

    async def _conclude(self, identity: Identity, generation_id: str, log: Log) -> None:
        """The last event, under its own number: between it and what was copied, events may be gone already; their text is in the message."""
        generation, message, events = await rows.get(self._store, identity.principal_id, generation_id)
        log.conclude(
            seq=events[-1].seq if events else log.seq + 1,
            text=message.content,
            data={"status": generation.status, "message": message_json(message)},
        )

"""Answers being written: one row each, with an append-only log of events that is compacted into the message at the end.

`begin` is where exactly-once lives: the same `client_request_id` of a principal is the same generation, for ever. Running one is
`gateway.chat`'s business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.core.errors import RequestError
from lamplighter.core.ids import new_id
from lamplighter.store import chats
from lamplighter.store.bus import Topic
from lamplighter.store.chats import RUNNING, Chat, ChatNotFound, Message
from lamplighter.store.demand import GATEWAY_TTL
from lamplighter.store.sql import exclusive
from lamplighter.store.store import Store
from lamplighter.store.tables import chats as chat_rows
from lamplighter.store.tables import gateways, generation_events, generations, messages

UNSEEN = 10_000
"""What an interrupted generation's last seq is raised by: readers may have seen events that died with their gateway unwritten, and would
drop a final event numbered below those."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One row. `status`: running, done, cancelled, interrupted or error. Times are Unix seconds."""

    id: str
    principal_id: str
    client_request_id: str
    chat_id: str
    message_id: str
    gateway_id: str
    model: str
    params: Mapping[str, Any]
    status: str
    started_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a generation's log; `seq` counts from 1."""

    seq: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """What a beginning made, or found: `fresh` is False for a repeated `client_request_id`."""

    generation: Generation
    chat: Chat
    user_message: Message | None
    message: Message
    fresh: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A new question.

    `chat_id` None: in a new chat, with `title` and `system`. `parent_id`: the answer that it follows (for an edit: the one that the
    edited question follows); None: it begins the chat.
    """

    chat_id: str | None
    parent_id: str | None
    content: str
    title: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Another answer to the question that `message_id` answers; `keep`: it begins with that answer's text."""

    chat_id: str
    message_id: str
    keep: bool = False


async def begin(
    store: Store,
    *,
    principal_id: str,
    gateway_id: str,
    client_request_id: str,
    what: Ask | Again,
    model: str,
    params: Mapping[str, Any],
) -> Begun:
    """Save the question and an empty answer, and begin a generation: all or nothing, once per `client_request_id`.

    Raises ChatNotFound, or RequestError when the tree does not allow it.
    """
    now = store.clock.time()
    async with store.write() as connection:
        # The same question may arrive at two gateways at the same time; so may two that hang on the same answer.
        await exclusive(connection, f"generation {principal_id} {client_request_id}")
        if (old := await _known(connection, principal_id, client_request_id)) is not None:
            return await _begun(connection, old, fresh=False)
        user_id: str | None = None
        kept = ""
        if isinstance(what, Ask):
            chat_id = await _chat_for(connection, principal_id, what, model, now)
            await _check_parent(connection, chat_id, what.parent_id)
            user_id = new_id("msg")
            await connection.execute(
                insert(messages).values(
                    id=user_id,
                    chat_id=chat_id,
                    parent_id=what.parent_id,
                    role="user",
                    content=what.content,
                    status="done",
                    created_at=now,
                )
            )
            parent_id: str | None = user_id
        else:
            chat_id = (await chats.find(connection, principal_id, what.chat_id, lock=True)).id
            answer = await chats.message_in(connection, chat_id, what.message_id)
            if answer.role != "assistant":
                raise RequestError("Only an answer can be written again or continued.", code="not_an_answer", param="message_id")
            if what.keep and answer.status not in ("cancelled", "interrupted", "error"):
                raise RequestError(
                    "Only an answer that was cut short can be continued.", code="not_continuable", param="message_id"
                )
            parent_id, kept = answer.parent_id, answer.content if what.keep else ""
        message_id = new_id("msg")
        await connection.execute(
            insert(messages).values(
                id=message_id, chat_id=chat_id, parent_id=parent_id, role="assistant", content=kept, model=model, status="streaming",
                created_at=now,
            )
        )  # fmt: skip
        await connection.execute(
            update(chat_rows).where(chat_rows.c.id == chat_id).values(leaf_id=message_id, model=model, updated_at=now)
        )
        row = (
            await connection.execute(
                insert(generations)
                .values(
                    id=new_id("gen"), principal_id=principal_id, client_request_id=client_request_id, chat_id=chat_id,
                    message_id=message_id, gateway_id=gateway_id, model=model, params=dict(params), status=RUNNING, started_at=now,
                )
                .returning(generations)
            )
        ).one()  # fmt: skip
        begun = await _begun(connection, row, fresh=True)
    chats.announce(store, begun.chat)
    return begun


async def find(store: Store, principal_id: str, client_request_id: str) -> Begun | None:
    """What a principal's `client_request_id` began, if it did."""
    async with store.read() as connection:
        row = await _known(connection, principal_id, client_request_id)
        return await _begun(connection, row, fresh=False) if row is not None else None


async def get(store: Store, principal_id: str, generation_id: str) -> tuple[Generation, Message, list[Event]]:
    """A generation with its message and what is left of its log. Raises ChatNotFound."""
    async with store.read() as connection:
        query = select(generations).where((generations.c.id == generation_id) & (generations.c.principal_id == principal_id))
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise ChatNotFound("generation")
        log = await _log(connection, generation_id)
        message = (await chats.completed(connection, row.chat_id, [row.message_id]))[0]
    return _generation(row), message, log


async def of_message(store: Store, message_id: str) -> Generation | None:
    """The newest generation that wrote a message."""
    query = select(generations).where(generations.c.message_id == message_id).order_by(generations.c.started_at.desc()).limit(1)
    async with store.read() as connection:
        row = (await connection.execute(query)).one_or_none()
    return _generation(row) if row else None


async def events_after(store: Store, generation_id: str, seq: int) -> tuple[str | None, list[Event]]:
    """How a generation stands (None: it is gone) and its events after `seq`, for who follows the writing of another gateway."""
    async with store.read() as connection:
        status = await connection.scalar(select(generations.c.status).where(generations.c.id == generation_id))
        return status, await _log(connection, generation_id, after=seq)


async def ask_cancel(store: Store, generation_id: str) -> None:
    """Ask the gateway that writes this answer to stop. It does so within a second or two; nothing happens when it has ended."""
    async with store.write() as connection:
        running = (generations.c.id == generation_id) & (generations.c.status == RUNNING)
        await connection.execute(update(generations).where(running).values(cancel_asked_at=store.clock.time()))
    store.bus.publish(Topic.CANCELS, generation_id)


async def to_stop(store: Store, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that somebody asked to stop, or that ended or were deleted meanwhile: whoever still writes them must not."""
    if not ids:
        return set()
    running = generations.c.id.in_(list(ids)) & (generations.c.status == RUNNING) & generations.c.cancel_asked_at.is_(None)
    async with store.read() as connection:
        return set(ids) - set(await connection.scalars(select(generations.c.id).where(running)))


async def append(store: Store, batches: Mapping[str, Sequence[Event]]) -> set[str]:
    """Write new events of several generations in one transaction. Returns the ids of those that ended or were deleted meanwhile."""
    async with store.write() as connection:
        # What was finished meanwhile is compacted already: a late batch would stay behind for ever.
        running = generations.c.id.in_(list(batches)) & (generations.c.status == RUNNING)
        query = select(generations.c.id).where(running).order_by(generations.c.id).with_for_update(read=True)
        alive = set(await connection.scalars(query))
        rows = [
            {"generation_id": generation_id, "seq": event.seq, "kind": event.kind, "data": dict(event.data)}
            for generation_id, events in batches.items()
            if generation_id in alive
            for event in events
        ]
        if rows:
            await connection.execute(insert(generation_events), rows)
    for generation_id in alive:
        store.bus.publish(Topic.GENERATIONS, generation_id)
    return batches.keys() - alive


async def finish(
    store: Store,
    generation_id: str,
    *,
    status: str,
    content: str,
    model: str | None,
    seq: int,
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
) -> Message | None:
    """Compact a running generation into its message and keep only its last event, numbered `seq`. Doing it again changes nothing.

    `model`: the one that answered, if it is not the one asked. Returns the message, or None when it was deleted meanwhile.
    """
    async with store.write() as connection:
        found = await _finish(
            connection,
            store.clock.time(),
            generation_id,
            status=status,
            content=content,
            model=model,
            seq=seq,
            usage=usage,
            error=error,
        )
    if found is None:
        return None
    chat, message = found
    chats.announce(store, chat)
    store.bus.publish(Topic.GENERATIONS, generation_id)
    return message


async def interrupt_orphans(store: Store, gateway_id: str, *, alone: bool) -> list[str]:
    """End what gateways that are no more were writing: the text so far is kept, the status becomes `interrupted`.

    `alone`: there can be no other gateway, so everything that is not `gateway_id`'s is an orphan at once; otherwise a gateway is dead when
    its heartbeat is. Returns the ids of the generations.
    """
    now = store.clock.time()
    query = select(generations.c.id).where((generations.c.status == RUNNING) & (generations.c.gateway_id != gateway_id))
    if not alone:
        alive = select(gateways.c.id).where(gateways.c.heartbeat_at > store.heard_since(GATEWAY_TTL))
        query = query.where(generations.c.gateway_id.not_in(alive))
    async with store.read() as connection:
        orphans = [str(one) for one in await connection.scalars(query.order_by(generations.c.id))]
    ended = []
    for generation_id in orphans:
        async with store.write() as connection:  # one by one: other gateways find the same ones
            row = await _locked(connection, generation_id)
            if row is None or row.status != RUNNING:
                continue
            log = await _log(connection, generation_id)
            seq = (log[-1].seq if log else 0) + UNSEEN
            kept = await connection.scalar(select(messages.c.content).where(messages.c.id == row.message_id))
            # The log begins with the kept text of a continued answer; before its first event there is only the message.
            text = text_of(log) if any(event.kind == "delta" for event in log) else str(kept or "")
            usage = next((event.data for event in reversed(log) if event.kind == "usage"), None)
            found = await _finish(
                connection, now, generation_id, status="interrupted", content=text, model=None, seq=seq, usage=usage, error=None
            )
        ended.append(generation_id)
        if found is not None:
            chats.announce(store, found[0])
        store.bus.publish(Topic.GENERATIONS, generation_id)
    return ended


def text_of(log: Sequence[Event]) -> str:
    """The text that a log's deltas make."""
    return "".join(str(event.data.get("text", "")) for event in log if event.kind == "delta")


# -- pieces


async def _chat_for(connection: AsyncConnection, principal_id: str, what: Ask, model: str, now: float) -> str:
    if what.chat_id is not None:
        return (await chats.find(connection, principal_id, what.chat_id, lock=True)).id
    if what.parent_id is not None:
        raise RequestError("A new chat's first question follows nothing.", code="bad_parent", param="parent_id")
    identity = new_id("cht")
    await connection.execute(
        insert(chat_rows).values(
            id=identity,
            principal_id=principal_id,
            title=what.title,
            model=model,
            system=what.system,
            created_at=now,
            updated_at=now,
        )
    )
    return identity


async def _check_parent(connection: AsyncConnection, chat_id: str, parent_id: str | None) -> None:
    if parent_id is None:
        return
    parent = await chats.message_in(connection, chat_id, parent_id)
    if parent.role != "assistant":
        raise RequestError("A question can only follow an answer.", code="bad_parent", param="parent_id")
    if parent.status == "streaming":
        raise RequestError(
            "The answer before this question is still being written.",
            status=409,
            code="answer_unfinished",
            param="parent_id",
            next_step="Wait for it, or stop it.",
        )


async def _known(connection: AsyncConnection, principal_id: str, client_request_id: str) -> Row[Any] | None:
    query = select(generations).where(
        (generations.c.principal_id == principal_id) & (generations.c.client_request_id == client_request_id)
    )
    return (await connection.execute(query)).one_or_none()


async def _begun(connection: AsyncConnection, row: Row[Any], *, fresh: bool) -> Begun:
    chat = await chats.find(connection, row.principal_id, row.chat_id)
    message = (await chats.completed(connection, row.chat_id, [row.message_id]))[0]
    user = None
    if message.parent_id is not None and message.siblings[:1] == (message.id,):
        # The first answer of a question came with it; later siblings were asked for alone.
        user = (await chats.completed(connection, row.chat_id, [message.parent_id]))[0]
    return Begun(_generation(row), chat, user, message, fresh)


async def _finish(
    connection: AsyncConnection,
    now: float,
    generation_id: str,
    *,
    status: str,
    content: str,
    model: str | None,
    seq: int,
    usage: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
) -> tuple[Chat, Message] | None:
    row = await _locked(connection, generation_id)
    if row is None:
        return None
    if row.status == RUNNING:
        values: dict[str, Any] = {"content": content, "status": status, "usage": usage, "error": error}
        if model is not None:
            values["model"] = model
        await connection.execute(update(messages).where(messages.c.id == row.message_id).values(**values))
        await connection.execute(update(generations).where(generations.c.id == generation_id).values(status=status, ended_at=now))
        await connection.execute(delete(generation_events).where(generation_events.c.generation_id == generation_id))
        await connection.execute(
            insert(generation_events).values(generation_id=generation_id, seq=seq, kind="done", data={"status": status})
        )
        await connection.execute(
            update(chat_rows).where((chat_rows.c.id == row.chat_id) & (chat_rows.c.updated_at < now)).values(updated_at=now)
        )
    chat = await chats.find(connection, row.principal_id, row.chat_id)
    return chat, (await chats.completed(connection, row.chat_id, [row.message_id]))[0]


async def _locked(connection: AsyncConnection, generation_id: str) -> Row[Any] | None:
    """A generation that nobody else changes until the transaction ends. Its chat comes first, as for who deletes that."""
    chat_id = select(generations.c.chat_id).where(generations.c.id == generation_id).scalar_subquery()
    await connection.execute(select(chat_rows.c.id).where(chat_rows.c.id == chat_id).with_for_update())
    query = select(generations).where(generations.c.id == generation_id).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def _log(connection: AsyncConnection, generation_id: str, *, after: int = 0) -> list[Event]:
    mine = (generation_events.c.generation_id == generation_id) & (generation_events.c.seq > after)
    query = select(generation_events).where(mine).order_by(generation_events.c.seq)
    return [Event(row.seq, row.kind, row.data) for row in await connection.execute(query)]


def _generation(row: Row[Any]) -> Generation:
    return Generation(
        id=row.id, principal_id=row.principal_id, client_request_id=row.client_request_id, chat_id=row.chat_id,
        message_id=row.message_id, gateway_id=row.gateway_id, model=row.model, params=row.params, status=row.status,
        started_at=row.started_at, ended_at=row.ended_at,
    )  # fmt: skip

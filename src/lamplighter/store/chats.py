"""Chats and their messages: a tree per chat, of which one branch is shown. Every chat belongs to one principal; to others it does not exist.

What is being written into a message is `store.generations`' subject.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, delete, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.core.errors import RequestError
from lamplighter.store.bus import Topic
from lamplighter.store.store import Store
from lamplighter.store.tables import chats, generations, messages

RUNNING = "running"
"""Status of a generation that has not ended."""
_MANY = 500
"""Ids named in one statement; SQLite's own limit is far above, PostgreSQL's planner likes it."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One row. `leaf_id`: last message of the branch shown. Times are Unix seconds."""

    id: str
    principal_id: str
    title: str
    model: str | None
    system: str | None
    leaf_id: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Message:
    """One row, with the ids of its siblings (itself included, oldest first) and the generation that is writing it, if one is."""

    id: str
    chat_id: str
    parent_id: str | None
    role: str
    content: str
    model: str | None
    status: str
    error: Mapping[str, Any] | None
    usage: Mapping[str, Any] | None
    created_at: float
    siblings: tuple[str, ...] = ()
    generation_id: str | None = None


class ChatNotFound(RequestError):
    """There is no such chat, or it is somebody else's: both look the same."""

    def __init__(self, what: str = "chat") -> None:
        super().__init__(f"There is no such {what}.", status=404, code=f"{what}_not_found", next_step="Reload the page.")


# -- reading


async def get(store: Store, principal_id: str, chat_id: str) -> Chat:
    """One chat. Raises ChatNotFound."""
    async with store.read() as connection:
        return await find(connection, principal_id, chat_id)


async def page(
    store: Store, principal_id: str, *, limit: int, before: str | None = None, q: str | None = None
) -> tuple[list[Chat], str | None]:
    """A principal's chats, last changed first, and the cursor of the next page (None: there is none).

    `before`: such a cursor. `q`: text that the title or any message must contain, whatever its case. Raises RequestError for a bad cursor.
    """
    query = select(chats).where(chats.c.principal_id == principal_id)
    if before is not None:
        at, identity = _parse_cursor(before)
        query = query.where(or_(chats.c.updated_at < at, and_(chats.c.updated_at == at, chats.c.id < identity)))
    if q:
        said = select(literal(1)).where((messages.c.chat_id == chats.c.id) & messages.c.content.icontains(q, autoescape=True))
        query = query.where(or_(chats.c.title.icontains(q, autoescape=True), said.exists()))
    query = query.order_by(chats.c.updated_at.desc(), chats.c.id.desc()).limit(limit + 1)
    async with store.read() as connection:
        found = [_chat(row) for row in await connection.execute(query)]
    more = len(found) > limit
    found = found[:limit]
    return found, f"{found[-1].updated_at!r}~{found[-1].id}" if more else None


async def branch(store: Store, chat: Chat, *, limit: int, before: str | None = None) -> tuple[list[Message], bool]:
    """The last `limit` messages of the branch shown, oldest first, and whether there are older ones.

    `before`: a message of this chat; the messages older than it, up its own branch. Raises ChatNotFound when it is not one.
    """
    async with store.read() as connection:
        start = chat.leaf_id
        if before is not None:
            start = (await message_in(connection, chat.id, before)).parent_id
        rows = await _upwards(connection, start, limit + 1)
        more = len(rows) > limit
        return await _completed(connection, chat.id, rows[:limit][::-1]), more


async def history(store: Store, message_id: str | None, *, limit: int) -> list[Message]:
    """The newest `limit` messages from the root down to `message_id`, oldest first, without siblings."""
    async with store.read() as connection:
        return [_message(row) for row in (await _upwards(connection, message_id, limit))[::-1]]


async def message(store: Store, chat_id: str, message_id: str) -> Message:
    """One message. Raises ChatNotFound."""
    async with store.read() as connection:
        return (await completed(connection, chat_id, [message_id]))[0]


async def tree(store: Store, chat: Chat) -> list[Message]:
    """Every message of a chat, oldest first."""
    async with store.read() as connection:
        query = select(messages).where(messages.c.chat_id == chat.id).order_by(messages.c.created_at, messages.c.id)
        return await _completed(connection, chat.id, list(await connection.execute(query)))


# -- writing


async def change(
    store: Store, principal_id: str, chat_id: str, values: Mapping[str, str | None], *, active: str | None = None
) -> Chat:
    """Set any of `title`, `model` and `system`; `active`: show the branch through this message, down to its newest leaf.

    Raises ChatNotFound.
    """
    async with store.write() as connection:
        await find(connection, principal_id, chat_id, lock=True)
        new: dict[str, str | None] = {name: values[name] for name in ("title", "model", "system") if name in values}
        if active is not None:
            new["leaf_id"] = await _newest_leaf(connection, chat_id, active)
        if new:
            await connection.execute(update(chats).where(chats.c.id == chat_id).values(**new))
        changed = await find(connection, principal_id, chat_id)
    announce(store, changed)
    return changed


async def remove(store: Store, principal_id: str, chat_id: str) -> list[str]:
    """Delete a chat with everything in it; the ids of the generations that were running in it. Raises ChatNotFound."""
    async with store.write() as connection:
        chat = await find(connection, principal_id, chat_id, lock=True)
        running = await connection.scalars(
            select(generations.c.id).where((generations.c.chat_id == chat_id) & (generations.c.status == RUNNING))
        )
        ended = list(running)
        # A long branch must not be deleted by cascade, parent by parent: SQLite stops at a depth of 1,000.
        await connection.execute(update(messages).where(messages.c.chat_id == chat_id).values(parent_id=None))
        await connection.execute(delete(chats).where(chats.c.id == chat_id))
    announce(store, chat)
    return ended


def announce(store: Store, chat: Chat) -> None:
    """Tell that a chat was made, changed or deleted."""
    store.bus.publish(Topic.CHATS, f"{chat.principal_id} {chat.id}")


# -- pieces for transactions of this package


async def find(connection: AsyncConnection, principal_id: str, chat_id: str, *, lock: bool = False) -> Chat:
    """One chat, inside a transaction; `lock`: nobody else changes or deletes it until that ends. Raises ChatNotFound."""
    query = select(chats).where((chats.c.id == chat_id) & (chats.c.principal_id == principal_id))
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ChatNotFound
    return _chat(row)


async def message_in(connection: AsyncConnection, chat_id: str, message_id: str) -> Message:
    """One message of a chat, without siblings. Raises ChatNotFound."""
    query = select(messages).where((messages.c.id == message_id) & (messages.c.chat_id == chat_id))
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ChatNotFound("message")
    return _message(row)


async def completed(connection: AsyncConnection, chat_id: str, message_ids: Sequence[str]) -> list[Message]:
    """Messages of a chat in the order of their ids, with siblings and generations. Raises ChatNotFound when one is missing."""
    rows = {
        row.id: row
        for row in await connection.execute(
            select(messages).where(messages.c.id.in_(message_ids) & (messages.c.chat_id == chat_id))
        )
    }
    if len(rows) < len(set(message_ids)):
        raise ChatNotFound("message")
    return await _completed(connection, chat_id, [rows[one] for one in message_ids])


# -- rows


async def _upwards(connection: AsyncConnection, message_id: str | None, limit: int) -> list[Row[Any]]:
    """From a message towards the root: at most `limit` rows, newest first."""
    if message_id is None:
        return []
    walk = (
        select(messages.c.id, messages.c.parent_id, literal(1).label("depth"))
        .where(messages.c.id == message_id)
        .cte("walk", recursive=True)
    )
    walk = walk.union_all(
        select(messages.c.id, messages.c.parent_id, walk.c.depth + 1).where(
            (messages.c.id == walk.c.parent_id) & (walk.c.depth < limit)
        )
    )
    query = select(messages).join(walk, walk.c.id == messages.c.id).order_by(walk.c.depth)
    return list(await connection.execute(query))


async def _completed(connection: AsyncConnection, chat_id: str, rows: Sequence[Row[Any]]) -> list[Message]:
    parents = {row.parent_id for row in rows}
    children: dict[str | None, list[str]] = {}
    for some in _slices(parents - {None}):
        query = select(messages.c.id, messages.c.parent_id).where(
            (messages.c.chat_id == chat_id) & messages.c.parent_id.in_(some)
        )
        for row in await connection.execute(query.order_by(messages.c.created_at, messages.c.id)):
            children.setdefault(row.parent_id, []).append(row.id)
    if None in parents:
        query = select(messages.c.id).where((messages.c.chat_id == chat_id) & messages.c.parent_id.is_(None))
        children[None] = list(await connection.scalars(query.order_by(messages.c.created_at, messages.c.id)))
    running = {
        row.message_id: row.id
        for some in _slices(row.id for row in rows if row.status == "streaming")
        for row in await connection.execute(
            select(generations.c.id, generations.c.message_id).where(
                generations.c.message_id.in_(some) & (generations.c.status == RUNNING)
            )
        )
    }
    return [_message(row, siblings=tuple(children.get(row.parent_id, ())), generation_id=running.get(row.id)) for row in rows]


async def _newest_leaf(connection: AsyncConnection, chat_id: str, message_id: str) -> str:
    """The leaf below a message (or the message itself) that was written last."""
    query = select(messages.c.id, messages.c.parent_id, messages.c.created_at).where(messages.c.chat_id == chat_id)
    at: dict[str, float] = {}
    below: dict[str | None, list[str]] = {}
    for identity, parent_id, created_at in await connection.execute(query):
        at[identity] = created_at
        below.setdefault(parent_id, []).append(identity)
    if message_id not in at:
        raise ChatNotFound("message")
    leaves, pending = [], [message_id]
    while pending:
        identity = pending.pop()
        children = below.get(identity)
        if children:
            pending.extend(children)
        else:
            leaves.append(identity)
    return max(leaves, key=lambda leaf: (at[leaf], leaf))


def _slices(ids: Iterable[str | None]) -> Iterable[list[str]]:
    known = [one for one in ids if one is not None]
    return (known[at : at + _MANY] for at in range(0, len(known), _MANY))


def _parse_cursor(text: str) -> tuple[float, str]:
    at, tilde, identity = text.partition("~")
    try:
        if tilde:
            return float(at), identity
    except ValueError:
        pass
    raise RequestError(
        "This is not a cursor that the list gave.", code="bad_cursor", param="before", next_step="Begin without `before`."
    )


def _chat(row: Row[Any]) -> Chat:
    return Chat(
        id=row.id, principal_id=row.principal_id, title=row.title, model=row.model, system=row.system, leaf_id=row.leaf_id,
        created_at=row.created_at, updated_at=row.updated_at,
    )  # fmt: skip


def _message(row: Row[Any], *, siblings: tuple[str, ...] = (), generation_id: str | None = None) -> Message:
    return Message(
        id=row.id, chat_id=row.chat_id, parent_id=row.parent_id, role=row.role, content=row.content, model=row.model,
        status=row.status, error=row.error, usage=row.usage, created_at=row.created_at, siblings=siblings,
        generation_id=generation_id,
    )  # fmt: skip

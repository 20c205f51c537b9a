"""Routes: a principal's own chats. Other principals' chats do not exist here."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from lamplighter.gateway.chat.shapes import chat_json, message_json
from lamplighter.gateway.control.access import Anyone
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.store import chats
from lamplighter.store.chats import Chat, Message

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_EXPORT_LIMIT = 100_000


class Change(BaseModel):
    """What of a chat changes; what is absent stays. `system` null: no system prompt. `active`: a message of the branch to show."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    system: Annotated[str, StringConstraints(max_length=32_000)] | None = None
    active: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _real(self) -> Self:
        for name in self.model_fields_set - {"system"}:
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


@router.get("/api/chats")
async def list_chats(
    identity: Anyone,
    parts: _Parts,
    before: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    q: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """A page of chats, last changed first."""
    found, cursor = await chats.page(
        parts.services.store, identity.principal_id, limit=limit, before=before, q=q.strip() if q else None
    )
    return {"chats": [chat_json(chat) for chat in found], "next": cursor}


@router.get("/api/chats/{chat_id}")
async def read_chat(
    chat_id: str,
    identity: Anyone,
    parts: _Parts,
    before: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> dict[str, Any]:
    """The last messages of the active branch."""
    chat = await chats.get(parts.services.store, identity.principal_id, chat_id)
    found, more = await chats.branch(parts.services.store, chat, limit=limit, before=before)
    return {"chat": chat_json(chat), "messages": [message_json(message) for message in found], "more": more}


@router.patch("/api/chats/{chat_id}")
async def change_chat(chat_id: str, change: Change, identity: Anyone, parts: _Parts) -> dict[str, Any]:
    """Rename a chat, or set its model, its system prompt or its active branch."""
    values = {name: getattr(change, name) for name in change.model_fields_set - {"active"}}
    if "system" in values:
        values["system"] = values["system"] or None
    chat = await chats.change(parts.services.store, identity.principal_id, chat_id, values, active=change.active)
    return chat_json(chat)


@router.delete("/api/chats/{chat_id}", status_code=204)
async def delete_chat(chat_id: str, identity: Anyone, parts: _Parts) -> None:
    """Delete a chat; what is being written in it stops."""
    await parts.generations.remove_chat(identity, chat_id)


@router.get("/api/chats/{chat_id}/export")
async def export_chat(
    chat_id: str,
    identity: Anyone,
    parts: _Parts,
    format: Annotated[Literal["markdown", "json"], Query()] = "markdown",
) -> Response:
    """The active branch as Markdown, or the whole tree as JSON."""
    store = parts.services.store
    chat = await chats.get(store, identity.principal_id, chat_id)
    if format == "json":
        whole = {"chat": chat_json(chat), "messages": [message_json(message) for message in await chats.tree(store, chat)]}
        return _file(chat, "json", "application/json", json.dumps(whole, ensure_ascii=False, indent=2))
    branch = await chats.history(store, chat.leaf_id, limit=_EXPORT_LIMIT)
    return _file(chat, "md", "text/markdown; charset=utf-8", _markdown(chat, branch))


def _markdown(chat: Chat, branch: list[Message]) -> str:
    made = datetime.fromtimestamp(chat.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"# {chat.title}", f"*{made}*"]
    if chat.system:
        parts += ["## System prompt", chat.system]
    for message in branch:
        parts.append("## You" if message.role == "user" else f"## {message.model or 'Assistant'}")
        parts.append(message.content)
        if message.status not in ("done", "streaming"):
            parts.append(f"*({message.status})*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _file(chat: Chat, ending: str, media_type: str, text: str) -> Response:
    plain = "".join(char if char.isalnum() and char.isascii() else "-" for char in chat.title).strip("-") or "chat"
    real = quote(f"{chat.title.replace('/', '-')}.{ending}", safe="")
    disposition = f"attachment; filename=\"{plain[:60]}.{ending}\"; filename*=UTF-8''{real}"
    return Response(text, media_type=media_type, headers={"content-disposition": disposition})

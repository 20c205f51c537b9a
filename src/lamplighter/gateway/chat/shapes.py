"""What chats look like on the wire; `docs/reference/control-api.md` is the contract. Pure."""

from typing import Any

from lamplighter.core.errors import LamplighterError
from lamplighter.gateway.money import running_json
from lamplighter.store.chats import Chat, Message
from lamplighter.store.wakes import Wake


def chat_json(chat: Chat) -> dict[str, Any]:
    """A Chat."""
    return {
        "id": chat.id,
        "title": chat.title,
        "model": chat.model,
        "system": chat.system,
        "created_at": chat.created_at,
        "updated_at": chat.updated_at,
    }


def message_json(message: Message) -> dict[str, Any]:
    """A Message."""
    return {
        "id": message.id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": message.content,
        "model": message.model,
        "created_at": message.created_at,
        "status": message.status,
        "generation_id": message.generation_id,
        "error": message.error,
        "usage": message.usage,
        "siblings": list(message.siblings),
    }


def wake_json(wake: Wake) -> dict[str, Any]:
    """A Wake: all stages in order, future ones included."""
    known = wake.eta_p50 is not None and wake.eta_p90 is not None
    return {
        "id": wake.id,
        "started_at": wake.started_at,
        "stages": [stage.as_json() for stage in wake.stages],
        "eta": {"p50": wake.eta_p50, "p90": wake.eta_p90} if known else None,
        "cost": running_json(wake.entry),
    }


def error_json(error: LamplighterError) -> dict[str, Any]:
    """What a person is told of an error."""
    return {"code": error.code, "message": error.message, "next_step": error.next_step or None}

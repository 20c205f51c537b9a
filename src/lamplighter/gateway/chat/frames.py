"""The frames a client may send over the WebSocket, checked and typed. `docs/reference/control-api.md` is the contract."""

from typing import Annotated

import msgspec

from lamplighter.core.errors import RequestError

MAX_FRAME = 256 * 1024
"""Bytes of one frame."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_System = Annotated[str, msgspec.Meta(max_length=32_000)]


class Params(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling parameters; what is absent is left to the engine."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Ask a question, in a chat or in a new one."""

    client_request_id: _RequestId
    content: _Text
    model: _Model
    chat_id: _Id | None = None
    parent_id: _Id | None = None
    params: Params = Params()
    system: _System | None = None


class Regenerate(msgspec.Struct, frozen=True, tag="regenerate"):
    """Ask for another answer to the same question."""

    client_request_id: _RequestId
    chat_id: _Id
    message_id: _Id
    model: _Model
    params: Params = Params()


class Continue(msgspec.Struct, frozen=True, tag="continue"):
    """Ask for the rest of an answer that was cut short."""

    client_request_id: _RequestId
    chat_id: _Id
    message_id: _Id


class Tail(msgspec.Struct, frozen=True, tag="tail"):
    """Follow a generation from after `after`."""

    generation_id: _Id
    after: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


class Untail(msgspec.Struct, frozen=True, tag="untail"):
    """Follow it no longer."""

    generation_id: _Id


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop it."""

    generation_id: _Id


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Say that you are there."""


Frame = Start | Regenerate | Continue | Tail | Untail | Cancel | Ping
Beginning = Start | Regenerate | Continue

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


class _Head(msgspec.Struct):
    client_request_id: str | None = None
    generation_id: str | None = None


def parse(text: str) -> Frame:
    """One frame. Raises RequestError that says what is wrong with it."""
    try:
        frame = _decoder.decode(text)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"This frame is not understood: {error}.", code="bad_frame", next_step="Reload the page.") from error
    if isinstance(frame, Start) and not frame.content.strip():
        raise RequestError("The message is empty.", code="empty_message", param="content", next_step="Write something.")
    return frame


def subject(text: str) -> tuple[str | None, str | None]:
    """The `client_request_id` and `generation_id` that a frame we refused was about, as far as it can be read."""
    try:
        head = msgspec.json.decode(text, type=_Head)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
        return None, None
    return head.client_request_id, head.generation_id


def params_json(params: Params) -> dict[str, float | int]:
    """As they are stored and sent to engines."""
    found: dict[str, float | int] = msgspec.to_builtins(params)  # leaves out what is absent
    return found

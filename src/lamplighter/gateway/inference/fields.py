"""The top level of a JSON body as name and raw bytes of each value, and the checks that all routes share. Every error names its field."""

from typing import Any

import msgspec

from lamplighter.core.errors import RequestError

Fields = dict[str, msgspec.Raw]

_CONTENT = frozenset(b'"[n')
"""How a JSON string, list or null begins."""
_MAX_CHOICES = 128
_MAX_TOKENS = 2**31 - 1
_BOM = b"\xef\xbb\xbf"
_NULL = msgspec.Raw(b"null")


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: msgspec.Raw = _NULL


_fields = msgspec.json.Decoder(Fields)
_messages = msgspec.json.Decoder(list[Message])
_text = msgspec.json.Decoder(str)
_whole = msgspec.json.Decoder(int)
_any = msgspec.json.Decoder()


def read(raw: bytes) -> Fields:
    """The fields of a body. Raises RequestError 400."""
    if raw.startswith(_BOM):
        raw = raw[3:]
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise malformed(f"it is not UTF-8 (byte {error.start})") from None
    try:
        return _fields.decode(raw)
    except msgspec.ValidationError:
        raise RequestError("The request's body must be a JSON object.", code="invalid_body") from None
    except msgspec.DecodeError as error:
        raise malformed(str(error).removeprefix("JSON is malformed: ")) from None
    except RecursionError:
        raise malformed("it is nested too deeply") from None


def encode(body: dict[str, Any]) -> Fields:
    """Fields from Python values, for callers in this process."""
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}


def given(fields: Fields, name: str) -> msgspec.Raw | None:
    """The value's bytes; None when it is absent or null."""
    raw = fields.get(name)
    return None if raw is None or bytes(memoryview(raw)[:4]) == b"null" else raw


def value(fields: Fields, name: str) -> Any:
    """The value itself; None when it is absent. Raises RequestError 400 for one nested too deeply."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _any.decode(raw)
    except RecursionError:
        raise malformed("it is nested too deeply") from None


def inner(fields: Fields, name: str) -> Fields:
    """The fields of an object; none when it is absent or null. Raises RequestError 400."""
    raw = given(fields, name)
    if raw is None:
        return {}
    try:
        return _fields.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        raise wrong(name, "an object") from None


def string(fields: Fields, name: str) -> str:
    """A string that must be there and must not be empty."""
    raw = fields.get(name)
    if raw is None:
        raise missing(name)
    try:
        found = _text.decode(raw)
    except msgspec.MsgspecError:
        raise wrong(name, "a string") from None
    if not found:
        raise wrong(name, "a string that is not empty")
    return found


def flag(fields: Fields, name: str, param: str | None = None, *, default: bool = False) -> bool:
    """A boolean; absent or null: `default`."""
    raw = fields.get(name)
    if raw is None:
        return default
    found = bytes(raw)
    if found == b"true":
        return True
    if found == b"false":
        return False
    if found == b"null":
        return default
    raise wrong(param or name, "true or false")


def check_tokens(fields: Fields, *names: str, least: int = 1) -> None:
    """Bounds on how long an answer may be."""
    for name in names:
        if name in fields:
            _check_number(fields, name, least, _MAX_TOKENS)


def check_choices(fields: Fields) -> None:
    """How many answers are wanted at once."""
    if "n" in fields:
        _check_number(fields, "n", 1, _MAX_CHOICES)


def _check_number(fields: Fields, name: str, least: int, most: int) -> None:
    raw = fields.get(name)
    if raw is None:
        return
    try:
        found = _whole.decode(raw)
    except msgspec.MsgspecError:
        if bytes(raw) == b"null":
            return
        raise wrong(name, "a whole number") from None
    if not least <= found <= most:
        raise RequestError(
            f"The field `{name}` must be between {least} and {most}; got {str(found)[:40]}.", param=name, code="invalid_value"
        )


def whole_number(fields: Fields, name: str) -> int | None:
    """A whole number that was checked before; None when it is absent, null or anything else."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _whole.decode(raw)
    except msgspec.MsgspecError:
        return None


def check_messages(fields: Fields) -> list[Message]:
    """The messages of a chat, of which only the roles and the kind of content are looked at."""
    raw = fields.get("messages")
    if raw is None:
        raise missing("messages")
    try:
        messages = _messages.decode(raw)
    except RecursionError:
        raise malformed("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        # msgspec says where: "... - at `$[0].role`".
        _, _, place = str(error).partition("$")
        param = f"messages{place.strip('`')}"
        raise RequestError(
            "The field `messages` must be a list of objects, each with a `role` that is a string.",
            param=param,
            code="invalid_type",
        ) from None
    if not messages:
        raise RequestError("The field `messages` must have at least one message.", param="messages", code="invalid_value")
    for index, message in enumerate(messages):
        if memoryview(message.content)[0] not in _CONTENT:  # its beginning tells its type; it may be megabytes
            raise wrong(f"messages[{index}].content", "a string, a list of parts, or null")
    return messages


def check_text(fields: Fields, name: str) -> None:
    """A prompt or an input: a string, or a list that is not empty (of strings, of token numbers, of parts)."""
    raw = fields.get(name)
    if raw is None:
        raise missing(name)
    begins = bytes(memoryview(raw)[:64])  # its beginning tells; it may be megabytes
    if begins.startswith(b'"'):
        return
    if not begins.startswith(b"["):
        raise wrong(name, "a string or a list")
    _check_filled(begins, name)


def check_list(fields: Fields, name: str) -> None:
    """A list that is not empty."""
    raw = fields.get(name)
    if raw is None:
        raise missing(name)
    begins = bytes(memoryview(raw)[:64])
    if not begins.startswith(b"["):
        raise wrong(name, "a list")
    _check_filled(begins, name)


def _check_filled(begins: bytes, name: str) -> None:
    if begins[1:].lstrip().startswith(b"]"):
        raise RequestError(f"The field `{name}` must not be empty.", param=name, code="invalid_value")


def missing(name: str) -> RequestError:
    """A field that must be there is not."""
    return RequestError(f"The field `{name}` is missing.", param=name, code="missing_required_parameter")


def malformed(why: str) -> RequestError:
    """The body is no JSON."""
    return RequestError(f"The request's body is not valid JSON: {why}.", code="invalid_json")


def wrong(name: str, wanted: str) -> RequestError:
    """A field has the wrong type."""
    return RequestError(f"The field `{name}` must be {wanted}.", param=name, code="invalid_type")

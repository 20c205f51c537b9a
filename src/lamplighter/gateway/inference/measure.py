"""What can be told of a request without running it: how many tokens it may cost at the most, and what its prompt begins with.

Pure functions over fields that were checked before. Not responsible for prices, limits or routing, which are made of these.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lamplighter.gateway.inference.fields import Fields, Message, given, value, whole_number

TEMPLATE_TOKENS = 128
"""Tokens that a chat template may add of its own: a system message, the date, the beginning of the answer."""
MEDIA_TOKENS = 16_384
"""Tokens of one picture, sound or file at the most: what Qwen2.5-VL makes of its largest picture, the largest that we know of."""

_PROMPT = {
    "chat": ("messages", "tools", "functions", "response_format"),
    "completions": ("prompt", "suffix"),
    "embeddings": ("input",),
    "responses": ("instructions", "input", "tools", "text", "prompt"),
    "messages": ("system", "messages", "tools"),
    "rerank": ("query", "documents"),
}
_ANSWER = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
_MEDIA = frozenset(
    {
        "image_url", "input_image", "image", "input_audio", "audio_url", "audio", "video_url", "video", "file", "input_file", "document",
    }
)  # fmt: skip
_MEDIA_SIGNS = (b"image", b"audio", b"video", b"file", b"document")
_BEGINNING = 2048
"""Bytes of one message, or of a plain prompt, that count as its beginning."""
_FIRST = frozenset({"system", "developer"})


def bound(route: str, fields: Fields) -> tuple[int, int | None]:
    """Tokens that the prompt and the answer can have at the most; None for an answer that only the model's context bounds.

    No tokenizer makes more tokens than there are bytes of text, and what JSON adds around each message is more than a template adds.
    """
    names = _PROMPT.get(route)
    if names is None:
        return 0, 0
    prompt = 0
    for name in names:
        if name in fields:
            prompt += _weight(fields[name])
    if route == "rerank":  # the query is read again with each document
        prompt += _count(fields, "documents") * len(memoryview(fields["query"]))
    limits = _ANSWER.get(route)
    if limits is None:
        return prompt, 0
    prompt += TEMPLATE_TOKENS
    for name in limits:
        if name in fields and (limit := whole_number(fields, name)) is not None:
            several = "n" in fields or route == "completions"
            return prompt, limit * _answers(route, fields) if several else limit
    return prompt, None


def _answers(route: str, fields: Fields) -> int:
    """How many answers are written for one request."""
    count = whole_number(fields, "n") or 1 if "n" in fields else 1
    if route == "completions":
        count = max(count, whole_number(fields, "best_of") or 1)
        raw = fields["prompt"]
        if bytes(memoryview(raw)[:1]) == b"[" and bytes(memoryview(raw)[1:64]).lstrip()[:1] in {b'"', b"["}:
            count *= _count(fields, "prompt")  # a list of prompts; a list of numbers is one
    return count


def _count(fields: Fields, name: str) -> int:
    found = value(fields, name)
    return len(found) if isinstance(found, list) else 1


def _weight(raw: msgspec.Raw) -> int:
    data = bytes(raw)
    if b'"type"' not in data or not any(sign in data for sign in _MEDIA_SIGNS):  # text alone, as nearly always
        return len(data)
    try:
        return _walk(msgspec.json.decode(data))
    except RecursionError:
        return len(data)


def _walk(found: Any) -> int:
    """As `_weight`, but a picture counts as a picture and not as the text that carries it."""
    if isinstance(found, str):
        return len(found.encode(errors="replace")) + 4
    if isinstance(found, Mapping):
        if found.get("type") in _MEDIA:
            return MEDIA_TOKENS
        return sum(len(str(name)) + 4 + _walk(item) for name, item in found.items())
    if isinstance(found, Sequence):
        return sum(_walk(item) + 2 for item in found)
    return len(str(found))


def prefix(route: str, fields: Fields, messages: Sequence[Message]) -> bytes:
    """A digest (8 bytes) of what the prompt begins with, the same for all turns of one conversation; b"" when there is no prompt.

    A chat is known by its instructions and the first message after them: later turns only add to it, so they share its cache.
    """
    parts: list[bytes | memoryview] = []
    if messages:
        if (system := given(fields, "system")) is not None:
            parts.append(memoryview(system)[:_BEGINNING])
        for message in messages:
            parts += (message.role.encode(errors="replace"), memoryview(message.content)[:_BEGINNING])
            if message.role not in _FIRST:
                break
        return _digest(parts)
    if route == "responses" and (instructions := given(fields, "instructions")) is not None:
        parts.append(memoryview(instructions)[:_BEGINNING])
    raw = given(fields, "prompt" if route == "completions" else "input")
    if raw is None or route not in {"completions", "responses"}:
        return b""
    if route == "responses" and isinstance(items := value(fields, "input"), list):
        parts.append(msgspec.json.encode(items[:1])[:_BEGINNING])
    else:
        parts.append(memoryview(raw)[:_BEGINNING])
    return _digest(parts)


def _digest(parts: list[bytes | memoryview]) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=8).digest()

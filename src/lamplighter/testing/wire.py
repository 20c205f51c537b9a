"""What a pretended engine says: OpenAI's objects, llama.cpp's errors. Not responsible for when, how fast, or whether at all."""

import base64
import hashlib
import json
import struct
from typing import Any

_EMBEDDING_SIZE = 8


class Writing:
    """One answer: how long, in which of the two shapes."""

    def __init__(self, body: dict[str, Any], *, chat: bool, prompt: int, tokens: int) -> None:
        self.body = body
        self.chat = chat
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        self.count = min(tokens, limit) if isinstance(limit, int) else tokens
        self.finish = "length" if self.count < tokens else "stop"
        self.usage = {"prompt_tokens": prompt, "completion_tokens": self.count, "total_tokens": prompt + self.count}
        self.head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + hashlib.sha256(repr(body).encode()).hexdigest()[:12],
            "created": 0,
            "model": body.get("model", ""),
        }

    def event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """One chunk of a stream."""
        choice = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return dump({**self.head, "object": kind, "choices": [{"index": 0, **choice, "finish_reason": finish}]})

    def usage_event(self) -> bytes:
        """The chunk that tells the usage."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return dump({**self.head, "object": kind, "choices": [], "usage": self.usage})

    def whole(self, text: str) -> dict[str, Any]:
        """The whole answer."""
        choice = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [{"index": 0, **choice, "finish_reason": self.finish}]
        return {**self.head, "object": kind, "choices": choices, "usage": self.usage}


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def error_object(message: str, code: int, kind: str) -> dict[str, Any]:
    """llama.cpp's error object."""
    return {"error": {"code": code, "message": message, "type": kind}}


def count_words(value: Any) -> int:
    """Words in whatever a prompt is made of: what the fake counts as tokens."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(count_words(item) for item in value)
    if isinstance(value, dict):
        return sum(count_words(item) for name, item in value.items() if name in ("content", "text"))
    return 1 if isinstance(value, int) else 0


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to `/v1/embeddings`: the same text always has the same vector."""
    inputs = body.get("input", "")
    texts = inputs if isinstance(inputs, list) else [inputs]
    data = []
    for index, text in enumerate(texts):
        digest = hashlib.sha256(repr(text).encode()).digest()
        vector = [byte / 255 for byte in digest[:_EMBEDDING_SIZE]]
        packed = base64.b64encode(struct.pack(f"<{_EMBEDDING_SIZE}f", *vector)).decode()
        data.append(
            {"object": "embedding", "index": index, "embedding": packed if body.get("encoding_format") == "base64" else vector}
        )
    tokens = sum(count_words(text) for text in texts)
    return {
        "object": "list",
        "model": body.get("model", ""),
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }

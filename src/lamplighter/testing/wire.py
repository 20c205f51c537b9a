"""What a pretended engine says: OpenAI's objects, llama.cpp's errors. Not responsible for when, how fast, or whether at all."""

import base64
import hashlib
import json
import struct
from typing import Any

_EMBEDDING_SIZE = 8


Event = tuple[str | None, bytes]
"""One event of a stream: its name, if the shape has names, and its data."""


class Writing:
    """One answer: how long, and in OpenAI's shape of chats or completions. The other shapes are below."""

    def __init__(self, body: dict[str, Any], *, chat: bool, prompt: int, tokens: int) -> None:
        self.body = body
        self.chat = chat
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
        self.count = min(tokens, limit) if isinstance(limit, int) else tokens
        self.finish = "length" if self.count < tokens else "stop"
        self.begun = 0
        """Words that were there before: it goes on after them."""
        self.usage = {"prompt_tokens": prompt, "completion_tokens": self.count, "total_tokens": prompt + self.count}
        self.identity = hashlib.sha256(repr(body).encode()).hexdigest()[:12]
        self.head = {"id": ("chatcmpl-" if chat else "cmpl-") + self.identity, "created": 0, "model": body.get("model", "")}

    def event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        """One chunk of a stream."""
        choice = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return dump({**self.head, "object": kind, "choices": [{"index": 0, **choice, "finish_reason": finish}]})

    def begin(self) -> list[Event]:
        """What comes before the first word."""
        return [(None, self.event({"role": "assistant", "content": None}))] if self.chat else []

    def word(self, word: str) -> Event:
        """One word."""
        return None, self.event({"content": word})

    def end(self, text: str, *, usage: bool) -> list[Event]:
        """What comes after the last word, but for the word that ends the stream itself. `usage`: whether it may be told."""
        events: list[Event] = [(None, self.event({}, finish=self.finish))]
        options = self.body.get("stream_options")
        if usage and isinstance(options, dict) and options.get("include_usage"):
            kind = "chat.completion.chunk" if self.chat else "text_completion"
            events.append((None, dump({**self.head, "object": kind, "choices": [], "usage": self.usage})))
        return events

    def last(self, text: str) -> Event:
        """What says that the stream is whole."""
        return None, b"[DONE]"

    def whole(self, text: str) -> dict[str, Any]:
        """The whole answer."""
        choice = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [{"index": 0, **choice, "finish_reason": self.finish}]
        return {**self.head, "object": kind, "choices": choices, "usage": self.usage}


class MessagesWriting(Writing):
    """The same in Anthropic's shape."""

    @property
    def _tokens(self) -> dict[str, int]:
        return {"input_tokens": self.usage["prompt_tokens"], "output_tokens": self.count}

    def _message(self, content: list[dict[str, Any]], reason: str | None, tokens: dict[str, int]) -> dict[str, Any]:
        return {
            "id": f"msg_{self.identity}",
            "type": "message",
            "role": "assistant",
            "model": self.body.get("model", ""),
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": tokens,
        }

    def begin(self) -> list[Event]:
        """The message without words."""
        message = self._message([], None, {**self._tokens, "output_tokens": 0})
        block = named("content_block_start", index=0, content_block={"type": "text", "text": ""})
        return [named("message_start", message=message), block]

    def word(self, word: str) -> Event:
        """One word."""
        return named("content_block_delta", index=0, delta={"type": "text_delta", "text": word})

    def end(self, text: str, *, usage: bool) -> list[Event]:
        """Why it ended."""
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        more = {"usage": {"output_tokens": self.count}} if usage else {}
        return [named("content_block_stop", index=0), named("message_delta", delta=delta, **more)]

    @property
    def _reason(self) -> str:
        return "max_tokens" if self.finish == "length" else "end_turn"

    def last(self, text: str) -> Event:
        """`message_stop`."""
        return named("message_stop")

    def whole(self, text: str) -> dict[str, Any]:
        """The whole message."""
        return self._message([{"type": "text", "text": text}], self._reason, self._tokens)


class ResponsesWriting(Writing):
    """The same as a Response, with what llama.cpp leaves out left out."""

    def begin(self) -> list[Event]:
        """The response without words."""
        response = {"id": f"resp_{self.identity}", "object": "response", "status": "in_progress"}
        item = {"id": f"msg_{self.identity}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": ""}
        return [
            named("response.created", response=response),
            named("response.output_item.added", item=item),
            named("response.content_part.added", item_id=item["id"], part=part),
        ]

    def word(self, word: str) -> Event:
        """One word."""
        return named("response.output_text.delta", item_id=f"msg_{self.identity}", delta=word)

    def end(self, text: str, *, usage: bool) -> list[Event]:
        """The text again."""
        return [
            named("response.output_text.done", item_id=f"msg_{self.identity}", text=text),
            named("response.output_item.done", item=self.whole(text)["output"][0]),
        ]

    def last(self, text: str) -> Event:
        """The whole response, with its usage."""
        return named("response.completed", response=self.whole(text))

    def whole(self, text: str) -> dict[str, Any]:
        """The whole response."""
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        item = {"id": f"msg_{self.identity}", "type": "message", "role": "assistant", "status": "completed", "content": content}
        prompt = self.usage["prompt_tokens"]
        tokens = {"input_tokens": prompt, "output_tokens": self.count, "total_tokens": prompt + self.count}
        return {
            "id": f"resp_{self.identity}",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "model": self.body.get("model", ""),
            "output": [item],
            "usage": {**tokens, "input_tokens_details": {"cached_tokens": 0}},
        }


def named(type: str, **fields: Any) -> Event:
    """An event with a name, which its data repeats."""
    return type, dump({"type": type, **fields})


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


def tokenized(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to `/tokenize` in llama.cpp's shape: one number for each word."""
    words = str(body.get("content", "")).split()
    return {"tokens": [int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") for word in words]}


def detokenized(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to `/detokenize`: the numbers as words."""
    return {"content": " ".join(str(token) for token in body.get("tokens", []))}


def reranked(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to `/v1/rerank`: documents that share words with the query come first."""
    query = set(str(body.get("query", "")).split())
    texts = [item.get("text", "") if isinstance(item, dict) else str(item) for item in body.get("documents", [])]
    scores = [(len(query & set(text.split())) / max(1, len(query)), index) for index, text in enumerate(texts)]
    results = [{"index": index, "relevance_score": score} for score, index in sorted(scores, key=lambda one: (-one[0], one[1]))]
    tokens = sum(count_words(text) for text in texts)
    return {
        "model": body.get("model", ""),
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[: body.get("top_n") or len(results)],
    }

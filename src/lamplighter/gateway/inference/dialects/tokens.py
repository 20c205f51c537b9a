"""Tokenizing and reranking: one JSON object each. llama.cpp and vLLM name a few fields differently; clients see both names.

Not a dialect of anybody's streams: these routes have none.
"""

from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.dialects.openai import OpenAIDialect
from lamplighter.gateway.inference.fields import Fields, given, missing, read, string, wrong
from lamplighter.gateway.inference.request import InferenceRequest, from_fields
from lamplighter.gateway.sse import Usage

_ALIASES = {"add_special_tokens": "add_special", "return_token_strs": "with_pieces"}
"""vLLM's name of an option, llama.cpp's name of it."""


def parse_tokenize(raw: bytes) -> InferenceRequest:
    """`{"model", "prompt"}` (vLLM's words) or `{"model", "content"}` (llama.cpp's); the engine gets both. Raises RequestError 400."""
    fields = read(raw)
    string(fields, "model")
    if given(fields, "messages") is not None:
        raise RequestError(
            "A chat cannot be tokenized here, only text.",
            param="messages",
            code="unsupported_value",
            next_step="Send `prompt`. How many tokens a chat has, `/v1/messages/count_tokens` tells.",
        )
    name = "content" if given(fields, "content") is not None else "prompt"
    text = given(fields, name)
    if text is None:
        raise missing("prompt")
    if bytes(memoryview(text)[:1]) != b'"':
        raise wrong(name, "a string")
    return from_fields("tokenize", {**_both(fields), "prompt": text, "content": text})


def _both(fields: Fields) -> Fields:
    found = dict(fields)
    for one, other in _ALIASES.items():
        if one in found:
            found.setdefault(other, found[one])
        elif other in found:
            found[one] = found[other]
    return found


class TokensDialect(OpenAIDialect):
    """Answers of `/tokenize` and `/detokenize` with the fields of both engines."""

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """Completed. It costs no tokens. Raises ValueError when it is not one whole JSON object."""
        found = _object(body)
        if request.route == "tokenize":
            tokens = found.get("tokens")
            if isinstance(tokens, list):
                found.setdefault("count", len(tokens))
        else:
            text = found.get("prompt", found.get("content"))
            found = {**found, "prompt": text, "content": text}
        return msgspec.json.encode(found), Usage()


class RerankDialect(OpenAIDialect):
    """Jina's and Cohere's shape, as vLLM and llama.cpp both speak it."""

    def whole(self, body: bytes, request: InferenceRequest) -> tuple[bytes, Usage | None]:
        """As it came; the tokens are all the prompt's. Raises ValueError when it is not one whole JSON object."""
        usage = _object(body).get("usage")
        if not isinstance(usage, dict):
            return body, None
        tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
        return body, Usage(tokens, 0) if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the caller knows one kind of bad body
    return found


TOKENS = TokensDialect()
RERANK = RerankDialect()

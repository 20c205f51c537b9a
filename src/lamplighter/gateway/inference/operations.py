"""The table of what clients can ask of a model: path, how the request is read, in which dialect the answer goes back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lamplighter.gateway.inference.dialects.anthropic import ANTHROPIC
from lamplighter.gateway.inference.dialects.base import Dialect
from lamplighter.gateway.inference.dialects.openai import OPENAI
from lamplighter.gateway.inference.dialects.responses import RESPONSES
from lamplighter.gateway.inference.dialects.tokens import RERANK, TOKENS, parse_tokenize
from lamplighter.gateway.inference.request import InferenceRequest, parse
from lamplighter.gateway.ollama import answers as ollama
from lamplighter.gateway.ollama import requests as ollama_requests


@dataclass(frozen=True, slots=True)
class Operation:
    """One POST route. `name`: its label in metrics, logs and accounts. `parse` raises RequestError 400 that names the field."""

    path: str
    name: str
    dialect: Dialect
    parse: Callable[[bytes], InferenceRequest]


_DETOKENIZE = partial(parse, "detokenize")
_RERANK = partial(parse, "rerank")

OPERATIONS: dict[str, Operation] = {
    operation.path: operation
    for operation in (
        Operation("/v1/chat/completions", "chat", OPENAI, partial(parse, "chat")),
        Operation("/v1/completions", "completions", OPENAI, partial(parse, "completions")),
        Operation("/v1/embeddings", "embeddings", OPENAI, partial(parse, "embeddings")),
        Operation("/v1/responses", "responses", RESPONSES, partial(parse, "responses")),
        Operation("/v1/messages", "messages", ANTHROPIC, partial(parse, "messages")),
        Operation("/v1/messages/count_tokens", "count_tokens", ANTHROPIC, partial(parse, "count_tokens")),
        Operation("/v1/rerank", "rerank", RERANK, _RERANK),
        Operation("/rerank", "rerank", RERANK, _RERANK),
        Operation("/v1/tokenize", "tokenize", TOKENS, parse_tokenize),
        Operation("/tokenize", "tokenize", TOKENS, parse_tokenize),
        Operation("/v1/detokenize", "detokenize", TOKENS, _DETOKENIZE),
        Operation("/detokenize", "detokenize", TOKENS, _DETOKENIZE),
        Operation("/api/chat", "ollama_chat", ollama.CHAT, ollama_requests.parse_chat),
        Operation("/api/generate", "ollama_generate", ollama.GENERATE, ollama_requests.parse_generate),
        Operation("/api/embed", "ollama_embed", ollama.EMBED, ollama_requests.parse_embed),
        Operation("/api/embeddings", "ollama_embeddings", ollama.EMBEDDINGS, ollama_requests.parse_embeddings),
    )
}
"""By path."""

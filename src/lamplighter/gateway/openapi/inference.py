"""Describes the inference routes: what is checked of a request, what an answer has for certain, and every status that can come.

Engines know more fields than are named here; they pass through, so every object may have others.
"""

from typing import Any

from lamplighter.gateway.inference.operations import OPERATIONS

Json = dict[str, Any]

ERRORS: dict[int, str] = {
    400: "The request is wrong, too long for the model, or the model does not serve this route.",
    401: "No key, or one that does not open.",
    402: "A budget does not allow the wake of this model.",
    403: "The key may not ask this model.",
    404: "There is no such model.",
    405: "Another method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is compressed, or in another encoding.",
    429: "A limit is reached, or too many wait for the model.",
    500: "A defect of the gateway.",
    502: "The engine failed, and asking again did not help.",
    503: "The model sleeps, wakes or cannot be reached; `Retry-After` says when to ask again.",
    504: "The engine did not answer in time.",
}
_RETRY = {429, 503}


def ref(name: str) -> Json:
    """A component schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...] = (), description: str = "", /, **properties: Any) -> Json:
    found: Json = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    return {**found, "description": description} if description else found


def _maybe(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


_STRING: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": ["boolean", "null"]}
_MOST = _maybe({"type": "integer", "minimum": 1, "maximum": 2**31 - 1})
_MODEL = ref("ModelName")
_TEXT: Json = {"anyOf": [_STRING, {"type": "array", "minItems": 1}]}
_MESSAGES: Json = {"type": "array", "minItems": 1, "items": ref("Message")}
_USAGE = _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE)
_CHOICES: Json = {"type": "array", "items": {"type": "object"}}
_DURATION: Json = {"type": "integer", "minimum": 0, "description": "nanoseconds"}
_DURATIONS = {
    "total_duration": _DURATION,
    "load_duration": _DURATION,
    "prompt_eval_duration": _DURATION,
    "eval_duration": _DURATION,
}
_OLLAMA = {
    "options": {"type": ["object", "null"], "properties": {"num_predict": {"type": ["integer", "null"]}}},
    "stream": {"type": ["boolean", "null"], "default": True},
    "keep_alive": {"type": ["string", "number", "null"]},
    "format": {"anyOf": [{"type": ["object", "null"]}, {"enum": ["", "json"]}]},
    "think": {"type": ["boolean", "string", "null"]},
}
_PIECE = {"model": _STRING, "created_at": _STRING, "done": {"type": "boolean"}, "done_reason": _STRING, **_DURATIONS,
          "prompt_eval_count": _WHOLE, "eval_count": _WHOLE}  # fmt: skip

SCHEMAS: dict[str, Json] = {
    "ModelName": {"type": "string", "minLength": 1, "description": "A model of `GET /v1/models`, or an alias of one."},
    "Message": _object(("role",), role=_STRING, content={"type": ["string", "array", "null"]}),
    "Error": _object(
        ("error",),
        error=_object(
            ("message", "type", "code"),
            message=_STRING,
            type=_STRING,
            param={"type": ["string", "null"]},
            code={"type": ["string", "null"]},
            next_step={"type": ["string", "null"], "description": "What to do about it."},
            stage={"type": ["string", "null"], "description": "Where a wake is."},
            eta_seconds={"type": ["number", "null"], "description": "Seconds until it is expected to be done."},
        ),
    ),
    "AnthropicError": _object(("type", "error"), type={"const": "error"}, error=_object(("type", "message"), type=_STRING, message=_STRING)),
    "OllamaError": _object(("error",), error=_STRING),
    "ChatRequest": _object(
        ("model", "messages"),
        model=_MODEL,
        messages=_MESSAGES,
        stream=_FLAG,
        stream_options={"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
        max_tokens=_MOST,
        max_completion_tokens=_MOST,
        n=_maybe({"type": "integer", "minimum": 1, "maximum": 128}),
    ),
    "ChatAnswer": _object(("choices",), id=_STRING, object=_STRING, model=_STRING, choices=_CHOICES, usage=_USAGE),
    "CompletionRequest": _object(
        ("model", "prompt"), model=_MODEL, prompt=_TEXT, stream=_FLAG,
        max_tokens=_maybe({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}),
    ),
    "EmbeddingRequest": _object(("model", "input"), model=_MODEL, input=_TEXT),
    "EmbeddingAnswer": _object(("data",), object=_STRING, data={"type": "array", "items": {"type": "object"}}, usage=_USAGE),
    "ResponsesRequest": _object(("model", "input"), model=_MODEL, input=_TEXT, stream=_FLAG, max_output_tokens=_MOST),
    "ResponsesAnswer": _object(
        ("id", "status", "output"), id=_STRING, object={"const": "response"}, status=_STRING,
        output={"type": "array", "items": {"type": "object"}},
    ),
    "MessagesRequest": _object(
        ("model", "messages", "max_tokens"), model=_MODEL, messages=_MESSAGES, stream=_FLAG,
        max_tokens={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    ),
    "MessagesAnswer": _object(
        ("type", "role", "content"), type={"const": "message"}, role={"const": "assistant"},
        content={"type": "array", "items": {"type": "object"}},
    ),
    "CountTokensRequest": _object(("model", "messages"), model=_MODEL, messages=_MESSAGES),
    "CountTokensAnswer": _object(("input_tokens",), input_tokens=_WHOLE),
    "RerankRequest": _object(
        ("model", "query", "documents"), model=_MODEL, query={"type": "string", "minLength": 1},
        documents={"type": "array", "minItems": 1}, top_n={"type": ["integer", "null"], "minimum": 1},
    ),
    "RerankAnswer": _object(
        ("results",), results={"type": "array", "items": _object(("index",), index=_WHOLE, relevance_score=_NUMBER)}
    ),
    "TokenizeRequest": _object(("model", "prompt"), "`content`, llama.cpp's name of it, is understood too.", model=_MODEL, prompt=_STRING),
    "TokenizeAnswer": _object(("tokens", "count"), tokens={"type": "array"}, count=_WHOLE),
    "DetokenizeRequest": _object(
        ("model", "tokens"), model=_MODEL, tokens={"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
    ),
    "DetokenizeAnswer": _object(("prompt", "content"), prompt={"type": ["string", "null"]}, content={"type": ["string", "null"]}),
    "OllamaMessage": _object(
        ("role",), role=_STRING, content={"type": ["string", "null"]},
        images={"type": ["array", "null"], "items": _STRING, "description": "Pictures in base64."},
    ),
    "OllamaChatRequest": _object(
        ("model",), "Without messages: an order to load the model.",
        model=_MODEL, messages={"type": ["array", "null"], "items": ref("OllamaMessage")}, **_OLLAMA,
    ),
    "OllamaChatAnswer": _object(("model", "message", "done"), message={"type": "object"}, **_PIECE),
    "OllamaGenerateRequest": _object(
        ("model",), "Without a prompt: an order to load the model.",
        model=_MODEL, prompt={"type": ["string", "null"]}, system={"type": ["string", "null"]}, raw=_FLAG,
        images={"type": ["array", "null"], "items": _STRING}, **_OLLAMA,
    ),
    "OllamaGenerateAnswer": _object(("model", "response", "done"), response=_STRING, **_PIECE),
    "OllamaEmbedRequest": _object(("model", "input"), model=_MODEL, input=_TEXT),
    "OllamaEmbedAnswer": _object(("embeddings",), embeddings={"type": "array", "items": {"type": "array", "items": _NUMBER}}),
    "OllamaEmbeddingsRequest": _object(("model", "prompt"), model=_MODEL, prompt=_STRING),
    "OllamaEmbeddingsAnswer": _object(("embedding",), embedding={"type": "array", "items": _NUMBER}),
}  # fmt: skip

_ROUTES: dict[str, tuple[str, str, str, str]] = {
    "chat": ("OpenAI", "Answer a chat", "ChatRequest", "ChatAnswer"),
    "completions": ("OpenAI", "Continue a text", "CompletionRequest", "ChatAnswer"),
    "embeddings": ("OpenAI", "Texts as vectors", "EmbeddingRequest", "EmbeddingAnswer"),
    "responses": ("OpenAI", "Answer, as a Response", "ResponsesRequest", "ResponsesAnswer"),
    "messages": ("Anthropic", "Answer a chat", "MessagesRequest", "MessagesAnswer"),
    "count_tokens": ("Anthropic", "How many tokens a chat has", "CountTokensRequest", "CountTokensAnswer"),
    "rerank": ("Other", "Documents in the order of their relevance", "RerankRequest", "RerankAnswer"),
    "tokenize": ("Other", "A text as tokens", "TokenizeRequest", "TokenizeAnswer"),
    "detokenize": ("Other", "Tokens as a text", "DetokenizeRequest", "DetokenizeAnswer"),
    "ollama_chat": ("Ollama", "Answer a chat", "OllamaChatRequest", "OllamaChatAnswer"),
    "ollama_generate": ("Ollama", "Answer a prompt", "OllamaGenerateRequest", "OllamaGenerateAnswer"),
    "ollama_embed": ("Ollama", "Texts as vectors", "OllamaEmbedRequest", "OllamaEmbedAnswer"),
    "ollama_embeddings": ("Ollama", "One text as a vector (older)", "OllamaEmbeddingsRequest", "OllamaEmbeddingsAnswer"),
}
"""By the operation's name: tag, summary, request, answer."""
_STREAMED = {
    "chat": "text/event-stream",
    "completions": "text/event-stream",
    "responses": "text/event-stream",
    "messages": "text/event-stream",
    "ollama_chat": "application/x-ndjson",
    "ollama_generate": "application/x-ndjson",
}
_EVENT = _object(
    ("data",), "One event; the data is JSON, or `[DONE]` at the end of OpenAI's older streams.", event=_STRING, data=_STRING
)
HEADERS = [
    ("Lamplighter-Wake", {"type": "string", "enum": ["wait", "local", "fail"]}, "What to do when the model sleeps."),
    ("Lamplighter-Session", {"type": "string", "maxLength": 256}, "Requests with the same value go to the same replica."),
]


def error(status: int, description: str, shape: str = "Error") -> Json:
    """One error answer."""
    found: Json = {"description": description, "content": {"application/json": {"schema": ref(shape)}}}
    if status in _RETRY:
        found["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1, "maximum": 60}}
        }
    return found


def shape_of(path: str) -> str:
    """The schema of a path's errors."""
    if path.startswith("/v1/messages"):
        return "AnthropicError"
    return "OllamaError" if OPERATIONS[path].name.startswith("ollama_") else "Error"


def paths() -> dict[str, Json]:
    """Every inference route."""
    found: dict[str, Json] = {}
    for path, operation in OPERATIONS.items():
        tag, summary, request, answer = _ROUTES[operation.name]
        content: Json = {"application/json": {"schema": ref(answer)}}
        if operation.name in _STREAMED:
            content[_STREAMED[operation.name]] = {"schema": _EVENT if path.startswith("/v1") else {"type": "string"}}
        found[path] = {
            "post": {
                "tags": [tag],
                "summary": summary,
                "operationId": path.strip("/").replace("/", "_"),
                "parameters": [
                    {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
                    for name, schema, text in HEADERS
                ],
                "requestBody": {"required": True, "content": {"application/json": {"schema": ref(request)}}},
                "responses": {
                    "200": {"description": "The answer, whole or as a stream.", "content": content},
                    **{str(status): error(status, text, shape_of(path)) for status, text in ERRORS.items()},
                },
            }
        }
    return found

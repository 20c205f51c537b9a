"""Writes `docs/reference/http-api.md` from the document."""

from typing import Any

_TAGS = {
    "OpenAI": "OpenAI's API. [openai-api.md](openai-api.md) says more.",
    "Anthropic": 'Anthropic\'s API, with its own errors: `{"type": "error", "error": {...}}`.',
    "Ollama": "Ollama's API. [ollama-api.md](ollama-api.md) says more.",
    "Other": "Routes that vLLM and llama.cpp agree upon.",
    "Operations": "Health and metrics.",
    "Control": "What the page and the command line use. [control-api.md](control-api.md) says more.",
}


def http_api_markdown(document: dict[str, Any]) -> str:
    """Every route: what it takes, what it gives, every status that can come."""
    lines = [
        "# Every route",
        "",
        "Generated from the OpenAPI document, which `GET /openapi.json` gives to whoever has a key. Do not edit.",
        "",
        "A key comes as `Authorization: Bearer lk-...`, as `x-api-key`, or as the password of HTTP Basic.",
    ]
    for tag, text in _TAGS.items():
        lines += ["", f"## {tag}", text, "", "| route | what it does | body | answer | errors |", "|---|---|---|---|---|"]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag in operation["tags"]:
                    lines.append(_row(path, method, operation))
    return "\n".join(lines) + "\n"


def _row(path: str, method: str, operation: dict[str, Any]) -> str:
    good = [(status, answer) for status, answer in operation["responses"].items() if status < "400"]
    bad = [status for status in sorted(operation["responses"]) if status >= "400"]
    gives = ", ".join(f"{status} {_kinds(answer)}".strip() for status, answer in good) or "none"
    body = _kinds(operation.get("requestBody", {}))
    return f"| `{method.upper()} {path}` | {operation.get('summary', '')} | {body} | {gives} | {', '.join(bad)} |"


def _kinds(part: dict[str, Any]) -> str:
    names = []
    for kind, content in part.get("content", {}).items():
        schema = content.get("schema", {})
        name = schema.get("$ref", "").rpartition("/")[2]
        names.append(name or (kind if kind != "application/json" else "JSON"))
    return " or ".join(names)

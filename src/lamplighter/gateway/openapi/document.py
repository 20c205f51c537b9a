"""Puts the document together: inference, Ollama's lists, health and metrics, and the control API with its answers."""

from typing import Any

from lamplighter import __version__
from lamplighter.gateway.openapi import control, inference
from lamplighter.gateway.openapi.inference import ERRORS, Json, error, ref

_CONTROL_ERRORS: dict[int, str] = {
    400: "The request is wrong.",
    401: "Not signed in, and no key that opens.",
    403: "Only for admins, or a request that another site may have made.",
    404: "There is no such thing.",
    405: "Another method.",
    408: "The body did not arrive in time.",
    409: "It cannot be done as things are.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    429: "Too many tries; `Retry-After` says when to try again.",
    500: "A defect of the gateway.",
    503: "The store does not answer.",
    507: "The store's disk is full.",
}
_LISTED: dict[str, Json] = {
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by", "state"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
            "state": {"enum": ["asleep", "waking", "awake", "draining", "failed"]},
            "max_model_len": {"type": ["integer", "null"]},
            "alias_of": {"type": "string", "description": "The model that this further name means."},
        },
    },
    "ModelList": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}},
    },
    "OllamaModels": {
        "type": "object",
        "required": ["models"],
        "properties": {"models": {"type": "array", "items": {"type": "object", "required": ["name", "model", "digest"]}}},
    },
    "OllamaVersion": {"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
    "OllamaName": {"type": "object", "required": ["model"], "properties": {"model": ref("ModelName")}},
    "OllamaShow": {
        "type": "object",
        "required": ["details", "model_info", "capabilities"],
        "properties": {
            "details": {"type": "object"},
            "model_info": {"type": "object"},
            "capabilities": {"type": "array", "items": {"type": "string"}},
        },
    },
    "OllamaStatus": {"type": "object", "required": ["status"], "properties": {"status": {"const": "success"}}},
    "Health": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
}
_KEYLESS: list[Json] = []
_ADMINS = ("/api/models", "/api/keys", "/api/login-links", "/api/usage", "/api/requests")


def document(described: Json) -> Json:
    """The whole. `described`: FastAPI's own document of the control API (`control.app.described`)."""
    schemas: Json = {}
    for part in (described["components"]["schemas"], control.schemas(), inference.SCHEMAS, _LISTED):
        if twice := schemas.keys() & part.keys():
            raise ValueError(f"two schemas are called {', '.join(sorted(twice))}")
        schemas |= part
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lamplighter",
            "version": __version__,
            "description": "OpenAI's, Anthropic's and Ollama's APIs for models that sleep when nobody asks, and the API that controls them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"key": []}, {"basic": []}],
        "paths": {**inference.paths(), **_lists(), **_ollama(), **_health(), **_control(described["paths"])},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer lk-...`"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "As Anthropic's clients send it."},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The key as password, for programs that know only a URL.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "lamplighter_session",
                    "description": "The page's session, for the control API alone. What changes something needs `X-Lamplighter: 1` too.",
                },
            },
        },
    }


def _answer(schema: Json, description: str = "Here it is.", kind: str = "application/json") -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _operation(tag: str, summary: str, responses: Json, identity: str, **more: Any) -> Json:
    return {"tags": [tag], "summary": summary, "operationId": identity, **more, "responses": responses}


def _errors(*statuses: int, shape: str = "Error") -> Json:
    return {str(status): error(status, ERRORS[status], shape) for status in statuses}


def _lists() -> Json:
    name = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "pattern": r"^[A-Za-z0-9._-]+$"},
    }
    return {
        "/v1/models": {
            "get": _operation("OpenAI", "The models", {"200": _answer(ref("ModelList")), **_errors(401, 405)}, "list_models")
        },
        "/v1/models/{model}": {
            "get": _operation(
                "OpenAI", "One model", {"200": _answer(ref("Model")), **_errors(401, 404, 405)}, "get_model", parameters=[name]
            )
        },
        "/openapi.json": {
            "get": _operation("Other", "This document", {"200": _answer({"type": "object"}), **_errors(401, 405)}, "openapi")
        },
    }


def _ollama() -> Json:
    def body(schema: str) -> Json:
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": ref(schema)}}}}

    def errors(*statuses: int) -> Json:
        return _errors(*statuses, shape="OllamaError")

    refused = {**errors(401, 405), "403": error(403, "Models are not changed through this API.", "OllamaError")}
    named = errors(400, 401, 404, 405, 408, 413)
    found: Json = {
        "/api/version": {"get": _operation("Ollama", "The version of Ollama whose API is followed",
                                           {"200": _answer(ref("OllamaVersion")), **errors(401, 405)}, "api_version")},
        "/api/tags": {"get": _operation("Ollama", "The models", {"200": _answer(ref("OllamaModels")), **errors(401, 405)}, "api_tags")},
        "/api/ps": {"get": _operation("Ollama", "The models that are awake", {"200": _answer(ref("OllamaModels")), **errors(401, 405)}, "api_ps")},
        "/api/show": {"post": _operation("Ollama", "One model", {"200": _answer(ref("OllamaShow")), **named}, "api_show", **body("OllamaName"))},
        "/api/pull": {"post": _operation("Ollama", "Say that a model is here",
                                         {"200": _answer(ref("OllamaStatus")), **named}, "api_pull", **body("OllamaName"))},
    }  # fmt: skip
    for path in ("/api/push", "/api/create", "/api/copy"):
        found[path] = {"post": _operation("Ollama", "Refused", refused, path.strip("/").replace("/", "_"))}
    found["/api/delete"] = {"delete": _operation("Ollama", "Refused", refused, "api_delete")}
    return found


def _health() -> Json:
    text = {"type": "string"}
    late = {"503": _answer(ref("Health"), "It stops, or the store does not answer.")}
    healthy = {"200": _answer(ref("Health")), **_errors(405)}
    return {
        "/health": {"get": _operation("Operations", "Whether it runs", healthy, "health", security=_KEYLESS)},
        "/ready": {"get": _operation("Operations", "Whether it can serve", {**healthy, **late}, "ready", security=_KEYLESS)},
        "/metrics": {
            "get": _operation(
                "Operations",
                "Prometheus metrics; no key is needed on the machine itself",
                {"200": _answer(text, kind="text/plain"), **_errors(401, 405)},
                "metrics",
            )
        },
    }


def _control(paths: Json) -> Json:
    found: Json = {}
    for path, methods in paths.items():
        found[path] = {}
        for method, described in methods.items():
            operation = dict(described)
            responses = {status: answer for status, answer in operation["responses"].items() if status != "422"}
            kind = control.ANSWERS.get((method, path))
            if kind is not None:
                (good,) = responses
                responses[good] = _answer(ref(kind.__name__), responses[good]["description"])
            if path.endswith("/export"):
                responses["200"] = {
                    "description": "The file.",
                    "content": {"application/json": {"schema": {}}, "text/markdown": {"schema": {"type": "string"}}},
                }
            statuses = _control_statuses(method, path, operation)
            responses |= {str(status): error(status, _CONTROL_ERRORS[status]) for status in sorted(statuses)}
            open_to_all = (method, path) == ("post", "/api/session")
            security: list[Json] = [] if open_to_all else [{"bearer": []}, {"key": []}, {"basic": []}, {"session": []}]
            summary = operation.pop("description", "").partition(".")[0].partition(";")[0] or operation["summary"]
            found[path][method] = {
                **operation,
                "summary": summary,
                "tags": ["Control"],
                "security": security,
                "responses": responses,
            }
    return found


def _control_statuses(method: str, path: str, operation: Json) -> set[int]:
    """The error statuses that can come of a route of the control API."""
    found = {401, 405, 500, 503}
    if method != "get":
        found |= {403, 507}
    if "requestBody" in operation:
        found |= {400, 408, 413, 415}
    if "parameters" in operation:
        found |= {400, 404}
    if path.startswith(_ADMINS):
        found.add(403)
        if method != "get":
            found |= {404, 409}
    if path == "/api/session":
        found.add(429)
    return found

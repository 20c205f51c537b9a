"""Writes what people ask into the log, where the operator wants that (`log.prompts`). Off by default; never answers, never keys."""

import structlog

from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.metering import Record

_SAID = ("messages", "system", "instructions", "prompt", "input", "query", "documents", "content")
"""The fields in which people say something, over all routes."""

_log = structlog.get_logger(__name__)


def write(record: Record, request: InferenceRequest) -> None:
    """One line `prompt`, with the id that the access line has too."""
    said = {name: request.get(name) for name in _SAID if request.has(name)}
    _log.info("prompt", request_id=record.request_id, route=record.route, model=record.model, key=record.key_id, **said)

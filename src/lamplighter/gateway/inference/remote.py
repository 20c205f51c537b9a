"""What a client may not make an engine fetch: URLs in requests, which the engine would ask from inside our network (SSRF).

The gateway itself never fetches what a client names. Not responsible for what `data:` URLs hold.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lamplighter.core.errors import RequestError

_CARRIERS = frozenset({"image_url", "video_url", "audio_url", "file_url"})
"""Fields whose value, or whose value's `url`, engines fetch. `{"type": "url", "url": ...}` is the same in Anthropic's words."""
_SCHEMAS = frozenset(
    {
        "functions",
        "response_format",
        "text",
        "tool_choice",
        "metadata",
        "guided_json",
        "structured_outputs",
        "format",
        "json_schema",
    }
)
"""Fields that describe and are never fetched; property names in them mean nothing."""
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""What a model wrote to a tool: its `input` is data."""
_ESCAPED = re.compile(rb"\\u00[2-7]")
"""Letters written as escapes: only a strange client does it, so then everything is looked at."""

_LEAST = len('[{"image_url":"x"}]')
"""Bytes of the shortest value that could carry a URL."""


class _Twice(Exception):
    pass


def check(fields: Mapping[str, Any], *, allowed: bool) -> None:
    """Raises RequestError 400 that names the place of a URL which no engine shall fetch.

    `fields`: name to raw JSON, the top level of a request. `allowed`: http and https are, by the configuration; `file:` and others never.
    """
    for name, raw in fields.items():
        if len(raw) < _LEAST or name in _SCHEMAS:
            continue
        data = bytes(raw)
        if b'url"' not in data and (b"\\u00" not in data or not _ESCAPED.search(data)):
            continue
        try:
            value = json.loads(data, object_pairs_hook=_once)
        except _Twice:
            raise RequestError(
                f"In `{name}` a URL is there twice; it is not clear which one counts.", param=name, code="invalid_value"
            ) from None
        except (RecursionError, ValueError):
            raise RequestError(
                f"The field `{name}` cannot be read: it is nested too deeply.", param=name, code="invalid_json"
            ) from None
        for place, url in _tools(value) if name == "tools" else _urls(value, name):
            _judge(place, url, allowed=allowed)
    if _CARRIERS.isdisjoint(fields):
        return
    for name in _CARRIERS & fields.keys():
        for place, url in _urls({name: json.loads(bytes(fields[name]))}, ""):
            _judge(place, url, allowed=allowed)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        if any(names.count(name) > 1 for name in {*_CARRIERS, "url", "source", "type", "input", "server_url"}):
            raise _Twice
    return found


def _urls(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Every place at which an engine would look for a URL, and what is there."""
    pending = [(name, value)]
    while pending:
        place, item = pending.pop()
        if isinstance(item, list):
            pending += [(f"{place}[{index}]", part) for index, part in enumerate(item) if isinstance(part, list | dict)]
        elif isinstance(item, dict):
            kind = item.get("type")
            if kind == "url" and "url" in item:
                yield f"{place}.url", item["url"]
            for key, part in item.items():
                if key in _CARRIERS:
                    yield f"{place}.{key}", part.get("url") if isinstance(part, dict) else part
                elif isinstance(part, list | dict) and not (key == "input" and kind in _CALLS):
                    pending.append((f"{place}.{key}", part))


def _tools(value: Any) -> Iterable[tuple[str, Any]]:
    """Of tools, only servers that the engine would call; the rest are descriptions."""
    for index, tool in enumerate(value if isinstance(value, list) else ()):
        if isinstance(tool, dict) and "server_url" in tool:
            yield f"tools[{index}].server_url", tool["server_url"]


def _judge(place: str, url: Any, *, allowed: bool) -> None:
    if not isinstance(url, str):
        return  # absent, or nothing that can be fetched: the engine's to judge
    scheme = url.lstrip().partition(":")[0].lower()
    if scheme == "data" or (allowed and scheme in {"http", "https"}):
        return
    raise RequestError(
        f"`{place.lstrip('.')[:200]}` names something that the engine would have to fetch; this gateway does not allow that.",
        param=place.lstrip(".")[:200],
        code="remote_url_refused",
        next_step="Send the content itself as a `data:` URL (`data:image/png;base64,...`)."
        + ("" if allowed else " Whoever runs the gateway can allow http and https with gateway.remote_images."),
    )

"""Reads the bodies of Ollama's inference routes, and says the same in OpenAI's words, which the engines understand.

What has no counterpart is ignored where that changes no answer (`num_ctx`, `keep_alive`), and refused where it would.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.fields import Fields, encode, flag, given, missing, read, string, value, wrong
from lamplighter.gateway.inference.request import InferenceRequest, Route, from_fields

_OPTIONS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "typical_p": ("typical_p",),
    "seed": ("seed",),
    "stop": ("stop",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's name and vLLM's
    "repeat_last_n": ("repeat_last_n",),
    "mirostat": ("mirostat",),
    "mirostat_tau": ("mirostat_tau",),
    "mirostat_eta": ("mirostat_eta",),
}
"""Ollama's option and the fields that say it. Those about memory and threads are the engine's own affair here."""
_PICTURES = (("/9j/", "jpeg"), ("iVBOR", "png"), ("R0lGOD", "gif"), ("UklGR", "webp"))
"""How base64 begins for each format."""
_GONE_AT_ONCE = {"0", "0s", "0m", "0h", "0ms"}


@dataclass(slots=True)
class Note:
    """What an answer needs of its request. `began`: when it arrived, in nanoseconds of the monotonic clock."""

    began: int
    load: bool = False
    """Nothing was asked: the model is only to be loaded."""


def parse_chat(raw: bytes) -> InferenceRequest:
    """`/api/chat`. Raises RequestError 400."""
    fields, note = read(raw), Note(time.monotonic_ns())
    string(fields, "model")
    messages = value(fields, "messages")
    if messages is not None and not isinstance(messages, list):
        raise wrong("messages", "a list")
    if not messages:
        return _load(fields, note)
    body = {**_common(fields), "messages": _messages(messages)}
    tools = value(fields, "tools")
    if tools:
        body["tools"] = tools
    return _request("chat", fields, body, note)


def parse_generate(raw: bytes) -> InferenceRequest:
    """`/api/generate`. Raises RequestError 400."""
    fields, note = read(raw), Note(time.monotonic_ns())
    string(fields, "model")
    prompt, images = _text(fields, "prompt"), value(fields, "images") or []
    for name, instead in (("suffix", "a prompt that has it, with `raw`"), ("template", "`raw` and a prompt that is complete")):
        if _text(fields, name):
            raise _unsupported(name, f"Send {instead}.")
    if value(fields, "context"):
        raise _unsupported("context", "Send the conversation's messages to `/api/chat`.")
    if not prompt and not images:
        return _load(fields, note)
    if flag(fields, "raw"):
        return _request("completions", fields, {**_common(fields), "prompt": prompt}, note)
    system = _text(fields, "system")
    messages = [{"role": "system", "content": system}] if system else []
    messages += _messages([{"role": "user", "content": prompt, "images": images}])
    return _request("chat", fields, {**_common(fields), "messages": messages}, note)


def parse_embed(raw: bytes) -> InferenceRequest:
    """`/api/embed`. Raises RequestError 400."""
    fields, note = read(raw), Note(time.monotonic_ns())
    body = {"input": value(fields, "input"), "encoding_format": "float", "dimensions": value(fields, "dimensions")}
    return _request("embeddings", fields, body, note)


def parse_embeddings(raw: bytes) -> InferenceRequest:
    """`/api/embeddings`, the older form with one `prompt`. Raises RequestError 400."""
    fields, note = read(raw), Note(time.monotonic_ns())
    string(fields, "model")
    if given(fields, "prompt") is None:
        raise missing("prompt")
    return _request("embeddings", fields, {"input": _text(fields, "prompt"), "encoding_format": "float"}, note)


def _request(route: Route, fields: Fields, body: Mapping[str, Any], note: Note) -> InferenceRequest:
    said = {name: item for name, item in body.items() if item is not None}
    request = from_fields(route, {**encode(said), "model": fields["model"]} if "model" in fields else encode(said))
    request.note = note
    return request


def _load(fields: Fields, note: Note) -> InferenceRequest:
    """A question of one token: it waits until the model is awake, and proves that its engine answers."""
    keep = value(fields, "keep_alive")
    if (isinstance(keep, int | float) and not isinstance(keep, bool) and keep == 0) or keep in _GONE_AT_ONCE:
        raise RequestError(
            "A model is not unloaded by its clients: others may be using it. It sleeps by itself when nobody asks.",
            code="unsupported_value",
            param="keep_alive",
            next_step="An administrator puts it to sleep with `lamplighter models sleep NAME`.",
        )
    note.load = True
    body = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "temperature": 0}
    return _request("chat", fields, body, note)


def _common(fields: Fields) -> dict[str, Any]:
    """What chats and prompts share."""
    body: dict[str, Any] = {"stream": flag(fields, "stream", default=True)}
    options = value(fields, "options")
    if options is not None and not isinstance(options, dict):
        raise wrong("options", "an object")
    for name, item in (options or {}).items():
        if item is not None:
            body.update(dict.fromkeys(_OPTIONS.get(name, ()), item))
    predict = (options or {}).get("num_predict")
    if predict is not None:
        if not isinstance(predict, int) or isinstance(predict, bool):
            raise wrong("options.num_predict", "a whole number")
        if predict > 0:  # 0 and below: as long as it likes
            body["max_tokens"] = predict
    wanted = value(fields, "format")
    if wanted == "json":
        body["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, dict):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted, "strict": True}}
    elif wanted:
        raise wrong("format", '"json" or a JSON schema')
    think = value(fields, "think")
    if isinstance(think, bool):
        body["chat_template_kwargs"] = {"enable_thinking": think}
    elif isinstance(think, str) and think:
        body["reasoning_effort"] = think
    elif think:
        raise wrong("think", "true, false or a level")
    if flag(fields, "logprobs"):
        body["logprobs"] = True
        body["top_logprobs"] = value(fields, "top_logprobs")
    return body


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    calls: list[tuple[str, str]] = []
    """(function's name, id) of calls that were not answered yet: Ollama ties answers to calls by name and order."""
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise wrong(f"messages[{index}]", "an object with a `role`")
        content, images = message.get("content"), message.get("images") or []
        if content is not None and not isinstance(content, str):
            raise wrong(f"messages[{index}].content", "a string")
        if not isinstance(images, list):
            raise wrong(f"messages[{index}].images", "a list")
        said: dict[str, Any] = {"role": message["role"], "content": content or ""}
        if images:
            parts = [{"type": "text", "text": content}] if content else []
            said["content"] = parts + [_picture(image, f"messages[{index}].images[{at}]") for at, image in enumerate(images)]
        if message.get("thinking"):
            said["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            said["tool_calls"] = _calls(message["tool_calls"], f"messages[{index}].tool_calls", calls, len(found))
        if message["role"] == "tool":
            said["tool_call_id"] = _answered(calls, message)
        found.append(said)
    return found


def _calls(made: Any, where: str, calls: list[tuple[str, str]], at: int) -> list[dict[str, Any]]:
    if not isinstance(made, list):
        raise wrong(where, "a list")
    found = []
    for index, call in enumerate(made):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
            raise wrong(f"{where}[{index}]", "an object with a `function` that has a `name`")
        identity = call.get("id") if isinstance(call.get("id"), str) else f"call_{at}_{index}"
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
        found.append({"id": identity, "type": "function", "function": {"name": name, "arguments": text}})
        calls.append((name, identity))
    return found


def _answered(calls: list[tuple[str, str]], message: Mapping[str, Any]) -> str:
    """The id of the call that a tool's message answers."""
    if isinstance(message.get("tool_call_id"), str):
        return str(message["tool_call_id"])
    wanted = message.get("tool_name") or message.get("name")
    for index, (name, identity) in enumerate(calls):
        if wanted is None or name == wanted:
            del calls[index]
            return identity
    return "call_0"


def _picture(image: Any, where: str) -> dict[str, Any]:
    if not isinstance(image, str):
        raise wrong(where, "a picture in base64")
    if not image.startswith("data:"):
        kind = next((kind for begins, kind in _PICTURES if image.startswith(begins)), "png")
        image = f"data:image/{kind};base64,{image}"
    return {"type": "image_url", "image_url": {"url": image}}


def _text(fields: Fields, name: str) -> str:
    found = value(fields, name)
    if found is not None and not isinstance(found, str):
        raise wrong(name, "a string")
    return found or ""


def _unsupported(name: str, next_step: str) -> RequestError:
    return RequestError(f"`{name}` is not supported here.", param=name, code="unsupported_value", next_step=next_step)

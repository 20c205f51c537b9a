"""Ollama's requests in OpenAI's words: what engines are asked for, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.ollama.requests import Note, parse_chat, parse_embed, parse_embeddings, parse_generate

PIXEL = "iVBORw0KGgo="


def chat(**more: Any) -> dict[str, Any]:
    return asked(parse_chat, messages=[{"role": "user", "content": "hi"}], **more)


def asked(parse: Callable[[bytes], InferenceRequest], **body: Any) -> dict[str, Any]:
    return dict(json.loads(parse(json.dumps({"model": "m", **body}).encode()).body("m")))


def test_it_streams_unless_told_otherwise() -> None:
    """Ollama's clients leave `stream` out when they want one."""
    assert chat()["stream"] is True
    assert chat()["stream_options"] == {"include_usage": True}
    assert chat(stream=None)["stream"] is True
    assert chat(stream=False)["stream"] is False


def test_options_keep_their_meaning() -> None:
    """A person's settings would be lost without a word."""
    options = {
        "temperature": 0.1, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7, "stop": ["x"], "num_predict": 12,
        "repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25, "num_ctx": 8192, "num_thread": 4, "seedling": 1,
    }  # fmt: skip
    body = chat(options=options)
    assert body["max_tokens"] == 12
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["seed"]) == (0.1, 0.9, 40, 0.05, 7)
    assert (body["repeat_penalty"], body["repetition_penalty"]) == (1.2, 1.2)
    assert (body["presence_penalty"], body["frequency_penalty"], body["stop"]) == (0.5, 0.25, ["x"])
    assert not {"num_ctx", "num_thread", "seedling", "options"} & body.keys()


@pytest.mark.parametrize("predict", [-2, -1, 0])
def test_no_bound_is_no_bound(predict: int) -> None:
    """-1 means as long as it likes; as `max_tokens` it would be refused."""
    assert "max_tokens" not in chat(options={"num_predict": predict})


def test_formats_become_response_formats() -> None:
    """Programs that parse the answer would get prose."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert chat(format=schema)["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in chat(format="")


def test_thinking_is_asked_for() -> None:
    """A model that thinks would do so although it was told not to."""
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat(think="low")["reasoning_effort"] == "low"
    assert "chat_template_kwargs" not in chat()


def test_pictures_become_parts() -> None:
    """A model that sees would be blind."""
    message = {"role": "user", "content": "What is this?", "images": [PIXEL, "/9j/4AAQ", "data:image/webp;base64,UklGRg=="]}
    (said,) = asked(parse_chat, messages=[message])["messages"]
    assert said["content"][0] == {"type": "text", "text": "What is this?"}
    assert [part["image_url"]["url"] for part in said["content"][1:]] == [
        f"data:image/png;base64,{PIXEL}",
        "data:image/jpeg;base64,/9j/4AAQ",
        "data:image/webp;base64,UklGRg==",
    ]
    (prompted,) = asked(parse_generate, prompt="What?", images=[PIXEL])["messages"]
    assert len(prompted["content"]) == 2


def test_tools_go_both_ways() -> None:
    """An agent's second step would not know which of its calls was answered."""
    tools = [{"type": "function", "function": {"name": "light"}}]
    messages = [
        {"role": "user", "content": "Light both lamps."},
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "light", "arguments": {"lamp": 1}}}, {"function": {"name": "look", "arguments": {}}},
        ]},
        {"role": "tool", "tool_name": "look", "content": "dark"},
        {"role": "tool", "content": "lit"},
    ]  # fmt: skip
    body = asked(parse_chat, messages=messages, tools=tools)
    assert body["tools"] == tools
    calls = body["messages"][1]["tool_calls"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"lamp": 1}
    assert calls[0]["id"] != calls[1]["id"]
    assert [message["tool_call_id"] for message in body["messages"][2:]] == [calls[1]["id"], calls[0]["id"]]


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    """A raw prompt would be wrapped in the template twice; any other not at all."""
    assert asked(parse_generate, prompt="hi", system="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    raw = parse_generate(json.dumps({"model": "m", "prompt": "hi", "raw": True}).encode())
    assert raw.route == "completions"
    assert json.loads(raw.body("m"))["prompt"] == "hi"


@pytest.mark.parametrize(
    ("parse", "body"), [(parse_chat, {}), (parse_chat, {"messages": []}), (parse_generate, {}), (parse_generate, {"prompt": ""})]
)
def test_nothing_asked_is_an_order_to_load(parse: Callable[[bytes], InferenceRequest], body: dict[str, Any]) -> None:
    """A program that warms its model up would get an error."""
    request = parse(json.dumps({"model": "m", "keep_alive": "10m", **body}).encode())
    assert isinstance(request.note, Note)
    assert request.note.load
    assert not request.stream
    assert json.loads(request.body("m"))["max_tokens"] == 1


@pytest.mark.parametrize("keep", [0, 0.0, "0", "0s"])
def test_a_client_cannot_unload(keep: Any) -> None:
    """It would look unloaded and still be there, or others would lose what they are using."""
    with pytest.raises(RequestError, match="not unloaded by its clients"):
        parse_generate(json.dumps({"model": "m", "keep_alive": keep}).encode())
    assert asked(parse_generate, prompt="hi", keep_alive=keep)


def test_embeddings_old_and_new() -> None:
    """Indexes would be empty."""
    assert asked(parse_embed, input=["a", "b"], dimensions=8) == {
        "model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8,
    }  # fmt: skip
    assert asked(parse_embeddings, prompt="a")["input"] == "a"


@pytest.mark.parametrize(
    ("parse", "body", "param"),
    [
        (parse_chat, {"messages": "hi"}, "messages"),
        (parse_chat, {"messages": ["hi"]}, "messages[0]"),
        (parse_chat, {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        (parse_chat, {"messages": [{"role": "user", "content": "x", "images": [3]}]}, "messages[0].images[0]"),
        (parse_chat, {"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
        (parse_chat, {"messages": [{"role": "user"}], "options": []}, "options"),
        (parse_chat, {"messages": [{"role": "user"}], "options": {"num_predict": "many"}}, "options.num_predict"),
        (parse_chat, {"messages": [{"role": "user"}], "format": "xml"}, "format"),
        (parse_chat, {"messages": [{"role": "user"}], "think": 3}, "think"),
        (parse_chat, {"messages": [{"role": "user"}], "stream": "yes"}, "stream"),
        (parse_generate, {"prompt": 3}, "prompt"),
        (parse_generate, {"prompt": "x", "suffix": "y"}, "suffix"),
        (parse_generate, {"prompt": "x", "template": "y"}, "template"),
        (parse_generate, {"prompt": "x", "context": [1]}, "context"),
        (parse_embed, {}, "input"),
        (parse_embed, {"input": {}}, "input"),
        (parse_embeddings, {}, "prompt"),
    ],
)
def test_wrong_requests_name_the_field(parse: Callable[[bytes], InferenceRequest], body: dict[str, Any], param: str) -> None:
    """A person would have to guess, or the gateway would fail with 500."""
    with pytest.raises(RequestError) as caught:
        parse(json.dumps({"model": "m", **body}).encode())
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("parse", [parse_chat, parse_generate, parse_embed, parse_embeddings])
@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"model":3}', b'{"model":"m","messages":' + b"[" * 10_000])
def test_garbage_is_refused(parse: Callable[[bytes], InferenceRequest], raw: bytes) -> None:
    """Anything but 400 is a defect."""
    with pytest.raises(RequestError) as caught:
        parse(raw)
    assert caught.value.status == 400

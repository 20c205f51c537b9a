"""What is told of a request before it runs: what it may cost, what it shares with others, what it belongs to."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.dialects.tokens import parse_tokenize
from lamplighter.gateway.inference.measure import MEDIA_TOKENS
from lamplighter.gateway.inference.request import InferenceRequest, Route, encode_fields, from_fields, parse

USER = {"role": "user", "content": "hi"}


def request(route: Route = "chat", **body: Any) -> InferenceRequest:
    return from_fields(route, encode_fields({"model": "m", **body}))


def chat(*contents: Any, **body: Any) -> InferenceRequest:
    return request(messages=[{"role": "user", "content": content} for content in contents], **body)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_prompt_has_more_tokens_than_its_bound(texts: list[str]) -> None:
    """A budget would be overdrawn: no tokenizer makes more tokens than there are bytes."""
    prompt, _ = chat(*texts).bound()
    assert prompt >= sum(len(text.encode(errors="replace")) for text in texts)


@pytest.mark.parametrize(
    ("route", "body", "most"),
    [
        ("chat", {"messages": [USER]}, None),
        ("chat", {"messages": [USER], "max_tokens": 7}, 7),
        ("chat", {"messages": [USER], "max_tokens": None}, None),
        ("chat", {"messages": [USER], "max_tokens": 7, "max_completion_tokens": 5}, 5),
        ("chat", {"messages": [USER], "max_tokens": 7, "n": 3}, 21),
        ("completions", {"prompt": "a", "max_tokens": 7}, 7),
        ("completions", {"prompt": "a", "max_tokens": 7, "n": 2, "best_of": 4}, 28),
        ("completions", {"prompt": ["a", "b"], "max_tokens": 7}, 14),
        ("completions", {"prompt": [[1], [2], [3]], "max_tokens": 7}, 21),
        ("completions", {"prompt": [1, 2, 3], "max_tokens": 7}, 7),
        ("responses", {"input": "a", "max_output_tokens": 9}, 9),
        ("responses", {"input": "a"}, None),
        ("messages", {"messages": [USER], "max_tokens": 9}, 9),
        ("embeddings", {"input": "a"}, 0),
        ("rerank", {"query": "a", "documents": ["b"]}, 0),
    ],
)
def test_the_answers_bound_is_what_the_client_allows(route: Route, body: dict[str, Any], most: int | None) -> None:
    """Eight parallel requests on a budget for one would all go out, or none."""
    assert request(route, **body).bound()[1] == most


def test_counting_costs_nothing() -> None:
    """A program that counts before it asks would pay twice."""
    assert request("count_tokens", messages=[USER]).bound() == (0, 0)
    assert request("tokenize", prompt="a" * 1000).bound() == (0, 0)


def test_a_picture_counts_as_a_picture() -> None:
    """Two megabytes of base64 would reserve two million tokens, and a link to a picture next to none."""
    inline = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}},
        {"type": "text", "text": "What?"},
    ]
    linked = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    assert MEDIA_TOKENS <= chat(inline).bound()[0] < MEDIA_TOKENS + 1000
    assert MEDIA_TOKENS <= chat(linked).bound()[0] < MEDIA_TOKENS + 1000
    assert chat('"type" image ' * 500).bound()[0] >= 6000


def test_tools_and_documents_count() -> None:
    """They are part of what the engine reads."""
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 5000}}
    assert chat("hi", tools=[tool]).bound()[0] > 5000
    assert request("rerank", query="q" * 100, documents=["d"] * 50).bound()[0] > 5000


def test_turns_of_one_conversation_share_their_prefix() -> None:
    """Each turn would go to another replica and compute everything anew."""
    system = {"role": "system", "content": "Be brief."}
    first = request(messages=[system, USER])
    second = request(messages=[system, USER, {"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}])
    other = request(messages=[system, {"role": "user", "content": "something else"}])
    assert first.prefix() == second.prefix() != other.prefix()
    assert len(first.prefix()) == 8
    assert request("responses", input="a", instructions="x").prefix() != request("responses", input="a").prefix()
    listed = request("responses", input=[USER, {"role": "assistant", "content": "x"}])
    assert listed.prefix() == request("responses", input=[USER]).prefix()
    claude = request("messages", system="s", messages=[USER], max_tokens=1)
    assert claude.prefix() != request("messages", system="t", messages=[USER], max_tokens=1).prefix()
    assert request("completions", prompt="a").prefix() != request("completions", prompt="b").prefix()
    assert request("embeddings", input="a").prefix() == b""


def test_a_session_is_what_the_client_says() -> None:
    """Requests that belong together would be taken apart."""
    assert chat("x").session({}) == b""
    assert chat("x", user="me").session({}) == b'"me"'
    assert chat("x", user="me", prompt_cache_key="k").session({}) == b'"k"'
    assert chat("x", user="me").session({b"x-session-id": b"s"}) == b"s"
    assert chat("x").session({b"lamplighter-session": b"l", b"x-session-id": b"s"}) == b"l"
    assert len(chat("x").session({b"x-session-id": b"s" * 5000})) == 256
    assert request("messages", messages=[USER], max_tokens=1, metadata={"user_id": "u"}).session({}) == b"u"
    assert request("messages", messages=[USER], max_tokens=1, metadata="u").session({}) == b""


def test_fields_can_be_read_and_replaced() -> None:
    """A stream that goes on elsewhere asks the same again, but for what was given already."""
    before = parse("chat", b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":9,"seed":  7,"stop":null}')
    assert before.has("seed")
    assert not before.has("stop")
    assert before.get("max_tokens") == 9
    assert before.get("absent") is None
    after = before.changed({"max_tokens": 4, "messages": [USER, {"role": "assistant", "content": "He"}], "stop": None})
    body = json.loads(after.body("m"))
    assert (body["max_tokens"], body["seed"], len(body["messages"])) == (4, 7, 2)
    assert "stop" not in body
    assert before.get("max_tokens") == 9


@pytest.mark.parametrize(
    ("route", "body", "param", "code"),
    [
        ("responses", {}, "input", "missing_required_parameter"),
        ("responses", {"input": 3}, "input", "invalid_type"),
        ("responses", {"input": []}, "input", "invalid_value"),
        ("responses", {"input": "a", "max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ("responses", {"input": "a", "stream": 1}, "stream", "invalid_type"),
        ("messages", {"messages": [USER]}, "max_tokens", "missing_required_parameter"),
        ("messages", {"messages": [], "max_tokens": 1}, "messages", "invalid_value"),
        ("messages", {"messages": [USER], "max_tokens": 0}, "max_tokens", "invalid_value"),
        ("count_tokens", {}, "messages", "missing_required_parameter"),
        ("rerank", {"documents": ["a"]}, "query", "missing_required_parameter"),
        ("rerank", {"query": "a"}, "documents", "missing_required_parameter"),
        ("rerank", {"query": "a", "documents": "b"}, "documents", "invalid_type"),
        ("rerank", {"query": "a", "documents": []}, "documents", "invalid_value"),
        ("detokenize", {}, "tokens", "missing_required_parameter"),
        ("detokenize", {"tokens": "a"}, "tokens", "invalid_type"),
    ],
)
def test_wrong_requests_name_the_field(route: Route, body: dict[str, Any], param: str, code: str) -> None:
    """llama.cpp never answers a chat without messages; a person would have to guess at any other."""
    with pytest.raises(RequestError) as caught:
        request(route, **body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_a_response_may_go_on_from_another() -> None:
    """`input` is not needed where there is something before it."""
    assert request("responses", previous_response_id="r").route == "responses"


def test_both_engines_understand_tokenize() -> None:
    """llama.cpp answers a field that it does not know with no tokens at all, and no error."""
    for name in ("prompt", "content"):
        body = json.loads(parse_tokenize(json.dumps({"model": "m", name: "a b", "add_special_tokens": False}).encode()).body("m"))
        assert (body["prompt"], body["content"], body["add_special"], body["add_special_tokens"]) == ("a b", "a b", False, False)
    for wrong, param in (({}, "prompt"), ({"prompt": 3}, "prompt"), ({"messages": [USER]}, "messages")):
        with pytest.raises(RequestError) as caught:
            parse_tokenize(json.dumps({"model": "m", **wrong}).encode())
        assert caught.value.param == param

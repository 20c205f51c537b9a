"""Reading inference requests: what is refused, and that nothing else is changed."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.request import Route, encode_fields, from_fields, parse

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def body(**more: Any) -> bytes:
    return json.dumps({**GOOD, **more}).encode()


@pytest.mark.parametrize(
    ("route", "raw", "param", "code"),
    [
        ("chat", b"", None, "invalid_json"),
        ("chat", b"{", None, "invalid_json"),
        ("chat", b"[]", None, "invalid_body"),
        ("chat", b'"text"', None, "invalid_body"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"temperature":NaN}', None, "invalid_json"),
        ("chat", b'{"model":"m"} {"model":"n"}', None, "invalid_json"),
        ("chat", b'{"model":"\xff"}', None, "invalid_json"),
        ("chat", b'{"model":"m","messages":' + b"[" * 100_000, None, "invalid_json"),
        ("chat", b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "invalid_json"),
        ("chat", b"{}", "model", "missing_required_parameter"),
        ("chat", b'{"model":3}', "model", "invalid_type"),
        ("chat", b'{"model":null}', "model", "invalid_type"),
        ("chat", b'{"model":""}', "model", "invalid_type"),
        ("chat", b'{"model":"m"}', "messages", "missing_required_parameter"),
        ("chat", body(messages=[]), "messages", "invalid_value"),
        ("chat", body(messages="hi"), "messages", "invalid_type"),
        ("chat", body(messages=["hi"]), "messages[0]", "invalid_type"),
        ("chat", body(messages=[{"role": "user"}, {"content": "x"}]), "messages[1]", "invalid_type"),
        ("chat", body(messages=[{"role": 1}]), "messages[0].role", "invalid_type"),
        ("chat", body(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        ("chat", body(messages=[GOOD["messages"][0], {"role": "user", "content": {}}]), "messages[1].content", "invalid_type"),
        ("chat", body(stream="yes"), "stream", "invalid_type"),
        ("chat", body(stream=1), "stream", "invalid_type"),
        ("chat", body(stream=True, stream_options=[]), "stream_options", "invalid_type"),
        ("chat", body(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type"),
        ("chat", body(n=0), "n", "invalid_value"),
        ("chat", body(n=1.5), "n", "invalid_type"),
        ("chat", body(n="two"), "n", "invalid_type"),
        ("chat", body(n=10**60), "n", "invalid_value"),
        ("chat", body(max_tokens=0), "max_tokens", "invalid_value"),
        ("chat", body(max_tokens=-1), "max_tokens", "invalid_value"),
        ("chat", body(max_tokens=True), "max_tokens", "invalid_type"),
        ("chat", body(max_completion_tokens=[]), "max_completion_tokens", "invalid_type"),
        ("completions", b'{"model":"m"}', "prompt", "missing_required_parameter"),
        ("completions", b'{"model":"m","prompt":3}', "prompt", "invalid_type"),
        ("completions", b'{"model":"m","prompt":[ ]}', "prompt", "invalid_value"),
        ("embeddings", b'{"model":"m"}', "input", "missing_required_parameter"),
        ("embeddings", b'{"model":"m","input":null}', "input", "invalid_type"),
        ("embeddings", b'{"model":"m","input":[]}', "input", "invalid_value"),
    ],
)
def test_wrong_requests_name_the_field(route: Route, raw: bytes, param: str | None, code: str) -> None:
    """A person would have to guess what is wrong with the request, or the gateway would fail with 500."""
    with pytest.raises(RequestError) as caught:
        parse(route, raw)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("route", "raw"),
    [
        ("chat", body(n=None, max_tokens=None, stream=None, temperature=2, tools=[{"type": "function"}])),
        ("chat", body(stream=True, stream_options=None)),
        ("chat", b"\xef\xbb\xbf" + body()),
        ("completions", b'{"model":"m","prompt":"","max_tokens":0}'),
        ("completions", b'{"model":"m","prompt":[1,2,3]}'),
        ("embeddings", b'{"model":"m","input":["a"],"stream":"ignored"}'),
    ],
)
def test_right_requests_are_taken(route: Route, raw: bytes) -> None:
    """A client that OpenAI's server understands would be refused."""
    assert parse(route, raw).model == "m"


def test_values_that_are_not_ours_keep_their_bytes() -> None:
    """Numbers would lose precision and text its spelling on the way to the engine."""
    raw = b'{ "model" : "m","messages":[{"role":"user","content":"\\u017e\xc5\xbe"}],'
    raw += b'"seed":123456789012345678901234567890, "temperature":1e400,"x": {"model" : "inner"} }'
    sent = parse("chat", raw).body("other")
    for kept in (b'"\\u017e\xc5\xbe"', b"123456789012345678901234567890", b"1e400", b'{"model" : "inner"}'):
        assert kept in sent
    assert json.loads(sent)["model"] == "other"


def test_duplicate_and_escaped_names_mean_one_thing() -> None:
    """A key limited to one model could reach another one that the engine reads from the second spelling."""
    raw = b'{"model":"a","mod\\u0065l":"b","messages":[{"role":"user"}],"stream":false,"stream":true}'
    request = parse("chat", raw)
    sent = request.body("b")
    assert (request.model, request.stream) == ("b", True)
    assert sent.count(b"model") == 1
    assert sent.count(b'"stream"') == 1


@pytest.mark.parametrize(
    ("options", "asked", "sent"),
    [
        (None, False, {"include_usage": True}),
        ({"include_usage": False}, False, {"include_usage": True}),
        ({"include_usage": True, "x": 1}, True, {"include_usage": True, "x": 1}),
        ({"x": 1}, False, {"x": 1, "include_usage": True}),
    ],
)
def test_streams_always_ask_for_usage(options: Any, asked: bool, sent: Any) -> None:
    """Tokens would not be counted, or the client's own options lost."""
    request = parse("chat", body(stream=True, stream_options=options))
    assert request.usage_asked is asked
    assert json.loads(request.body("m"))["stream_options"] == sent


def test_whole_answers_do_not_ask_for_stream_options() -> None:
    """Engines refuse stream options on requests that do not stream."""
    assert "stream_options" not in json.loads(parse("chat", body()).body("m"))


text = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no text
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
FIXED = {"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"}


@given(st.dictionaries(text.filter(lambda name: name not in FIXED), json_values, max_size=5), st.booleans(), st.booleans())
@settings(deadline=None)
def test_everything_else_arrives_as_it_was_sent(extra: dict[str, Any], stream: bool, ascii_only: bool) -> None:
    """Tools, schemas and parameters that the gateway does not know would not reach the engine."""
    raw = json.dumps({**extra, **GOOD, "stream": stream}, ensure_ascii=ascii_only).encode()
    request = parse("chat", raw)
    sent = msgspec.json.decode(request.body("upstream"))
    sent.pop("stream_options", None)
    assert sent == msgspec.json.decode(json.dumps({**extra, **GOOD, "stream": stream, "model": "upstream"}))


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    """A malicious body would cause a 500 and a traceback."""
    routes: tuple[Route, ...] = ("chat", "completions", "embeddings")
    for route in routes:
        with pytest.raises(RequestError) as caught:
            parse(route, raw)
        assert caught.value.status == 400


def test_fields_from_within_are_checked_alike() -> None:
    """The chat page could send what the API refuses."""
    with pytest.raises(RequestError):
        from_fields("chat", encode_fields({"model": "m", "messages": []}))

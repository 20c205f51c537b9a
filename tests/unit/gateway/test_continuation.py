"""A stream that broke off and was taken up again looks like one stream: no token twice, none missing, one id, one sum of tokens."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.engines.continuing import Continues
from lamplighter.gateway.inference import continuation as module
from lamplighter.gateway.inference.continuation import Continuation
from lamplighter.gateway.inference.request import InferenceRequest, parse
from lamplighter.gateway.sse import Splitter

PREFILL, FLAG = Continues.PREFILL, Continues.FLAG


def asked(route: Any = "chat", **more: Any) -> InferenceRequest:
    body: dict[str, Any] = {"model": "big", "stream": True, **more}
    if route == "chat":
        body.setdefault("messages", [{"role": "user", "content": "Say something."}])
    else:
        body.setdefault("prompt", "Once")
    return parse(route, msgspec.json.encode(body))


def events(
    *pieces: str, name: str = "one", role: bool = True, chat: bool = True, finish: str | None = None, usage: Any = None
) -> bytes:
    """What an engine sends."""
    head = {"id": name, "created": len(name), "model": "big"}

    def event(choices: list[Any], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    def choice(piece: str, end: str | None = None) -> dict[str, Any]:
        return {"index": 0, **({"delta": {"content": piece}} if chat else {"text": piece}), "finish_reason": end}

    out = event([{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]) if role and chat else b""
    out += b"".join(event([choice(piece)]) for piece in pieces)
    if finish:
        out += event([{"index": 0, **({"delta": {}} if chat else {"text": ""}), "finish_reason": finish}])
    if usage:
        out += event([], usage={"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)})
    return out + (b"data: [DONE]\n\n" if finish else b"")


def read(data: bytes) -> list[Any]:
    return [json.loads(event[6:]) for event in Splitter.split(data) if not event.startswith((b"data: [DONE]", b":"))]


def text(data: bytes) -> str:
    chunks = [choice for chunk in read(data) for choice in chunk["choices"]]
    return "".join((choice["delta"].get("content") or "") if "delta" in choice else choice["text"] for choice in chunks)


def made(request: InferenceRequest, way: Continues | None = PREFILL) -> Continuation:
    one = Continuation.of(request, way)
    assert one is not None
    return one


def following(one: Continuation) -> dict[str, Any]:
    request = one.next_request()
    assert request is not None
    return dict(json.loads(request.body("big")))


def test_the_client_sees_one_stream() -> None:
    """The answer would begin anew in its middle, with another id and another role."""
    one = made(asked(max_tokens=100))
    before = events("The", " lamp", " is")
    one.feed(before + b'data: {"id":"one","choi')  # half an event was not given
    body = following(one)
    assert body["messages"][-1] == {"role": "assistant", "content": "The lamp is"}
    assert body["max_tokens"] == 97
    after = one.splice(events(" lit", ".", name="other", finish="stop", usage=(12, 3)))
    assert text(before + after) == "The lamp is lit."
    assert {chunk["id"] for chunk in read(before + after)} == {"one"}
    assert sum("role" in choice["delta"] for chunk in read(before + after) for choice in chunk["choices"]) == 1
    assert read(after)[-1]["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    assert after.endswith(b"data: [DONE]\n\n")


def test_vllm_is_told_to_continue() -> None:
    """It would close the unfinished message and begin a new one."""
    one = made(asked(), FLAG)
    one.feed(events("The"))
    body = following(one)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_completions_go_on_after_prompt_and_text() -> None:
    """The second engine would answer the prompt again."""
    one = made(asked("completions", max_tokens=10))
    one.feed(events(" upon", " a", chat=False))
    body = following(one)
    assert (body["prompt"], body["max_tokens"]) == ("Once upon a", 8)
    assert text(one.splice(events(" time", chat=False, name="other"))) == " time"


@pytest.mark.parametrize(
    ("given_before", "written_after", "whole"),
    [
        (("The", " "), (" lamp",), "The lamp"),  # a template trims; the engine writes the space again
        (("The", " "), ("lamp",), "The lamp"),  # it keeps it
        (("The.", "\n\n"), ("\n\n", "Then"), "The.\n\nThen"),
        (("The.", "\n"), ("\n", "\n", "Then"), "The.\n\nThen"),
        (("The.", "\n\n"), ("\n", "\nThen"), "The.\n\nThen"),
        (("The.", " "), ("\nThen",), "The. \nThen"),  # another space than ours: both stand
        (("\n\n",), ("\n\nThe",), "\n\nThe"),  # nothing but space: it begins anew
        ((), ("The",), "The"),
    ],
)
def test_space_at_the_cut_is_given_once(given_before: tuple[str, ...], written_after: tuple[str, ...], whole: str) -> None:
    """Words would run together, or paragraphs drift apart; and what ends in a space is a poor beginning for a model."""
    one = made(asked())
    before = events(*given_before)
    one.feed(before)
    body = following(one)
    last = body["messages"][-1]
    assert last["role"] == "user" or (last["content"] and not last["content"][-1].isspace())
    assert text(before + one.splice(events(*written_after, name="other", finish="stop"))) == whole


def test_space_that_is_asked_for_again_is_not_charged() -> None:
    """An answer of at most 10 tokens would end after 9."""
    one = made(asked(max_tokens=10))
    one.feed(events("The", "\n"))
    assert following(one)["max_tokens"] == 9
    after = one.splice(events("\n", "lamp", name="other", finish="length", usage=(10, 9)))
    assert read(after)[-1]["usage"] == {"prompt_tokens": 9, "completion_tokens": 10, "total_tokens": 19}


def test_a_second_loss_is_survived_and_a_fourth_is_not() -> None:
    """A model that kills every engine would be restarted for ever by one request."""
    one = made(asked(max_tokens=50))
    one.feed(events("a"))
    for turn in range(module.MOST_TIMES):
        body = following(one)
        assert body["messages"][-1]["content"] == "a" + "b" * turn
        assert body["max_tokens"] == 49 - turn
        one.splice(events("b", name="other") + b'data: {"half')
    assert one.next_request() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logprobs": True},
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"grammar": "root ::= x"},
        {"guided_json": {"type": "object"}},
        {"stream": False},
    ],
)
def test_what_is_more_than_text_is_not_continued(fields: dict[str, Any]) -> None:
    """Half a tool call, or half an object of a schema, would be glued to the beginning of another."""
    assert Continuation.of(asked(**fields), PREFILL) is None


@pytest.mark.parametrize(
    "fields",
    [{"tools": []}, {"tools": None}, {"logprobs": False}, {"n": 1}, {"response_format": {"type": "text"}}, {"stop": ["END"]}],
)
def test_what_says_nothing_does_not_prevent_it(fields: dict[str, Any]) -> None:
    """Libraries send such fields with every request: none would ever be continued."""
    assert Continuation.of(asked(**fields), PREFILL) is not None


def test_an_engine_that_cannot_is_not_asked() -> None:
    """An unknown server would answer the beginning of its own answer."""
    assert Continuation.of(asked(), None) is None
    assert Continuation.of(asked("completions", prompt=[1, 2, 3]), PREFILL) is None


@pytest.mark.parametrize(
    "sent",
    [
        events("a", finish="stop"),  # it is whole
        events("a") + b'data: {"error":{"message":"no"}}\n\n',  # the client was told
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[]}}]}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"content":"a"}}]}\n\n',
        events(*"abcdefghij"),  # all that was allowed
        events("ab", "</"),  # half a stop sequence
    ],
)
def test_what_cannot_be_gone_on_with_is_not(sent: bytes) -> None:
    """The client would get an answer that no engine could have written."""
    one = made(asked(max_tokens=10, stop=["</s>"]))
    one.feed(sent)
    assert one.next_request() is None


def test_an_answer_that_somebody_else_began_is_left_alone() -> None:
    """Two unfinished messages in a row: what a template makes of them is anybody's guess."""
    one = made(asked(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]))
    one.feed(events("c"))
    assert one.next_request() is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand long streams would hold all that they ever sent in memory."""
    one = made(asked())
    for _ in range(200):
        one.feed(events("word " * 10, role=False))
        assert one._size <= module._KEEP + 1000
    assert len(following(one)["messages"][-1]["content"]) == 200 * 50 - 1
    monkeypatch.setattr(module, "MOST_TEXT", 1000)
    long = made(asked())
    for _ in range(200):
        long.feed(events("word " * 10, role=False))
    assert long.next_request() is None
    assert not long._buffer
    assert not long._text


@given(
    pieces=st.lists(st.text(alphabet=" \nabcž🏮", min_size=1, max_size=3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    chunk=st.integers(1, 60),
)
def test_wherever_it_is_cut_the_text_is_the_same(pieces: list[str], cuts: list[int], chunk: int) -> None:
    """Somewhere, a token would be lost or given twice. The engine writes fixed pieces, and takes them up after the text that it is given."""
    whole = "".join(pieces)
    one = made(asked())
    out, at, name = b"", 0, 0
    for cut in [*sorted(cut for cut in cuts if cut < len(pieces)), len(pieces)]:  # the last one writes to the end
        if cut < at:
            continue
        last = cut == len(pieces)
        rest = _left(pieces, out) if name else pieces
        upto = rest[: max(0, cut - at)] if not last else rest
        sent = events(*upto, name=str(name), finish="stop" if last else None) + (b"" if last else b'data: {"ha')
        for start in range(0, len(sent), chunk):
            part = sent[start : start + chunk]
            if name:
                out += one.splice(part)
            else:
                one.feed(part)
        if not name:
            out += sent[: sent.rfind(b"\n\n") + 2]
        if last:
            break
        at, name = cut, name + 1
        if one.next_request() is None:
            return
    assert text(out) == whole


def _left(pieces: list[str], out: bytes) -> list[str]:
    """What a faithful engine still has to write after the text that it is given: the text given to the client, without space at its end."""
    given_text = text(out).rstrip()
    rest = "".join(pieces)[len(given_text) :]
    return [rest[index : index + 2] for index in range(0, len(rest), 2)]

"""Engines' answers in Ollama's shape."""

import json
from typing import Any

import pytest

from lamplighter.core.errors import RequestError
from lamplighter.gateway.ollama.answers import CHAT, EMBED, EMBEDDINGS, GENERATE
from lamplighter.gateway.ollama.requests import parse_chat, parse_embed, parse_generate
from lamplighter.gateway.sse import Usage

REQUEST = parse_chat(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


def lines(*events: bytes, dialect: Any = CHAT) -> list[dict[str, Any]]:
    reader = dialect.reader(REQUEST)
    raw = b"".join(reader.feed(event) for event in events) + reader.close()
    return [json.loads(line) for line in raw.splitlines()]


USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5},"timings":{"prompt_ms":1.5,"predicted_ms":20}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def test_words_come_as_they_are_written() -> None:
    """A chat would stay empty, or show everything at the end."""
    first, second, last = lines(chunk(content="Hel"), chunk(content="lo"), chunk("stop"), USAGE, DONE)
    assert [line["message"]["content"] for line in (first, second, last)] == ["Hel", "lo", ""]
    assert [line["done"] for line in (first, second, last)] == [False, False, True]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 3, 5)


def test_durations_are_the_engines_own_where_it_tells() -> None:
    """Tokens per second, which people read off these, would be made up."""
    last = lines(chunk(content="x"), chunk("length"), USAGE, DONE)[-1]
    assert (last["prompt_eval_duration"], last["eval_duration"], last["done_reason"]) == (1_500_000, 20_000_000, "length")
    assert last["total_duration"] > 0
    plain = USAGE.replace(b',"timings":{"prompt_ms":1.5,"predicted_ms":20}', b"")
    measured = lines(chunk(content="x"), chunk("stop"), plain, DONE)[-1]
    assert 0 <= measured["eval_duration"] <= measured["total_duration"]


def test_calls_of_tools_come_whole() -> None:
    """Ollama's clients cannot put arguments together that come in pieces."""
    pieces = [
        chunk(tool_calls=[{"index": 0, "id": "a", "function": {"name": "light", "arguments": ""}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"lamp":'}}]),
        chunk(tool_calls=[{"index": 1, "function": {"name": "look"}}, {"index": 0, "function": {"arguments": "1}"}}]),
    ]
    called, last = lines(*pieces, chunk("tool_calls"), USAGE, DONE)
    assert called["message"]["tool_calls"] == [
        {"function": {"name": "light", "arguments": {"lamp": 1}}},
        {"function": {"name": "look", "arguments": {}}},
    ]
    assert last["done_reason"] == "stop"


def test_arguments_that_were_cut_off_are_shown_and_not_made_up() -> None:
    """A program would call a tool with arguments that nobody gave."""
    cut, last = lines(chunk(tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1'}}]), chunk("length"), USAGE, DONE)
    assert "tool_calls" not in cut["message"]
    assert cut["message"]["content"] == '{"a": 1'
    assert last["done_reason"] == "length"


def test_thoughts_are_apart_from_words() -> None:
    """A model's thinking would be shown as its answer."""
    thought, word, _ = lines(chunk(reasoning_content="hm"), chunk(content="x"), chunk("stop"), DONE)
    assert (thought["message"]["thinking"], thought["message"]["content"]) == ("hm", "")
    assert "thinking" not in word["message"]


def test_a_prompts_words_stand_in_response() -> None:
    """`/api/generate` has another shape than `/api/chat`."""
    text = b'data: {"choices":[{"text":"x","finish_reason":null}]}\n\n'
    first, last = lines(text, chunk("stop"), DONE, dialect=GENERATE)
    assert (first["response"], last["response"], last["done"]) == ("x", "", True)
    assert "message" not in first


def test_an_engines_error_is_an_error() -> None:
    """The answer would just stop."""
    word, error = lines(chunk(content="x"), b'data: {"error":{"message":"out of memory"}}\n\n')
    assert not word["done"]
    assert error == {"error": "out of memory"}


def test_an_end_without_done_is_an_end() -> None:
    """Some servers just do not say `[DONE]`; the client would wait for the last line for ever."""
    assert lines(chunk(content="x"), chunk("stop"))[-1]["done"] is True
    assert lines(chunk(content="x"))[-1]["done"] is False


def test_a_whole_answer() -> None:
    """`stream: false` would fail, or lose its tools and tokens."""
    body = {
        "choices": [{"message": {"content": "hi", "reasoning": "hm", "tool_calls": [
            {"function": {"name": "f", "arguments": '{"a":1}'}}]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }  # fmt: skip
    raw, usage = CHAT.whole(json.dumps(body).encode(), REQUEST)
    found = json.loads(raw)
    assert usage == Usage(3, 5)
    assert found["message"] == {
        "role": "assistant", "content": "hi", "thinking": "hm", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
    }  # fmt: skip
    assert (found["done"], found["done_reason"], found["eval_count"]) == (True, "stop", 5)


def test_a_load_says_that_it_was_one() -> None:
    """The one word that it cost would be shown as an answer."""
    request = parse_generate(b'{"model":"m"}')
    raw, usage = GENERATE.whole(b'{"choices":[{"message":{"content":"x"}}],"usage":{"completion_tokens":1}}', request)
    found = json.loads(raw)
    assert (found["response"], found["done"], found["done_reason"]) == ("", True, "load")
    assert usage == Usage(0, 1)


def test_vectors_keep_their_order() -> None:
    """Texts would get each other's vectors."""
    body = b'{"data":[{"index":1,"embedding":[2.0]},{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":4}}'
    request = parse_embed(b'{"model":"m","input":["a","b"]}')
    raw, usage = EMBED.whole(body, request)
    assert json.loads(raw)["embeddings"] == [[1.0], [2.0]]
    assert json.loads(raw)["prompt_eval_count"] == 4
    assert usage == Usage(4, 0)
    assert json.loads(EMBEDDINGS.whole(body, request)[0]) == {"embedding": [1.0]}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"choices":[]}', b'{"data":3}', b"[" * 10_000])
def test_answers_that_make_no_sense_are_noticed(body: bytes) -> None:
    """They would be passed on as empty answers."""
    for dialect in (CHAT, EMBED):
        with pytest.raises(ValueError, match=r"."):
            dialect.whole(body, REQUEST)


def test_errors_say_what_to_do() -> None:
    """Its clients show this one sentence and nothing else."""
    error = RequestError("No such model.", status=404, code="model_not_found", next_step="There are: small.")
    assert json.loads(CHAT.error(error)) == {"error": "model not found: No such model. There are: small."}
    assert CHAT.error_event(error).endswith(b"}\n")

"""Reading the engines' streams in every dialect: whole pieces, the usage, and no end that was not one."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.gateway.inference.dialects.anthropic import ANTHROPIC
from lamplighter.gateway.inference.dialects.base import Dialect, StreamReader
from lamplighter.gateway.inference.dialects.openai import OPENAI
from lamplighter.gateway.inference.dialects.responses import RESPONSES
from lamplighter.gateway.inference.request import InferenceRequest, Route, encode_fields, from_fields
from lamplighter.gateway.ollama import answers
from lamplighter.gateway.ollama.requests import Note
from lamplighter.gateway.sse import Usage

BODIES: dict[Route, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "responses": {"input": "hi"},
    "completions": {"prompt": "hi"},
}


def request(route: Route, **more: Any) -> InferenceRequest:
    found = from_fields(route, encode_fields({"model": "m", "stream": True, **BODIES[route], **more}))
    found.note = Note(0)
    return found


def event(name: str | None, **data: Any) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return event(None, id="c", choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


MESSAGES = [
    event("message_start", type="message_start", message={"usage": {"input_tokens": 3, "cache_read_input_tokens": 30, "output_tokens": 1}}),
    event("content_block_delta", type="content_block_delta", delta={"text": 'say "message_stop" 🏮'}),
    event("message_delta", type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    event("message_stop", type="message_stop"),
]  # fmt: skip
RESPONSE = [
    event("response.created", type="response.created", response={"id": "r", "status": "in_progress"}),
    event("response.output_item.added", type="response.output_item.added", item={"id": "i"}),
    event("response.content_part.added", type="response.content_part.added", item_id="i", part={"type": "output_text", "text": ""}),
    event("response.output_text.delta", type="response.output_text.delta", item_id="i", delta="response.completed 🏮"),
    event("response.completed", type="response.completed",
          response={"id": "r", "output": [], "usage": {"input_tokens": 33, "output_tokens": 7}}),
]  # fmt: skip
CHAT = [
    chunk(role="assistant", content=None),
    chunk(content="[DONE] 🏮"),
    chunk(finish="stop"),
    event(None, choices=[], usage={"prompt_tokens": 33, "completion_tokens": 7}),
    b"data: [DONE]\n\n",
]
STREAMS: list[tuple[Dialect, Route, Sequence[bytes]]] = [
    (OPENAI, "chat", CHAT),
    (ANTHROPIC, "messages", MESSAGES),
    (RESPONSES, "responses", RESPONSE),
    (answers.CHAT, "chat", CHAT),
]
NAMES = ["openai", "anthropic", "responses", "ollama"]
each = pytest.mark.parametrize(("dialect", "route", "stream"), STREAMS, ids=NAMES)


def run(reader: StreamReader, pieces: Sequence[bytes]) -> bytes:
    return b"".join(reader.feed(piece) for piece in pieces) + reader.close()


def without_times(data: bytes) -> list[Any]:
    """Lines or events without what the clock decides."""
    found: list[Any] = []
    for line in data.splitlines():
        text = line.removeprefix(b"data: ")
        if text.startswith(b"{"):
            value = json.loads(text)
            found.append({name: item for name, item in value.items() if "duration" not in name and name != "created_at"})
            if isinstance(value.get("response"), dict):
                value["response"].pop("created_at", None)
        else:
            found.append(text)
    return found


@each
def test_a_whole_stream_is_whole_and_metered(dialect: Dialect, route: Route, stream: Sequence[bytes]) -> None:
    """An answer that came to its end would be shown as broken, or cost nothing."""
    reader = dialect.reader(request(route))
    assert run(reader, stream)
    assert (reader.done, reader.partial, reader.usage) == (True, False, Usage(33, 7))
    assert reader.events >= 3


@pytest.mark.parametrize("index", range(len(STREAMS)), ids=NAMES)
@given(data=st.data())
def test_how_it_arrives_changes_nothing(index: int, data: st.DataObject) -> None:
    """The network cuts where it likes: in the middle of a character, between two line ends."""
    dialect, route, stream = STREAMS[index]
    raw = b"".join(stream)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    cut, whole = dialect.reader(request(route)), dialect.reader(request(route))
    assert without_times(run(cut, [piece for piece in pieces if piece])) == without_times(run(whole, [raw]))
    assert (cut.done, cut.usage, cut.partial) == (True, whole.usage, False)


@each
def test_a_stream_that_breaks_off_never_looks_whole(dialect: Dialect, route: Route, stream: Sequence[bytes]) -> None:
    """A program would take half an answer for all of it: the words themselves may hold every sign of an end."""
    for count in range(len(stream)):
        reader = dialect.reader(request(route))
        run(reader, stream[:count])
        if not reader.finished:
            assert not reader.done, count
    reader = dialect.reader(request(route))
    run(reader, stream[:2])
    assert not reader.done
    assert not reader.finished
    assert reader.usage is None


@each
def test_half_an_event_is_noticed(dialect: Dialect, route: Route, stream: Sequence[bytes]) -> None:
    """The end of an engine in the middle of a word would pass for the end of the answer."""
    reader = dialect.reader(request(route))
    run(reader, [stream[0], stream[1][:20]])
    assert reader.partial
    assert not reader.done


@each
def test_garbage_does_not_stop_the_stream(dialect: Dialect, route: Route, stream: Sequence[bytes]) -> None:
    """One event that is not JSON would take the whole answer down, or the gateway with it."""
    reader = dialect.reader(request(route))
    nested = b'data: {"type":"message_stop","usage":' + b"[" * 5000 + b"\n\n"
    run(reader, [b"data: {not json\n\n", b': "message_stop" a comment\n\n', b'data: ["usage"]\n\n', nested, *stream])
    assert reader.done
    assert reader.usage == Usage(33, 7)


def test_anthropics_stream_passes_unchanged() -> None:
    """The engine speaks the dialect: what is not read must not be rewritten."""
    raw = b"".join(MESSAGES)
    assert run(ANTHROPIC.reader(request("messages")), [raw]) == raw


def test_tokens_of_the_beginning_are_no_usage() -> None:
    """A stream that was cut off would be settled at the one token that the beginning speaks of."""
    reader = ANTHROPIC.reader(request("messages"))
    run(reader, MESSAGES[:2])
    assert reader.usage is None


def test_what_llama_cpp_leaves_out_of_responses_is_added() -> None:
    """`responses.stream()` of OpenAI's library fails on events without these."""
    raw = run(RESPONSES.reader(request("responses", instructions="be brief")), RESPONSE)
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
    assert [item["sequence_number"] for item in events] == [0, 1, 2, 3, 4]
    assert [item.get("output_index") for item in events[1:4]] == [0, 0, 0]
    assert [item.get("content_index") for item in events[2:4]] == [0, 0]
    for item in (events[0], events[-1]):
        assert item["response"]["output"] == []
        assert item["response"]["instructions"] == "be brief"
        assert item["response"]["tools"] == []
    assert events[0]["response"]["created_at"] > 0


def test_complete_events_of_responses_pass_unchanged() -> None:
    """vLLM numbers its events itself: numbering them again would be wrong after an event of its own."""
    stream = [
        event("response.created", type="response.created", sequence_number=4, response={}),
        event("response.output_text.delta", type="response.output_text.delta", sequence_number=9, delta="x"),
        event("response.failed", type="response.failed", sequence_number=11, response={"usage": None}),
    ]
    reader = RESPONSES.reader(request("responses"))
    assert run(reader, stream) == b"".join(stream)
    assert reader.done


@pytest.mark.parametrize(
    ("make", "dialect", "route"),
    [
        (lambda: ANTHROPIC.heartbeat("a\nb", request("messages")), ANTHROPIC, "messages"),
        (lambda: RESPONSES.heartbeat("a\nb", request("responses")), RESPONSES, "responses"),
    ],
)
def test_heartbeats_are_whole_events(make: Callable[[], bytes], dialect: Dialect, route: Route) -> None:
    """A heartbeat that runs into the next event would spoil it."""
    beat = make()
    assert beat.endswith(b"\n\n")
    assert b"\n\n" not in beat[:-2]
    stream = dict(zip(NAMES, STREAMS, strict=True))["anthropic" if dialect is ANTHROPIC else "responses"][2]
    reader = dialect.reader(request(route))
    run(reader, [beat, *stream])
    assert reader.done


def test_ollamas_heartbeat_is_a_piece_without_words() -> None:
    """Its clients read every line as a part of the answer: an unknown one would stop them."""
    for dialect, field in ((answers.CHAT, "message"), (answers.GENERATE, "response")):
        line = json.loads(dialect.heartbeat("waking", request("chat")))
        assert line["done"] is False
        assert line[field] in ({"role": "assistant", "content": ""}, "")


def test_whole_answers_tell_their_usage() -> None:
    """The tokens of every answer that is not a stream would go uncounted."""
    message = b'{"type":"message","usage":{"input_tokens":1,"cache_read_input_tokens":30,"output_tokens":5}}'
    assert ANTHROPIC.whole(message, request("messages")) == (message, Usage(31, 5))
    body, usage = RESPONSES.whole(b'{"id":"r","usage":{"input_tokens":4,"output_tokens":5}}', request("responses"))
    assert usage == Usage(4, 5)
    assert json.loads(body)["output"] == []
    for dialect in (ANTHROPIC, RESPONSES, OPENAI):
        with pytest.raises(ValueError, match=r"JSON|object|array"):
            dialect.whole(b"[1", request("messages"))

"""Cutting streams into events."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.gateway import sse
from lamplighter.gateway.sse import EventTooLarge, Splitter, Usage, comment, error_event, payload, read_whole

ENDS = ("\n", "\r\n", "\r")


def chunk(**more: Any) -> str:
    return json.dumps({"choices": [{"delta": {"content": "žluťoučký 🏮"}}], **more}, ensure_ascii=False, separators=(",", ":"))


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}, separators=(",", ":"))


def stream(payloads: list[str], end: str) -> bytes:
    return "".join(f"data: {item}{end}{end}" for item in payloads).encode()


def feed(splitter: Splitter, pieces: list[bytes]) -> bytes:
    return b"".join([*(splitter.feed(piece) for piece in pieces), splitter.close()])


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in at}), len(data)]
    return [data[one:other] for one, other in itertools.pairwise(edges) if one != other]


payloads = st.lists(
    st.sampled_from([chunk(), chunk(usage=None), "[DONE]", ": not a comment", '{"text":"\\"usage\\":{}"}', chunk(x="a" * 300)]),
    max_size=8,
)


@given(payloads, st.sampled_from(ENDS), st.lists(st.integers(0, 4000), max_size=12))
@settings(deadline=None)
def test_any_chunking_passes_the_same_bytes(items: list[str], end: str, at: list[int]) -> None:
    """A person would see a garbled or incomplete answer, depending on how the network cut it."""
    data = stream(items, end)
    assert feed(Splitter(), cut(data, at)) == data


@given(payloads, st.sampled_from(ENDS), st.lists(st.integers(0, 4000), max_size=12))
@settings(deadline=None)
def test_usage_is_found_and_left_out_however_it_is_cut(items: list[str], end: str, at: list[int]) -> None:
    """A client that did not ask for usage would get an event it does not expect, or its tokens would not be counted."""
    with_usage = [*items, USAGE, "[DONE]"]
    splitter = Splitter(strip=True)
    assert feed(splitter, cut(stream(with_usage, end), at)) == stream([*items, "[DONE]"], end)
    assert splitter.usage == Usage(3, 5)
    assert splitter.done


@given(
    st.lists(st.sampled_from(["a", "\n", "\r", "\r\n", "data: x", "\n\n"]), max_size=30).map("".join),
    st.lists(st.integers(0, 99)),
)
@settings(deadline=None)
def test_only_whole_events_go_on(text: str, at: list[int]) -> None:
    """An error event or a comment put between two pieces would land in the middle of an event and break both."""
    splitter = Splitter()
    data = text.encode()
    passed = b""
    for piece in cut(data, at):
        out = splitter.feed(piece)
        passed += out
        assert data.startswith(passed)
        if out:
            assert out.replace(b"\r\n", b"\n").replace(b"\r", b"\n").endswith(b"\n\n")


def test_a_usage_event_that_was_asked_for_is_passed_on() -> None:
    """A client that counts tokens by itself would miss its usage."""
    data = stream([chunk(), USAGE, "[DONE]"], "\n")
    splitter = Splitter(strip=False)
    assert splitter.feed(data) == data
    assert splitter.usage == Usage(3, 5)


def test_usage_beside_content_is_never_left_out() -> None:
    """Text would be missing from the answer of engines that put usage into the last piece of content."""
    data = stream([chunk(usage={"prompt_tokens": 1, "completion_tokens": 2})], "\n")
    splitter = Splitter(strip=True)
    assert splitter.feed(data) == data
    assert splitter.usage == Usage(1, 2)


def test_the_word_usage_in_an_answer_is_no_usage() -> None:
    """An answer that speaks of usage would be swallowed or miscounted."""
    items = [
        '{"choices":[{"delta":{"content":"\\"usage\\": {\\"prompt_tokens\\": 9}"}}]}',
        '{"choices":[{"delta":{"content":"usage"}}]}',
    ]
    splitter = Splitter(strip=True)
    assert splitter.feed(stream(items, "\n")) == stream(items, "\n")
    assert splitter.usage is None


def test_an_event_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken engine could fill the gateway's memory."""
    monkeypatch.setattr(sse, "MAX_EVENT", 1000)
    splitter = Splitter()
    assert splitter.feed(b"data: " + b"x" * 900) == b""
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 200)


@pytest.mark.parametrize(
    ("tail", "done", "finished"),
    [
        (["[DONE]"], True, False),
        ([chunk(), "[DONE]"], True, False),
        (['{"choices":[{"delta":{},"finish_reason":"stop"}]}'], False, True),
        (['{"choices":[{"delta":{},"finish_reason":null}]}'], False, False),
        (['{"choices":[{"delta":{"content":"data: [DONE] or not"}}]}'], False, False),
        ([USAGE], False, True),
    ],
)
def test_whole_streams_are_told_from_broken_ones(tail: list[str], done: bool, finished: bool) -> None:
    """A broken answer would look complete, or a complete one broken."""
    splitter = Splitter()
    for item in [chunk(), *tail]:
        splitter.feed(stream([item], "\n"))
    assert (splitter.done, splitter.finished) == (done, finished)


def test_half_an_event_is_known() -> None:
    """An engine that dies within an event would seem to have finished."""
    splitter = Splitter()
    splitter.feed(b'data: {"a":1}\n\ndata: {"b"')
    assert splitter.partial


def test_payload_joins_lines_and_skips_comments() -> None:
    """The chat page would show protocol lines as text."""
    assert payload(b"event: x\r\ndata: a\r\ndata:b\r\n\r\n") == b"a\nb"
    assert payload(b": ping\n\n") is None


def test_own_events_are_one_line() -> None:
    """A line end in an error's message would cut the event and hide the error."""
    assert comment("a\nb") == b": a b\n\n"
    assert error_event({"error": {"message": "a\nb"}}).count(b"\n") == 2


def test_whole_answers() -> None:
    """A cut answer would be passed on as if it were complete."""
    assert read_whole(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}') == Usage(1, 2)
    assert read_whole(b'{"usage":"many"}') is None
    for broken in (b'{"a":', b"", b"[]", b"\xff", b'{"a":1} x', b"[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            read_whole(broken)

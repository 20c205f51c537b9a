"""Talking in the terminal: the stream is read right, whatever it holds and however it is cut; Ctrl-C stops the answer only."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.cli.conversation import AnswerBroken, Conversation, Done, Text, Waking, _read, lines
from tests.unit.cli.conftest import Api, Result, model, status

Run = Callable[..., Result]


def event(text: str | None = None, **fields: Any) -> bytes:
    choices = [{"delta": {"content": text}}] if text is not None else []
    return f"data: {json.dumps({'model': 'small', 'choices': choices, **fields}, ensure_ascii=False)}\n\n".encode()


END = b"data: [DONE]\n\n"
STREAM = (
    b": lamplighter waking stage=load elapsed=3s eta=5s\n\n"
    + event("Hel")
    + event("lo \u2028\u0085 w\u00f6rld")
    + event(usage={"completion_tokens": 3})
    + END
)


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=20))
def test_any_cut_gives_the_same_answer(cuts: list[int]) -> None:
    """Networks cut where they like, also within a character; no separator inside JSON ends a line."""
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in pairwise(edges)]
    assert list(_read(chunks, "small")) == [
        Waking("load", "3s", "5s"),
        Text("Hel"),
        Text("lo \u2028\u0085 wörld"),
        Done("small", {"completion_tokens": 3}),
    ]


def test_crlf_and_missing_final_newline() -> None:
    """Proxies rewrite line ends."""
    assert list(lines([b"a\r\n", b"b\r", b"\nc"])) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (event("Hel"), "broke off"),
        (b'data: {"error": {"message": "The engine was lost.", "code": "upstream_lost"}}\n\n', "The engine was lost."),
        (b'data: {"error": "plain"}\n\n', "plain"),
        (b"data: {nonsense\n\n", "not JSON"),
    ],
)
def test_a_broken_answer_is_never_shown_as_a_whole_one(stream: bytes, says: str) -> None:
    """A cut answer that looks complete is the worst of all failures."""
    with pytest.raises(AnswerBroken, match=says):
        list(_read([stream], "small"))


def test_one_question_on_the_command_line(lamplighter: Run, running: Api) -> None:
    """`lamplighter chat "..."` prints the answer and nothing else on standard output."""
    running.answers |= {"GET /api/status": (200, status(model())), "POST /v1/chat/completions": (200, STREAM)}
    answer = lamplighter("chat", "Hi", "--system", "Be brief.", stdin="and more\n")
    assert answer.exit == 0
    assert answer.out == "Hello \u2028\u0085 wörld\n"
    body = running.asked[-1][2]
    assert body["model"] == "small"
    assert body["stream"] is True
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n\nand more"}]


def test_json_for_programs(lamplighter: Run, running: Api) -> None:
    """One object with the text, the usage and who answered."""
    running.answers |= {"GET /api/status": (200, status(model())), "POST /v1/chat/completions": (200, STREAM)}
    answer = lamplighter("chat", "Hi", "--json").json
    assert answer["content"] == "Hello \u2028\u0085 wörld"
    assert answer["usage"] == {"completion_tokens": 3}
    assert answer["model"] == "small"


def test_the_awake_model_is_asked(lamplighter: Run, running: Api) -> None:
    """Without --model nobody should wait for a machine when another model is awake."""
    running.answers |= {
        "GET /api/status": (
            200,
            status(model("vectors", "awake", capabilities=["embeddings"]), model("big"), model("quick", "awake")),
        ),
        "POST /v1/chat/completions": (200, STREAM),
    }
    lamplighter("chat", "Hi")
    assert running.asked[-1][2]["model"] == "quick"


def test_a_refusal_and_a_broken_answer_have_a_status(lamplighter: Run, running: Api) -> None:
    """Scripts see that the answer is not one."""
    running.answers |= {
        "GET /api/status": (200, status(model())),
        "POST /v1/chat/completions": (429, {"error": {"message": "Full."}}),
    }
    assert lamplighter("chat", "Hi").exit == 7
    running.answers["POST /v1/chat/completions"] = 200, event("Hel")
    answer = lamplighter("chat", "Hi")
    assert answer.exit == 1
    assert "broke off" in answer.err


def test_no_question_is_a_wrong_command_line(lamplighter: Run, running: Api) -> None:
    """An empty pipe is a mistake, not an empty question."""
    running.answers["GET /api/status"] = 200, status(model())
    assert lamplighter("chat").exit == 2
    assert lamplighter("chat", "--json").exit == 2


class FakeStream:
    """A client whose answers are given; stands in for the network only."""

    def __init__(self, *streams: list[bytes]) -> None:
        self.streams = list(streams)
        self.bodies: list[Any] = []
        self.closed = 0

    def open_stream(self, path: str, body: Any) -> Any:
        import contextlib

        self.bodies.append(json.loads(json.dumps(body)))
        chunks = self.streams.pop(0)

        class Response:
            def iter_bytes(self) -> Any:
                return iter(chunks)

        @contextlib.contextmanager
        def opened() -> Any:
            try:
                yield Response()
            finally:
                self.closed += 1

        return opened()


def test_a_conversation_remembers() -> None:
    """The second question is asked with what was said before."""
    client = FakeStream([STREAM], [STREAM])
    talk = Conversation(client, "small")  # type: ignore[arg-type]
    list(talk.ask("one"))
    list(talk.ask("two"))
    assert [message["content"] for message in client.bodies[1]["messages"]] == ["one", "Hello \u2028\u0085 wörld", "two"]


def test_stopping_closes_the_connection_and_keeps_what_came() -> None:
    """Ctrl-C must free the engine at once; the half answer stays part of the talk."""
    client = FakeStream([event("Hel"), event("lo"), END])
    talk = Conversation(client, "small")  # type: ignore[arg-type]
    answer = talk.ask("one")
    assert next(answer) == Text("Hel")
    answer.close()
    assert client.closed == 1
    assert talk.messages == [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Hel"}]


def test_a_failed_question_is_forgotten() -> None:
    """A question that got no answer must not be asked again with the next one."""
    client = FakeStream([b'data: {"error": {"message": "no"}}\n\n'])
    talk = Conversation(client, "small")  # type: ignore[arg-type]
    with pytest.raises(AnswerBroken):
        list(talk.ask("one"))
    assert talk.messages == []

"""`lamplighter check` as a client feels it: what it measures, and what it says when something between is wrong."""

from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest

from lamplighter.operations.check import Answer, CheckFailed, ask, models
from lamplighter.operations.client import Client


class Ticking:
    """A clock that the stream itself moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stream(httpx.SyncByteStream):
    """Chunks that come at given times."""

    def __init__(self, clock: Ticking, chunks: Sequence[tuple[float, str]]) -> None:
        self._clock = clock
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for at, text in self._chunks:
            self._clock.now = 100.0 + at
            yield text.encode()


def event(text: str) -> str:
    return f'data: {{"model": "m", "choices": [{{"delta": {{"content": "{text}"}}}}]}}\n\n'


USAGE = 'data: {"model": "m", "choices": [], "usage": {"completion_tokens": 21}}\n\n'
DONE = "data: [DONE]\n\n"


def asked(
    chunks: Sequence[tuple[float, str]],
    *,
    kind: str = "text/event-stream; charset=utf-8",
    limit: float = 900.0,
    waking: Callable[[str], None] = lambda _: None,
) -> Answer:
    clock = Ticking()

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": kind}, stream=Stream(clock, chunks))

    with Client("http://gate", "lk-x", transport=httpx.MockTransport(answer)) as client:
        return ask(client, "m", limit=limit, waking=waking, now=clock)


def test_the_time_to_the_first_token_and_the_speed_after_it() -> None:
    """A number that counted the wait for the first token into the speed would make every cold model look slow."""
    found = asked([(0.5, event("a")), (1.5, event("b")), (2.5, event("c")), (2.5, USAGE + DONE)])
    assert found.first_token == pytest.approx(0.5)
    assert found.tokens == 21
    assert found.counted
    assert found.tokens_per_second == pytest.approx(10.0)
    assert not found.buffered


def test_an_engine_that_does_not_count_is_said() -> None:
    """Pieces are not tokens: a person must see which of them the number is."""
    found = asked([(1.0, event("a") + event("b")), (2.0, DONE)])
    assert (found.tokens, found.counted) == (2, False)


def test_a_wake_is_told_and_timed() -> None:
    """Else a minute of booting would be reported as a slow model."""
    told: list[str] = []
    found = asked(
        [(0.5, ": lamplighter waking stage=load elapsed=1s\n\n"), (10.0, ": lamplighter waking stage=load elapsed=10s\n\n"), (12.0, event("a")), (12.1, DONE)],
        waking=told.append,
    )  # fmt: skip
    assert found.waking == pytest.approx(10.0)
    assert found.first_token == pytest.approx(12.0)
    assert len(told) == 2
    assert "stage=load" in told[0]


def test_a_proxy_that_buffers_is_found() -> None:
    """The usual mistake before a gateway: the whole answer arrives at its end, and chat pages look frozen."""
    whole = "".join(event(str(number)) for number in range(12))
    assert asked([(9.0, whole), (9.001, DONE)]).buffered
    assert not asked([(float(number), event("x")) for number in range(1, 13)] + [(12.5, DONE)]).buffered


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([(1.0, event("a"))], "broke off"),
        ([(1.0, 'data: {"error": {"message": "the engine was lost", "next_step": "Ask again."}}\n\n')], "the engine was lost"),
        ([(1.0, "data: <html>\n\n")], "not JSON"),
        ([(1.0, DONE)], "empty"),
        ([(901.0, event("a"))], "no whole answer within 900 seconds"),
    ],
)
def test_what_is_no_whole_answer_fails(chunks: Sequence[tuple[float, str]], said: str) -> None:
    """A smoke test that passes on half an answer is worse than none."""
    with pytest.raises(CheckFailed) as caught:
        asked(chunks)
    assert said in caught.value.message
    assert caught.value.next_step


def test_a_page_in_the_place_of_the_api_is_named() -> None:
    """An ingress that sends /v1 to the page answers 200 with HTML."""
    with pytest.raises(CheckFailed, match="no event stream"):
        asked([(0.1, "<html>")], kind="text/html")
    page = httpx.MockTransport(lambda request: httpx.Response(200, json=["something else"]))
    with Client("http://gate", "lk-x", transport=page) as client, pytest.raises(CheckFailed, match="no OpenAI-compatible API"):
        models(client)

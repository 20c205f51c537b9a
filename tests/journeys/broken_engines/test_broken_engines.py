"""Engines that misbehave in every way that a wire allows. The client is told the truth in time, and nothing stays behind."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import psutil
import pytest

from tests.journeys.broken_engines.rude import WAYS, WORDS
from tests.journeys.harness import Server, eventually, running
from tests.journeys.invariants import assert_quiet

ROOT = Path(__file__).parents[3]
LIMITS = (
    "gateway: {connect_timeout: 2s, first_byte_timeout: 3s, first_token_timeout: 3s, idle_stream_timeout: 2s, retries: 1, hold: 3s}\n"
    "breaker: {open: 1s}"
)
IN_TIME = 12.0
"""Seconds within which everybody has an answer: the longest of the limits above twice (a retry), and room for a busy machine."""
TEXT = "".join(WORDS)


@contextlib.contextmanager
def rude(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """An engine that misbehaves: its URL and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.journeys.broken_engines.rude", *arguments], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait(10)


def config(urls: dict[str, str], limits: str = LIMITS) -> str:
    models = "".join(
        f"  {name.replace('_', '-')}: {{engine: openai, pool: {name.replace('_', '-')}, source: m}}\n" for name in urls
    )
    pools = "".join(f"  {name.replace('_', '-')}: {{kind: static, url: '{url}'}}\n" for name, url in urls.items())
    return f"models:\n{models}pools:\n{pools}{limits}\n"


@pytest.fixture(scope="module")
def lamplighter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Lamplighter before one engine of each kind."""
    with contextlib.ExitStack() as stack:
        urls = {way: stack.enter_context(rude(way))[0] for way in WAYS}
        yield stack.enter_context(running(Server(tmp_path_factory.mktemp("broken") / "data", config(urls))))


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every single fault, not only at the end."""
    yield
    if "lamplighter" in request.fixturenames:
        assert_quiet(request.getfixturevalue("lamplighter"))


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < IN_TIME


def ask(lamplighter: Server, model: str, *, stream: bool) -> str:
    """The text, through OpenAI's own client. Raises what it raises."""
    messages = [{"role": "user", "content": "Say something."}]
    answer = lamplighter.openai().chat.completions.create(model=model.replace("_", "-"), messages=messages, stream=stream)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


def check(error: openai.APIStatusError, status: int, code: str | None) -> None:
    """The error says what happened; or, once the engine has failed a moment ago, that it is left alone, and for how long."""
    assert error.message
    if error.status_code == 503 and error.code in {"unreachable", "circuit_open"}:
        assert 1 <= int(error.response.headers["retry-after"]) <= 60
        return
    assert error.status_code == status, error.message
    assert code is None or error.code == code, error.message


BEFORE = {
    "silent": (504, "upstream_timeout"),
    "reset": (502, "upstream_lost"),
    "close": (502, "upstream_lost"),
    "half_head": (502, "upstream_lost"),
    "garbage": (502, "upstream_protocol"),
    "two_lengths": (502, "upstream_protocol"),
    "both_lengths": (502, "upstream_protocol"),
    "huge_head": (502, "upstream_protocol"),
    "html": (502, "upstream_protocol"),
    "long_length": (502, "upstream_lost"),
    "error_500": (502, None),
}
"""Ways that fail before anything of an answer came, the same with and without a stream."""
WHOLE = {
    "cut": (502, "upstream_lost"),
    "half_event": (502, "upstream_lost"),
    "half_event_closed": (502, "upstream_lost"),
    "no_end": (502, "upstream_lost"),
    "garbage_later": (504, "upstream_timeout"),
    "stall": (504, "upstream_timeout"),
}
"""Ways that break a whole answer in its middle: none of it may be taken for one."""


@pytest.mark.parametrize("way", [*BEFORE, *WHOLE])
def test_a_whole_answer_is_whole_or_an_error(lamplighter: Server, way: str) -> None:
    """A program would wait for ever, or take half an answer, or somebody else's, for its own."""
    with in_time(), pytest.raises(openai.APIStatusError) as caught:
        ask(lamplighter, way, stream=False)
    check(caught.value, *{**BEFORE, **WHOLE}[way])


@pytest.mark.parametrize("way", BEFORE)
def test_a_stream_that_never_began_is_an_error(lamplighter: Server, way: str) -> None:
    """A client would see an empty answer and call it one."""
    with in_time(), pytest.raises(openai.APIError) as caught:
        ask(lamplighter, way, stream=True)
    if isinstance(caught.value, openai.APIStatusError):
        check(caught.value, *BEFORE[way])
    assert caught.value.message


@pytest.mark.parametrize("way", WHOLE)
def test_a_stream_that_broke_off_says_so(lamplighter: Server, way: str) -> None:
    """Half an answer would look like a whole one: the worst that a gateway can do."""
    lines = []
    with in_time(), lamplighter.http() as client:
        body = {"model": way.replace("_", "-"), "messages": [{"role": "user", "content": "Say."}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert "[DONE]" not in "".join(lines)
    assert json.loads(lines[-1][5:])["error"]["code"] == "upstream_lost"
    assert all(json.loads(line[5:]) for line in lines), "never half an event"
    with in_time(), pytest.raises(openai.APIError, match="broke off"):
        ask(lamplighter, way, stream=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ["slow", "idle_close"])
def test_what_is_only_odd_works(lamplighter: Server, way: str, stream: bool) -> None:
    """A slow engine, or one that closes its connections between answers, would be taken for a broken one."""
    for _ in range(3 if way == "idle_close" else 1):
        assert ask(lamplighter, way, stream=stream) == TEXT
        time.sleep(0.1)


def test_more_than_was_promised_is_never_the_next_answer(lamplighter: Server) -> None:
    """A client would get the answer of another one: the classic of smuggling."""
    with lamplighter.http() as client:
        body = {"model": "short-length", "messages": [{"role": "user", "content": "Say."}]}
        for _ in range(5):
            answer = client.post("/v1/chat/completions", json=body)
            assert "somebody else" not in answer.text
            assert answer.status_code in {200, 502, 503}


def test_a_frozen_engine_is_an_error_and_recovers(server: Callable[..., Server]) -> None:
    """SIGSTOP: its kernel still takes connections, and nobody answers on them. Requests would hang for ever."""
    with rude("well") as (url, engine), running(server(config({"frozen": url}))) as lamplighter:
        assert ask(lamplighter, "frozen", stream=False) == TEXT
        engine.send_signal(signal.SIGSTOP)
        try:
            for stream in (False, True):
                with in_time(), pytest.raises(openai.APIStatusError) as caught:
                    ask(lamplighter, "frozen", stream=stream)
                assert caught.value.status_code in {503, 504}
                if caught.value.status_code == 503:
                    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
            assert_quiet(lamplighter)
        finally:
            engine.send_signal(signal.SIGCONT)

        def answers() -> bool:
            with contextlib.suppress(openai.APIStatusError):
                return ask(lamplighter, "frozen", stream=True) == TEXT
            return False

        eventually(answers, what="the engine that goes on is asked again")


@pytest.mark.parametrize("way", ["reset", "close"])
def test_a_fault_before_the_first_byte_is_tried_again(server: Callable[..., Server], way: str) -> None:
    """One unlucky moment of an engine would be an error in a program, although nothing was lost."""
    with rude(way, "1") as (url, _), running(server(config({"m": url}))) as lamplighter:
        assert ask(lamplighter, "m", stream=True) == TEXT
        assert ask(lamplighter, "m", stream=False) == TEXT


def test_an_engine_that_is_gone_is_refused_at_once(server: Callable[..., Server]) -> None:
    """A program would wait for a server that is switched off."""
    with contextlib.ExitStack() as stack:
        url, engine = stack.enter_context(rude("well"))
        with running(server(config({"m": url}))) as lamplighter:
            assert ask(lamplighter, "m", stream=False) == TEXT
            engine.kill()
            with in_time(), pytest.raises(openai.APIStatusError) as caught:
                ask(lamplighter, "m", stream=False)
            assert caught.value.status_code == 503
            assert int(caught.value.response.headers["retry-after"]) >= 1

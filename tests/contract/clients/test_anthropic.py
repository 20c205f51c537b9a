"""Anthropic's Python library, unmodified but for `base_url`, against the real embedded engine."""

from typing import Any

import anthropic
import pytest

from tests.journeys.harness import ADMIN_KEY, PATIENCE, Server

pytestmark = pytest.mark.model

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


def client(server: Server, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**{"base_url": server.url, "api_key": ADMIN_KEY, "max_retries": 0, "timeout": PATIENCE, **options})


def test_messages_whole_and_streamed(lamplighter: Server) -> None:
    """Programs made for Claude would not work at all."""
    whole = client(lamplighter).messages.create(model="small", max_tokens=12, messages=QUESTION, extra_body={"temperature": 0})
    assert whole.content[0].type == "text"
    assert "Paris" in whole.content[0].text
    assert whole.usage.output_tokens > 0
    with client(lamplighter).messages.stream(
        model="small", max_tokens=12, messages=QUESTION, extra_body={"temperature": 0}, system="Be brief."
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.strip()
    assert final.stop_reason in {"end_turn", "max_tokens"}
    assert final.usage.output_tokens > 0


def test_tokens_are_counted_before_they_are_spent(lamplighter: Server) -> None:
    """Agents cut their history to size with this."""
    short = client(lamplighter).messages.count_tokens(model="small", messages=QUESTION)
    long = client(lamplighter).messages.count_tokens(model="small", messages=[{"role": "user", "content": "word " * 100}])
    assert 0 < short.input_tokens < long.input_tokens


def test_errors_have_its_types(lamplighter: Server) -> None:
    """A program's `except` clauses would not match, and its messages would be empty."""
    with pytest.raises(anthropic.AuthenticationError) as key:
        client(lamplighter, api_key="lk-wrong").messages.create(model="small", max_tokens=4, messages=QUESTION)
    assert key.value.type == "authentication_error"
    with pytest.raises(anthropic.NotFoundError, match="absent"):
        client(lamplighter).messages.create(model="absent", max_tokens=4, messages=QUESTION)
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client(lamplighter).messages.create(model="small", max_tokens=4, messages=[])
    with pytest.raises(anthropic.BadRequestError, match="context"):
        client(lamplighter).messages.create(model="small", max_tokens=4, messages=[{"role": "user", "content": "word " * 3000}])


def test_a_model_that_sleeps_is_an_error_that_is_tried_again(lamplighter: Server) -> None:
    """Claude's clients try 529 and 503 again; anything else ends the agent."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        client(lamplighter).messages.create(model="scarce", max_tokens=4, messages=QUESTION)
    assert caught.value.status_code in {429, 503}
    assert caught.value.response.headers["retry-after"]

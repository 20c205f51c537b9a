"""OpenAI's Python library, unmodified but for `base_url`, against the real embedded engine."""

import json

import openai
import pytest

from tests.journeys.harness import Server

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "country": {"type": "string", "maxLength": 20}},
    "required": ["city", "country"],
    "additionalProperties": False,
}


def test_chats_whole_and_streamed(lamplighter: Server) -> None:
    """The main way to ask: with it, everything fails."""
    client = lamplighter.openai()
    whole = client.chat.completions.create(model="small", messages=QUESTION, max_tokens=12, temperature=0)
    assert "Paris" in whole.choices[0].message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model="small", messages=QUESTION, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == whole.choices[0].message.content.strip()
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_stream_helper_puts_an_answer_together(lamplighter: Server) -> None:
    """`chat.completions.stream()` checks every event more closely than a plain loop does."""
    with lamplighter.openai().chat.completions.stream(model="small", messages=QUESTION, max_tokens=200, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


def test_a_schema_is_kept(lamplighter: Server) -> None:
    """A program that parses the answer would get prose."""
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    answer = lamplighter.openai().chat.completions.create(
        model="small", messages=QUESTION, max_tokens=80, temperature=0, response_format=form
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "country"}


def test_tools_reach_the_engine(lamplighter: Server) -> None:
    """The bundled model is too small to call one, but the request must be understood and answered."""
    tool = {"type": "function", "function": {"name": "find", "description": "Finds", "parameters": SCHEMA}}
    answer = lamplighter.openai().chat.completions.create(model="small", messages=QUESTION, max_tokens=16, tools=[tool])
    message = answer.choices[0].message
    assert message.content or message.tool_calls


def test_completions_and_embeddings(lamplighter: Server) -> None:
    """Indexes and older programs use these alone."""
    client = lamplighter.openai()
    whole = client.completions.create(model="small", prompt="The sky is", max_tokens=6)
    assert whole.choices[0].text
    assert list(client.completions.create(model="small", prompt="The sky is", max_tokens=6, stream=True))
    vectors = client.embeddings.create(model="small", input=["cat", "tax law"])
    assert len(vectors.data) == 2
    assert len(vectors.data[0].embedding) == len(vectors.data[1].embedding) > 100


def test_responses_whole_and_streamed(lamplighter: Server) -> None:
    """The API that OpenAI's newer examples use."""
    client = lamplighter.openai()
    whole = client.responses.create(model="small", input="What is the capital of France?", max_output_tokens=12, temperature=0)
    assert "Paris" in whole.output_text
    assert whole.usage.output_tokens > 0
    with client.responses.stream(model="small", input="Hi", instructions="Be brief.", max_output_tokens=6) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text
    assert final.usage.output_tokens > 0
    plain = list(client.responses.create(model="small", input="Hi", max_output_tokens=4, stream=True))
    assert [event.sequence_number for event in plain] == list(range(len(plain)))


@pytest.mark.parametrize("route", ["chat", "responses"])
def test_errors_have_its_types(lamplighter: Server, route: str) -> None:
    """A program's `except` clauses would not match."""

    def ask(client: openai.OpenAI, model: str = "small", text: str = "hi", most: int = 4) -> object:
        if route == "chat":
            return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], max_tokens=most)
        return client.responses.create(model=model, input=text, max_output_tokens=most)

    with pytest.raises(openai.AuthenticationError):
        ask(lamplighter.openai(api_key="lk-wrong"))
    with pytest.raises(openai.NotFoundError) as missing:
        ask(lamplighter.openai(), model="absent")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        ask(lamplighter.openai(), most=-1)
    assert bad.value.code == "invalid_value"
    with pytest.raises(openai.BadRequestError) as long:
        ask(lamplighter.openai(), text="word " * 3000)
    assert long.value.code == "context_length_exceeded"


def test_limits_are_told_with_the_time_to_wait(lamplighter: Server) -> None:
    """The library waits as long as `Retry-After` says before it tries again: without it, it hammers or gives up."""
    client, errors = lamplighter.openai(), []
    for _ in range(2):
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="scarce", messages=QUESTION)
        errors.append(caught.value)
    limited = errors[-1]
    assert isinstance(limited, openai.RateLimitError)
    assert limited.code == "rate_limit_exceeded"
    assert 1 <= int(limited.response.headers["retry-after"]) <= 60


def test_models_are_listed(lamplighter: Server) -> None:
    """Programs offer what is listed."""
    assert {model.id for model in lamplighter.openai().models.list()} == {"small", "scarce"}

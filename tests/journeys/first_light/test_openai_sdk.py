"""A program: OpenAI's Python SDK, unmodified, against `lamplighter up` with no configuration and the real embedded model."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.journeys.harness import Server, eventually, running

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def lamplighter(tmp_path_factory: pytest.TempPathFactory, models: object) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("sdk") / "data"
    data.mkdir(mode=0o700)
    (data / "models").symlink_to(str(models))
    with running(
        Server(
            data,
            "models: {small: {engine: llamacpp, pool: here, source: bundled, context: 1024}}\npools: {here: {kind: process}}",
        )
    ) as server:
        yield server


def test_a_chat_is_answered(lamplighter: Server) -> None:
    """If this fails, the main job fails: a question to a sleeping model gets no answer."""
    answer = lamplighter.openai().chat.completions.create(model="small", messages=QUESTION, max_tokens=24)
    assert answer.choices[0].message.content.strip()
    assert answer.model == "small"
    assert answer.usage.completion_tokens > 0


def test_a_stream_brings_tokens_and_usage(lamplighter: Server) -> None:
    """Programs that count tokens from the stream would count nothing."""
    stream = lamplighter.openai().chat.completions.create(
        model="small", messages=QUESTION, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_usage_comes_only_to_those_who_ask(lamplighter: Server) -> None:
    """Clients that index `choices[0]` of every chunk would break on a usage event that they did not ask for."""
    chunks = list(lamplighter.openai().chat.completions.create(model="small", messages=QUESTION, max_tokens=8, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_completions_embeddings_and_models(lamplighter: Server) -> None:
    """Tools that use the older routes, or look for the model's name, would not work."""
    client = lamplighter.openai()
    assert client.completions.create(model="small", prompt="The sky is", max_tokens=8).choices[0].text
    vectors = client.embeddings.create(model="small", input=["one", "two"])
    assert len(vectors.data) == 2
    assert len(vectors.data[0].embedding) > 100
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").id == "small"


def test_errors_have_the_sdk_s_types(lamplighter: Server) -> None:
    """A program's `except` clauses would not match."""
    with pytest.raises(openai.AuthenticationError):
        lamplighter.openai(api_key="lk-wrong").chat.completions.create(model="small", messages=QUESTION)
    with pytest.raises(openai.NotFoundError) as missing:
        lamplighter.openai().chat.completions.create(model="absent", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        lamplighter.openai().chat.completions.create(model="small", messages=QUESTION, max_tokens=-1)
    assert bad.value.param in {"max_tokens", "max_completion_tokens"}
    with pytest.raises(openai.BadRequestError) as overflow:
        lamplighter.openai().chat.completions.create(model="small", messages=[{"role": "user", "content": "word " * 5000}])
    assert overflow.value.code == "context_length_exceeded"


def test_a_timeout_and_a_cancel_free_the_engine(lamplighter: Server) -> None:
    """An abandoned request would keep the engine busy for everybody else."""
    client = lamplighter.openai()
    long = [{"role": "user", "content": "Write a very long story about a lighthouse."}]
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.6).chat.completions.create(model="small", messages=long, max_tokens=900)
    stream = client.chat.completions.create(model="small", messages=long, max_tokens=900, stream=True)
    for _ in range(3):
        next(stream)
    assert lamplighter.engine_metric("llamacpp:requests_processing") >= 1
    stream.close()
    eventually(lambda: lamplighter.engine_metric("llamacpp:requests_processing") == 0, what="the engine's slots are free")


def test_request_ids_are_kept_or_made(lamplighter: Server) -> None:
    """Nobody could find a request in the log."""
    with lamplighter.http() as client:
        answer = client.post(
            "/v1/chat/completions",
            json={"model": "small", "messages": QUESTION, "max_tokens": 2},
            headers={"x-request-id": "mine-1"},
        )
        assert answer.headers["x-request-id"] == "mine-1"
        assert client.get("/v1/models").headers["x-request-id"]
    eventually(lambda: "mine-1" in lamplighter.text(), what="the access log, written in batches, has the request")
    assert "Name three colours" not in lamplighter.text()


def test_nothing_but_health_answers_without_a_key(lamplighter: Server) -> None:
    """Anybody on the network could use the model."""
    for path, status in {"/health": 200, "/ready": 200, "/v1/models": 401, "/api/status": 401, "/api/keys": 401}.items():
        assert httpx.get(lamplighter.url + path).status_code == status, path

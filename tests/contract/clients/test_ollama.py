"""Ollama's Python library, unmodified but for its host, against the real embedded engine."""

import json
from typing import Any

import ollama
import pytest

from tests.journeys.harness import ADMIN_KEY, PATIENCE, Server

pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = {"num_predict": 12, "temperature": 0}


def client(server: Server, key: str = ADMIN_KEY) -> Any:
    return ollama.Client(host=server.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE)


def test_chats_whole_and_streamed(lamplighter: Server) -> None:
    """Programs made for Ollama would not work at all."""
    whole = client(lamplighter).chat("small", messages=QUESTION, options=SHORT)
    assert "Paris" in whole.message.content
    assert whole.done_reason in {"stop", "length"}
    assert whole.eval_count > 0
    assert 0 < whole.eval_duration <= whole.total_duration
    parts = list(client(lamplighter).chat("small", messages=QUESTION, options=SHORT, stream=True))
    assert "".join(part.message.content for part in parts).strip() == whole.message.content.strip()
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_prompts_raw_and_not(lamplighter: Server) -> None:
    """Editors complete text with `/api/generate`."""
    assert client(lamplighter).generate("small", prompt="Say hello.", system="Be brief.", options=SHORT).response
    raw = client(lamplighter).generate("small", prompt="The sky is", raw=True, options=SHORT, stream=True)
    assert "".join(part.response for part in raw)


def test_a_format_is_kept(lamplighter: Server) -> None:
    """A program that parses the answer would get prose."""
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    answer = client(lamplighter).chat("small", messages=QUESTION, format=schema, options={"num_predict": 60, "temperature": 0})
    assert set(json.loads(answer.message.content)) == {"city"}


def test_embeddings_new_and_old(lamplighter: Server) -> None:
    """Indexes are made with these."""
    both = client(lamplighter).embed("small", input=["cat", "tax law"])
    assert len(both.embeddings) == 2
    assert len(client(lamplighter).embeddings("small", prompt="cat").embedding) == len(both.embeddings[0])


def test_what_there_is(lamplighter: Server) -> None:
    """Programs offer what is listed, and choose by what a model can."""
    assert "small" in {model.model for model in client(lamplighter).list().models}
    shown = client(lamplighter).show("small")
    assert "completion" in shown.capabilities
    assert shown.modelinfo["llamacpp.context_length"] == 1024
    client(lamplighter).generate("small")  # load
    assert [model.model for model in client(lamplighter).ps().models] == ["small"]


def test_a_tag_is_no_other_model(lamplighter: Server) -> None:
    """Ollama's programs write `small:latest` for `small`."""
    assert client(lamplighter).chat("small:latest", messages=QUESTION, options={"num_predict": 2}).model == "small:latest"


def test_errors_are_raised_with_their_words(lamplighter: Server) -> None:
    """A person would see a stack trace, or nothing."""
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client(lamplighter).chat("absent", messages=QUESTION)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found"):
        list(client(lamplighter).chat("absent", messages=QUESTION, stream=True))
    with pytest.raises(ollama.ResponseError, match="API key") as key:
        client(lamplighter, "lk-wrong").list()
    assert key.value.status_code == 401
    with pytest.raises(ollama.ResponseError, match="context"):
        client(lamplighter).chat("small", messages=[{"role": "user", "content": "word " * 3000}])
    with pytest.raises(ollama.ResponseError, match=r"lamplighter\.yaml"):
        client(lamplighter).delete("small")
    with pytest.raises(ollama.ResponseError, match="sleeps by itself"):
        client(lamplighter).generate("small", keep_alive=0)
    assert client(lamplighter).pull("small").status == "success"

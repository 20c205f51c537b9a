"""The answer check, asked of pretended engines over real sockets."""

import time
from typing import Any

import pytest

from lamplighter.capacity import answers
from lamplighter.capacity.answers import USUAL, Asked
from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.store.rollouts import Check
from lamplighter.testing.engine import FakeEngine, Wrong
from lamplighter.testing.provider import FakeEngineKind

MODEL = ModelConfig.model_validate({"engine": "fake", "pool": "cloud"})
LAMP = Check("What is lit?", r"(?i)the\s+lamp")


def asked(engine: FakeEngine, *capabilities: str) -> Asked:
    return Asked("m", MODEL, FakeEngineKind(), Endpoint(engine.url), capabilities or None)


async def test_a_right_answer_passes_and_a_wrong_one_is_named() -> None:
    """If this fails, nonsense is promoted, or nobody can see what was wrong."""
    async with FakeEngine() as good, FakeEngine(says=(" nonsense",)) as bad:
        assert await answers.wrong(asked(good), None, [LAMP]) is None
        assert await answers.wrong(asked(good, "completions"), None, [LAMP]) is None
        found = await answers.wrong(asked(bad), asked(bad), [LAMP])
        assert found is not None
        assert "nonsense" in found
        assert "What is lit?" in found
        assert good.bodies[0] | {"messages": []} == {
            "model": "m", "max_tokens": answers.MOST_TOKENS, "temperature": 0, "stream": False, "messages": [],
        }  # fmt: skip


async def test_the_usual_questions_are_held_against_it_only_where_the_other_knows() -> None:
    """If this fails, a tiny model can never be changed, or a good one is replaced by one that has forgotten everything."""
    async with FakeEngine() as lamp, FakeEngine(says=(" Paris", " 5", " lamplighter")) as clever:
        assert await answers.wrong(asked(lamp), asked(lamp), ()) is None
        assert await answers.wrong(asked(clever), asked(lamp), ()) is None
        assert await answers.wrong(asked(lamp), None, ()) is None
        found = await answers.wrong(asked(lamp), asked(clever), ())
        assert found is not None
        assert USUAL[0].prompt in found


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"wrong": Wrong.STATUS_500}, "answered 500"),
        ({"says": (" ",)}, "with nothing"),
        ({"key": "secret"}, "answered 401"),
    ],
)
async def test_an_engine_that_does_not_answer_does_not_pass(behaviour: dict[str, Any], words: str) -> None:
    """If this fails, an engine that is broken from the start is sent people."""
    async with FakeEngine(**behaviour) as engine:
        found = await answers.wrong(asked(engine), None, ())
        assert found is not None
        assert words in found


@pytest.mark.parametrize("behaviour", [{"wrong": Wrong.RESET}, {"wrong": Wrong.GARBAGE}, {"status_503_times": 1}])
async def test_one_that_cannot_be_asked_is_not_judged(behaviour: dict[str, Any]) -> None:
    """If this fails, a machine that dies in the moment of the check is taken for a model that answers nonsense."""
    async with FakeEngine(**behaviour) as engine, FakeEngine() as other:
        with pytest.raises(answers.NoAnswer):
            await answers.wrong(asked(engine), None, ())
        assert await answers.wrong(asked(other), asked(engine), ()) is None


async def test_what_embeds_is_asked_for_numbers() -> None:
    """If this fails, models that do not chat can never be changed."""
    async with FakeEngine() as engine, FakeEngine(wrong=Wrong.STATUS_500) as broken:
        assert await answers.wrong(asked(engine, "embeddings"), None, ()) is None
        assert await answers.wrong(asked(broken, "embeddings"), None, ()) is not None
        assert await answers.wrong(asked(engine, "rerank"), None, ()) is None


async def test_a_catastrophic_expression_stops_nothing() -> None:
    """If this fails, one regular expression takes the whole keeper away."""
    began = time.monotonic()
    assert not await answers.found(r"(a+)+$", "a" * 60 + "!")
    assert time.monotonic() - began < 30
    assert await answers.found(r"lit?\b", "the lamp is lit")
    assert await answers.found("lamp", "the lamp is lit")
    assert not await answers.found("candle", "the lamp is lit")

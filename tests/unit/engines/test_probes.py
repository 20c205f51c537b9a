"""The health checks of `engines.openai` and `engines.llamacpp`, beyond their contract."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError, SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Capability, Engine, Health, LaunchSpec, Probe
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.http import Exchange, HttpServer

Answers = dict[str, tuple[int, bytes]]


def model(**settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({"engine": "openai", "pool": "nas", **settings})


@pytest.fixture
async def answering() -> AsyncIterator[Callable[[Answers], Endpoint]]:
    """Makes the server answer its paths so; everything else is 404."""
    answers: Answers = {}

    async def serve(exchange: Exchange) -> None:
        status, body = answers.get(exchange.request.path, (404, b""))
        exchange.answer(status, body)

    async with HttpServer(serve) as server:

        def answer(wanted: Answers) -> Endpoint:
            answers.update(wanted)
            return Endpoint(server.url, "key")

        yield answer


async def check(engine: Engine, endpoint: Endpoint, config: ModelConfig | None = None) -> Probe:
    return await engine.probe(endpoint, "small", config or model(), timeout=5)


def listing(*names: str) -> bytes:
    return json.dumps({"data": [{"id": name} for name in names]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "health", "reason"),
    [
        (200, listing("small", "other"), Health.READY, None),
        (200, listing("small:latest"), Health.READY, None),
        (200, b'{"data": null}', Health.READY, None),
        (200, listing("other"), Health.FAILED, WakeFailure.MODEL_NOT_FOUND),
        (401, b"", Health.FAILED, WakeFailure.PROVIDER_ERROR),
        (403, b"", Health.FAILED, WakeFailure.PROVIDER_ERROR),
        (404, b"", Health.READY, None),
        (405, b"", Health.READY, None),
        (500, b"", Health.DOWN, None),
        (503, b"", Health.LOADING, None),
        (200, b"<html>router login</html>", Health.DOWN, None),
        (200, b"[]", Health.DOWN, None),
        (200, b'{"data": [1]}', Health.DOWN, None),
    ],
)
async def test_a_compatible_server_is_judged(
    answering: Callable[[Answers], Endpoint], status: int, body: bytes, health: Health, reason: WakeFailure | None
) -> None:
    """Servers differ; a good one would be refused, or a router's login page get the prompts."""
    probe = await check(OpenAICompatible(), answering({"/v1/models": (status, body)}))
    assert (probe.health, probe.reason) == (health, reason)


async def test_a_refused_and_a_missing_key_read_differently(answering: Callable[[Answers], Endpoint]) -> None:
    """The person would correct a key that was never sent."""
    endpoint = answering({"/v1/models": (401, b"")})
    assert "refused" in str((await check(OpenAICompatible(), endpoint)).detail)
    assert "wants a key" in str((await check(OpenAICompatible(), Endpoint(endpoint.url))).detail)


def test_the_source_is_the_upstream_name() -> None:
    """A request for `small` would ask Ollama for a model that it calls otherwise."""
    assert OpenAICompatible().upstream_model("small", model(source="qwen3:4b")) == "qwen3:4b"
    assert OpenAICompatible().upstream_model("small", model()) == "small"


async def test_llamacpp_is_loading_until_it_says_otherwise() -> None:
    """Requests would be sent to an engine that answers 503."""
    async with FakeEngine(model="small", load_seconds=60) as server:
        assert (await check(LlamaCpp(), Endpoint(server.url))).health is Health.LOADING


async def test_llamacpp_tells_its_context() -> None:
    """The page would show a context that the engine does not have."""
    async with FakeEngine(model="small", context=2048) as server:
        probe = await check(LlamaCpp(), Endpoint(server.url))
    assert (probe.health, probe.context) == (Health.READY, 2048)


async def test_another_server_on_its_port_is_not_ours(answering: Callable[[Answers], Endpoint]) -> None:
    """After a crash another program may get the port, and would get the prompts."""
    healthy = (200, b"{}")
    endpoint = answering({"/health": healthy, "/v1/models": (200, listing("stranger"))})
    probe = await check(LlamaCpp(), endpoint)
    assert probe.health is Health.DOWN
    assert "stranger" in str(probe.detail)
    endpoint = answering({"/health": healthy, "/v1/models": (200, b"?")})
    assert (await check(LlamaCpp(), endpoint)).health is Health.DOWN


def test_embeddings_are_offered_only_when_set() -> None:
    """Clients would get errors for what the list of models promises."""
    config = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled", "embeddings": False})
    assert Capability.EMBEDDINGS not in LlamaCpp().capabilities(config)


def test_commands(tmp_path: Any) -> None:
    """The engine would start with spinning threads, a secret in its command line, or from a source that means nothing."""
    config = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled"})
    spec = LaunchSpec("small", config, tmp_path, tmp_path, "secret")
    command = LlamaCpp().command(spec)
    assert command.env["OMP_WAIT_POLICY"] == "passive"
    assert "secret" not in " ".join(command.argv)
    wrong = config.model_copy(update={"source": "nonsense"})
    with pytest.raises(SourceError):
        LlamaCpp().command(LaunchSpec("small", wrong, tmp_path, tmp_path, "secret"))
    with pytest.raises(ProviderError):
        OpenAICompatible().command(spec)


async def test_an_address_that_makes_no_sense_is_down() -> None:
    """A defect in an address would crash the keeper."""
    for url in ("http://[", "http://127.0.0.1:99999", "nonsense"):
        assert (await check(OpenAICompatible(), Endpoint(url))).health is Health.DOWN

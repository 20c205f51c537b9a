"""The real engine with the bundled model, started by its provider: what the gateway and a person rely on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.clock import SystemClock
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.sources.fetch import fetch
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.providers.process import ProcessProvider
from lamplighter.testing.contracts.provider import ready

CACHE = Path(__file__).parents[2] / ".cache" / "models"
CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.model


class Running:
    """A provider with one model, and what is needed to watch it."""

    def __init__(self, data: Path, **settings: Any) -> None:
        config = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled", "slots": 1, **settings})
        engines = {"llamacpp": LlamaCpp()}
        self.provider = ProcessProvider(
            "here", models=lambda: {"small": config}, engines=engines, data=data, installation="ins", clock=SystemClock()
        )

    async def until(self, met: Callable[[Sequence[Observation]], bool]) -> Sequence[Observation]:
        seen: Sequence[Observation] = ()
        for _ in range(1200):
            await self.provider.renew()
            seen = await self.provider.observe()
            if met(seen):
                return seen
            await asyncio.sleep(0.05)
        raise AssertionError(seen)

    async def start(self, met: Callable[[Sequence[Observation]], bool] = ready) -> Observation:
        await self.provider.scale(Desired({"small": 1}), frozenset())
        (one,) = await self.until(met)
        return one

    async def stop(self) -> None:
        await self.provider.scale(Desired({}), frozenset(one.handle for one in await self.provider.observe()))
        await self.until(lambda seen: not seen)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    await asyncio.to_thread(fetch, "bundled", CACHE, lambda done, total: None)
    (tmp_path / "models").symlink_to(CACHE)
    return tmp_path


@pytest.fixture
async def client(data: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Talks to the running engine with its key."""
    running = Running(data, context=2048)
    try:
        endpoint = (await running.start()).endpoint
        assert endpoint is not None
        async with httpx.AsyncClient(
            base_url=endpoint.url, headers={"authorization": f"Bearer {endpoint.key}"}, timeout=90
        ) as http:
            yield http
    finally:
        await running.stop()


async def test_it_answers_sensibly(client: httpx.AsyncClient) -> None:
    """The first thing a newcomer asks gets nonsense: nobody asks a second time."""
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16, "temperature": 0}
    answer = (await client.post(CHAT, json=body)).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0


async def test_a_client_that_leaves_frees_its_slot(client: httpx.AsyncClient) -> None:
    """With one slot, everybody else would wait for an answer that nobody reads."""
    body = {"messages": [{"role": "user", "content": "Count."}], "stream": True, "max_tokens": 1500, "ignore_eos": True}
    async with client.stream("POST", CHAT, json=body) as answer:
        async for _ in answer.aiter_lines():
            break
        assert "llamacpp:requests_processing 1" in (await client.get("/metrics")).text
    for _ in range(200):
        if "llamacpp:requests_processing 0" in (await client.get("/metrics")).text:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the slot is still taken")


async def test_a_prompt_too_long_has_the_error_that_we_map(client: httpx.AsyncClient) -> None:
    """The gateway turns this very shape into OpenAI's."""
    answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": "lamp " * 3000}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == 2048
    assert error["n_prompt_tokens"] > 2048


async def test_a_text_longer_than_a_batch_is_embedded(client: httpx.AsyncClient) -> None:
    """llama.cpp embeds a text in one batch, 512 tokens unless told otherwise, and refuses longer ones with a 500."""
    answer = await client.post("/v1/embeddings", json={"input": "lamp " * 520})
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] > 512


async def test_nobody_gets_in_without_the_key(client: httpx.AsyncClient) -> None:
    """Every program and every page on the machine could use the engine past all limits."""
    stranger = {"authorization": "Bearer wrong", "origin": "http://evil.example"}
    for path in ("/v1/models", "/metrics", "/props"):
        answer = await client.get(path, headers=stranger)
        assert answer.status_code == 401
        assert answer.headers.get("access-control-allow-origin") != "http://evil.example"


async def test_a_damaged_model_is_told_in_a_sentence(data: Path, tmp_path: Path) -> None:
    """The person would see "the engine crashed" and try again for ever."""
    whole = next((CACHE / "bundled").glob("*.gguf")).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:1_000_000])
    running = Running(data, source=f"file:{tmp_path}/cut.gguf")
    try:
        one = await running.start(lambda seen: seen[0].presence is Presence.ENDED)
        assert one.failure is WakeFailure.MODEL_CORRUPT
        assert "cut" in str(one.detail)
    finally:
        await running.stop()


async def test_a_model_too_large_is_refused_before_it_hurts(data: Path) -> None:
    """The system would kill something, perhaps the person's editor."""
    running = Running(data, context=8192, slots=256, embeddings=False)
    try:
        one = await running.start(lambda seen: seen[0].presence is Presence.ENDED or seen[0].endpoint is not None)
        if one.failure is None:
            pytest.skip("this machine has room for 256 answers")
        assert one.failure is WakeFailure.OUT_OF_MEMORY
        assert "GB" in str(one.detail)
    finally:
        await running.stop()

"""The health checks of `engines.vllm` beyond their contract: its queue, its sleep, its routes, its death."""

import pytest

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Capability, Health, Probe, capabilities_of
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.testing.vllm import FakeVllm

CONFIG = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:owner/model"})


async def probe(server: FakeVllm, key: str | None = "secret", config: ModelConfig = CONFIG) -> Probe:
    return await Vllm().probe(Endpoint(server.url, key), "m", config, timeout=5)


async def test_its_queue_and_cache_are_told() -> None:
    """Nobody would see that requests pile up inside the engine."""
    async with FakeVllm(model="m", key="secret", context=512) as server:
        server.counters.running, server.waiting = 3, 7
        found = await probe(server)
        assert (found.running, found.waiting, found.context) == (3, 7, 512)
        assert found.cache == pytest.approx(0.03)


@pytest.mark.parametrize("development", [True, False])
async def test_while_it_sleeps_it_is_not_ready(development: bool) -> None:
    """A request sent there would hang until the person gives up."""
    async with FakeVllm(model="m", key="secret", development=development) as server:
        server.asleep = True
        found = await probe(server)
        assert found.health is Health.ASLEEP
        assert "wake_up" in (found.detail or "")
        server.asleep = False
        assert (await probe(server)).health is Health.READY


async def test_a_dead_inner_engine_is_down() -> None:
    """Requests would go on to be sent to an engine that answers 500 to all of them."""
    async with FakeVllm(model="m", key="secret") as server:
        server.dead = True
        assert (await probe(server)).health is Health.DOWN


@pytest.mark.parametrize(
    ("task", "has", "lacks"),
    [
        ("generate", {Capability.CHAT, Capability.RESPONSES, Capability.MESSAGES, Capability.TOKENIZE}, Capability.EMBEDDINGS),
        ("embed", {Capability.EMBEDDINGS, Capability.TOKENIZE}, Capability.CHAT),
        ("rank", {Capability.RERANK}, Capability.CHAT),
    ],
)
async def test_its_routes_are_those_of_its_model(task: str, has: set[Capability], lacks: Capability) -> None:
    """A chat with an embedding model would be offered and end in a 404 of the engine."""
    async with FakeVllm(model="m", key="secret", task=task) as server:
        found = (await probe(server)).capabilities
        assert found is not None
        assert found >= has
        assert lacks not in found
        assert capabilities_of(Vllm(), CONFIG, [one.value for one in found]) == found


def test_what_the_file_says_wins() -> None:
    """A person who knows better could not say so."""
    config = CONFIG.model_copy(update={"capabilities": ("embeddings",)})
    assert capabilities_of(Vllm(), config, ["chat"]) == {Capability.EMBEDDINGS}
    assert Vllm().capabilities(config) == {Capability.EMBEDDINGS}


async def test_another_model_is_told_with_what_it_has() -> None:
    """A typing error in the file would look like a server that is down."""
    async with FakeVllm(model="other") as server:
        found = await probe(server, None)
        assert (found.health, found.reason) == (Health.FAILED, WakeFailure.MODEL_NOT_FOUND)
        assert "other" in (found.detail or "")


def test_its_name_upstream() -> None:
    """Requests would name a model that the server does not know."""
    there = ModelConfig.model_validate({"engine": "vllm", "pool": "rack", "source": "served-name"})
    assert Vllm().upstream_model("m", CONFIG) == "m"
    assert Vllm().upstream_model("m", there) == "served-name"

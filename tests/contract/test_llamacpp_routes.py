"""The real engine has the routes that we say it has, and no others: what it cannot must be refused before it is woken."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.config import ModelConfig
from lamplighter.engines.base import Capability
from lamplighter.engines.llamacpp.engine import LlamaCpp
from lamplighter.engines.sources.fetch import fetch
from tests.contract.test_llamacpp import CACHE, Running

pytestmark = pytest.mark.model

SAID = [{"role": "user", "content": "Hi"}]
ROUTES: dict[Capability, tuple[str, dict[str, Any]]] = {
    Capability.CHAT: ("/v1/chat/completions", {"messages": SAID, "max_tokens": 2}),
    Capability.COMPLETIONS: ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
    Capability.EMBEDDINGS: ("/v1/embeddings", {"input": "Hi"}),
    Capability.RESPONSES: ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
    Capability.MESSAGES: ("/v1/messages", {"messages": SAID, "max_tokens": 2}),
    Capability.RERANK: ("/v1/rerank", {"query": "Hi", "documents": ["Hi", "tax law"]}),
    Capability.TOKENIZE: ("/tokenize", {"content": "Hi", "prompt": "Hi"}),
}


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    await asyncio.to_thread(fetch, "bundled", CACHE, lambda done, total: None)
    (tmp_path / "models").symlink_to(CACHE)
    return tmp_path


@pytest.mark.parametrize(
    "settings", [{}, {"embeddings": False}, {"capabilities": ["rerank", "tokenize"]}], ids=["usual", "no vectors", "reranker"]
)
async def test_it_has_what_we_say(folder: Path, settings: dict[str, Any]) -> None:
    """A route that is promised and missing fails after a wake that somebody paid for; one that is there and refused is wasted."""
    running = Running(folder, context=512, **settings)
    config = ModelConfig.model_validate({"engine": "llamacpp", "pool": "here", "source": "bundled", **settings})
    declared = LlamaCpp().capabilities(config)
    try:
        endpoint = (await running.start()).endpoint
        assert endpoint is not None
        headers = {"authorization": f"Bearer {endpoint.key}"}
        async with httpx.AsyncClient(base_url=endpoint.url, headers=headers, timeout=90) as client:
            for capability, (path, body) in ROUTES.items():
                status = (await client.post(path, json={"model": "small", **body})).status_code
                if capability in declared:
                    assert status == 200, path
                elif "capabilities" not in settings:  # named ones may be fewer than there are
                    assert status >= 400, path
    finally:
        await running.stop()

"""What each library makes of a stream that is held, and of one that breaks off: its own heartbeats, its own exception."""

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import ollama
import openai
import pytest

from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import KEY, Rig, config_of, running

SAID: Any = [{"role": "user", "content": "Say something."}]
Ask = Callable[[str], str]


def chat(url: str) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    stream = client.chat.completions.create(model="big", messages=SAID, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def responses(url: str) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    with client.responses.stream(model="big", input="Say something.") as stream:
        for _ in stream:
            pass
        return str(stream.get_final_response().output_text)


def messages(url: str) -> str:
    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
    with client.messages.stream(model="big", messages=SAID, max_tokens=16) as stream:
        return "".join(stream.text_stream)


def ollama_chat(url: str) -> str:
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {KEY}"})
    parts = list(client.chat("big", messages=SAID, stream=True))
    assert parts[-1].done
    return "".join(part.message.content or "" for part in parts)


LIBRARIES: dict[str, tuple[Ask, type[Exception]]] = {
    "openai": (chat, openai.APIError),
    "openai-responses": (responses, openai.APIError),
    "anthropic": (messages, anthropic.APIStatusError),
    "ollama": (ollama_chat, ollama.ResponseError),
}
each = pytest.mark.parametrize("library", list(LIBRARIES))


async def held(rig: Rig, engine: FakeEngine, ask: Ask) -> str:
    """The answer to a question that waits for its model, through a few heartbeats."""
    asking = asyncio.create_task(asyncio.to_thread(ask, rig.url))
    lane = next(iter(rig.gateway._lanes))
    for _ in range(1000):
        if lane.queued:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # six heartbeats
    await rig.ready(engine.url)
    return await asking


@each
async def test_heartbeats_disturb_no_library(library: str) -> None:
    """A person who waits for a GPU would get an exception about a line that the library does not know."""
    ask, _ = LIBRARIES[library]
    async with FakeEngine() as engine, running(config_of(gateway={"heartbeat": "50ms", "early_headers": "10ms"})) as rig:
        assert (await held(rig, engine, ask)).startswith("The lamp is lit")
        await rig.until_idle()


@each
@pytest.mark.parametrize("wrong", [Wrong.CUT, Wrong.HALF_EVENT])
async def test_a_broken_stream_raises_in_every_library(library: str, wrong: Wrong) -> None:
    """Half an answer would be taken for all of it."""
    ask, error = LIBRARIES[library]
    async with FakeEngine(wrong=wrong) as engine, running() as rig:
        await rig.ready(engine.url)
        with pytest.raises(error, match="broke off"):
            await asyncio.to_thread(ask, rig.url)
        await rig.until_idle()

"""The answer check: a few questions to the candidate itself, before it is sent anybody and at the end of each step.

The questions that nobody chose are held against it only where the stable target knows the answer: a tiny model may be wrong and unchanged.
Not responsible for when it is asked, nor for what follows (`rollout`). What is asked and answered is kept nowhere but in the sentence that says
what was wrong.
"""

import asyncio
import json
import math
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.engines.base import Capability, Engine, Probe, capabilities_of
from lamplighter.engines.probing import post, said
from lamplighter.store.rollouts import Check

USUAL = (
    Check("What is the capital of France? Answer with one word.", r"\b[Pp]aris\b"),
    Check("How much is two plus three? Answer with the number alone.", r"\b(5|[Ff]ive)\b"),
    Check("Repeat this word and nothing else: lamplighter", r"[Ll]amplighter"),
)
"""What any model that chats should know."""
LIMIT = 60.0
"""Seconds for one answer."""
MOST_TOKENS = 512
_MOST_TEXT = 4000
_MATCH_LIMIT = 5.0
_SHOWN = 120
_COSTLY = re.compile(r"[*+{?]")
_FOUND = 0
_NOT_NOW = frozenset({429, 502, 503, 504})
"""Statuses of an engine that is busy, or not there."""
_SEARCH = "import json,re,sys; pattern,text=json.load(sys.stdin); sys.exit(0 if re.search(pattern,text) else 1)"


class NoAnswer(Exception):
    """The candidate could not be asked: it may just be gone, or not be there yet. Says nothing of what it would answer."""


Match = Callable[[str, str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom to ask: a ready replica of a target. `capabilities`: what it told of itself, None when it did not."""

    name: str
    config: ModelConfig
    engine: Engine
    endpoint: Endpoint
    capabilities: Sequence[str] | None = None


async def wrong(candidate: Asked, stable: Asked | None, checks: Sequence[Check], match: "Match | None" = None) -> str | None:
    """What is wrong with the candidate's answers, in one sentence; None: nothing. Raises NoAnswer when it cannot be asked."""
    match = match or found
    able = capabilities_of(candidate.engine, candidate.config, candidate.capabilities)
    if not able & {Capability.CHAT, Capability.COMPLETIONS}:
        return await _wrong_numbers(candidate) if Capability.EMBEDDINGS in able else None
    for check in checks or USUAL:
        text, failure = await _answer(candidate, check.prompt, chat=Capability.CHAT in able)
        if failure is not None:
            return failure
        if not text.strip() or "\x00" in text:
            return f"it answered {check.prompt[:_SHOWN]!r} with nothing"
        if await match(check.expect, text):
            continue
        if not checks and not await _knows(stable, check, match):
            continue
        return f"it answered {check.prompt[:_SHOWN]!r} with {text.strip()[:_SHOWN]!r}, in which {check.expect[:_SHOWN]!r} is not found"
    return None


async def _knows(stable: Asked | None, check: Check, match: Match) -> bool:
    """Whether the stable target gets it right."""
    if stable is None:
        return False
    chat = Capability.CHAT in capabilities_of(stable.engine, stable.config, stable.capabilities)
    try:
        text, failure = await _answer(stable, check.prompt, chat=chat)
    except NoAnswer:
        return False
    return failure is None and await match(check.expect, text)


async def _answer(asked: Asked, prompt: str, *, chat: bool) -> tuple[str, str | None]:
    """The text of an answer, or why there is none."""
    body: dict[str, Any] = {
        "model": asked.engine.upstream_model(asked.name, asked.config), "max_tokens": MOST_TOKENS, "temperature": 0, "stream": False,
    }  # fmt: skip
    question: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    value, failure = await _post(asked.endpoint, "/v1/chat/completions" if chat else "/v1/completions", body | question)
    if failure is not None:
        return "", failure
    try:
        choice = value["choices"][0]
        if not chat:
            return str(choice["text"])[:_MOST_TEXT], None
        message = choice["message"]
        parts = (message.get("content"), message.get("reasoning_content"), message.get("reasoning"))
        return "\n".join(str(part) for part in parts if part)[:_MOST_TEXT], None
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", "its answer has not the shape of one"


async def _wrong_numbers(candidate: Asked) -> str | None:
    body = {"model": candidate.engine.upstream_model(candidate.name, candidate.config), "input": "lamplighter"}
    value, failure = await _post(candidate.endpoint, "/v1/embeddings", body)
    if failure is not None:
        return failure
    try:
        numbers = [float(number) for number in value["data"][0]["embedding"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return "its embedding has not the shape of one"
    if not numbers or not all(map(math.isfinite, numbers)) or not any(numbers):
        return "its embedding is nothing, or no numbers"
    return None


async def _post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> tuple[Any, str | None]:
    answer = await post(endpoint, path, body, timeout=LIMIT)
    if isinstance(answer, Probe):
        raise NoAnswer(f"it was asked and gave no answer: {answer.detail}")
    if answer.status_code in _NOT_NOW:
        raise NoAnswer(f"it was asked and answered {answer.status_code}: {said(answer.content, answer.status_code)}")
    if answer.status_code != 200:
        return None, f"it was asked and answered {answer.status_code}: {said(answer.content, answer.status_code)}"
    try:
        return answer.json(), None
    except ValueError:
        return None, "its answer is no JSON"


async def found(pattern: str, text: str) -> bool:
    """Whether a person's regular expression is found. One that could take for ever is tried in a process of its own, for five seconds:
    it would hold up everything else in this one."""
    if not _COSTLY.search(pattern):
        return re.search(pattern, text) is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _SEARCH,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_MATCH_LIMIT):
            await process.communicate(json.dumps([pattern, text]).encode())
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode == _FOUND

"""What a change of a model needs around it: pretended engines whose behaviour a test changes while they run, and people who go on asking."""

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from lamplighter.testing.engine import FakeEngine
from tests.journeys.harness import ADMIN_KEY


class Engines:
    """Pretended engines on a loop of their own, in this process. Use as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._engines: list[FakeEngine] = []

    def __enter__(self) -> "Engines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines:
            asyncio.run_coroutine_threadsafe(engine.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def new(self, **behaviour: Any) -> FakeEngine:
        """One more, which listens."""

        async def make() -> FakeEngine:
            engine = FakeEngine(**behaviour)
            await engine.start()
            return engine

        engine = asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)
        self._engines.append(engine)
        return engine

    def alter(self, engine: FakeEngine, **behaviour: Any) -> None:
        """From the next request on it is so."""
        engine.behaviour = replace(engine.behaviour, **behaviour)


@dataclass
class Crowd:
    """People who ask `model` for streamed answers, each a conversation of several turns, until the context ends. `wrong`: what was no whole answer."""

    url: str
    model: str
    people: int = 4
    answered: Counter[str] = field(default_factory=Counter)
    """Whole answers, by who gave them."""
    wrong: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def asking(self) -> Iterator["Crowd"]:
        threads = [threading.Thread(target=self._person, args=(number,), daemon=True) for number in range(self.people)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads)

    def _person(self, number: int) -> None:
        turn = 0
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as client:
            while not self._over.is_set():
                turn += 1
                self._ask(client, f"Person {number}, conversation {turn}")
                self._over.wait(0.01)

    def _ask(self, client: httpx.Client, what: str) -> None:
        body = {"model": self.model, "stream": True, "messages": [{"role": "user", "content": what}]}
        try:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                text = answer.read().decode()
        except httpx.HTTPError as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            return
        events = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        broken = [event for event in events if event != "[DONE]" and "error" in json.loads(event)]
        if answer.status_code != 200 or broken or not events or events[-1] != "[DONE]":
            self.wrong.append(f"{answer.status_code} {text[:300]}")
        else:
            self.answered[answer.headers["lamplighter-model"]] += 1

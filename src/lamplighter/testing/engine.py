"""A pretended engine with OpenAI's API: as fast, slow or broken as a test wants, without a model.

In a test: `async with FakeEngine(tokens_per_second=50) as engine: engine.url`. As a process: `python -m lamplighter.testing.engine --port 0`.
Its errors have llama.cpp's shape, as of the version we embed. Not responsible for making sense.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.testing.http import Exchange, HttpServer
from lamplighter.testing.wire import (
    Event,
    MessagesWriting,
    ResponsesWriting,
    Writing,
    count_words,
    detokenized,
    dump,
    embeddings,
    error_object,
    reranked,
    tokenized,
)

WORDS = ("The", " lamp", " is", " lit", " while", " somebody", " reads", ",", " and", " dark", " again", " after", ".")
_WRITINGS: dict[str, type[Writing]] = {
    "/v1/chat/completions": Writing,
    "/v1/completions": Writing,
    "/v1/messages": MessagesWriting,
    "/v1/responses": ResponsesWriting,
}
_AT_ONCE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "/v1/embeddings": embeddings,
    "/v1/rerank": reranked,
    "/tokenize": tokenized,
    "/detokenize": detokenized,
    "/v1/messages/count_tokens": lambda body: {"input_tokens": count_words(body.get("messages", []))},
}
UNICODE_WORDS = (" žluťoučký", " 🏮", " 灯台", " naïve")


class Wrong(StrEnum):
    """Ways to misbehave on the inference routes."""

    HANG = "hang"
    """Takes the request and never answers."""
    RESET = "reset"
    """Cuts the connection before any byte."""
    GARBAGE = "garbage"
    """Answers with bytes that are not HTTP."""
    SLOW_HEADERS = "slow_headers"
    """Sends its headers after `slow_seconds`."""
    STATUS_500 = "status_500"
    """Answers 500 with an error object."""
    HALF_EVENT = "half_event"
    """Ends a stream cleanly in the middle of an event."""
    CUT = "cut"
    """Cuts the connection in the middle of a stream."""
    STALL = "stall"
    """Falls silent in the middle of a stream."""
    NO_DONE = "no_done"
    """Ends a stream cleanly without `[DONE]` (or what stands for it)."""
    ERROR_EVENT = "error_event"
    """Sends an error object as an event, then ends the stream."""
    HUGE_EVENT = "huge_event"
    """Sends one event of 2 MB."""
    GARBAGE_EVENT = "garbage_event"
    """Sends an event that is not JSON."""
    USAGE_MISSING = "usage_missing"
    """Never tells the usage, though it was asked to."""
    SPLIT_UTF8 = "split_utf8"
    """Sends a stream byte by byte, so that characters and events arrive in parts."""
    CRLF_EVENTS = "crlf_events"
    """Ends lines with CR LF."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the engine is. Replace it at any time: `engine.behaviour = replace(engine.behaviour, ...)`; it counts from the next request on."""

    model: str = "fake"
    key: str | None = None
    """Bearer key that it demands, except for `/health`."""
    tokens_per_second: float = 0.0
    """Speed of each stream; 0: as fast as it can."""
    first_token_seconds: float = 0.0
    load_seconds: float = 0.0
    """After its start, for how long it answers 503 "loading"."""
    tokens: int = 16
    """Length of an answer, unless the request allows less."""
    context: int = 4096
    """Tokens (here: words) of a prompt above which it answers with llama.cpp's context error."""
    wrong: Wrong | None = None
    wrong_times: int | None = None
    """For how many requests `wrong` counts; None: for all."""
    status_503_times: int = 0
    """How many requests it answers 503 first."""
    crash_after_tokens: int | None = None
    """It dies (in a process: exits with status 1) after so many tokens of all streams together."""
    slow_seconds: float = 5.0
    says: tuple[str, ...] = WORDS
    """The words of its answers, again and again."""
    continues: bool = False
    """It goes on with a last message of the assistant, as llama.cpp does."""


@dataclass(slots=True)
class Counters:
    """What happened so far."""

    requests: int = 0
    """Inference requests."""
    running: int = 0
    peak: int = 0
    finished: int = 0
    cancelled: int = 0
    """Clients that left before the answer's end."""
    tokens: int = 0
    other: int = 0
    """Requests for anything but inference."""


class FakeEngine:
    """One pretended engine. Keyword arguments are those of `Behaviour`."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, clock: Clock | None = None, exits: bool = False, **behaviour: Any
    ) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.counters = Counters()
        self.bodies: list[dict[str, Any]] = []
        """The parsed bodies of inference requests, in order."""
        self.crashed = False
        self._clock = clock or SystemClock()
        self._exits = exits
        self._started_at = self._clock.monotonic()
        self._server = HttpServer(self._serve, host=host, port=port)

    @property
    def url(self) -> str:
        """Its base URL, without `/v1`."""
        return self._server.url

    async def start(self) -> None:
        """Listen; loading begins now."""
        self._started_at = self._clock.monotonic()
        await self._server.start()

    async def stop(self) -> None:
        """End it; connections are cut."""
        await self._server.stop()

    def crash(self) -> None:
        """Die: listening ends, every connection is cut."""
        self.crashed = True
        if self._exits:
            os._exit(1)
        self._server.cut()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def _serve(self, exchange: Exchange) -> None:
        path, behaviour = exchange.request.path, self.behaviour
        inference = exchange.request.method == "POST"
        loading = self._clock.monotonic() - self._started_at < behaviour.load_seconds
        if not inference:
            self.counters.other += 1
        if path == "/health":
            _json(exchange, 503, error_object("Loading model", 503, "unavailable_error")) if loading else _json(
                exchange, 200, {"status": "ok"}
            )
        elif behaviour.key is not None and exchange.request.headers.get("authorization") != f"Bearer {behaviour.key}":
            _json(exchange, 401, error_object("Invalid API Key", 401, "authentication_error"))
        elif loading:
            _json(exchange, 503, error_object("Loading model", 503, "unavailable_error"))
        elif path == "/v1/models":
            model = {
                "id": behaviour.model,
                "object": "model",
                "created": 0,
                "owned_by": "fake",
                "meta": {"n_ctx": behaviour.context},
            }
            _json(exchange, 200, {"object": "list", "data": [model]})
        elif path == "/metrics":
            lines = (
                f"llamacpp:requests_processing {self.counters.running}\nllamacpp:tokens_predicted_total {self.counters.tokens}\n"
            )
            exchange.answer(200, lines.encode(), "text/plain; version=0.0.4")
        elif inference and (path in _WRITINGS or path in _AT_ONCE):
            await self._infer(exchange, path)
        else:
            _json(exchange, 404, error_object("File Not Found", 404, "not_found_error"))

    async def _infer(self, exchange: Exchange, path: str) -> None:
        counters = self.counters
        counters.requests += 1
        counters.running += 1
        counters.peak = max(counters.peak, counters.running)
        try:
            await self._answer(exchange, path)
            counters.finished += 1
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        finally:
            counters.running -= 1

    async def _answer(self, exchange: Exchange, path: str) -> None:
        behaviour, wrong = self.behaviour, self._take_wrong()
        if behaviour.status_503_times > 0:
            self.behaviour = replace(behaviour, status_503_times=behaviour.status_503_times - 1)
            return _json(exchange, 503, error_object("No slot is free", 503, "unavailable_error"))
        if wrong is Wrong.HANG:
            await asyncio.Event().wait()
        if wrong is Wrong.RESET:
            return exchange.reset()
        if wrong is Wrong.GARBAGE:
            exchange.raw(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
            return exchange.close()
        if wrong is Wrong.SLOW_HEADERS:
            await self._clock.sleep(behaviour.slow_seconds)
        if wrong is Wrong.STATUS_500:
            return _json(exchange, 500, error_object("The fake failed, as asked", 500, "server_error"))
        try:
            body = json.loads(exchange.request.body)
            if not isinstance(body, dict):
                raise ValueError("the body must be an object")  # noqa: TRY004 - answered like every other bad body
        except ValueError as error:
            return _json(exchange, 400, error_object(str(error), 400, "invalid_request_error"))
        self.bodies.append(body)
        if path in _AT_ONCE:
            try:
                return _json(exchange, 200, _AT_ONCE[path](body))
            except (TypeError, ValueError, AttributeError) as error:
                return _json(exchange, 400, error_object(str(error), 400, "invalid_request_error"))
        prompt = count_words(body.get("messages", body.get("prompt", body.get("input", ""))))
        if prompt > behaviour.context:
            message = (
                f"request ({prompt} tokens) exceeds the available context size ({behaviour.context} tokens), try increasing it"
            )
            overflow = error_object(message, 400, "exceed_context_size_error")
            overflow["error"] |= {"n_prompt_tokens": prompt, "n_ctx": behaviour.context}
            return _json(exchange, 400, overflow)
        begun = _begun(body) if behaviour.continues else 0
        writing = _WRITINGS[path](body, chat=path == "/v1/chat/completions", prompt=prompt, tokens=behaviour.tokens - begun)
        writing.begun = begun
        if body.get("stream"):
            await self._stream(exchange, writing, wrong)
        else:
            text = "".join([word async for word in self._tokens(writing)])
            _json(exchange, 200, writing.whole(text))
        return None

    async def _stream(self, exchange: Exchange, writing: "Writing", wrong: Wrong | None) -> None:
        end = b"\r\n\r\n" if wrong is Wrong.CRLF_EVENTS else b"\n\n"

        async def send(*written: Event) -> None:
            for name, data in written:
                event = (b"event: " + name.encode() + end[: len(end) // 2] if name else b"") + b"data: " + data + end
                if wrong is Wrong.SPLIT_UTF8:
                    for index in range(len(event)):
                        exchange.write(event[index : index + 1])
                        await asyncio.sleep(0)
                else:
                    exchange.write(event)
                await exchange.drain()

        exchange.start(200, {"content-type": "text/event-stream"})
        await send(*writing.begin())
        middle = max(1, writing.count // 2)
        text = ""
        at = 0
        async for word in self._tokens(writing, unicode=wrong is Wrong.SPLIT_UTF8):
            at += 1
            if at == middle and wrong is not None:
                if wrong is Wrong.HALF_EVENT:
                    exchange.write((b"data: " + writing.word(word)[1])[:40])
                    return
                if wrong is Wrong.CUT:
                    exchange.reset()
                    return
                if wrong is Wrong.STALL:
                    await asyncio.Event().wait()
                if wrong is Wrong.ERROR_EVENT:
                    await send((None, json.dumps(error_object("The fake failed, as asked", 500, "server_error")).encode()))
                    return
                if wrong is Wrong.GARBAGE_EVENT:
                    await send((None, b"{not json"))
                if wrong is Wrong.HUGE_EVENT:
                    word = "x" * 2 * 10**6  # noqa: PLW2901 - the token itself is what is huge
            text += word
            await send(writing.word(word))
        await send(*writing.end(text, usage=wrong is not Wrong.USAGE_MISSING))
        if wrong is not Wrong.NO_DONE:
            await send(writing.last(text))

    async def _tokens(self, writing: "Writing", *, unicode: bool = False) -> AsyncIterator[str]:
        """The answer's words at the engine's speed."""
        words = self.behaviour.says + UNICODE_WORDS if unicode else self.behaviour.says
        began, first = self._clock.monotonic(), self.behaviour.first_token_seconds
        for index in range(writing.count):
            speed = self.behaviour.tokens_per_second
            due = first + (index / speed if speed else 0.0)
            wait = began + due - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(wait)
            elif index % 64 == 63:
                await asyncio.sleep(0)
            self.counters.tokens += 1
            limit = self.behaviour.crash_after_tokens
            if limit is not None and self.counters.tokens > limit:
                self.crash()
                await asyncio.Event().wait()
            yield words[(writing.begun + index) % len(words)]

    def _take_wrong(self) -> Wrong | None:
        behaviour = self.behaviour
        if behaviour.wrong is None or behaviour.wrong_times == 0:
            return None
        if behaviour.wrong_times is not None:
            self.behaviour = replace(behaviour, wrong_times=behaviour.wrong_times - 1)
        return behaviour.wrong


def _begun(body: dict[str, Any]) -> int:
    """Words of our own that the conversation ends with."""
    last = (body.get("messages") or [{}])[-1]
    said, text, count = last.get("content") if last.get("role") == "assistant" else "", "", 0
    while isinstance(said, str) and len(text) < len(said):
        text += WORDS[count % len(WORDS)]
        count += 1
    return count


def _json(exchange: Exchange, status: int, value: Any) -> None:
    exchange.answer(status, dump(value), "application/json; charset=utf-8")


def main() -> int:
    """Serve until killed; the URL is the first line of standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m lamplighter.testing.engine", description="A pretended OpenAI-compatible engine."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the kernel chooses")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--key", default=None)
    parser.add_argument("--tokens-per-second", type=float, default=40.0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=64, help="length of an answer")
    parser.add_argument("--crash-after-tokens", type=int, default=None)
    parser.add_argument("--wrong", choices=[wrong.value for wrong in Wrong], default=None)
    parser.add_argument("--wrong-times", type=int, default=None)
    arguments = parser.parse_args()
    wrong = Wrong(arguments.wrong) if arguments.wrong else None

    async def serve() -> None:
        settings = {name: value for name, value in vars(arguments).items() if name != "wrong"}
        async with FakeEngine(exits=True, wrong=wrong, **settings) as engine:
            sys.stdout.write(f"{engine.url}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())

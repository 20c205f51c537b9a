"""A pretended Ollama that follows the published API: lists, pulls with progress, loads, keeps and unloads models, and answers on `/v1/*`.

In a test: `async with FakeOllama(models=["llama3.2:3b"]) as server`. As a program with Ollama's own command line (`serve`, and `OLLAMA_HOST`,
`OLLAMA_MODELS` in the environment): `python -m lamplighter.testing.ollama serve`. No real server could be had to check it against: it
follows `docs/api.md` and the handlers of version 0.12. Not responsible for making sense: answers are `testing.engine`'s.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.testing.engine import FakeEngine
from lamplighter.testing.http import Exchange, HttpServer

DEFAULT_KEEP = 300.0
"""Seconds for which it keeps a model after its last use, unless a request says otherwise."""
SIZE = 2_000_000_000


class _Answers(FakeEngine):
    """Its `/v1/*` side, without a port of its own."""

    async def serve(self, exchange: Exchange) -> None:
        """One request."""
        await self._serve(exchange)


class FakeOllama:
    """One pretended server. `models`: what it has; `library`: what it can pull; `embedders`: those of both that only embed."""

    def __init__(
        self,
        *,
        models: Sequence[str] = (),
        library: Sequence[str] = (),
        embedders: Sequence[str] = (),
        version: str = "0.14.2",
        load_seconds: float = 0.0,
        pull_seconds: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        **behaviour: Any,
    ) -> None:
        self.models = [_tagged(name) for name in models]
        self.library = [_tagged(name) for name in library]
        self.embedders = [_tagged(name) for name in embedders]
        self.version = version
        self.load_seconds = load_seconds
        self.pull_seconds = pull_seconds
        self.loaded: dict[str, float] = {}
        """By name, when it is unloaded if nobody asks (monotonic seconds)."""
        self.loads: list[str] = []
        """Every load that ever happened, in order."""
        self.orders: list[tuple[str, str, Any]] = []
        """(path, model, keep_alive) of everything that loads or unloads."""
        self.refuse: str | None = None
        """While set, every load fails with this sentence and status 500."""
        self.pull_error: str | None = None
        """While set, a pull breaks off half-way with this sentence."""
        self.engine = _Answers(**behaviour)
        self._clock = clock or SystemClock()
        self._server = HttpServer(self._serve, host=host, port=port)
        self._lock = asyncio.Lock()

    @property
    def url(self) -> str:
        """Its base URL."""
        return self._server.url

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def stop(self) -> None:
        """End it; connections are cut."""
        await self._server.stop()

    def crash(self) -> None:
        """Die: listening ends, every connection is cut, nothing is loaded any more."""
        self.loaded.clear()
        self._server.cut()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def residents(self) -> list[str]:
        """What is loaded now."""
        now = self._clock.monotonic()
        self.loaded = {name: until for name, until in self.loaded.items() if until > now}
        return list(self.loaded)

    async def _serve(self, exchange: Exchange) -> None:
        path = exchange.request.path
        if path in ("/", "/api/version"):
            return (
                exchange.answer(200, b"Ollama is running", "text/plain")
                if path == "/"
                else _json(exchange, 200, {"version": self.version})
            )
        if path == "/api/tags":
            return _json(exchange, 200, {"models": [self._row(name) for name in self.models]})
        if path == "/api/ps":
            return _json(exchange, 200, {"models": [self._running(name) for name in self.residents()]})
        if path == "/v1/models":
            return _json(
                exchange,
                200,
                {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "library"} for name in self.models]},
            )
        try:
            body = json.loads(exchange.request.body)
            name = _tagged(str(body["model"]))
        except (ValueError, KeyError, TypeError):
            return _json(exchange, 400, {"error": "missing request body"})
        if path == "/api/pull":
            return await self._pull(exchange, name)
        if name not in self.models:
            return self._unknown(exchange, path, str(body["model"]))
        if path == "/api/show":
            embeds = name in self.embedders
            return _json(exchange, 200, {"capabilities": ["embedding"] if embeds else ["completion", "tools"], "details": {}})
        if path in ("/api/generate", "/api/embed"):
            return await self._order(exchange, path, name, body)
        if path.startswith("/v1/"):
            if not await self._bring(exchange, name, body.get("keep_alive")):
                return None
            return await self.engine.serve(exchange)
        return _json(exchange, 404, {"error": "404 page not found"})

    def _unknown(self, exchange: Exchange, path: str, model: str) -> None:
        message = f"model '{model}' not found"
        if path.startswith("/v1/"):
            return _json(exchange, 404, {"error": {"message": message, "type": "not_found_error", "param": None, "code": None}})
        return _json(exchange, 404, {"error": message})

    async def _order(self, exchange: Exchange, path: str, name: str, body: dict[str, Any]) -> None:
        keep = body.get("keep_alive")
        self.orders.append((path, name, keep))
        if path == "/api/generate" and not body.get("prompt") and keep == 0:
            self.loaded.pop(name, None)
            return _json(exchange, 200, {"model": body["model"], "response": "", "done": True, "done_reason": "unload"})
        if path == "/api/generate" and name in self.embedders:
            return _json(exchange, 400, {"error": f'"{body["model"]}" does not support generate'})
        if not await self._bring(exchange, name, keep):
            return None
        if path == "/api/embed":
            return _json(exchange, 200, {"model": body["model"], "embeddings": [[0.1, 0.2] for _ in body.get("input") or ()]})
        return _json(exchange, 200, {"model": body["model"], "response": "", "done": True, "done_reason": "load"})

    async def _bring(self, exchange: Exchange, name: str, keep: Any) -> bool:
        """Load it if it is not there, and keep it; False when that failed and was answered."""
        async with self._lock:
            if name not in self.residents():
                if self.refuse is not None:
                    _json(exchange, 500, {"error": self.refuse})
                    return False
                await self._clock.sleep(self.load_seconds)
                self.loads.append(name)
        seconds = DEFAULT_KEEP if keep is None else float(keep)
        if seconds == 0:
            self.loaded.pop(name, None)
        else:
            self.loaded[name] = float("inf") if seconds < 0 else self._clock.monotonic() + seconds
        return True

    async def _pull(self, exchange: Exchange, name: str) -> None:
        exchange.start(200, {"content-type": "application/x-ndjson"})

        def tell(**words: Any) -> None:
            exchange.write(json.dumps(words).encode() + b"\n")

        tell(status="pulling manifest")
        if name not in self.library:
            tell(error="pull model manifest: file does not exist")
            return exchange.end()
        for layer, size in (("sha256:aaaa", SIZE), ("sha256:bbbb", 7_000)):
            for step in range(5):
                tell(status=f"pulling {layer[7:]}", digest=layer, total=size, **({"completed": size * step // 4} if step else {}))
                await self._clock.sleep(self.pull_seconds / 10)
                if self.pull_error is not None and step == 2:
                    tell(error=self.pull_error)
                    return exchange.end()
        tell(status="verifying sha256 digest")
        self.models.append(name)
        tell(status="success")
        return exchange.end()

    def _row(self, name: str) -> dict[str, Any]:
        return {"name": name, "model": name, "size": SIZE, "digest": "aaaa", "details": {"family": "llama"}}

    def _running(self, name: str) -> dict[str, Any]:
        left = min(self.loaded[name] - self._clock.monotonic(), 9e9)
        expires = datetime.fromtimestamp(self._clock.time() + left, UTC).isoformat()
        return {**self._row(name), "expires_at": expires, "size_vram": SIZE, "context_length": 4096}


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _json(exchange: Exchange, status: int, value: Any) -> None:
    exchange.answer(status, json.dumps(value).encode(), "application/json; charset=utf-8")


def main() -> int:
    """`serve`, as Ollama does. The models it has are the lines of `OLLAMA_MODELS/fake.txt`; it can pull any but `nothing`."""
    parser = argparse.ArgumentParser(prog="ollama")
    parser.add_argument("command", choices=["serve"])
    parser.parse_args()
    environment = os.environ  # noqa: TID251 - so Ollama itself is told where to listen
    host, _, port = environment.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    listing = Path(environment.get("OLLAMA_MODELS", ".")) / "fake.txt"
    models = listing.read_text().split() if listing.exists() else []

    async def serve() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with FakeOllama(models=models, library=["tiny", "llama3.2:3b"], host=host, port=int(port)):
            await ended.wait()

    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())

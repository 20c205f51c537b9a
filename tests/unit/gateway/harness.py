"""A real gateway on a real socket with an in-memory store, and hands to play the keeper: replicas appear and vanish as a test says."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.reasons import Reason, WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.engines.base import Capability, Command, Engine, Health, LaunchSpec, Probe
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.gateway.app import Gateway
from lamplighter.gateway.server import configure
from lamplighter.observability.metrics import Metrics
from lamplighter.store import leases, principals, replicas, wakes
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store

KEY = "lk-test-key-0123456789abcdef"

Settings = Mapping[str, Any]


class PretendedEngine:
    """An engine kind that can do everything and is never started."""

    kind = "fake"

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        return config.source or name

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        return frozenset(Capability if config.capabilities is None else map(Capability, config.capabilities))

    def command(self, spec: LaunchSpec) -> Command:
        raise NotImplementedError

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        return Probe(Health.READY)


ENGINES: dict[str, Engine] = {"fake": PretendedEngine(), "openai": OpenAICompatible()}


def config_of(
    *, gateway: Settings | None = None, models: Settings | None = None, pools: Settings | None = None, **more: Any
) -> Config:
    """A configuration with one sleeping model `big`, unless told otherwise. No access lines."""
    return Config.model_validate(
        {
            "models": models or {"big": {"engine": "fake", "pool": "cloud"}},
            "pools": pools or {"cloud": {"kind": "fake"}},
            "gateway": gateway or {},
            "log": {"access": False},
            **more,
        }
    )


@dataclass
class Rig:
    """A running gateway and what a test needs around it."""

    gateway: Gateway
    store: Store
    clock: Clock
    url: str
    term: int
    client: httpx.AsyncClient
    pools: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def ready(self, url: str, *models: str, key: str | None = None, pool: str = "cloud") -> Replica:
        """A replica at `url` that serves `models`; the gateway knows it when this returns."""
        replica = await replicas.launch(self.store, pool=pool, models=models or ("big",), term=self.term)
        await replicas.describe(self.store, replica.id, term=self.term, endpoint=Endpoint(url, key))
        for state in (ReplicaState.STARTING, ReplicaState.READY):
            replica = await replicas.advance(self.store, replica.id, state, term=self.term)
        await self.gateway.services.view.refresh()
        return replica

    async def advance(self, replica: Replica, *states: ReplicaState, reason: Reason | None = None) -> Replica:
        for state in states:
            replica = await replicas.advance(self.store, replica.id, state, term=self.term, reason=reason)
        await self.gateway.services.view.refresh()
        return replica

    async def wake(
        self, model: str = "big", *, pool: str = "cloud", stages: tuple[str, ...] = ("boot", "load"), **more: Any
    ) -> wakes.Wake:
        settings: dict[str, Any] = {"attempt": 1, "warm": False, "eta_p50": None, "eta_p90": None, **more}
        return await wakes.begin(self.store, pool=pool, model=model, stages=stages, **settings)

    async def fail_wake(
        self, wake: wakes.Wake, reason: WakeFailure, *, retry_in: float | None = 60.0, detail: str | None = None
    ) -> None:
        retry_at = None if retry_in is None else self.store.clock.time() + retry_in
        await wakes.end(self.store, wake.id, "failed", reason=reason, detail=detail, retry_at=retry_at)
        await self.gateway.services.view.refresh()

    async def chat(
        self, model: str = "big", *, stream: bool = False, headers: Settings | None = None, **more: Any
    ) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions", json=question(model, stream=stream, **more), headers=dict(headers or {})
        )

    async def until_idle(self, seconds: float = 5.0) -> None:
        """Wait for the counts to return to zero; fails with the count that does not."""
        for _ in range(int(seconds / 0.01)):
            with contextlib.suppress(AssertionError):
                self.gateway.assert_idle()
                return
            await asyncio.sleep(0.01)
        self.gateway.assert_idle()

    async def raw(self, data: bytes, *, more: float = 0.0) -> bytes:
        """Send bytes as they are, and read until the server closes or is silent for a while."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            received = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                while chunk := await asyncio.wait_for(reader.read(65536), 0.5 + more):
                    received += chunk
            return received
        finally:
            writer.close()


def question(model: str = "big", *, stream: bool = False, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Say something."}], **more}
    return {**body, "stream": True} if stream else body


def raw_post(body: bytes, *, path: str = "/v1/chat/completions", key: str = KEY, extra: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        path.encode(), key.encode(), len(body), extra, body,
    )  # fmt: skip


def events(text: str) -> list[Any]:
    """The JSON payloads of an SSE body, `[DONE]` as that text; comments are left out."""
    found: list[Any] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if block.startswith("data:"):
            data = block[5:].strip()
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def said(payloads: list[Any]) -> str:
    """The text of a streamed chat answer."""
    deltas = [
        choice["delta"].get("content") or "" for item in payloads if isinstance(item, dict) for choice in item.get("choices", ())
    ]
    return "".join(deltas)


@asynccontextmanager
async def running(config: Config | None = None, *, clock: Clock | None = None) -> AsyncIterator[Rig]:
    """A gateway that serves on a free port."""
    clock = clock or SystemClock()
    store = await Store.open(None, clock)
    try:
        await principals.ensure_first_key(store, preset=KEY)
        term = await leases.acquire(store, leases.KEEPER, "test", ttl=1e9)
        assert term is not None
        gateway = Gateway(config or config_of(), store, clock, ENGINES, metrics=Metrics(process=False))
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        options: dict[str, Any] = {"loop": "asyncio", "log_level": "error", "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(configure(gateway.asgi, **options))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined] # older versions of uvicorn install them
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            headers = {"authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=limits) as client:
                yield Rig(gateway, store, clock, url, term, client)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 15)
            await gateway.stop()
    finally:
        await store.close()

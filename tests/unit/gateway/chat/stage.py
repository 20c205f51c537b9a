"""A gateway's control API on a real store, with a relay that a test plays by hand: what engines would say, and what became of a request."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from lamplighter.config import Config
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.ids import new_id
from lamplighter.gateway.accounts import Accounts
from lamplighter.gateway.admission.gate import Gate
from lamplighter.gateway.auth import Identity, Keyring
from lamplighter.gateway.control import Control, build_control
from lamplighter.gateway.relay import Event, Item, Started, Waking
from lamplighter.gateway.server import configure
from lamplighter.gateway.services import Services
from lamplighter.gateway.view import View
from lamplighter.observability.metrics import Metrics
from lamplighter.store import principals
from lamplighter.store.store import Store
from lamplighter.store.wakes import Stage as WakeStage
from lamplighter.store.wakes import Wake
from lamplighter.testing.provider import FakeEngineKind

CONFIG = {
    "models": {
        "quick": {"engine": "fake", "pool": "cloud"},
        "slow": {"engine": "fake", "pool": "cloud", "while_waking": "quick"},
        "small": {"engine": "llamacpp", "pool": "here", "source": "bundled"},
        "always": {"engine": "openai", "pool": "nas"},
    },
    "pools": {
        "cloud": {"kind": "fake"},
        "here": {"kind": "process"},
        "nas": {"kind": "static", "url": "http://nas.lan:11434"},
    },
}


class Call:
    """One request at the relay. `closed`: whoever asked has left, so the engine's connection is closed."""

    def __init__(self, model: str, body: Mapping[str, Any], identity: Identity) -> None:
        self.model = model
        self.body = body
        self.identity = identity
        self.closed = asyncio.Event()
        self._items: asyncio.Queue[Item | Exception | None] = asyncio.Queue()

    def say(self, *items: Item | Exception | None) -> None:
        for item in items:
            self._items.put_nowait(item)

    def waking(self, **changes: Any) -> None:
        self.say(Waking(wake(**changes)))

    def started(self, woke_in: float | None = None, *, model: str | None = None) -> None:
        self.say(Started(model or self.model, woke_in))

    def text(self, *texts: str) -> None:
        self.say(*(token(text) for text in texts))

    def end(self, *, prompt_tokens: int = 5, completion_tokens: int = 3) -> None:
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": 0}
        self.say(Event(json.dumps({"choices": [], "usage": usage}).encode()), None)

    async def items(self) -> AsyncIterator[Item]:
        while (item := await self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def token(text: str) -> Event:
    return Event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode())


def wake(stage: str = "load", progress: float | None = None) -> Wake:
    names = ["pull", "start", "load"]
    at = names.index(stage)
    stages = tuple(
        WakeStage(
            name,
            started_at=float(index) if index <= at else None,
            ended_at=index + 1.0 if index < at else None,
            progress=progress if index == at else None,
        )
        for index, name in enumerate(names)
    )
    return Wake("wak_1", "cloud", "quick", 0.0, None, None, None, None, 1, None, stages, True, 1.0, 2.0)


class PlayedRelay:
    """A relay without engines. With `answer` set, it plays that answer by itself; else the test takes each call and plays it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer: list[str] | None = None
        self._arrived: asyncio.Queue[Call] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def generate(
        self, *, identity: Identity, model: str, body: Mapping[str, Any], wake: str | None = None
    ) -> AsyncIterator[AsyncIterator[Item]]:
        call = Call(model, body, identity)
        self.calls.append(call)
        self._arrived.put_nowait(call)
        if self.answer is not None:
            call.started()
            call.text(*self.answer)
            call.end()
        try:
            yield call.items()
        finally:
            call.closed.set()

    async def next(self) -> Call:
        async with asyncio.timeout(5):
            return await self._arrived.get()


@dataclass
class Stage:
    """Everything on the stage. `key`: an admin's; `other_key`: somebody else's, without admin."""

    store: Store
    clock: Clock
    relay: PlayedRelay
    services: Services
    control: Control
    key: str
    other_key: str
    identity: Identity
    other: Identity
    _urls: list[str] = field(default_factory=list)

    def client(self, *, key: str | None = "admin", **headers: str) -> httpx.AsyncClient:
        """An HTTP client in this process; `key` None: without any."""
        if key is not None:
            headers["authorization"] = f"Bearer {self.key if key == 'admin' else key}"
        transport = httpx.ASGITransport(self.control, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://lamp.test", headers=headers)


@contextlib.asynccontextmanager
async def stage(
    *, clock: Clock | None = None, store: Store | None = None, path: Path | None = None, config: Mapping[str, Any] = CONFIG
) -> AsyncIterator[Stage]:
    clock = clock or SystemClock()
    opened = store or await Store.open(path, clock)
    try:
        _, key = await principals.create_key(opened, name="ada", admin=True)
        _, other_key = await principals.create_key(opened, name="bob", admin=False)
        keyring, relay = Keyring(opened, clock), PlayedRelay()
        tree = Config.model_validate(config)
        view = View(opened, tree, clock)
        await keyring.start()
        await view.start()
        engine = FakeEngineKind()
        services = Services(
            config=tree, store=opened, clock=clock, engines={engine.kind: engine}, view=view, keyring=keyring, relay=relay,
            metrics=Metrics(process=False), accounts=Accounts(opened, clock, Metrics(process=False), gateway_id="gtw_1", keep=1e9),
            admission=Gate(tree, opened, clock, Metrics(process=False), model_of=lambda name: None),
            gateway_id=new_id("gtw"), started_at=clock.time(),
        )  # fmt: skip
        control = build_control(services)
        await control.start()
        try:
            yield Stage(
                opened, clock, relay, services, control, key, other_key,
                identity=keyring.identify({b"x-api-key": key.encode()}), other=keyring.identify({b"x-api-key": other_key.encode()}),
            )  # fmt: skip
        finally:
            await control.stop()
            await view.stop()
            await keyring.stop()
    finally:
        if store is None:
            await opened.close()


@contextlib.asynccontextmanager
async def served(one: Stage) -> AsyncIterator[str]:
    """The stage behind a real server: `127.0.0.1:PORT`."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(configure(one.control, lifespan="off", loop="asyncio", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def until(true: Callable[[], Any]) -> None:
    """Return as soon as something in this process is so."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for announces nothing
            await asyncio.sleep(0.005)


class Talk:
    """A client of the WebSocket, as a test likes it: frames by type, nothing lost."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []

    async def say(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def hear(self, type: str, timeout: float = 5.0, **expected: Any) -> dict[str, Any]:
        """The next frame of this type with these fields; others that come before it are kept in `frames`."""
        async with asyncio.timeout(timeout):
            while True:
                frame: dict[str, Any] = json.loads(await self.connection.recv())
                self.frames.append(frame)
                if frame["type"] == type and all(frame.get(name) == value for name, value in expected.items()):
                    return frame

    async def start(self, content: str = "Hello?", request: str = "r1", **more: Any) -> dict[str, Any]:
        await self.say(
            type="start", client_request_id=request,
            **{"chat_id": None, "parent_id": None, "content": content, "model": "quick", "params": {}, **more},
        )  # fmt: skip
        return await self.hear("started", client_request_id=request)

    async def until_done(self, generation_id: str) -> dict[str, Any]:
        return await self.hear("event", generation_id=generation_id, kind="done")

    def events(self, generation_id: str) -> list[dict[str, Any]]:
        return [one for one in self.frames if one["type"] == "event" and one["generation_id"] == generation_id]

    def text(self, generation_id: str) -> str:
        """What a page would show: deltas after the last snapshot, duplicates dropped."""
        text, seen = "", 0
        for frame in self.frames:
            if frame.get("generation_id") != generation_id or frame.get("seq", 0) <= seen:
                continue
            if frame["type"] == "snapshot":
                text, seen = frame["text"], frame["seq"]
            elif frame["type"] == "event":
                assert frame["seq"] == seen + 1, "a gap"
                seen = frame["seq"]
                if frame["kind"] == "delta":
                    text += frame["data"]["text"]
        return text


@contextlib.asynccontextmanager
async def talk(one: Stage, address: str, *, key: str | None = None, **headers: str) -> AsyncIterator[Talk]:
    """A WebSocket with a key of the stage (default: the admin's)."""
    headers = {"authorization": f"Bearer {key or one.key}"} | headers
    async with connect(f"ws://{address}/api/ws", additional_headers=headers, compression=None) as connection:
        yield Talk(connection)

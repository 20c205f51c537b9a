"""A keeper of one pool for these tests: the real provider, asked as the capacity loop asks it, that can die for good at any call or moment."""

import asyncio
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lamplighter.config import ModelConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.pools import AwsPool
from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ProviderError
from lamplighter.engines.vllm.engine import Vllm
from lamplighter.mesh.authority import Issued
from lamplighter.providers.aws.provider import AwsProvider
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.testing.aws import Emulator

MODEL = "llama"
MODELS = {MODEL: ModelConfig.model_validate({"engine": "vllm", "pool": "spot", "source": "hf:owner/llama"})}
MESH = MeshConfig.model_validate(
    {
        "network": "127.77.0.0/16", "nodes": "127.77.128.0/17", "home": "127.77.0.10",
        "lighthouses": [{"name": "lighthouse", "overlay": "127.77.0.1", "addresses": ["127.0.0.1:4242"]}],
    }
)  # fmt: skip
_STEP = 0.15
_PATIENCE = 30.0
_lives: set[asyncio.Task[None]] = set()


class Papers:
    """Certificates without a mesh: what these tests are about is time, not trust."""

    def __init__(self) -> None:
        self.revoked: list[str] = []

    def issue(self, name: str, public_key_pem: str, address: IPv4Address, *, now: float) -> Issued:
        assert "PUBLIC KEY" in public_key_pem
        return Issued(f"certificate of {name} at {address}\n", f"{name}-{address}", now + 86_400)

    def revoke(self, fingerprint: str, until: float) -> None:
        assert until > 0
        self.revoked.append(fingerprint)

    def due(self, fingerprint: str, *, now: float) -> bool:
        assert fingerprint
        return now < 0

    def confirm(self, name: str, *, bundle: str, fingerprint: str) -> None:
        """Nothing is kept."""

    def taken(self) -> frozenset[IPv4Address]:
        return frozenset()

    def bundle(self) -> str:
        return "authority\n"

    def blocklist(self) -> tuple[str, ...]:
        return ()

    def publish(self) -> None:
        """Nobody reads it."""


class Keeper:
    """One life of a keeper. `want`: replicas; `doomed`: handles whose end it asks for."""

    def __init__(self, aws: Emulator, data: Path, *, want: int = 1, pool: Mapping[str, Any] | None = None) -> None:
        self.aws = aws
        self.want = want
        self.doomed: frozenset[str] = frozenset()
        self.seen: tuple[Observation, ...] = ()
        self.error = ""
        """What the provider last said that it could not do."""
        self.papers = Papers()
        config = {"kind": "aws", "region": aws.region, "spot_patience": "5s", **(pool or {})}
        self._provider = AwsProvider(
            "spot", AwsPool.model_validate(config), models=lambda: MODELS, engines={"vllm": Vllm()}, mesh=MESH, data=data,
            installation="test", clock=SystemClock(), authority=lambda: self.papers,
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def __aenter__(self) -> "Keeper":
        self._task = asyncio.create_task(self._live())
        _lives.add(self._task)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def _live(self) -> None:
        while not self._ended:
            try:
                self.seen = tuple(await self._provider.observe())
                await self._provider.scale(Desired({MODEL: self.want}), self.doomed)
                await self._provider.renew()
            except ProviderError as error:
                self.error = error.message
            await asyncio.sleep(_STEP)

    async def die(self) -> None:
        """From now on it does nothing more, and cannot: AWS hears nobody but nodes, and no agent hears it."""
        if self._task is None:
            return
        await self._stop()
        if not self.aws.is_cut_off:
            self.aws.cut_off()
        await asyncio.wait_for(self._provider.close(), _PATIENCE)

    async def restart(self) -> None:
        """It ends in order, and its successor comes up elsewhere: nothing is cut."""
        await self._stop()
        await asyncio.wait_for(self._provider.close(), _PATIENCE)

    async def _stop(self) -> None:
        assert self._task is not None
        self._ended = True
        self._task.cancel()
        await asyncio.wait([self._task], timeout=_PATIENCE)
        assert self._task.done(), "the keeper does not stop"
        _lives.discard(self._task)
        self._task = None

    @property
    def ready(self) -> Observation | None:
        """The replica that serves."""
        return next(
            (
                one
                for one in self.seen
                if one.presence is Presence.RUNNING and one.stages and one.stages[-1].name == "load" and one.stages[-1].ended_at
            ),
            None,
        )

    @property
    def handle(self) -> str | None:
        """The newest replica's."""
        return self.seen[-1].handle if self.seen else None


async def until(look: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """The first truthy result of `look`."""
    end = time.monotonic() + timeout
    while not (found := look()):
        for life in _lives:
            if life.done() and not life.cancelled():
                life.result()
        assert time.monotonic() < end, f"waited {timeout:g} s in vain: {what}"
        await asyncio.sleep(0.02)
    return found

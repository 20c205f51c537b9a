"""What every engine kind promises the keeper and the gateway, as tests."""

from typing import Protocol

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.engines.base import Capability, Engine, Health


class EngineWorld(Protocol):
    """One engine kind and a server of it. `endpoint` answers for the model `name` with `config`; `down` answers nothing."""

    engine: Engine
    name: str
    config: ModelConfig
    endpoint: Endpoint
    down: Endpoint

    async def hang(self) -> None:
        """From now on the server accepts connections and says nothing."""
        ...


class EngineContract:
    """Needs a fixture `world` that gives an `EngineWorld` whose server is ready."""

    async def test_a_ready_server_is_found_ready(self, world: EngineWorld) -> None:
        """Nobody would ever get an answer."""
        probe = await world.engine.probe(world.endpoint, world.name, world.config, timeout=5)
        assert probe.health is Health.READY, probe
        assert not probe.models or world.engine.upstream_model(world.name, world.config) in probe.models

    async def test_a_dead_server_is_down_and_nothing_is_raised(self, world: EngineWorld) -> None:
        """A vanished engine would crash the keeper instead of being replaced."""
        probe = await world.engine.probe(world.down, world.name, world.config, timeout=5)
        assert probe.health is Health.DOWN
        assert probe.detail

    async def test_a_silent_server_is_down_within_the_timeout(self, world: EngineWorld) -> None:
        """One hung engine would stop the health checks of all."""
        await world.hang()
        probe = await world.engine.probe(world.endpoint, world.name, world.config, timeout=0.2)
        assert probe.health is Health.DOWN
        assert probe.detail

    async def test_a_wrong_key_is_never_ready(self, world: EngineWorld) -> None:
        """Requests would go to a server that refuses them all."""
        if world.endpoint.key is None:
            return
        stranger = Endpoint(world.endpoint.url, "wrong")
        probe = await world.engine.probe(stranger, world.name, world.config, timeout=5)
        assert probe.health in (Health.FAILED, Health.DOWN), probe

    def test_chat_is_among_what_it_serves(self, world: EngineWorld) -> None:
        """The page would offer no model at all."""
        assert Capability.CHAT in world.engine.capabilities(world.config)

    def test_the_upstream_name_is_stable_and_not_empty(self, world: EngineWorld) -> None:
        """The gateway splices it into every request."""
        name = world.engine.upstream_model(world.name, world.config)
        assert name
        assert name == world.engine.upstream_model(world.name, world.config)

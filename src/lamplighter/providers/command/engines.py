"""Brings a model into use on a machine that may be asleep: wake it, wait until its engine is well, load what has to be loaded.

Speaks to engines through their contract alone. One that loads models when asked (an Ollama) does; any other serves what it was started with.
"""

from collections.abc import Callable, Mapping

from lamplighter.config import ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Engine, Health, Loading, Resident
from lamplighter.providers.command.machine import Machine

ASK_EVERY = 0.5
"""Seconds between two health checks of an engine that comes up."""
ASK_LIMIT = 5.0
_NOT_YET = {Health.DOWN, Health.LOADING, Health.ASLEEP}


class OnMachine:
    """Implements `engines.base.Resident` for all models of one pool, whatever their engines."""

    def __init__(
        self,
        pool: str,
        machine: Machine,
        *,
        engines: Mapping[str, Engine],
        models: Callable[[], Mapping[str, ModelConfig]],
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._machine = machine
        self._engines = engines
        self._models = models
        self._clock = clock

    async def load(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, loading: Loading) -> None:
        """See `Resident`. Takes as long as the machine and the model do: the keeper's deadline ends it."""
        await self._machine.awaken(loading)
        resident = self._resident(config)
        if resident is None:
            loading.stage("load")
        await self._well(endpoint, name, config, loading, only_up=resident is not None)
        if resident is not None:
            await resident.load(endpoint, name, config, keep=keep, loading=loading)

    async def hold(self, endpoint: Endpoint, name: str, config: ModelConfig, *, keep: float, timeout: float) -> None:
        """See `Resident`."""
        if (resident := self._resident(config)) is not None:
            await resident.hold(endpoint, name, config, keep=keep, timeout=timeout)

    async def unload(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> None:
        """See `Resident`."""
        if (resident := self._resident(config)) is not None:
            await resident.unload(endpoint, name, config, timeout=timeout)

    async def loaded(self, endpoint: Endpoint, *, timeout: float) -> frozenset[str]:
        """See `Resident`. Empty where no engine of the pool tells."""
        ours = (self._resident(model) for model in self._models().values() if model.pool == self._pool)
        resident = next((one for one in ours if one is not None), None)
        return frozenset() if resident is None else await resident.loaded(endpoint, timeout=timeout)

    def same(self, name: str, config: ModelConfig, loaded: frozenset[str]) -> bool:
        """See `Resident`. What loads nothing cannot have unloaded it either."""
        resident = self._resident(config)
        return resident is None or resident.same(name, config, loaded)

    def _resident(self, config: ModelConfig) -> Resident | None:
        engine: object = self._engines.get(config.engine)
        return engine if isinstance(engine, Resident) else None

    async def _well(self, endpoint: Endpoint, name: str, config: ModelConfig, loading: Loading, *, only_up: bool) -> None:
        """Return once the engine is ready; `only_up`: once it answers at all. Raises ProviderError when it says that it never will be."""
        engine = self._engines.get(config.engine)
        if engine is None:
            raise ProviderError(
                f"There is no engine {config.engine!r} for a pool of commands.", reason=WakeFailure.ENGINE_MISSING
            )
        while (probe := await engine.probe(endpoint, name, config, timeout=ASK_LIMIT)).health is not Health.READY:
            if only_up and probe.health not in _NOT_YET:
                return
            if probe.health is Health.FAILED:
                raise ProviderError(
                    probe.detail or "its engine will not be ready", reason=probe.reason or WakeFailure.ENGINE_CRASHED
                )
            loading.progress(probe.progress, probe.detail)
            await self._clock.sleep(ASK_EVERY)

"""The provider kind `command`: a replica is one model in use on the user's machine, which is woken for the first and put to sleep after the last.

Puts together what others do: `machine` switches it on and off, `engines` brings a model into use there, `providers.resident` keeps the books of
what is in use. Two objects at the same time are no danger to each other's replicas, but both would run commands: one keeper leads.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lamplighter.config import CommandPool, ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.engines.base import Engine
from lamplighter.providers.base import Desired, Observation
from lamplighter.providers.command.engines import OnMachine
from lamplighter.providers.command.machine import LINGER, Machine
from lamplighter.providers.resident import ResidentProvider
from lamplighter.providers.static import endpoint

STAGES = ("start", "reachable", "pull", "load")
"""`start`: the wake command runs. `reachable`: until the engine's port answers. `pull`: only an Ollama that may. `load`: until it is well."""


class CommandProvider:
    """One pool of kind `command`. `linger`: seconds without any model until the machine is put to sleep."""

    stages: tuple[str, ...] = STAGES

    def __init__(
        self,
        pool: str,
        config: CommandPool,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        data: Path,
        clock: Clock,
        linger: float = LINGER,
    ) -> None:
        self._machine = Machine(pool, config, data=data, clock=clock, linger=linger)
        self._places = ResidentProvider(
            pool,
            endpoint=partial(endpoint, pool, config),
            models=models,
            engine=OnMachine(pool, self._machine, engines=engines, models=models, clock=clock),
            data=data,
            clock=clock,
            stages=STAGES,
            patience=0.0,  # what cannot be reached is going to sleep, or has lost its memory
        )

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Begin to bring into use what is missing, one of a model at the most; begin to let go of the doomed."""
        await self._places.scale(desired, doomed)
        self._tend()

    async def observe(self) -> Sequence[Observation]:
        """What is in use, or on its way. Raises ProviderError while the engine's key cannot be had."""
        self._tend()
        return await self._places.observe()

    async def renew(self) -> None:
        """Let what is loaded stay. The machine itself has no lease: what we woke is remembered on disk, for the next start to put to sleep."""
        await self._places.renew()
        self._tend()

    async def close(self) -> None:
        """Abandon what is under way. A machine that we woke and that nobody uses is put to sleep first."""
        await self._places.close()
        await self._machine.close(in_use=self._places.in_use)

    def _tend(self) -> None:
        if (lost := self._machine.lost) is not None:
            self._places.lose(*lost)
        self._machine.tend(in_use=self._places.in_use, serving=self._places.serving)

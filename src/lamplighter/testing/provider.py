"""A pretended cloud and the provider on top of it: slow stages on a clock that tests control, and every misfortune a cloud has.

`FakeCloud` outlives its providers, as a real one outlives a crash of ours; a second `FakeProvider` on the same cloud adopts what the first
began. Replicas hold a `FakeEngine` in this process, so nothing is left behind when the process ends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lamplighter.config import FakePool, ModelConfig
from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.ids import new_id, secret
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Capability, Command, LaunchSpec, Probe, declared
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.providers.base import Desired, Observation, Presence, StageReport
from lamplighter.testing.engine import FakeEngine


class FakeEngineKind(OpenAICompatible):
    """The engine kind `fake`: probes like `openai`, under the client's own model name."""

    kind = "fake"

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        """Its own name, at whatever revision."""
        return base(name)

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        """All routes."""
        return declared(config, frozenset(Capability))

    def command(self, spec: LaunchSpec) -> Command:
        """Always raises ProviderError: pretended engines live inside their pretended cloud."""
        raise ProviderError(f"The model {spec.model!r} has engine `fake`, which only a pool of kind fake can run.")

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        """`/v1/models`, as for `openai`."""
        return await super().probe(endpoint, name, config, timeout=timeout)


@dataclass(slots=True)
class FakeMachine:
    """One pretended machine with one engine. Times: Unix seconds of the cloud's clock."""

    handle: str
    installation: str
    pool: str
    model: str
    stages: Mapping[str, float]
    began: float
    renewed: float
    engine: FakeEngine
    key: str = field(repr=False)
    up: bool = False
    ending_since: float | None = None
    ended: bool = False
    failure: WakeFailure | None = None
    failed_at: float | None = None
    loss: LossReason | None = None
    detail: str | None = None


@dataclass(slots=True)
class Misfortune:
    """Something that goes wrong at a stage of the next `times` launches."""

    stage: str
    failure: WakeFailure
    times: int = 1
    detail: str = "The fake failed, as asked."


class FakeCloud:
    """All pretended machines of all pools and installations. `lease`, `ending`: seconds until an unrenewed, an asked machine ends."""

    def __init__(
        self, clock: Clock | None = None, *, lease: float = 45.0, ending: float = 0.0, engine: Mapping[str, Any] | None = None
    ) -> None:
        self.clock = clock or SystemClock()
        self.lease = lease
        self.ending = ending
        self.machines: dict[str, FakeMachine] = {}
        self.launches = 0
        """How many machines were ever asked for, refused ones included: a test's proof that nothing was launched twice."""
        self.no_capacity = 0
        """How many launches are refused before one succeeds."""
        self.misfortunes: list[Misfortune] = []
        self.down: str | None = None
        """While set, the cloud's API fails with this sentence."""
        self._engine = dict(engine or {})

    async def close(self) -> None:
        """End everything."""
        for machine in self.machines.values():
            await machine.engine.stop()
        self.machines.clear()

    def launch(self, installation: str, pool: str, model: str, stages: Mapping[str, float], **behaviour: Any) -> FakeMachine:
        """A new machine, which begins its first stage now."""
        self.launches += 1
        now, key = self.clock.time(), secret("lle")
        engine = FakeEngine(clock=self.clock, **{"model": base(model), "key": key, **behaviour, **self._engine})
        machine = FakeMachine(new_id("fak"), installation, pool, model, stages, now, now, engine, key)
        if self.no_capacity > 0:
            self.no_capacity -= 1
            machine.ended, machine.failure, machine.failed_at = True, WakeFailure.NO_CAPACITY, now
            machine.detail = "There is no free machine, as asked."
        elif self.misfortunes:
            misfortune = self.misfortunes[0]
            misfortune.times -= 1
            if misfortune.times <= 0:
                self.misfortunes.pop(0)
            machine.failure, machine.detail = misfortune.failure, misfortune.detail
            machine.failed_at = now + sum(list(stages.values())[: list(stages).index(misfortune.stage)])
        self.machines[machine.handle] = machine
        return machine

    def vanish(self, handle: str) -> None:
        """The cloud forgets the machine (a spot machine that was taken)."""
        machine = self.machines.pop(handle)
        machine.engine.crash()

    def crash(self, handle: str) -> None:
        """The engine dies; the machine is still told as ENDED."""
        machine = self.machines[handle]
        machine.ended, machine.detail = True, "The engine was killed, as asked."
        if machine.up:
            machine.loss = LossReason.CRASHED
        else:
            machine.failure = WakeFailure.ENGINE_CRASHED
        machine.engine.crash()

    def end(self, handle: str) -> None:
        """Begin to end the machine; unknown handles are fine."""
        machine = self.machines.get(handle)
        if machine is not None and machine.ending_since is None:
            machine.ending_since = self.clock.time()

    async def settle(self) -> None:
        """Let everything that is due happen: engines come up, leases run out, ended machines disappear."""
        now = self.clock.time()
        for machine in list(self.machines.values()):
            if machine.failed_at is not None and now >= machine.failed_at:
                machine.ended = True
            if not machine.ended and now - machine.renewed > self.lease:
                machine.ended, machine.detail = True, f"Nobody renewed its lease for {self.lease:g} s, so it ended itself."
                machine.loss = LossReason.CRASHED
            if machine.ended and machine.up:
                machine.up = False
                await machine.engine.stop()
            if not machine.ended and not machine.up and now >= machine.began + sum(machine.stages.values()):
                await machine.engine.start()
                machine.up = True
            if machine.ending_since is not None and now - machine.ending_since >= (0 if machine.ended else self.ending):
                del self.machines[machine.handle]
                await machine.engine.stop()


class FakeProvider:
    """One pool on a `FakeCloud`. Without a cloud of its own choice it makes one, and ends it on `close`."""

    def __init__(
        self,
        pool: str,
        config: FakePool,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        installation: str = "fake",
        cloud: FakeCloud | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.stages: tuple[str, ...] = tuple(config.stages)
        self.cloud = cloud or FakeCloud(clock)
        self._owns_cloud = cloud is None
        self._pool = pool
        self._config = config
        self._models = models
        self._installation = installation

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """As the contract says. Raises ProviderError while the cloud is `down`."""
        await self._settled()
        for machine in self._mine():
            if machine.handle in doomed:
                self.cloud.end(machine.handle)
        living: dict[str, int] = {}
        for machine in self._mine():
            if not machine.ended and machine.ending_since is None:
                living[machine.model] = living.get(machine.model, 0) + 1
        for model, count in desired.replicas.items():
            if model not in self._models():
                continue
            for _ in range(count - living.get(model, 0)):
                stages = {name: float(span) for name, span in self._config.stages.items()}
                speed = self._config.tokens_per_second
                self.cloud.launch(self._installation, self._pool, model, stages, tokens_per_second=speed, tokens=200)
        await self.cloud.settle()

    async def observe(self) -> Sequence[Observation]:
        """As the contract says. Raises ProviderError while the cloud is `down`."""
        await self._settled()
        return [_observation(machine, self.cloud.clock.time()) for machine in self._mine()]

    async def renew(self) -> None:
        """Renew the leases of this pool's machines."""
        for machine in self._mine():
            machine.renewed = self.cloud.clock.time()

    async def close(self) -> None:
        """End the cloud if it is this provider's own."""
        if self._owns_cloud:
            await self.cloud.close()

    async def _settled(self) -> None:
        if self.cloud.down is not None:
            raise ProviderError(self.cloud.down)
        await self.cloud.settle()

    def _mine(self) -> list[FakeMachine]:
        return [one for one in self.cloud.machines.values() if (one.installation, one.pool) == (self._installation, self._pool)]


def _observation(machine: FakeMachine, now: float) -> Observation:
    presence = Presence.ENDED if machine.ended else Presence.RUNNING if machine.ending_since is None else Presence.STOPPING
    failing = machine.failed_at is not None and not machine.ended
    seen = Observation(
        handle=machine.handle,
        models=(machine.model,),
        presence=presence,
        stages=_stages(machine, now),
        endpoint=Endpoint(machine.engine.url, machine.key) if machine.up else None,
        failure=machine.failure,
        loss=machine.loss,
        detail=machine.detail,
        started_at=machine.began,
    )
    return replace(seen, failure=None, detail=None) if failing else seen


def _stages(machine: FakeMachine, now: float) -> tuple[StageReport, ...]:
    """The stages as far as time has brought them; a failed machine stops at its failure."""
    until = min(now, machine.failed_at) if machine.failed_at is not None else now
    reports: list[StageReport] = []
    start = machine.began
    for name, length in machine.stages.items():
        end = start + length
        if until >= end:
            reports.append(StageReport(name, start, end, 1.0))
        elif until >= start:
            reports.append(StageReport(name, start, None, (until - start) / length))
            break
        else:
            break
        start = end
    return tuple(reports)

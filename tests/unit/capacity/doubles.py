"""A provider and an engine in memory, on the virtual clock, with every fault that the keeper must stand."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lamplighter.config import ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Capability, Command, Health, LaunchSpec, Probe
from lamplighter.providers.base import Desired, Notice, Observation, Presence, Quote, Rate, StageReport


@dataclass
class Machine:
    """One pretended replica. It is ready when all its stages are through; it ends `ending` seconds after it was asked to."""

    handle: str
    model: str
    started_at: float
    stages: Mapping[str, float]
    failure: WakeFailure | None = None
    fails_in: str | None = None
    ended: bool = False
    loss: LossReason | None = None
    hung: bool = False
    stopping_at: float | None = None
    notice: Notice | None = None

    def reports(self, now: float) -> tuple[StageReport, ...]:
        found, at = [], self.started_at
        for name, seconds in self.stages.items():
            if at > now:
                break
            end = at + seconds
            found.append(StageReport(name, at, end if end <= now else None, min(1.0, (now - at) / seconds) if seconds else 1.0))
            at = end
        return tuple(found)

    def stage(self, now: float) -> str | None:
        open_stages = [report.name for report in self.reports(now) if report.ended_at is None]
        return open_stages[0] if open_stages else None

    def ready(self, now: float) -> bool:
        return now >= self.started_at + sum(self.stages.values())


@dataclass
class Cloud:
    """Implements `Provider`. `launches` counts every machine ever begun."""

    clock: Clock
    durations: dict[str, float] = field(default_factory=lambda: {"pull": 0.0, "load": 1.0})
    ending: float = 0.1
    machines: dict[str, Machine] = field(default_factory=dict)
    launches: int = 0
    most: int = 0
    renewals: int = 0
    refuse: ProviderError | None = None
    blind: Exception | None = None
    hang: bool = False
    kill_at_scale: bool = False
    """Our process dies when it calls `scale`."""
    fail_next: list[tuple[str, WakeFailure]] = field(default_factory=list)
    """(stage, reason) for the next launches: they fail in that stage."""
    rate: Rate | None = None
    """What every machine costs."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.stages = tuple(self.durations)

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        if self.kill_at_scale:
            raise asyncio.CancelledError
        if self.refuse is not None:
            raise self.refuse
        for handle in doomed:
            machine = self.machines.get(handle)
            if machine is not None and machine.stopping_at is None:
                machine.stopping_at = self.clock.time() + (0.0 if machine.ended else self.ending)
        self._reap()
        for model, count in desired.replicas.items():
            alive = sum(m.model == model and not m.ended and m.handle not in doomed for m in self.machines.values())
            for _ in range(count - alive):
                self.launch(model)

    def launch(self, model: str) -> Machine:
        handle = f"m{next(self.numbers)}"
        machine = Machine(handle, model, self.clock.time(), dict(self.durations))
        if self.fail_next:
            machine.fails_in, machine.failure = self.fail_next.pop(0)
        self.machines[handle] = machine
        self.launches += 1
        self.most = max(self.most, sum(not m.ended for m in self.machines.values()))
        return machine

    async def observe(self) -> Sequence[Observation]:
        if self.hang:
            await self.clock.sleep(1e6)
        if self.blind is not None:
            raise self.blind
        self._reap()
        return [self._observation(machine) for machine in self.machines.values()]

    def _observation(self, machine: Machine) -> Observation:
        now = self.clock.time()
        failed = machine.failure is not None and machine.fails_in in {report.name for report in machine.reports(now)}
        if failed:
            machine.ended = True
        presence = Presence.RUNNING
        if machine.ended:
            presence = Presence.ENDED
        elif machine.stopping_at is not None:
            presence = Presence.STOPPING
        return Observation(
            handle=machine.handle,
            models=(machine.model,),
            presence=presence,
            stages=machine.reports(now),
            endpoint=Endpoint(f"http://{machine.handle}", "key"),
            failure=machine.failure if failed else None,
            loss=machine.loss,
            detail="told by the cloud" if machine.ended else None,
            started_at=machine.started_at,
            notice=machine.notice,
            rate=self.rate,
        )

    def _reap(self) -> None:
        now = self.clock.time()
        self.machines = {h: m for h, m in self.machines.items() if m.stopping_at is None or m.stopping_at > now}

    async def renew(self) -> None:
        self.renewals += 1

    async def close(self) -> None:
        """Nothing to release."""

    # --- faults -------------------------------------------------------------------------------------------------------------------------

    def crash(self, model: str) -> None:
        """The processes of `model` end by themselves."""
        for machine in self.machines.values():
            if machine.model == model:
                machine.ended, machine.loss = True, LossReason.CRASHED


@dataclass
class PricedCloud(Cloud):
    """A `Cloud` that tells prices before a wake. `least`: billionths."""

    least: int = 0

    async def quote(self) -> Quote | None:
        assert self.rate is not None
        return Quote(self.rate, self.least, self.clock.time(), "the double")


@dataclass
class FixedServer:
    """Implements `Provider` for capacity that is always on."""

    clock: Clock
    renewals: int = 0
    stages: tuple[str, ...] = ()

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        raise AssertionError("a static pool is never scaled")

    async def observe(self) -> Sequence[Observation]:
        return [Observation("static", (), Presence.RUNNING, endpoint=Endpoint("http://static"), started_at=0.0)]

    async def renew(self) -> None:
        self.renewals += 1

    async def close(self) -> None:
        """Nothing to release."""


@dataclass
class Doctor:
    """Implements `Engine`: says of a machine of `clouds` what is true of it, and of the URL `http://static` what `static` says."""

    clock: Clock
    clouds: list[Cloud] = field(default_factory=list)
    kind: str = "fake"
    static: Probe = field(default_factory=lambda: Probe(Health.READY))
    probes: int = 0
    broken: Probe | None = None
    hang: bool = False

    def upstream_model(self, name: str, config: ModelConfig) -> str:
        return name

    def capabilities(self, config: ModelConfig) -> frozenset[Capability]:
        return frozenset(Capability)

    def command(self, spec: LaunchSpec) -> Command:
        raise AssertionError("never asked for here")

    async def probe(self, endpoint: Endpoint, name: str, config: ModelConfig, *, timeout: float) -> Probe:
        self.probes += 1
        if self.hang:
            await self.clock.sleep(1e6)
        if endpoint.url == "http://static":
            return self.static
        handle = endpoint.url.removeprefix("http://")
        machine = next((cloud.machines[handle] for cloud in self.clouds if handle in cloud.machines), None)
        if machine is None or machine.ended or machine.hung:
            return Probe(Health.DOWN, "connection refused")
        if not machine.ready(self.clock.time()):
            return Probe(Health.LOADING)
        if self.broken is not None:
            return replace(self.broken)
        return Probe(Health.READY, context=2048)

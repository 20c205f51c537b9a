"""Models in the memory of a server that somebody else runs (an Ollama): a replica is one model loaded there; to end it is to unload it.

The server itself is neither started nor stopped. What is loaded is held by a lease in the server's own terms (`keep_alive`), renewed as long as
it is wanted: when Lamplighter dies, the memory is free again within `HOLD` seconds. Which loads are ours stands in a file, so that a later
object adopts them, and what others loaded is never unloaded. Not responsible for when to load what, nor for how a server is asked.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from lamplighter.config import ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.ids import new_id
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Resident
from lamplighter.engines.state import replace_file
from lamplighter.providers.base import Desired, Observation, Presence, StageReport

_log = structlog.get_logger(__name__)

HOLD = 180.0
"""Seconds for which the server keeps a model after its last use or renewal."""
RENEW_AFTER = 20.0
"""Seconds between two renewals of one model."""
FRESH = 0.5
"""Seconds for which the server is not asked again what it has loaded."""
ASK_LIMIT = 2.0
_MISSED = 2
"""Looks in a row that must not find a loaded model: between two loads of a server a list may be short for a moment."""


@dataclass(slots=True)
class _Load:
    """One model that we asked for. `loaded_at`: when it was; `ending`: when to unload it was asked; `failure`: why it is not there."""

    handle: str
    model: str
    began: float
    stages: list[StageReport] = field(default_factory=list)
    loaded_at: float | None = None
    held_at: float = 0.0
    ending: float | None = None
    failure: WakeFailure | None = None
    loss: LossReason | None = None
    detail: str | None = None
    missed: int = 0


class _Loading:
    """Implements `engines.base.Loading`: writes into `load`."""

    def __init__(self, load: _Load, clock: Clock) -> None:
        self._load = load
        self._clock = clock

    def stage(self, name: str) -> None:
        self.done()
        self._load.stages.append(StageReport(name, self._clock.time()))

    def progress(self, share: float | None, detail: str | None) -> None:
        if self._load.stages:
            self._load.stages[-1] = replace(self._load.stages[-1], progress=share, detail=detail)

    def done(self) -> None:
        """The current stage is over."""
        if self._load.stages and self._load.stages[-1].ended_at is None:
            self._load.stages[-1] = replace(self._load.stages[-1], ended_at=self._clock.time())


class ResidentProvider:
    """One server, as a pool of places for models. `endpoint` is asked at every use: a rotated secret counts at once.

    `patience`: seconds for which a server that cannot be reached is asked again to unload what it may still hold.
    """

    def __init__(
        self,
        pool: str,
        *,
        endpoint: Callable[[], Endpoint],
        models: Callable[[], Mapping[str, ModelConfig]],
        engine: Resident,
        data: Path,
        clock: Clock,
        stages: tuple[str, ...] = ("pull", "load"),
        patience: float = HOLD,
    ) -> None:
        self.stages = stages
        self._patience = patience
        self._pool = pool
        self._endpoint = endpoint
        self._models = models
        self._engine = engine
        self._file = data / "run" / "residents" / f"{pool}.json"
        self._clock = clock
        self._loads: dict[str, _Load] = self._read()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._there: frozenset[str] = frozenset()
        self._asked_at = float("-inf")

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Begin to load what is missing, one load of a model at the most: a server holds a model once. Begin to unload the doomed."""
        now = self._clock.time()
        for handle in doomed & self._loads.keys():
            load = self._loads[handle]
            load.ending = load.ending if load.ending is not None else now
            self._do(handle, self._unload, "unload")
        living = {
            load.model for load in self._loads.values() if load.ending is None and load.failure is None and load.loss is None
        }
        for model, count in desired.replicas.items():
            if count > 0 and model not in living and model in self._models():
                load = _Load(new_id("res"), model, now)
                self._loads[load.handle] = load
                self._do(load.handle, self._load, "load")
        self._write()

    async def observe(self) -> Sequence[Observation]:
        """What we loaded, or are loading. Raises ProviderError while the server's key cannot be had."""
        endpoint = self._endpoint()
        await self._look(endpoint)
        for load in list(self._loads.values()):
            if load.loaded_at is None and load.failure is None and load.ending is None:
                self._do(load.handle, self._load, "load")  # after a restart of ours, what was under way is begun again
        return sorted(
            (_observation(load, endpoint) for load in self._loads.values()), key=lambda one: (one.started_at, one.handle)
        )

    @property
    def in_use(self) -> bool:
        """Whether anything is loaded, on its way in or on its way out."""
        return bool(self._loads)

    @property
    def serving(self) -> bool:
        """Whether anything is loaded, as far as is known."""
        return any(load.loaded_at is not None and load.loss is None for load in self._loads.values())

    def lose(self, reason: LossReason, detail: str) -> None:
        """The server is gone, and with it everything that it had loaded."""
        for load in self._loads.values():
            if load.loaded_at is not None and load.loss is None and load.ending is None:
                load.loss, load.detail = reason, detail

    async def renew(self) -> None:
        """Let everything that is loaded and wanted stay."""
        for load in self._loads.values():
            due = self._clock.time() - load.held_at >= RENEW_AFTER
            if load.loaded_at is not None and load.loss is None and load.ending is None and due:
                self._do(load.handle, self._hold, "hold")

    async def close(self) -> None:
        """Abandon what is under way; what is loaded stays until its hold runs out, or another object adopts it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what takes its time ------------------------------------------------------------------------------------------------------------

    def _do(self, handle: str, work: Callable[[_Load], Coroutine[Any, Any, None]], name: str) -> None:
        """Run `work` for a load unless something runs for it already; but to unload calls off what is under way."""
        running = self._tasks.get(handle)
        if running is not None and not running.done():
            if name == "unload" and running.get_name() != "unload":
                running.cancel()  # the keeper repeats its order
            return
        self._tasks[handle] = asyncio.create_task(work(self._loads[handle]), name=name)

    async def _load(self, load: _Load) -> None:
        loading = _Loading(load, self._clock)
        load.stages.clear()
        config = self._models().get(load.model)
        try:
            if config is None:
                raise ProviderError(f"There is no model {load.model!r} in the configuration.")
            await self._engine.load(self._endpoint(), load.model, config, keep=HOLD, loading=loading)
        except ProviderError as error:
            load.failure, load.detail = error.reason, error.message
            return
        loading.done()
        load.loaded_at = load.held_at = self._clock.time()
        self._asked_at = float("-inf")
        self._write()

    async def _unload(self, load: _Load) -> None:
        config = self._models().get(load.model)
        again = any(other.model == load.model and other.ending is None for other in self._loads.values())
        asked = load.loaded_at is not None or load.failure is None
        try:
            if asked and not again and config is not None and load.loss is None:
                await self._engine.unload(self._endpoint(), load.model, config, timeout=ASK_LIMIT)
        except ProviderError as error:
            # A server that cannot be reached keeps the model until its hold runs out, and no longer.
            if (
                load.ending is not None
                and self._clock.time() - load.ending < self._patience
                and error.reason is WakeFailure.UNREACHABLE
            ):
                return
            _log.warning("a model could not be unloaded", pool=self._pool, model=load.model, error=error.message)
        self._loads.pop(load.handle, None)
        self._asked_at = float("-inf")
        self._write()

    async def _hold(self, load: _Load) -> None:
        config = self._models().get(load.model)
        if config is None or not self._engine.same(load.model, config, self._there):
            return  # to hold what is gone would load it again
        with contextlib.suppress(ProviderError):  # the health check tells of a server that is away
            await self._engine.hold(self._endpoint(), load.model, config, keep=HOLD, timeout=ASK_LIMIT)
            load.held_at = self._clock.time()

    async def _look(self, endpoint: Endpoint) -> None:
        """Ask what is in memory, not too often; what of ours is gone was unloaded by somebody else, or for want of room."""
        if self._clock.monotonic() - self._asked_at < FRESH or not any(
            load.loaded_at is not None for load in self._loads.values()
        ):
            return
        self._asked_at = self._clock.monotonic()
        try:
            self._there = await self._engine.loaded(endpoint, timeout=ASK_LIMIT)
        except ProviderError:
            return  # the last that is known counts; the health check tells of a server that is away
        models = self._models()
        for load in self._loads.values():
            config = models.get(load.model)
            if load.loaded_at is None or load.ending is not None or config is None:
                continue
            load.missed = 0 if self._engine.same(load.model, config, self._there) else load.missed + 1
            if load.missed >= _MISSED:
                load.loss, load.detail = LossReason.VANISHED, "The server unloaded it by itself, or was started again."

    # --- what outlives us ---------------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, _Load]:
        try:
            rows = json.loads(self._file.read_bytes())
            return {row["handle"]: _Load(row["handle"], row["model"], row["began"], loaded_at=row["loaded_at"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write(self) -> None:
        kept = ("handle", "model", "began", "loaded_at")
        rows = [
            {name: value for name, value in asdict(load).items() if name in kept}
            for load in self._loads.values()
            if load.failure is None
        ]
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._file, json.dumps(rows))
        except OSError as error:
            _log.warning("which models are ours could not be written", pool=self._pool, error=error.strerror or str(error))


def _observation(load: _Load, endpoint: Endpoint) -> Observation:
    ended = load.failure is not None or load.loss is not None
    return Observation(
        handle=load.handle,
        models=(load.model,),
        presence=Presence.STOPPING if load.ending is not None else Presence.ENDED if ended else Presence.RUNNING,
        stages=tuple(load.stages),
        endpoint=endpoint if load.loaded_at is not None and not ended else None,
        failure=load.failure,
        loss=load.loss,
        detail=load.detail,
        started_at=load.began,
    )

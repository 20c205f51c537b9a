"""The provider kind `process`: scales and observes engines as processes of this machine.

All truth is on disk (`replica`) and in the process table, so a new object on the same data folder adopts what an earlier one started, whatever
killed that one. Not responsible for when to scale, nor for what an engine is.
"""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lamplighter.config import ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError, SourceError
from lamplighter.core.ids import new_id, secret
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Engine, LaunchSpec
from lamplighter.engines.state import LEASE_SECONDS, SPEC, Spec
from lamplighter.providers.base import Desired, Observation, Presence
from lamplighter.providers.process.replica import BEGIN_WITHIN, Replica, cannot_begin


class ProcessProvider:
    """One pool of processes under `data/run/engines/`, each in a folder named by its handle.

    `models` is asked at every launch, since models can be added while we run. `installation`: replicas of another one are never touched.
    """

    stages: tuple[str, ...] = ("pull", "start", "load")

    def __init__(
        self,
        pool: str,
        *,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        data: Path,
        installation: str,
        clock: Clock,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._pool = pool
        self._models = models
        self._engines = engines
        self._root = data / "run" / "engines"
        self._models_folder = data / "models"
        self._installation = installation
        self._clock = clock
        self._lease = lease
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        """Processes that this object started: only their parent can reap them and learn their exit status."""
        self._exits: dict[str, int] = {}
        self._stillborn: dict[str, Observation] = {}
        """Launches that could not even make a folder; nothing on disk can tell of them."""
        self._lock = asyncio.Lock()

    async def scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        """Launch what is missing, begin to end the doomed. Raises ProviderError when the folder of all replicas cannot be read."""
        async with self._lock:
            await asyncio.to_thread(self._scale, desired, doomed)

    async def observe(self) -> Sequence[Observation]:
        """All replicas of this pool and installation, oldest first. Raises ProviderError when their folder cannot be read."""
        async with self._lock:
            return await asyncio.to_thread(self._observe)

    async def renew(self) -> None:
        """Touch the lease of every replica that was not doomed."""
        async with self._lock:
            await asyncio.to_thread(self._renew)

    async def close(self) -> None:
        """Nothing is held; the engines run on until their leases end."""

    def _scale(self, desired: Desired, doomed: frozenset[str]) -> None:
        now = self._clock.time()
        for handle in doomed:
            self._stillborn.pop(handle, None)
        self._reap()
        for replica in self._replicas():
            if replica.spec.handle in doomed:
                replica.doom(now)
        living: dict[str, int] = {}
        for seen in self._observe():
            if seen.presence is Presence.RUNNING and seen.handle not in doomed:
                for model in seen.models:
                    living[model] = living.get(model, 0) + 1
        for model, count in desired.replicas.items():
            for _ in range(count - living.get(model, 0)):
                self._launch(model)

    def _observe(self) -> list[Observation]:
        self._reap()
        now = self._clock.time()
        found: list[Observation] = []
        for replica in self._replicas():
            handle = replica.spec.handle
            seen = replica.observe(now, self._exits.get(handle))
            if replica.doomed and replica.end(now):
                self._exits.pop(handle, None)
                continue
            found.append(seen)
        return sorted((*found, *self._stillborn.values()), key=lambda one: (one.started_at, one.handle))

    def _renew(self) -> None:
        now = self._clock.time()
        for replica in self._replicas():
            replica.renew(now)

    def _launch(self, model: str) -> None:
        """Start one replica of `model`; what prevents it becomes a stillborn observation."""
        now, handle = self._clock.time(), new_id("prc")
        folder = self._root / handle
        config = self._models().get(model)
        try:
            if config is None:
                raise ProviderError(f"There is no model {model!r} in the configuration.")
            engine = self._engines.get(config.engine)
            if engine is None:
                raise ProviderError(f"There is no engine {config.engine!r} for a pool of processes.")
            spec = Spec(
                handle=handle,
                installation=self._installation,
                pool=self._pool,
                model=model,
                models_folder=str(self._models_folder),
                made_at=now,
                key=secret("lle"),
                lease_seconds=self._lease,
                config=config.model_dump(mode="json"),
            )
            command = engine.command(
                LaunchSpec(
                    model=model,
                    config=config,
                    folder=folder,
                    models_folder=self._models_folder,
                    key=spec.key,
                    installation=self._installation,
                    handle=handle,
                )
            )
            self._children[handle] = Replica.make(folder, spec, now).begin(command)
        except (SourceError, ProviderError) as error:
            self._remember(handle, model, now, error.reason, error.message)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._remember(handle, model, now, *cannot_begin(error))

    def _remember(self, handle: str, model: str, now: float, reason: WakeFailure, detail: str) -> None:
        self._stillborn[handle] = Observation(handle, (model,), Presence.ENDED, failure=reason, detail=detail, started_at=now)

    def _replicas(self) -> list[Replica]:
        """Ours, of this pool. Cleans what a crash of ours left half made, and what nobody asks about any more."""
        now = self._clock.time()
        try:
            folders = sorted(folder for folder in self._root.iterdir() if folder.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ProviderError(
                f"{self._root} cannot be read: {error.strerror}.", next_step="Check its owner and mode."
            ) from error
        found: list[Replica] = []
        for folder in folders:
            child = self._children.get(folder.name)
            replica = Replica.read(folder, child.pid if child is not None else None)
            if replica is None:
                self._clean_half_made(folder, now)
            elif replica.spec.installation == self._installation:
                if replica.spec.pool == self._pool:
                    found.append(replica)
                elif replica.abandoned(now):
                    shutil.rmtree(folder, ignore_errors=True)
        return found

    def _clean_half_made(self, folder: Path, now: float) -> None:
        """A crash between making the folder and writing its spec: no process can have begun. Anything else is not for us to judge."""
        with contextlib.suppress(OSError):
            if not (folder / SPEC).exists() and now - folder.stat().st_mtime > BEGIN_WITHIN:
                shutil.rmtree(folder, ignore_errors=True)

    def _reap(self) -> None:
        for handle, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                self._exits[handle] = code
                del self._children[handle]

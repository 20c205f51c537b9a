"""One machine that is switched on and off by commands: when to wake it, when to put it to sleep, and whether it still answers.

Only what we woke is put to sleep: somebody may sit at it, or have switched it on for something else. That we did stands in a file (`memory`), so
a later life of ours keeps the promise. Not responsible for what runs on it, nor for how a command is run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from lamplighter.config import CommandPool
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, WakeFailure
from lamplighter.engines.base import Loading
from lamplighter.providers.command import memory
from lamplighter.providers.command.commands import Mark, Outcome, Run, end_left_over, run

_log = structlog.get_logger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks whether it answers."""
CONNECT_LIMIT = 2.0
LINGER = 10.0
"""Seconds without any model until it is put to sleep: one model may make room for another, and a failed wake is tried again."""
SETTLE = 30.0
"""Seconds for which it may still answer after its sleep command; meanwhile nothing is woken there, it would fall asleep again."""
SETTLE_AT_EXIT = 3.0
AGAIN_FIRST = 60.0
AGAIN_MOST = 900.0
"""Seconds until a failed attempt to put it to sleep is repeated; doubles from the first to the most."""
GIVE_UP = 6
"""Attempts after which a machine that does not answer counts as asleep, whatever its sleep command says."""
REFUSED_FOR = 3.0
SILENT_FOR = 15.0
"""Seconds for which its port must refuse (it is on, its engine is not), or nothing answer at all, until what it had loaded counts as lost."""


class Reach(StrEnum):
    """What a connection to the engine's port comes to."""

    ANSWERS = "answers"
    REFUSES = "refuses"
    """The machine is on; nothing listens there."""
    SILENT = "silent"


async def reach(url: str) -> Reach:
    """Try the port of `url` once, for at most `CONNECT_LIMIT` seconds."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            _, writer = await asyncio.open_connection(parts.hostname or "", port)
    except ConnectionRefusedError:
        return Reach.REFUSES
    except (OSError, ValueError):  # TimeoutError is an OSError; a name that no resolver takes is a ValueError
        return Reach.SILENT
    writer.close()
    return Reach.ANSWERS


class Machine:
    """The machine of one pool. `reach` and `run` are the world outside, for tests to replace."""

    def __init__(
        self,
        pool: str,
        config: CommandPool,
        *,
        data: Path,
        clock: Clock,
        linger: float = LINGER,
        reach: Callable[[str], Awaitable[Reach]] = reach,
        run: Run = run,
    ) -> None:
        self._pool = pool
        self._config = config
        self._file = memory.place(data, pool)
        self._memory = memory.read(self._file)
        self._clock = clock
        self._linger = linger
        self._reach = reach
        self._run = run
        self._stage = "start"
        self._waiting: list[Loading] = []
        self._waking: asyncio.Task[None] | None = None
        self._sleeping: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._watched_at = float("-inf")
        self._idle_since: float | None = None
        self._again_at = float("-inf")
        self._away: tuple[Reach, float] | None = None
        self._closing = False
        self._log = _log.bind(pool=pool)
        if self._memory.command is not None:
            if end_left_over(self._memory.command):
                self._log.warning("a command that an earlier start left behind was killed", pid=self._memory.command.pid)
            self._marked(None)

    @property
    def woken(self) -> bool:
        """Whether it is on because of us, as far as we know."""
        return self._memory.woken_at is not None

    @property
    def lost(self) -> tuple[LossReason, str] | None:
        """Why nothing that was loaded there can be there any more; None while it answers, or has not been away for long enough."""
        if self._away is None or _active(self._waking):
            return None
        how, since = self._away
        if self._clock.monotonic() - since < (REFUSED_FOR if how is Reach.REFUSES else SILENT_FOR):
            return None
        if how is Reach.REFUSES:
            return LossReason.CRASHED, "The machine is on, but its engine does not listen any more."
        return LossReason.VANISHED, "The machine does not answer any more: it was switched off, or cannot be reached."

    async def awaken(self, loading: Loading) -> None:
        """Return once its engine's port answers; `loading` is told the stages. Several may wait for one wake; when none is left, it ends.

        Raises ProviderError, with the command's own words, when it cannot be woken.
        """
        if not _active(self._waking):
            self._stage = "start"
            self._waking = asyncio.create_task(self._wake(), name=f"wake {self._pool}")
        waking = self._waking
        assert waking is not None  # noqa: S101 - made above
        loading.stage(self._stage)
        self._waiting.append(loading)
        try:
            await asyncio.shield(waking)
        finally:
            self._waiting.remove(loading)
            if not self._waiting and not waking.done():
                waking.cancel()

    def tend(self, *, in_use: bool, serving: bool) -> None:
        """Look after it; returns at once. `in_use`: a model is on it, or on its way. `serving`: one is loaded."""
        now = self._clock.monotonic()
        if serving and now - self._watched_at >= LOOK_EVERY and not _active(self._watching):
            self._watched_at = now
            self._watching = asyncio.create_task(self._watch(), name=f"watch {self._pool}")
        if in_use or not self.woken:
            self._idle_since = None
            return
        self._idle_since = now if self._idle_since is None else self._idle_since
        due = max(self._idle_since + self._linger, self._again_at)
        if now >= due and not _active(self._sleeping) and not _active(self._waking):
            self._sleeping = asyncio.create_task(self._put_to_sleep(), name=f"sleep {self._pool}")

    async def close(self, *, in_use: bool) -> None:
        """Abandon what is under way; but what we woke and nobody uses is put to sleep now: nobody will be there to do it later."""
        await _cancelled(self._waking)
        await _cancelled(self._watching)
        self._closing = True
        if self._sleeping is not None and not self._sleeping.done():
            await asyncio.wait([self._sleeping])
        elif self.woken and not in_use:
            await self._put_to_sleep()

    # --- waking -------------------------------------------------------------------------------------------------------------------------

    async def _wake(self) -> None:
        if self._sleeping is not None and not self._sleeping.done():
            await asyncio.wait([self._sleeping])  # what falls asleep right now cannot be woken yet
        due, tried = float("-inf"), False
        while await self._reach(self._config.url) is not Reach.ANSWERS:
            if self._clock.monotonic() >= due:
                if not await self._is_on():
                    await self._order_wake(again=tried)
                    tried = True
                due = self._clock.monotonic() + float(self._config.wake_every)
                self._tell("reachable")
            await self._clock.sleep(LOOK_EVERY)
        self._tell("reachable")
        self._away = None
        if self._memory.trouble is not None and not self.woken:
            self._memory.trouble = None
            self._remember()
        self._log.info("the machine is on", by_us=tried)

    async def _order_wake(self, *, again: bool) -> None:
        """Run the wake command. It counts as having woken the machine before it runs: if we die meanwhile, it will be put to sleep."""
        before = self._memory.woken_at
        self._memory.woken_at = self._clock.time() if before is None else before
        self._remember()
        outcome = await self._order("wake", self._config.wake)
        if outcome.well:
            return
        why = outcome.told("wake", float(self._config.command_timeout))
        if again:
            # It went well once: that it fails now may be only because the machine is coming up.
            for loading in self._waiting:
                loading.progress(None, why)
            return
        self._memory.woken_at = before
        self._remember()
        raise ProviderError(why, reason=WakeFailure.PROVIDER_ERROR, next_step=f"Correct pools.{self._pool}.wake.")

    def _tell(self, stage: str) -> None:
        if self._stage != stage:
            self._stage = stage
            for loading in self._waiting:
                loading.stage(stage)

    # --- putting to sleep ---------------------------------------------------------------------------------------------------------------

    async def _put_to_sleep(self) -> None:
        """One attempt. It went well when the machine is silent afterwards: an ssh that is cut off by the sleep itself fails, and did its work."""
        if self._config.running is not None and not await self._is_on():
            return self._sleeps("it was off already")
        answered = await self._reach(self._config.url) is Reach.ANSWERS
        outcome = await self._order("sleep", self._config.sleep)
        silent = await self._fell_silent()
        if silent and (outcome.well or answered):
            return self._sleeps("its sleep command ran")
        why = "The sleep command ended well, but the machine is still on."
        if not outcome.well:
            why = outcome.told("sleep", float(self._config.command_timeout))
        self._memory.failures += 1
        self._memory.trouble = why
        if silent and self._memory.failures >= GIVE_UP:
            return self._sleeps("it does not answer, and its sleep command fails", trouble=why)
        pause = min(AGAIN_MOST, AGAIN_FIRST * 2.0 ** min(self._memory.failures - 1, 10))
        self._again_at = self._clock.monotonic() + pause
        self._remember()
        self._log.warning("the machine could not be put to sleep", why=why, again_in=pause, failures=self._memory.failures)
        return None

    async def _fell_silent(self) -> bool:
        began = self._clock.monotonic()
        while await self._still_on():
            if self._clock.monotonic() - began >= (SETTLE_AT_EXIT if self._closing else SETTLE):
                return False
            await self._clock.sleep(LOOK_EVERY)
        return True

    async def _still_on(self) -> bool:
        if self._config.running is not None:
            return await self._is_on()
        return await self._reach(self._config.url) is Reach.ANSWERS

    def _sleeps(self, why: str, trouble: str | None = None) -> None:
        self._memory.woken_at, self._memory.failures, self._memory.trouble = None, 0, trouble
        self._again_at = float("-inf")
        self._idle_since = None
        self._remember()
        self._log.info("the machine sleeps", why=why)

    # --- looking and ordering -----------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        found = await self._reach(self._config.url)
        if found is Reach.ANSWERS:
            self._away = None
        elif self._away is None or self._away[0] is not found:
            since = self._clock.monotonic() if self._away is None else self._away[1]
            self._away = (found, since)

    async def _is_on(self) -> bool:
        """What the `running` command says; without one, nobody says that it is on."""
        if self._config.running is None:
            return False
        return (await self._order("running", self._config.running)).well

    async def _order(self, verb: str, command: str | Sequence[str]) -> Outcome:
        """Run a command; never two at once, since waking waits for sleeping and sleeping is not begun while waking."""
        limit = float(self._config.command_timeout)
        told = {"LAMPLIGHTER_POOL": self._pool, "LAMPLIGHTER_COMMAND": verb, "LAMPLIGHTER_URL": self._config.url}
        outcome = await self._run(command, limit=limit, told=told, mark=self._marked)
        if verb != "running":
            self._log.info("command", verb=verb, code=outcome.code, words=outcome.words or None)
        return outcome

    def _marked(self, mark: Mark | None) -> None:
        self._memory.command = mark
        self._remember()

    def _remember(self) -> None:
        memory.write(self._file, self._memory)


def _active(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        with suppress(ProviderError):
            await asyncio.wait([task])

"""When a pool's rounds are due: at once on news, fast while something moves, calmly otherwise; and after a failure, later.

Each pool has its own loop: none waits for another's provider, engine or defect. Not responsible for what a round does (`pool`).
"""

from collections.abc import Collection

import structlog

from lamplighter.capacity.pool import CALL_LIMIT, PoolKeeper
from lamplighter.capacity.prober import AGAIN_AFTER
from lamplighter.config import KeeperConfig
from lamplighter.core.clock import raise_if_cancelled, within
from lamplighter.core.errors import LamplighterError, ProviderError, StaleTerm
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.states import ReplicaState
from lamplighter.providers.base import Provider
from lamplighter.store.bus import Subscription, Topic
from lamplighter.store.store import Store

_log = structlog.get_logger(__name__)
S = ReplicaState

RENEW_EVERY = 10.0
"""Seconds between renewals of the leases of what runs."""
FAST, CALM = 0.05, 0.25
"""Seconds between rounds while something starts or stops: at first, and after `FAST_FOR` seconds of it."""
FAST_FOR = 10.0
SAY_AGAIN = 300.0
"""Seconds after which a failure that goes on is warned of once more."""
PAUSE_MAX = 30.0
"""The longest pause after failed rounds, in seconds; it doubles from the keeper's interval on."""
WHOLE_EVERY = 0.5
"""Seconds for which a glance at what moves is enough, when there is no news."""
AT_ONCE = 5
"""Rounds in a row without a pause, while each changes something."""
_MOVING = frozenset({S.LAUNCHING, S.STARTING, S.FAILED, S.STOPPING, S.LOST})
_TOPICS = (Topic.DEMAND, Topic.SUSPECT, Topic.ACKS, Topic.MODELS)


class PoolLoop:
    """Runs one pool's rounds and renews its leases, each until cancelled."""

    def __init__(self, pool: PoolKeeper, provider: Provider, store: Store, config: KeeperConfig) -> None:
        self._pool = pool
        self._provider = provider
        self._store = store
        self._clock = store.clock
        self._interval = float(config.interval)
        self._whole_at: float | None = None
        self._said: tuple[str, float] | None = None
        """The last failure that was warned of, and when (monotonic seconds)."""
        self._log = _log.bind(pool=pool.name)

    async def run(self) -> None:
        """Rounds until cancelled. Raises StaleTerm when another keeper leads; no other failure ends it."""
        with self._store.bus.subscribe(*_TOPICS) as mailbox:
            urgent: Collection[str] = ()
            news = True
            at_once, failures = 0, 0
            while True:
                try:
                    changed = await self._round(urgent, news=news)
                except StaleTerm:
                    raise
                except Exception as error:  # noqa: BLE001 - one pool's defect must not end the others' loops; it is logged whole
                    raise_if_cancelled(error)
                    failures += 1
                    await self._failed(error)
                    pause = min(PAUSE_MAX, self._interval * 2.0 ** min(failures - 1, 10))
                else:
                    failures = 0
                    at_once = at_once + 1 if changed and at_once < AT_ONCE else 0
                    pause = 0.0 if at_once else self._pause()
                urgent, told = await self._news(mailbox, pause)
                news = told or at_once > 0  # what has just changed may be followed by more

    async def _round(self, urgent: Collection[str], *, news: bool) -> bool:
        """A whole round when it is due, else a glance, and a whole one if the glance saw something; whether anything changed."""
        due = self._whole_at is None or self._clock.monotonic() >= self._whole_at or self._pool.due_at <= self._clock.time()
        if not (news or due) and not await self._pool.glance():
            return False
        self._whole_at = None
        changed = await self._pool.step(urgent)
        self._whole_at = self._clock.monotonic() + WHOLE_EVERY
        return changed

    async def renew(self) -> None:
        """Renew the provider's leases until cancelled, whatever the rounds are doing."""
        while True:
            try:
                await within(self._clock, self._provider.renew(), CALL_LIMIT)
            except Exception as error:  # noqa: BLE001 - an engine whose lease is not renewed ends itself: nothing may stop the next try
                raise_if_cancelled(error)
                self._log.warning("leases could not be renewed", error=str(error) or type(error).__name__)
            await self._clock.sleep(RENEW_EVERY)

    def _pause(self) -> float:
        now = self._clock.time()
        moving = [row.since for row in self._pool.rows if row.state in _MOVING] if self._pool.policy.elastic else []
        if moving:
            return min(self._interval, FAST if now - max(moving) < FAST_FOR else CALM)
        if any(row.state is S.READY and self._pool.misses(row) for row in self._pool.rows):
            return min(self._interval, AGAIN_AFTER)
        return max(FAST, min(self._interval, self._pool.due_at - now))

    async def _news(self, mailbox: Subscription, timeout: float) -> tuple[set[str], bool]:
        """Wait for `timeout` seconds, or until news concern this pool; the replicas that are suspected, and whether there was news."""
        until = self._clock.monotonic() + timeout
        while True:
            messages = await mailbox.wait(max(0.0, until - self._clock.monotonic()))
            ids = {row.id for row in self._pool.rows}
            suspects = {payload for topic, payload in messages if topic is Topic.SUSPECT}
            urgent = ids if "" in suspects else ids & suspects
            concerned = any(self._concerns(topic, payload, ids) for topic, payload in messages)
            if urgent or concerned or self._clock.monotonic() >= until:
                return urgent, bool(urgent or concerned)

    def _concerns(self, topic: Topic, payload: str, ids: Collection[str]) -> bool:
        if topic is Topic.MODELS or not payload:
            return True
        return payload in (self._pool.models if topic is Topic.DEMAND else ids)

    async def _failed(self, error: Exception) -> None:
        """Log a failed round; when it is the provider that failed, tell those who wait."""
        text = str(error) or type(error).__name__
        if isinstance(error, LamplighterError | TimeoutError):
            # The same words at every try would hide everything else in the log.
            again = self._said is not None and self._said[0] == text and self._clock.monotonic() - self._said[1] < SAY_AGAIN
            (self._log.debug if again else self._log.warning)("the pool could not be kept", error=text)
            self._said = self._said if again else (text, self._clock.monotonic())
        else:
            self._log.error("the pool could not be kept", exc_info=error)
        if not isinstance(error, ProviderError | TimeoutError):
            return
        try:
            if isinstance(error, ProviderError):
                await self._pool.refuse(error.reason, error.advice)
            else:
                await self._pool.refuse(WakeFailure.PROVIDER_ERROR, text)
        except StaleTerm:
            raise
        except LamplighterError as other:
            self._log.warning("those who wait could not be told", error=str(other))

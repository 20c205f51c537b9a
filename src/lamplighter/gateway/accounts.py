"""Keeps the account of every request: takes its record when it is over, writes records in batches beside the data path.

A record costs the data path one append. While the store is away the newest `MOST` wait in memory and the older ones are given up, with a
count of them: requests never wait for their accounts. Not responsible for what a record says (`metering`), nor for limits (`admission`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog

from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.costs.prices import Tariff, tariff_of
from lamplighter.costs.sums import micros
from lamplighter.gateway.background import forever
from lamplighter.gateway.metering import Record
from lamplighter.gateway.sse import Usage
from lamplighter.observability.metrics import Metrics
from lamplighter.store import usage
from lamplighter.store.store import Store
from lamplighter.store.usage import Entry

INTERVAL = 1.0
"""Seconds between two batches; also how late an account may be seen."""
BATCH = 1000
"""Requests written in one transaction."""
MOST = 50_000
"""Requests that wait for the store at the most, about 25 MB."""
PRUNE = 3600.0
"""Seconds between two sweeps of what is older than `accounts.keep`."""
_NOTHING = Usage()

Price = Callable[[str, Usage, float], int | None]
"""What a request cost in millionths of the installation's currency, by model, tokens and seconds on an engine; None: no price is known."""

_log = structlog.get_logger(__name__)


class Prices:
    """`Price` by the configuration: per token, per second on an engine, or both."""

    def __init__(self, config: Config, models: Callable[[], Mapping[str, ModelConfig]]) -> None:
        """`models`: those that are offered now, by name."""
        self._config = config
        self._models = models
        self._tariffs: dict[str, tuple[ModelConfig, Tariff]] = {}

    def __call__(self, model: str, tokens: Usage, seconds: float) -> int | None:
        config = self._models().get(model)
        if config is None:
            return None
        known = self._tariffs.get(model)
        if known is None or known[0] is not config:
            known = self._tariffs[model] = config, tariff_of(self._config, config)
        tariff = known[1]
        return None if tariff.free else micros(tariff.cost(tokens.prompt_tokens, tokens.completion_tokens, seconds))


class Accounts:
    """The accounts of one gateway. `keep`: seconds for which single requests are kept (infinite: for ever). `price` may be set later."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics, *, gateway_id: str, keep: float) -> None:
        self.price: Price | None = None
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._lost = metrics.accounts_lost.labels()
        self._gateway_id = gateway_id
        self._keep = keep
        self._waiting: deque[tuple[Record, float, float | None]] = deque()
        self._batch: Sequence[Entry] = ()
        """Tried once and not known to have arrived."""
        self._written = 0
        self._given_up = 0
        """Since the store went away."""
        self._away = False
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        metrics.refreshers.append(self._refresh)

    def add(self, record: Record, ended: float, itl: float | None) -> None:
        """See `metering.Ledger`."""
        waiting = self._waiting
        waiting.append((record, ended, itl))
        if len(waiting) > MOST:
            waiting.popleft()
            self._given_up += 1
            self._lost.inc()

    @property
    def waiting(self) -> int:
        """Accounts that are not in the store yet."""
        return len(self._waiting) + len(self._batch)

    async def start(self) -> None:
        """Write from now on."""
        self._task = forever("accounts", self._run, self._clock)

    async def stop(self) -> None:
        """Write what waits, and end. What the store does not take now is lost, and said so."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self.flush()
        if self.waiting:
            self._lost.inc(self.waiting)
            _log.error("accounts_lost", count=self.waiting, reason="the store is away and the gateway stops")
            self._waiting.clear()
            self._batch = ()

    async def flush(self) -> bool:
        """Write everything that waits; whether the store took it."""
        async with self._turn:
            try:
                while self._batch or self._waiting:
                    await self._write()
            except StoreError as error:
                if not self._away:
                    self._away = True
                    _log.warning("accounts_wait", waiting=self.waiting, error=error.message)
                return False
            if self._away:
                self._away = False
                _log.info("accounts_written_again", lost=self._given_up)
                self._given_up = 0
            return True

    async def _write(self) -> None:
        again = bool(self._batch)
        if not again:
            take = min(BATCH, len(self._waiting))
            since = self._clock.time() - self._clock.monotonic()
            self._batch = [self._entry(*self._waiting.popleft(), since) for _ in range(take)]
        await usage.write(self._store, self._batch, again=again)
        self._batch = ()

    def _entry(self, record: Record, ended: float, itl: float | None, since: float) -> Entry:
        tokens = record.usage or _NOTHING
        held, asleep = record.held or 0.0, record.asleep
        on_engine = ended - record.sent_at if record.sent_at is not None else 0.0
        first = record.first_at
        self._written += 1
        return Entry(
            f"{self._gateway_id}-{self._written:010}",  # in order: an index is quickest at its end
            since + ended,
            record.request_id,
            self._gateway_id,
            record.key_id,
            record.principal_id,
            record.route,
            record.model,
            record.asked or None,
            record.replica_id or None,
            record.status,
            record.outcome,
            tokens.prompt_tokens,
            tokens.completion_tokens,
            record.estimated,
            ended - record.began,
            None if first is None else first - record.began,
            itl,
            max(0.0, held - asleep),
            asleep,
            on_engine,
            record.retries,
            None if self.price is None else self.price(record.model, tokens, on_engine),
        )

    async def _run(self) -> None:
        pruned: float | None = None
        while True:
            await self._clock.sleep(INTERVAL)
            stored = await self.flush()
            now = self._clock.monotonic()
            if stored and self._keep != float("inf") and (pruned is None or now - pruned >= PRUNE):
                pruned = now
                with contextlib.suppress(StoreError):  # the next sweep takes it
                    await usage.prune(self._store, keep=self._keep)

    def _refresh(self) -> None:
        self._metrics.accounts_waiting.labels().set(self.waiting)

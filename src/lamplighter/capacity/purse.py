"""The money of one pool: what its replicas cost, what the next wake would, and whether the budget can pay it.

Not responsible for what requests are charged (the gateway's accounts), nor for when anything runs (`plan`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from lamplighter.config import PoolConfig
from lamplighter.core.clock import within
from lamplighter.core.errors import ProviderError
from lamplighter.core.units import Money
from lamplighter.costs import NANOS, amount_of, nanos_of
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Observation, Provider, Quote, Quoting, Rate
from lamplighter.store import ledger
from lamplighter.store.ledger import Entry, PoolCost
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store

_log = structlog.get_logger(__name__)

QUOTE_EVERY = 15.0
"""Seconds between two questions for the price of the next wake; the provider answers from what it knows."""
WRITE_EVERY = 5.0
"""Least seconds between two writes of what was spent while something runs."""
_HOUR = 3600.0
_QUOTE_LIMIT = 5.0


class Boots(Protocol):
    """How long a wake of this pool usually takes."""

    async def __call__(self) -> float:
        """Seconds; 0 when nobody knows yet."""
        ...


def period_start(period: str, now: float) -> float:
    """Unix seconds at which the day or calendar month of `now` began (UTC)."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day if period == "day" else day.replace(day=1)).timestamp()


def period_end(period: str, now: float) -> float:
    """Unix seconds at which the next one begins."""
    day = datetime.fromtimestamp(period_start(period, now), UTC)
    # 32 days lie in the next month whatever this one's length.
    following = day.timestamp() + (86_400 if period == "day" else 32 * 86_400)
    return period_start(period, following)


class Purse:
    """The money of the pool `name` during one term. `boots`: for the least that a wake costs where the provider cannot say."""

    def __init__(
        self, store: Store, name: str, config: PoolConfig, provider: Provider, term: int, boots: Boots, metrics: Metrics
    ) -> None:
        self._store = store
        self._clock = store.clock
        self._name = name
        self._config = config
        self._provider = provider
        self._term = term
        self._boots = boots
        self._metrics = metrics
        self._open: dict[str, Entry] | None = None
        """By replica: what costs now; None until it was read."""
        self._quote: Quote | None = None
        self._asked_at = float("-inf")
        self._written: tuple[float, PoolCost | None] = (float("-inf"), None)

    @property
    def priced(self) -> bool:
        """Whether anything here can cost something."""
        return self._config.price is not None or self._config.budget is not None or isinstance(self._provider, Quoting)

    async def follow(self, rows: Sequence[Replica], seen: Mapping[str, Observation]) -> None:
        """Begin and end the entries of replicas. `rows`: what is not gone; `seen`: by replica id. Raises StaleTerm."""
        if not self.priced:
            return
        if self._open is None:
            self._open = {entry.replica_id: entry for entry in await ledger.entries(self._store, pool=self._name)}
        for row in rows:
            observation = seen.get(row.id)
            if observation is not None:
                await self._charge(row, observation)
        living = {row.id for row in rows}
        for replica in [one for one in self._open if one not in living]:
            await ledger.end(self._store, self._open.pop(replica).id, at=self._clock.time(), term=self._term)

    async def _charge(self, row: Replica, observation: Observation) -> None:
        assert self._open is not None  # noqa: S101 - `follow` read it
        rate = observation.rate or self._fixed()
        entry = self._open.get(row.id)
        if rate is None or (entry is not None and (entry.hourly, entry.basis) == (rate.hourly, rate.basis)):
            return
        started = observation.billed_from if observation.billed_from is not None else row.created_at
        if entry is not None:
            started = self._clock.time()
            await ledger.end(self._store, entry.id, at=started, term=self._term)
        self._open[row.id] = await ledger.begin(
            self._store,
            pool=self._name,
            model=row.models[0] if row.models else "",
            replica_id=row.id,
            handle=observation.handle,
            basis=rate.basis,
            hourly=rate.hourly,
            currency=rate.currency,
            started_at=started,
            term=self._term,
        )

    def _fixed(self) -> Rate | None:
        """The configured price, for capacity that tells none of its own."""
        price = self._config.price
        return None if price is None else Rate(nanos_of(price.money), price.money.currency, f"pool {self._name}")

    # --- the next wake ------------------------------------------------------------------------------------------------------------------

    async def quote(self) -> Quote | None:
        """What the next wake would cost; None when nobody knows, or it costs nothing."""
        now = self._clock.monotonic()
        if now - self._asked_at < QUOTE_EVERY:
            return self._quote
        self._asked_at = now
        if isinstance(self._provider, Quoting):
            try:
                self._quote = await within(self._clock, self._provider.quote(), _QUOTE_LIMIT) or self._quote
            except (ProviderError, TimeoutError) as error:
                _log.info("the price of a wake is not known", pool=self._name, error=str(error) or type(error).__name__)
        elif (rate := self._fixed()) is not None:
            idle = self._config.sleep_after
            kept = 0.0 if idle is None or idle == float("inf") else float(idle)
            seconds = await self._boots() + kept
            self._quote = Quote(rate, int(rate.hourly * seconds / _HOUR), self._clock.time(), "the configuration")
        return self._quote

    async def refusal(self, coming: int) -> str | None:
        """Why one more wake cannot be paid, for a person; None when it can. `coming`: replicas that launch and do not cost yet."""
        budget = self._config.budget
        if budget is None:
            return None
        spent, limit = await self._spent(), nanos_of(budget.limit)
        quote = await self.quote()
        least = quote.least if quote is not None else 0
        if spent < limit and spent + least * (coming + 1) <= limit:
            return None
        left = amount_of(max(0, limit - spent), budget.limit.currency)
        wanted = f" This wake costs at least {_cents(amount_of(least, budget.limit.currency))}." if least else ""
        return f"Of {budget} of the pool {self._name!r}, {_cents(left)} is left.{wanted}"

    # --- the budget ---------------------------------------------------------------------------------------------------------------------

    async def spent_out(self) -> bool:
        """Whether the budget's period has cost all of it, so that nothing more may run."""
        budget = self._config.budget
        return budget is not None and bool(self._open) and await self._spent() >= nanos_of(budget.limit)

    async def runs_out_at(self) -> float | None:
        """Unix seconds when what runs now will have used the budget up; None when nothing runs, or there is none."""
        budget = self._config.budget
        hourly = sum(entry.hourly for entry in (self._open or {}).values())
        if budget is None or not hourly:
            return None
        return self._clock.time() + max(0.0, (nanos_of(budget.limit) - await self._spent()) / hourly * _HOUR)

    @property
    def renewed_at(self) -> float | None:
        """Unix seconds when the next period of the budget begins."""
        return None if self._config.budget is None else period_end(self._config.budget.period, self._clock.time())

    def _since(self) -> float:
        return period_start(self._config.budget.period if self._config.budget else "month", self._clock.time())

    async def _spent(self) -> int:
        since = self._since()
        return ledger.total(await ledger.entries(self._store, pool=self._name, since=since), since, self._clock.time())

    async def publish(self) -> None:
        """Write what is known, for gateways to show; at most every few seconds, and only when it changed. Raises StaleTerm."""
        if not self.priced:
            return
        now, (at, last) = self._clock.monotonic(), self._written
        quote = await self.quote()
        if last is not None and now - at < WRITE_EVERY and last.quoted_at == (quote.at if quote else None):
            return
        currency = self._currency(quote)
        if currency is None:
            return
        fresh = PoolCost(self._name, currency, await self._spent(), self._since())
        if quote is not None:
            fresh = PoolCost(
                self._name,
                currency,
                fresh.spent,
                fresh.since,
                hourly=quote.rate.hourly,
                least=quote.least,
                basis=quote.rate.basis,
                source=quote.source,
                quoted_at=quote.at,
            )
        self._measure(fresh)
        if last is None or fresh != last:
            await ledger.write_costs(self._store, fresh, term=self._term)
        self._written = (now, fresh)

    def _measure(self, known: PoolCost) -> None:
        where = (self._name, known.currency)
        self._metrics.pool_hourly.labels(*where).set(sum(entry.hourly for entry in (self._open or {}).values()) / NANOS)
        self._metrics.pool_spent.labels(*where).set(known.spent / NANOS)
        if self._config.budget is not None:
            self._metrics.pool_budget.labels(*where).set(nanos_of(self._config.budget.limit) / NANOS)

    def _currency(self, quote: Quote | None) -> str | None:
        if quote is not None:
            return quote.rate.currency
        if self._config.budget is not None:
            return self._config.budget.limit.currency
        return self._config.price.money.currency if self._config.price is not None else None


def _cents(money: Money) -> str:
    """An amount for people: cents, or as many digits as it takes to see that it is not nothing."""
    digits = 2
    while digits < 6 and money.amount and round(money.amount, digits) == 0:
        digits += 1
    return f"{round(money.amount, digits):.{digits}f} {money.currency}"

"""What was used, kept: counts it at once in memory, writes it to the store in batches, and reads it back after a restart.

A kill loses what was settled in the last second, and nothing else. Not responsible for who may spend.
"""

import asyncio

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import StoreError
from lamplighter.gateway.admission.counters import Account, Calendar, Used
from lamplighter.store import spend
from lamplighter.store.spend import Spent, Where
from lamplighter.store.store import Store

FLUSH_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Spending:
    """The accounts of all subjects, and the batch that is not yet written."""

    def __init__(self, store: Store, clock: Clock, calendar: Calendar) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._accounts: dict[str, Account] = {}
        self._pending: dict[Where, Spent] = {}
        self._open: dict[Account, Spent] = {}
        """The sums of `_pending` that are added to on `_day`, by the pair's account: found without a name."""
        self._day = ""
        self._lock = asyncio.Lock()
        self._failing = False

    def account(self, name: str) -> Account:
        """The account of a subject, made when it is new."""
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = Account(name)
        return found

    def accounts(self) -> list[Account]:
        """All of them."""
        return list(self._accounts.values())

    def of(self, key: str, model: str) -> tuple[Account, Account, Account]:
        """The accounts that a key's request to a model counts in: the key's, the pair's, the model's."""
        return self.account(of_key(key)), self.account(of_pair(key, model)), self.account(of_model(model))

    def record(
        self, accounts: tuple[Account, Account, Account], key: str, model: str, prompt: int, completion: int, money: int
    ) -> None:
        """One request is over. Tokens, and money in billionths. Never waits."""
        calendar, tokens = self._calendar, prompt + completion
        calendar.look()
        day = calendar.day
        for account in accounts:  # `Account.spend`, written out
            if account.day != day:
                account.turn(calendar)
            account.day_tokens += tokens
            account.month_tokens += tokens
            account.day_money += money
            account.month_money += money
        if self._day != day:
            self._day = day
            self._open.clear()
        pair = accounts[1]
        pending = self._open.get(pair)
        if pending is None:
            pending = self._open[pair] = self._pending.setdefault(Where(day, key, model), Spent())
        pending.requests += 1
        pending.prompt_tokens += prompt
        pending.completion_tokens += completion
        pending.money += money

    @property
    def unwritten(self) -> int:
        """How many sums wait to be written."""
        return len(self._pending)

    async def flush(self) -> None:
        """Write what waits. Raises StoreError; then it goes on waiting."""
        async with self._lock:
            await self._flush()

    async def _flush(self) -> None:
        batch, self._pending = self._pending, {}
        self._open.clear()
        try:
            await spend.add(self._store, batch)
        except BaseException:
            self._restore(batch)
            raise

    def _restore(self, batch: dict[Where, Spent]) -> None:
        for where, spent in self._pending.items():
            batch.setdefault(where, Spent()).add(spent)
        self._pending = batch
        self._open.clear()

    async def reload(self) -> None:
        """Know what everybody used: the store's sums, with what this process has not written yet. Raises StoreError."""
        async with self._lock:
            await self._flush()
            self._calendar.look()
            month = self._calendar.month
            sums = await spend.since(self._store, self._calendar.month_begins)
            self._calendar.look()
            if self._calendar.month != month:
                return  # midnight came in between: everything begins at zero
            totals: dict[str, list[int]] = {}
            for source in (sums, self._pending):  # what was settled since the flush is in no sum yet
                for where, spent in source.items():
                    if where.day < self._calendar.month_begins:
                        continue
                    today = where.day == self._calendar.day
                    for name in (of_key(where.key_id), of_pair(where.key_id, where.model), of_model(where.model)):
                        total = totals.setdefault(name, [0, 0, 0, 0])
                        total[1] += spent.tokens
                        total[3] += spent.money
                        if today:
                            total[0] += spent.tokens
                            total[2] += spent.money
            for name, total in totals.items():
                self.account(name).know(self._calendar, Used(*total))

    async def keep(self) -> None:
        """Write again and again, for ever."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            if self._pending:
                await self.try_flush()

    async def try_flush(self) -> bool:
        """Write what waits, if the store lets us; says once when it does not, and once when it does again."""
        try:
            await self.flush()
        except StoreError as error:
            if not self._failing:
                _log.error("spend_not_written", error=error.message, waiting=len(self._pending))
            self._failing = True
            return False
        if self._failing:
            _log.info("spend_written_again")
        self._failing = False
        return True


def of_key(key: str) -> str:
    """The subject that one key is."""
    return f"key:{key}"


def of_model(model: str) -> str:
    """The subject that all requests to a model are."""
    return f"model:{model}"


def of_pair(key: str, model: str) -> str:
    """The subject that one key's requests to one model are."""
    return f"pair:{key}:{model}"

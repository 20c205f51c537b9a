"""What was spent by each key on each model, day by day: the durable memory of limits by the day and the month.

Written in batches by every gateway, each adding what it saw. Not responsible for single requests (`store.usage`), nor for limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Insert, func, select

from lamplighter.store.demand import GATEWAY_TTL
from lamplighter.store.sql import insert_into
from lamplighter.store.store import Store
from lamplighter.store.tables import gateways as table_of_gateways
from lamplighter.store.tables import spend


class Where(NamedTuple):
    """One row's place. `day`: `YYYY-MM-DD`, UTC."""

    day: str
    key_id: str
    model: str


@dataclass(slots=True)
class Spent:
    """Sums. `money`: billionths of the installation's currency."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: "Spent") -> None:
        """Take `other` in."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.money += other.money


async def add(store: Store, batch: Mapping[Where, Spent]) -> None:
    """Add a batch in one transaction: all of it counts, or nothing. Raises StoreError."""
    if not batch:
        return
    rows = [
        {
            "day": where.day, "key_id": where.key_id, "model": where.model, "requests": spent.requests,
            "prompt_tokens": spent.prompt_tokens, "completion_tokens": spent.completion_tokens, "money": spent.money,
        }
        for where, spent in sorted(batch.items())  # in one order everywhere: two gateways never wait for each other's rows in a ring
    ]  # fmt: skip
    statement = _adding(store.engine.dialect.name)
    async with store.write() as connection:
        await connection.execute(statement, rows)


async def since(store: Store, day: str) -> dict[Where, Spent]:
    """Everything from `day` (`YYYY-MM-DD`) on. Raises StoreError."""
    async with store.read() as connection:
        rows = await connection.execute(select(spend).where(spend.c.day >= day))
        return {
            Where(row.day, row.key_id, row.model): Spent(row.requests, row.prompt_tokens, row.completion_tokens, row.money)
            for row in rows
        }


async def gateways(store: Store) -> int:
    """How many gateways live, this one included. Raises StoreError."""
    living = select(func.count()).select_from(table_of_gateways)
    async with store.read() as connection:
        return int(
            await connection.scalar(living.where(table_of_gateways.c.heartbeat_at > store.clock.time() - GATEWAY_TTL)) or 0
        )


def _adding(dialect: str) -> Insert:
    made = insert_into(spend, dialect)
    sums = ("requests", "prompt_tokens", "completion_tokens", "money")
    statement: Insert = made.on_conflict_do_update(
        index_elements=["day", "key_id", "model"], set_={name: spend.c[name] + made.excluded[name] for name in sums}
    )
    return statement

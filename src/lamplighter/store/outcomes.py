"""What gateways saw of both targets of a rollout, step by step: requests, failures, times to the first token. Sums, never single requests.

Written in batches by every gateway, each adding what it saw; a batch whose answer was lost may count twice, which no decision hangs on.
Not responsible for what counts as a failure (`gateway.outcomes`), nor for what follows from it (`capacity.rollout`).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sqlalchemy import Insert, Table, select

from lamplighter.store.sql import insert_into
from lamplighter.store.store import Store
from lamplighter.store.tables import rollout_first_tokens, rollout_outcomes

Side = Literal["stable", "candidate"]
BASELINE = -2
"""The step under which the stable target's last hour before the rollout is counted."""
_LEAST = 0.001
_GROWTH = 1.1
_MOST = 200


class Where(NamedTuple):
    """One sum's place."""

    rollout_id: str
    step: int
    side: Side


@dataclass(slots=True)
class Seen:
    """Sums. `first_tokens`: how many first tokens came within each bucket's time."""

    requests: int = 0
    failed: int = 0
    first_tokens: Counter[int] = field(default_factory=Counter)

    def add(self, other: "Seen") -> None:
        """Take `other` in."""
        self.requests += other.requests
        self.failed += other.failed
        self.first_tokens.update(other.first_tokens)

    def quantile(self, share: float, deviations: float = 0.0) -> tuple[float, float]:
        """The bucket (its least and most seconds) in which the quantile `share` of the first tokens lies, or so many standard deviations of its
        rank beside it; zeros when there is none."""
        count = self.first_tokens.total()
        rank = count * share + deviations * math.sqrt(count * share * (1 - share))
        rank = min(count, max(1, math.floor(rank) if deviations < 0 else math.ceil(rank)))
        passed = 0
        for number in sorted(self.first_tokens):
            passed += self.first_tokens[number]
            if passed >= rank:
                return bounds(number)
        return (0.0, 0.0)

    def note(self, *, failed: bool = False, first_token: float | None = None) -> None:
        """One request. `first_token`: seconds until it came."""
        self.requests += 1
        self.failed += failed
        if first_token is not None:
            self.first_tokens[bucket(first_token)] += 1


def bucket(seconds: float) -> int:
    """The number of the bucket of a time: each is a tenth longer than the one before, from a millisecond on."""
    if seconds <= _LEAST:
        return 0
    return min(_MOST, int(math.log(seconds / _LEAST) / math.log(_GROWTH)))


def bounds(number: int) -> tuple[float, float]:
    """The shortest and the longest time of a bucket, in seconds."""
    return (0.0 if number == 0 else _LEAST * _GROWTH**number, _LEAST * _GROWTH ** (number + 1))


async def add(store: Store, batch: Mapping[Where, Seen]) -> None:
    """Add a batch in one transaction. Raises StoreError."""
    places = sorted(batch)  # in one order everywhere: two gateways never wait for each other's rows in a ring
    sums = [{**where._asdict(), "requests": batch[where].requests, "failed": batch[where].failed} for where in places]
    times = [
        {**where._asdict(), "bucket": number, "times": count}
        for where in places
        for number, count in sorted(batch[where].first_tokens.items())
    ]
    dialect = store.engine.dialect.name
    async with store.write() as connection:
        if sums:
            await connection.execute(
                _adding(rollout_outcomes, dialect, ("requests", "failed"), ("rollout_id", "step", "side")), sums
            )
        if times:
            keys = ("rollout_id", "step", "side", "bucket")
            await connection.execute(_adding(rollout_first_tokens, dialect, ("times",), keys), times)


async def of(store: Store, rollout_id: str) -> dict[tuple[int, Side], Seen]:
    """Everything that was seen in a rollout, by step and side. Raises StoreError."""
    found: dict[tuple[int, Side], Seen] = {}
    async with store.read() as connection:
        for row in await connection.execute(select(rollout_outcomes).where(rollout_outcomes.c.rollout_id == rollout_id)):
            found[row.step, row.side] = Seen(int(row.requests), int(row.failed))
        times = select(rollout_first_tokens).where(rollout_first_tokens.c.rollout_id == rollout_id)
        for row in await connection.execute(times):
            found.setdefault((row.step, row.side), Seen()).first_tokens[row.bucket] += int(row.times)
    return found


def _adding(table: Table, dialect: str, sums: tuple[str, ...], keys: tuple[str, ...]) -> Insert:
    made = insert_into(table, dialect)
    statement: Insert = made.on_conflict_do_update(
        index_elements=list(keys), set_={name: table.c[name] + made.excluded[name] for name in sums}
    )
    return statement

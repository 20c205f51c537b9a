"""Accounts of requests: one row for each, and sums by day that stay when the rows are forgotten.

Written in batches by `gateway.accounts`. Never what was asked or answered. Not responsible for limits and budgets, nor for what is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, case, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.store.sql import insert_into
from lamplighter.store.store import Store
from lamplighter.store.tables import keys, usage, usage_days

By = Literal["key", "model", "day"]

DAY = 86_400.0
EXACT = 2 * DAY
"""A span up to this long is summed from the rows, to the second; a longer one from the days, whole days of UTC."""


class Entry(NamedTuple):
    """One request, in the order of the table's columns. Durations in seconds, `at` Unix seconds, `cost_micros` in millionths."""

    id: str
    at: float
    request_id: str
    gateway_id: str
    key_id: str
    principal_id: str
    route: str
    model: str
    asked: str | None
    replica_id: str | None
    status: int
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    seconds: float
    ttft: float | None
    itl: float | None
    queue_seconds: float
    wake_seconds: float
    engine_seconds: float
    retries: int
    cost_micros: int | None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the answer, once it had begun; None when that cannot be said."""
        return 1 / self.itl if self.itl else None


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over requests. `name`: a key's id, a model or a day (`YYYY-MM-DD`, UTC); `label`: the key's name, else the same.

    `failed`: those that ended with an error of ours or an engine's, or were turned away. `estimated`: those whose tokens no engine told.
    """

    name: str
    label: str
    requests: int
    failed: int
    estimated: int
    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    queue_seconds: float
    wake_seconds: float
    cost_micros: int


_SUMS = (
    "requests", "failed", "estimated", "prompt_tokens", "completion_tokens", "engine_seconds", "queue_seconds", "wake_seconds",
    "cost_micros",
)  # fmt: skip


_INSERT = f"INSERT INTO usage ({', '.join(Entry._fields)}) VALUES ({', '.join('?' * len(Entry._fields))})"  # noqa: S608 - our own names


def day_of(at: float) -> str:
    """The day of a Unix time, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


# -- writing


async def write(store: Store, entries: Sequence[Entry], *, again: bool = False) -> None:
    """Write a batch and add it to the sums of its days, both or neither. Raises StoreError.

    `again`: it was tried before and may have arrived although the answer was lost: then nothing is written.
    """
    if not entries:
        return
    async with store.write() as connection:
        if again and await connection.scalar(select(usage.c.id).where(usage.c.id == entries[0].id)) is not None:
            return
        if store.engine.dialect.name == "sqlite":  # its own statement: half the work of the general one
            await connection.exec_driver_sql(_INSERT, list(entries))
        else:
            await connection.execute(insert(usage), [entry._asdict() for entry in entries])
        await _add_to_days(connection, store, entries)


async def _add_to_days(connection: AsyncConnection, store: Store, entries: Sequence[Entry]) -> None:
    days: dict[int, str] = {}
    sums: dict[tuple[str, str, str, str], list[Any]] = {}
    for entry in entries:
        number = int(entry.at // DAY)
        day = days.get(number) or days.setdefault(number, day_of(entry.at))
        total = sums.get(place := (day, entry.key_id, entry.principal_id, entry.model))
        if total is None:
            total = sums[place] = [0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0]
        total[0] += 1
        total[1] += _failed(entry.status, entry.outcome)
        total[2] += entry.estimated
        total[3] += entry.prompt_tokens
        total[4] += entry.completion_tokens
        total[5] += entry.engine_seconds
        total[6] += entry.queue_seconds
        total[7] += entry.wake_seconds
        total[8] += entry.cost_micros or 0
    # In one order for all gateways: two that write the same days never wait for each other in a circle.
    rows = [
        {
            "day": day, "key_id": key_id, "principal_id": principal_id, "model": model,
            **dict(zip(_SUMS, sums[day, key_id, principal_id, model], strict=True)),
        }
        for day, key_id, principal_id, model in sorted(sums)
    ]  # fmt: skip
    statement = insert_into(usage_days, store.engine.dialect.name)
    added = {name: usage_days.c[name] + statement.excluded[name] for name in _SUMS}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["day", "key_id", "principal_id", "model"], set_=added), rows
    )


def _failed(status: int, outcome: str) -> bool:
    return (status >= 400 and outcome != "cancelled") or outcome == "lost"


async def prune(store: Store, *, keep: float) -> int:
    """Forget the rows of requests that ended more than `keep` seconds ago; how many. The sums by day stay. Raises StoreError."""
    async with store.write() as connection:
        return (await connection.execute(delete(usage).where(usage.c.at < store.clock.time() - keep))).rowcount


# -- reading


async def totals(
    store: Store, by: By, *, since: float, principal_id: str | None = None, exact: bool | None = None
) -> tuple[list[Total], float]:
    """Sums since a Unix time, and the time from which they truly count (the beginning of its day, for a span longer than `EXACT`).

    `principal_id`: of that person or program alone. The most tokens come first; days come in order. Raises StoreError.
    """
    if exact is None:
        exact = store.clock.time() - since <= EXACT
    if not exact:
        since = since // DAY * DAY
    query = _of_rows(by, since, principal_id) if exact else _of_days(by, since, principal_id)
    async with store.read() as connection:
        rows = (await connection.execute(query)).all()
        days = [(day_of(row.name * DAY) if exact and by == "day" else str(row.name)) for row in rows]
        names = await _names(connection) if by == "key" else {}
    found = [_total(name, names.get(name, name), row) for name, row in zip(days, rows, strict=True)]
    if by == "day":
        return sorted(found, key=lambda total: total.name), since
    return sorted(found, key=lambda total: (-total.prompt_tokens - total.completion_tokens, total.name)), since


def _total(name: str, label: str, row: Row[Any]) -> Total:
    return Total(
        name=name, label=label, requests=int(row.requests), failed=int(row.failed), estimated=int(row.estimated),
        prompt_tokens=int(row.prompt_tokens), completion_tokens=int(row.completion_tokens),
        engine_seconds=float(row.engine_seconds), queue_seconds=float(row.queue_seconds), wake_seconds=float(row.wake_seconds),
        cost_micros=int(row.cost_micros),
    )  # fmt: skip


def _of_days(by: By, since: float, principal_id: str | None) -> Select[Any]:
    group = {"key": usage_days.c.key_id, "model": usage_days.c.model, "day": usage_days.c.day}[by]
    query = select(group.label("name"), *(func.sum(usage_days.c[name]).label(name) for name in _SUMS))
    query = query.where(usage_days.c.day >= day_of(since)).group_by(group)
    return query if principal_id is None else query.where(usage_days.c.principal_id == principal_id)


def _of_rows(by: By, since: float, principal_id: str | None) -> Select[Any]:
    number: ColumnElement[Any] = func.floor(usage.c.at / DAY)
    group = {"key": usage.c.key_id, "model": usage.c.model, "day": number}[by]
    failed = ((usage.c.status >= 400) & (usage.c.outcome != "cancelled")) | (usage.c.outcome == "lost")
    query = select(
        group.label("name"),
        func.count().label("requests"),
        func.sum(case((failed, 1), else_=0)).label("failed"),
        func.sum(case((usage.c.estimated, 1), else_=0)).label("estimated"),
        *(func.sum(func.coalesce(usage.c[name], 0)).label(name) for name in _SUMS[3:]),
    )
    query = query.where(usage.c.at >= since).group_by(group)
    return query if principal_id is None else query.where(usage.c.principal_id == principal_id)


async def recent(
    store: Store, *, limit: int, principal_id: str | None = None, model: str | None = None, key_id: str | None = None
) -> list[Entry]:
    """The requests that ended last, newest first. Raises StoreError."""
    query = select(usage).order_by(usage.c.at.desc(), usage.c.id.desc()).limit(limit)
    for column, wanted in ((usage.c.principal_id, principal_id), (usage.c.model, model), (usage.c.key_id, key_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    async with store.read() as connection:
        return [Entry(*row) for row in await connection.execute(query)]


class Sample(NamedTuple):
    """One request as a model's outcome. `first_token`: seconds until it came, waking aside; None for what was not streamed."""

    failed: bool
    first_token: float | None


def blames_engine(status: int, outcome: str) -> bool | None:
    """Whether a request that was sent to an engine failed by the engine's fault; None when it says nothing of it: the client's doing."""
    if outcome == "cancelled" or (outcome == "refused" and status < 500):
        return None
    return outcome in {"failed", "lost"} or status >= 500


async def samples(store: Store, model: str, *, since: float, until: float, limit: int) -> list[Sample]:
    """The newest requests that engines of `model` answered, or failed to, between two Unix times. Raises StoreError."""
    query = (
        select(usage.c.status, usage.c.outcome, usage.c.ttft, usage.c.wake_seconds)
        .where((usage.c.at >= since) & (usage.c.at < until) & (usage.c.model == model) & usage.c.replica_id.is_not(None))
        .order_by(usage.c.at.desc())
        .limit(limit)
    )
    found: list[Sample] = []
    async with store.read() as connection:
        for row in await connection.execute(query):
            failed = blames_engine(row.status, row.outcome)
            if failed is not None:
                found.append(Sample(failed, None if row.ttft is None else max(0.0, row.ttft - row.wake_seconds)))
    return found


async def key_names(store: Store) -> Mapping[str, str]:
    """What every key that ever was is called, by its id. Raises StoreError."""
    async with store.read() as connection:
        return await _names(connection)


async def _names(connection: AsyncConnection) -> dict[str, str]:
    rows = await connection.execute(select(keys.c.id, keys.c.name))
    return {"": "(page)", **{row.id: row.name for row in rows}}

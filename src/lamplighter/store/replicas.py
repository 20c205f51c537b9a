"""Replicas and their history. `advance` is the only writer of a replica's state: it checks legality and writes state and event together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import IllegalTransition
from lamplighter.core.ids import new_id
from lamplighter.core.reasons import Reason, parse_reason
from lamplighter.core.states import ReplicaState, legal
from lamplighter.store import leases
from lamplighter.store.bus import Topic
from lamplighter.store.leases import KEEPER
from lamplighter.store.sql import upsert
from lamplighter.store.store import Store
from lamplighter.store.tables import drain_acks, events, gateways, replicas


@dataclass(frozen=True, slots=True)
class Replica:
    """One row. Times are Unix seconds. `epoch` counts its state changes."""

    id: str
    pool: str
    handle: str | None
    models: tuple[str, ...]
    state: ReplicaState
    since: float
    reason: Reason | None
    detail: str | None
    stage: str | None
    endpoint: Endpoint | None = field(repr=False)
    context: int | None
    epoch: int
    created_at: float
    ready_at: float | None
    wake_id: str | None
    capabilities: tuple[str, ...] | None = None


def _replica(row: Row[Any]) -> Replica:
    return Replica(
        id=row.id,
        pool=row.pool,
        handle=row.handle,
        models=tuple(row.models),
        state=ReplicaState(row.state),
        since=row.since,
        reason=parse_reason(row.reason),
        detail=row.detail,
        stage=row.stage,
        endpoint=Endpoint(row.endpoint_url, row.endpoint_key, row.endpoint_ca) if row.endpoint_url else None,
        context=row.context,
        epoch=row.epoch,
        created_at=row.created_at,
        ready_at=row.ready_at,
        wake_id=row.wake_id,
        capabilities=tuple(row.capabilities) if row.capabilities is not None else None,
    )


async def living(store: Store, *, pool: str | None = None) -> list[Replica]:
    """Every replica that is not proven gone, oldest first."""
    query = select(replicas).where(replicas.c.state != ReplicaState.GONE.value).order_by(replicas.c.created_at, replicas.c.id)
    if pool is not None:
        query = query.where(replicas.c.pool == pool)
    async with store.read() as connection:
        return [_replica(row) for row in await connection.execute(query)]


async def launch(
    store: Store, *, pool: str, models: Sequence[str], term: int, wake_id: str | None = None, handle: str | None = None
) -> Replica:
    """A new replica in `launching`, with its first event. Raises StaleTerm."""
    now, identity = store.clock.time(), new_id("rep")
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        row = (
            await connection.execute(
                insert(replicas)
                .values(
                    id=identity, pool=pool, handle=handle, models=list(models), state=ReplicaState.LAUNCHING.value, since=now, epoch=1,
                    created_at=now, wake_id=wake_id,
                )
                .returning(replicas)
            )
        ).one()  # fmt: skip
        await connection.execute(
            insert(events).values(
                at=now, replica_id=identity, pool=pool, from_state=None, to_state=ReplicaState.LAUNCHING.value, term=term
            )
        )
    store.bus.publish(Topic.REPLICAS, pool)
    return _replica(row)


async def advance(
    store: Store, replica_id: str, to: ReplicaState, *, term: int, reason: Reason | None = None, detail: str | None = None
) -> Replica:
    """Move a replica to `to`: legality, state and event in one transaction.

    Raises IllegalTransition when the table does not allow it from the state that is stored now, StaleTerm when another keeper leads.
    """
    now = store.clock.time()
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        row = (await connection.execute(select(replicas).where(replicas.c.id == replica_id).with_for_update())).one_or_none()
        if row is None:
            raise IllegalTransition(f"there is no replica {replica_id}")
        current = ReplicaState(row.state)
        if not legal(current, to):
            raise IllegalTransition(f"replica {replica_id} cannot go from {current} to {to}")
        values: dict[str, Any] = {
            "state": to.value,
            "since": now,
            "epoch": row.epoch + 1,
            "reason": reason.value if reason else None,
            "detail": detail,
        }
        if to is ReplicaState.READY and row.ready_at is None:
            values["ready_at"] = now
        if to is ReplicaState.READY:
            values["stage"] = None
        if to is ReplicaState.GONE:
            values["endpoint_key"] = None  # the secret of an engine that is no more
        written = update(replicas).where(replicas.c.id == replica_id).values(**values).returning(replicas)
        fresh = (await connection.execute(written)).one()
        await connection.execute(
            insert(events).values(
                at=now, replica_id=replica_id, pool=row.pool, from_state=current.value, to_state=to.value, reason=values["reason"], detail=detail, term=term,
            )
        )  # fmt: skip
        if to is ReplicaState.GONE:
            await connection.execute(delete(drain_acks).where(drain_acks.c.replica_id == replica_id))
    store.bus.publish(Topic.REPLICAS, row.pool)
    return _replica(fresh)


async def describe(
    store: Store,
    replica_id: str,
    *,
    term: int,
    handle: str | None = None,
    stage: str | None = None,
    endpoint: Endpoint | None = None,
    models: Sequence[str] | None = None,
    context: int | None = None,
    capabilities: Sequence[str] | None = None,
) -> None:
    """Write what was learned of a replica without changing its state; None leaves a column as it is. Raises StaleTerm."""
    values: dict[str, Any] = {}
    if handle is not None:
        values["handle"] = handle
    if stage is not None:
        values["stage"] = stage
    if endpoint is not None:
        values.update(endpoint_url=endpoint.url, endpoint_key=endpoint.key, endpoint_ca=endpoint.ca)
    if models is not None:
        values["models"] = list(models)
    if context is not None:
        values["context"] = context
    if capabilities is not None:
        values["capabilities"] = list(capabilities)
    if not values:
        return
    async with store.write() as connection:
        await leases.check(connection, KEEPER, term)
        pool = await connection.scalar(
            update(replicas).where(replicas.c.id == replica_id).values(**values).returning(replicas.c.pool)
        )
    store.bus.publish(Topic.REPLICAS, pool or "")


async def history(store: Store, replica_id: str) -> list[Row[Any]]:
    """A replica's events, oldest first."""
    async with store.read() as connection:
        return list(await connection.execute(select(events).where(events.c.replica_id == replica_id).order_by(events.c.id)))


async def acknowledge_drain(store: Store, replica_id: str, gateway_id: str, epoch: int) -> None:
    """A gateway says: none of my requests is on this replica, and none will be sent there while it is in this `epoch`."""
    async with store.write() as connection:
        await upsert(connection, drain_acks, {"replica_id": replica_id, "gateway_id": gateway_id}, {"epoch": epoch})
    store.bus.publish(Topic.ACKS, replica_id)


async def drained(store: Store, replica: Replica, *, gateway_ttl: float) -> bool:
    """Whether every gateway that is alive (heartbeat younger than `gateway_ttl` seconds) acknowledged the drain of this epoch."""
    async with store.read() as connection:
        alive = set(
            await connection.scalars(select(gateways.c.id).where(gateways.c.heartbeat_at > store.heard_since(gateway_ttl)))
        )
        acked = set(
            await connection.scalars(
                select(drain_acks.c.gateway_id).where(
                    (drain_acks.c.replica_id == replica.id) & (drain_acks.c.epoch == replica.epoch)
                )
            )
        )
    return alive <= acked


async def remembers(store: Store) -> bool:
    """Whether this store ever saw a replica: an empty one (new, or restored from nothing) proves nothing about what runs."""
    async with store.read() as connection:
        return bool(await connection.scalar(select(func.count()).select_from(select(events.c.id).limit(1).subquery())))


async def sweep(store: Store, *, keep: float = 30 * 86_400.0) -> None:
    """Forget replicas that are gone for more than `keep` seconds; their events stay."""
    horizon = store.clock.time() - keep
    async with store.write() as connection:
        await connection.execute(
            delete(replicas).where((replicas.c.state == ReplicaState.GONE.value) & (replicas.c.since < horizon))
        )

"""What clients are asking of each model now, and what people ordered. Demand expires with its gateway's heartbeat; only inference makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import case, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.store.bus import Topic
from lamplighter.store.sql import exclusive, upsert
from lamplighter.store.store import Store
from lamplighter.store.tables import demand, gateways, orders, wakes

GATEWAY_TTL = 30.0
"""Seconds after its last heartbeat at which a gateway counts as dead and its demand as gone."""


@dataclass(frozen=True, slots=True)
class GatewayDemand:
    """One gateway's demand for one model. `loads`: requests in flight by replica id. Times are Unix seconds."""

    model: str
    queued: int = 0
    in_flight: int = 0
    oldest_queued_at: float | None = None
    last_ended_at: float | None = None
    wanted_until: float | None = None
    loads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """The sum over all live gateways for one model, with people's orders. `last_ended_at` outlives the gateway that wrote it.

    `replicas`: how many should be awake while it is wanted; never stored, see `capacity.rollout_demand`.
    """

    model: str
    queued: int = 0
    in_flight: int = 0
    oldest_queued_at: float | None = None
    last_ended_at: float | None = None
    wanted_until: float | None = None
    sleep_asked_at: float | None = None
    loads: Mapping[str, int] = field(default_factory=dict)
    replicas: int = 0

    @property
    def requests(self) -> int:
        """Requests that wait or run."""
        return self.queued + self.in_flight

    def sleeps_at(self, ready_at: float | None, sleep_after: float) -> float | None:
        """When a replica that became ready at `ready_at` goes to sleep if nobody asks any more: `sleep_after` seconds after the end of the
        last answer, not before what people ordered. None while requests wait or run, and when it never sleeps.
        """
        if self.requests or sleep_after == float("inf"):
            return None
        return max(max(self.last_ended_at or 0.0, ready_at or 0.0) + sleep_after, self.wanted_until or 0.0)


async def report(store: Store, gateway_id: str, rows: Sequence[GatewayDemand], *, wake: Sequence[str] = ()) -> None:
    """Replace what `gateway_id` said of the models in `rows`, and beat its heart. `wake`: models whose keeper should look at once."""
    now = store.clock.time()
    async with store.write() as connection:
        await _beat(connection, gateway_id, now)
        for row in sorted(rows, key=lambda row: row.model):  # in one order, so that no two writers wait for each other
            values = {
                "queued": row.queued,
                "in_flight": row.in_flight,
                "oldest_queued_at": row.oldest_queued_at,
                "last_ended_at": row.last_ended_at,
                "wanted_until": row.wanted_until,
                "loads": dict(row.loads),
                "heartbeat_at": now,
            }
            await upsert(connection, demand, {"gateway_id": gateway_id, "model": row.model}, values)
    for model in wake:
        store.bus.publish(Topic.DEMAND, model)


async def heartbeat(store: Store, gateway_id: str) -> None:
    """Say that the gateway lives; keeps all its demand fresh."""
    now = store.clock.time()
    async with store.write() as connection:
        await _beat(connection, gateway_id, now)
        await connection.execute(update(demand).where(demand.c.gateway_id == gateway_id).values(heartbeat_at=now))


async def leave(store: Store, gateway_id: str) -> None:
    """The gateway ends in good order: its demand is gone at once, the time of its last answer stays."""
    async with store.write() as connection:
        await connection.execute(
            update(demand)
            .where(demand.c.gateway_id == gateway_id)
            .values(queued=0, in_flight=0, oldest_queued_at=None, wanted_until=None, loads={})
        )
        await connection.execute(delete(gateways).where(gateways.c.id == gateway_id))


async def bury(store: Store) -> None:
    """Every gateway is dead: nothing that they said is asked for any more, and what they were answering ended now.

    Only for a process with proof of it: the owner of the data folder's lock, before its own gateway begins.
    """
    async with store.write() as connection:
        await connection.execute(update(demand).where(demand.c.in_flight > 0).values(last_ended_at=store.clock.time()))
        await connection.execute(update(demand).values(queued=0, in_flight=0, oldest_queued_at=None, wanted_until=None, loads={}))
        await connection.execute(delete(gateways))


async def _beat(connection: AsyncConnection, gateway_id: str, now: float) -> None:
    await upsert(connection, gateways, {"id": gateway_id}, {"heartbeat_at": now}, new={"started_at": now})


async def totals(store: Store) -> dict[str, Demand]:
    """The demand by model. A dead gateway's counts are left out; its last answer's time still counts for idleness."""
    alive_since = store.heard_since(GATEWAY_TTL)
    found: dict[str, Demand] = {}
    async with store.read() as connection:
        rows = list(await connection.execute(select(demand)))
        ordered = list(await connection.execute(select(orders)))
    for row in rows:
        alive = row.heartbeat_at > alive_since
        old = found.get(row.model, Demand(row.model))
        loads = dict(old.loads)
        for replica, count in row.loads.items() if alive else ():
            loads[replica] = loads.get(replica, 0) + count
        found[row.model] = Demand(
            model=row.model,
            queued=old.queued + (row.queued if alive else 0),
            in_flight=old.in_flight + (row.in_flight if alive else 0),
            oldest_queued_at=_least(old.oldest_queued_at, row.oldest_queued_at if alive else None),
            last_ended_at=_most(old.last_ended_at, row.last_ended_at),
            wanted_until=_most(old.wanted_until, row.wanted_until if alive else None),
            loads=loads,
        )
    for row in ordered:
        old = found.get(row.model, Demand(row.model))
        found[row.model] = Demand(
            model=row.model,
            queued=old.queued,
            in_flight=old.in_flight,
            oldest_queued_at=old.oldest_queued_at,
            last_ended_at=old.last_ended_at,
            wanted_until=_most(old.wanted_until, row.wanted_until),
            sleep_asked_at=row.sleep_asked_at,
            loads=old.loads,
        )
    return found


async def order_wake(store: Store, model: str, *, until: float) -> None:
    """A person asks for `model` to be awake until then (Unix seconds). The later of two orders counts; an order to sleep is forgotten, and
    so is the pause after a failed wake.
    """
    async with store.write() as connection:
        await exclusive(connection, f"orders {model}")
        later = case((orders.c.wanted_until > until, orders.c.wanted_until), else_=until)
        written = update(orders).where(orders.c.model == model).values(wanted_until=later, sleep_asked_at=None)
        if (await connection.execute(written)).rowcount == 0:
            await upsert(connection, orders, {"model": model}, {"wanted_until": until, "sleep_asked_at": None})
        await connection.execute(
            update(wakes).where((wakes.c.model == model) & (wakes.c.outcome == "failed")).values(retry_at=None)
        )
    store.bus.publish(Topic.DEMAND, model)


async def order_sleep(store: Store, model: str) -> None:
    """A person asks for `model` to sleep: running answers finish; a request that comes later wakes it again.

    What gateways wanted without a waiting request is forgotten with it.
    """
    now = store.clock.time()
    async with store.write() as connection:
        await exclusive(connection, f"orders {model}")
        await upsert(connection, orders, {"model": model}, {"wanted_until": None, "sleep_asked_at": now})
        await connection.execute(update(demand).where(demand.c.model == model).values(wanted_until=None))
    store.bus.publish(Topic.DEMAND, model)


async def sweep(store: Store, *, keep: float = 86_400.0) -> None:
    """Forget gateways that died more than `keep` seconds ago."""
    horizon = store.clock.time() - keep
    async with store.write() as connection:
        await connection.execute(delete(demand).where(demand.c.heartbeat_at < horizon))
        await connection.execute(delete(gateways).where(gateways.c.heartbeat_at < horizon))


def _least(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _most(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)

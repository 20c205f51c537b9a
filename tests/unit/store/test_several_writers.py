"""What SQLite's single writer kept right by itself: several processes on one PostgreSQL doing the same thing at the same moment."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from alembic.config import Config as Alembic
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ConfigError, StaleTerm, StoreBusy, StoreError, StoreFull, StoreUnavailable
from lamplighter.core.states import ReplicaState
from lamplighter.store import chats, demand, generations, leases, migrate, overlay, principals, replicas
from lamplighter.store.demand import GatewayDemand
from lamplighter.store.generations import Again, Ask, Begun, Event
from lamplighter.store.postgres import Access, meaning, place
from lamplighter.store.store import Store
from lamplighter.store.tables import keys
from lamplighter.store.tables import principals as people
from lamplighter.testing.clock import VirtualClock
from tests.services import Postgres
from tests.unit.store.conftest import Open

Two = tuple[Store, Store]


@pytest.fixture
async def two(database: str) -> AsyncIterator[Two]:
    """Two processes on one database."""
    stores = (await Store.connect(Access(database), SystemClock()), await Store.connect(Access(database), SystemClock()))
    yield stores
    for store in stores:
        await store.close()


async def _begin(store: Store, principal_id: str, request: str, *, gateway: str = "g") -> Begun:
    return await generations.begin(
        store, principal_id=principal_id, gateway_id=gateway, client_request_id=request, what=Ask(None, None, "Q", "Q"), model="m",
        params={},
    )  # fmt: skip


async def test_processes_that_start_together_make_one_installation(postgres_url: str) -> None:
    """If this fails, the first start of three replicas of a Deployment leaves a half-made schema, or three installations in one."""
    stores = await asyncio.gather(*(Store.connect(Access(postgres_url), SystemClock()) for _ in range(4)))
    try:
        assert len({store.installation for store in stores}) == 1
        made = await asyncio.gather(*(principals.ensure_first_key(store) for store in stores))
        assert len([key for key in made if key is not None]) == 1
        async with stores[0].read() as connection:
            assert len(list(await connection.scalars(select(keys.c.id)))) == 1
            assert len(list(await connection.scalars(select(people.c.id)))) == 1
    finally:
        for store in stores:
            await store.close()


async def test_each_machine_s_command_line_has_a_key_of_its_own(two: Two) -> None:
    """If this fails, starting Lamplighter on a second host locks the first one's command line out."""
    one, other = two
    first = await principals.ensure_cli_key(one, None, machine="a")
    second = await principals.ensure_cli_key(other, None, machine="b")
    assert await principals.ensure_cli_key(one, first, machine="a") == first
    assert await principals.ensure_cli_key(other, second, machine="b") == second
    assert await principals.ensure_first_key(one) is not None  # the command line's keys are nobody's first key


async def test_a_term_has_one_leader(two: Two) -> None:
    """If this fails, two keepers believe in the same term, and what both of them do counts."""
    for _ in range(10):
        terms = await asyncio.gather(*(leases.acquire(store, "x", f"h{n}", ttl=60) for n, store in enumerate(two)))
        winners = [term for term in terms if term is not None]
        assert len(winners) == 1
        await leases.release(two[0], "x", term=winners[0])


async def test_nobody_leads_in_the_middle_of_a_leader_s_write(two: Two) -> None:
    """If this fails, a keeper that is replaced in the moment of its write changes what its successor has just read."""
    one, other = two
    term = await leases.acquire(one, leases.KEEPER, "old", ttl=0.0)
    assert term is not None
    async with one.write() as connection:
        await leases.check(connection, leases.KEEPER, term)
        taking = asyncio.create_task(leases.acquire(other, leases.KEEPER, "new", ttl=60))
        await asyncio.sleep(0.3)
        assert not taking.done()
    assert await taking == term + 1
    with pytest.raises(StaleTerm):
        await replicas.launch(one, pool="p", models=["m"], term=term)


async def test_a_replica_makes_one_step_at_a_time(two: Two) -> None:
    """If this fails, two advances from the same state both succeed, and the history has a step that never was."""
    term = await leases.acquire(two[0], leases.KEEPER, "k", ttl=60)
    assert term is not None
    for _ in range(5):
        row = await replicas.launch(two[0], pool="p", models=["m"], term=term)
        steps = [replicas.advance(store, row.id, ReplicaState.STARTING, term=term) for store in two]
        results = await asyncio.gather(*steps, return_exceptions=True)
        assert sorted(isinstance(result, StoreError) for result in results) == [False, True]
        assert len(await replicas.history(two[0], row.id)) == 2


async def test_a_question_sent_to_two_gateways_is_asked_once(two: Two) -> None:
    """If this fails, a page that reconnects in the wrong moment gets two answers, and pays for both."""
    key, _ = await principals.create_key(two[0], name="ada", admin=False)
    for number in range(5):
        begun = await asyncio.gather(
            *(_begin(store, key.principal_id, f"r{number}", gateway=f"g{n}") for n, store in enumerate(two))
        )
        assert sorted(one.fresh for one in begun) == [False, True]
        assert begun[0].generation.id == begun[1].generation.id
        assert begun[0].chat.id == begun[1].chat.id


async def test_a_chat_may_be_deleted_while_it_is_written(two: Two) -> None:
    """If this fails, deleting a chat in one page hangs or breaks the gateway that is writing in it."""
    one, other = two
    key, _ = await principals.create_key(one, name="ada", admin=False)
    for number in range(8):
        begun = await _begin(one, key.principal_id, f"r{number}")
        identity = begun.generation.id
        async with asyncio.timeout(5):
            await asyncio.gather(
                generations.append(one, {identity: [Event(1, "delta", {"text": "x"})]}),
                generations.finish(one, identity, status="done", content="x", model=None, seq=2),
                chats.remove(other, key.principal_id, begun.chat.id),
                generations.interrupt_orphans(other, "other", alone=True),
            )
        status, log = await generations.events_after(one, identity, 0)
        assert (status, log) == (None, [])


async def test_answers_are_ended_once_by_those_who_find_them(two: Two) -> None:
    """If this fails, two gateways that find a dead one's answers end them twice, or one of them crashes over it."""
    key, _ = await principals.create_key(two[0], name="ada", admin=False)
    for number in range(4):
        await _begin(two[0], key.principal_id, f"r{number}", gateway="dead")
    found = await asyncio.gather(*(generations.interrupt_orphans(store, f"g{n}", alone=False) for n, store in enumerate(two)))
    assert len(found[0]) + len(found[1]) == 4
    assert not set(found[0]) & set(found[1])


async def test_demand_orders_and_models_meet_without_a_fight(two: Two) -> None:
    """If this fails, gateways that report at the same moment lose a report to a deadlock or a duplicate."""
    rows = [GatewayDemand(f"m{number}", queued=1) for number in range(6)]

    async def gateway(store: Store, name: str) -> None:
        for _ in range(5):
            await demand.report(store, name, rows)
            await demand.heartbeat(store, name)
            await demand.order_wake(store, "m1", until=5.0)
            await demand.order_wake(store, "m2", until=5.0)

    await asyncio.gather(*(gateway(store, f"g{n}") for n, store in enumerate(two)))
    assert (await demand.totals(two[0]))["m3"].queued == 2
    assert (await demand.totals(two[1]))["m1"].wanted_until == 5.0


async def test_what_no_database_can_keep_is_kept_nearly(opened: Open) -> None:
    """If this fails, one strange character in a question or an answer (a model may write any) is an internal error on PostgreSQL."""
    store = await opened(VirtualClock())
    key, _ = await principals.create_key(store, name="a\0da", admin=False)
    begun = await generations.begin(
        store, principal_id=key.principal_id, gateway_id="g", client_request_id="r\0", what=Ask(None, None, "Q\0?", "T"), model="m",
        params={"stop": "\0"},
    )  # fmt: skip
    await generations.append(store, {begun.generation.id: [Event(1, "delta", {"text": "\0 and 灯"})]})
    message = await generations.finish(store, begun.generation.id, status="done", content="\0 and 灯", model=None, seq=2)
    assert message is not None
    assert message.content in ("\0 and 灯", "\ufffd and 灯")
    assert begun.generation.params == {"stop": "\0"}
    again = await generations.begin(
        store, principal_id=key.principal_id, gateway_id="g", client_request_id="r\0",
        what=Again(begun.chat.id, begun.message.id), model="m", params={},
    )  # fmt: skip
    assert again.generation.id == begun.generation.id


async def test_silence_while_the_database_was_away_is_no_death(database: str) -> None:
    """If this fails, the end of an outage kills every running stream: all gateways look dead, and what they use is put to sleep."""
    clock = VirtualClock()
    store = await Store.connect(Access(database), clock)
    await demand.report(store, "g1", [GatewayDemand("m", in_flight=1)])
    await clock.advance(10)
    store.note(answered=False)
    await clock.advance(300)
    assert (await demand.totals(store))["m"].in_flight == 1
    await clock.advance(demand.GATEWAY_TTL + 1)  # it had its time to say that it lives
    assert (await demand.totals(store))["m"].in_flight == 0
    await store.close()


# -- errors


class _Said(asyncpg.PostgresError):  # type: ignore[misc] # asyncpg has no types
    pass


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("28P01", StoreUnavailable), ("3D000", StoreUnavailable), ("42501", StoreUnavailable), ("57P03", StoreUnavailable),
        ("53300", StoreUnavailable), ("08006", StoreUnavailable), ("25006", StoreUnavailable), ("53100", StoreFull),
        ("40P01", StoreBusy), ("40001", StoreBusy), ("57014", StoreBusy), ("42P01", StoreError),
    ],
)  # fmt: skip
def test_postgresql_s_errors_mean_something(state: str, kind: type[StoreError]) -> None:
    """If this fails, a person reads a driver's words, or none, when the database cannot be had."""
    error = _Said("what it said")
    error.sqlstate = state
    ours = meaning(error, "db.lan/lamplighter")
    assert type(ours) is kind
    assert "what it said" in ours.message or kind is StoreFull
    assert ours.next_step or kind is StoreError


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "refused"), TimeoutError(), asyncpg.InterfaceError("connection is closed")]
)
def test_a_lost_connection_is_unavailable(error: Exception) -> None:
    """If this fails, a gateway takes an outage for a defect, and does not try again."""
    assert type(meaning(error, "db.lan/x")) is StoreUnavailable


async def test_a_broken_statement_is_no_outage(two: Two) -> None:
    """If this fails, a defect of ours looks like a database that is down."""
    with pytest.raises(StoreError) as caught:
        async with two[0].read() as connection:
            await connection.execute(text("SELECT * FROM nothing"))
    assert type(caught.value) is StoreError
    assert "nothing" in caught.value.message


def test_a_url_of_something_else_is_refused() -> None:
    """If this fails, a mistyped URL ends in a traceback, or shows a password."""
    with pytest.raises(ConfigError, match="postgresql://"):
        place("mysql://me:secret@db/x")
    assert place("postgresql://me:secret@db.lan:5433/lamp?sslmode=require") == "db.lan:5433/lamp"


async def test_a_statement_that_waits_too_long_ends(database: str) -> None:
    """If this fails, a forgotten lock in the database stops a gateway for ever."""
    store = await Store.connect(Access(database, statement_timeout=0.5), SystemClock())
    with pytest.raises(StoreBusy, match="timeout"):
        async with store.read() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))
    await store.close()


async def test_a_pool_that_is_used_up_says_so(database: str) -> None:
    """If this fails, a slow database makes requests wait without end for a connection."""
    store = await Store.connect(Access(database, pool_size=1, connect_timeout=0.3), SystemClock())
    async with store.read(), store.read():
        with pytest.raises(StoreUnavailable, match="became free"):
            async with store.read():
                pass
    await store.close()


async def test_through_a_pooler_nothing_is_kept(database: str) -> None:
    """If this fails, PgBouncer in transaction mode answers with `prepared statement does not exist`."""
    access = Access(database, listen_url=database)
    assert access.pooled
    store = await Store.connect(access, SystemClock())
    await demand.report(store, "g", [GatewayDemand("m", queued=1)])
    async with store.read() as connection:
        kept = list(await connection.scalars(text("SELECT name FROM pg_prepared_statements")))
    assert all(name.startswith("__") for name in kept)  # names that no other connection can know
    assert len(kept) <= 1  # the question itself
    await store.close()


async def test_a_restart_of_postgresql_is_survived(postgres_server: Postgres) -> None:
    """If this fails, the first request after a restart of the database fails on every connection of the pool."""
    store = await Store.connect(Access(postgres_server.create("again"), connect_timeout=2), SystemClock())
    await asyncio.gather(*(demand.totals(store) for _ in range(5)))
    await asyncio.to_thread(postgres_server.stop)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await demand.totals(store)
    await asyncio.to_thread(postgres_server.start)
    await asyncio.gather(*(demand.totals(store) for _ in range(5)))
    await store.close()


# -- migrations


def test_the_newest_schema_is_known_without_alembic() -> None:
    """If this fails, an update does not migrate, or loads 12 MB of Alembic at every start."""
    folder = Alembic()
    folder.set_main_option("script_location", str(migrate._FOLDER))
    folder.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(folder)
    assert scripts.get_current_head() == migrate.newest()
    assert {script.revision for script in scripts.walk_revisions()} == migrate.known_revisions()


def test_alembic_is_loaded_only_when_it_has_something_to_do(tmp_path: object) -> None:
    """If this fails, every start is slower and larger than it need be."""
    code = (
        "import asyncio, sys, pathlib\nfrom lamplighter.core.clock import SystemClock\nfrom lamplighter.store.store import Store\n"
        f"async def go():\n    await (await Store.open(pathlib.Path({str(tmp_path)!r}) / 's.db', SystemClock())).close()\n"
        "asyncio.run(go()); print('alembic' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)
    ]
    assert runs == ["True", "False"]


async def test_models_added_at_two_gateways_are_one(two: Two) -> None:
    """If this fails, adding a model twice at the same moment is an internal error."""
    from lamplighter.config import Config

    config = Config.model_validate({"pools": {"nas": {"kind": "static", "url": "http://nas"}}, "models": {}})
    definition = {"engine": "openai", "pool": "nas"}
    await asyncio.gather(*(overlay.add(store, config, "m", definition) for store in two))
    assert set(await overlay.effective(two[0], config)) == {"m"}

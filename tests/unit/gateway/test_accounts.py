"""Accounts reach the store once each, whatever happens to the store, and never hold a word of what was said."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import structlog
from sqlalchemy import text

from lamplighter.core.errors import StoreUnavailable
from lamplighter.gateway import accounts as module
from lamplighter.gateway.accounts import Accounts
from lamplighter.gateway.metering import Meter, Record
from lamplighter.gateway.sse import Usage
from lamplighter.observability.metrics import Metrics
from lamplighter.store import usage
from lamplighter.store.store import Store
from lamplighter.store.tables import metadata
from lamplighter.store.usage import DAY, Entry
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import KEY, config_of, question, running


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store(clock: VirtualClock) -> AsyncIterator[Store]:
    store = await Store.open(None, clock)
    yield store
    await store.close()


def record(clock: VirtualClock, **more: Any) -> Record:
    fields = {
        "route": "chat", "request_id": "req_1", "began": clock.monotonic(), "model": "big", "key_id": "key_1", "principal_id": "prn_1",
        "status": 200, "usage": Usage(3, 5),
    }  # fmt: skip
    return Record(**{**fields, **more})


def accounts_of(store: Store, clock: VirtualClock, **more: Any) -> tuple[Accounts, Metrics]:
    metrics = Metrics(process=False)
    return Accounts(store, clock, metrics, **{"gateway_id": "gtw_1", "keep": 90 * DAY, **more}), metrics


class Sick:
    """A store's `write` that fails as told: before anything is written, or after everything was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = False
        self._write = usage.write
        monkeypatch.setattr(usage, "write", self)

    async def __call__(self, store: Store, entries: Sequence[Entry], *, again: bool = False) -> None:
        if self.before:
            raise StoreUnavailable("the store is away")
        await self._write(store, entries, again=again)
        if self.after:
            raise StoreUnavailable("the connection was lost while it said yes")


async def test_an_account_says_what_happened(store: Store, clock: VirtualClock) -> None:
    """A bill, or the search for a slow engine, would rest on wrong numbers."""
    accounts, metrics = accounts_of(store, clock)
    accounts.price = lambda model, tokens, seconds: tokens.completion_tokens * 100
    await clock.advance(100)
    one = record(clock, held=4.0, asleep=3.0, replica_id="rep_1", retries=1, asked="huge")
    await clock.advance(4)
    one.sent_at = clock.monotonic()
    await clock.advance(1)
    one.first_at = clock.monotonic()
    await clock.advance(2)
    Meter(metrics, None, clock, accounts).finish(one)
    await clock.advance(50)  # it was over long before it is written
    assert await accounts.flush()
    [entry] = await usage.recent(store, limit=10)
    assert entry == Entry(
        id="gtw_1-0000000001", at=clock.time() - 50, request_id="req_1", gateway_id="gtw_1", key_id="key_1", principal_id="prn_1",
        route="chat", model="big", asked="huge", replica_id="rep_1", status=200, outcome="ok", prompt_tokens=3,
        completion_tokens=5, estimated=False, seconds=7.0, ttft=5.0, itl=0.5, queue_seconds=1.0, wake_seconds=3.0,
        engine_seconds=3.0, retries=1, cost_micros=500,
    )  # fmt: skip
    assert entry.tokens_per_second == 2.0


async def test_they_are_written_soon_and_together(store: Store, clock: VirtualClock) -> None:
    """`lamplighter usage` would show yesterday's truth, or each request would cost a transaction."""
    accounts, _ = accounts_of(store, clock)
    await accounts.start()
    for _ in range(3):
        accounts.add(record(clock), clock.monotonic(), None)
    assert await usage.recent(store, limit=10) == []
    await clock.advance(module.INTERVAL)
    assert len(await usage.recent(store, limit=10)) == 3
    await accounts.stop()


async def test_the_end_writes_what_waits(store: Store, clock: VirtualClock) -> None:
    """Each restart would lose the last requests' accounts."""
    accounts, _ = accounts_of(store, clock)
    await accounts.start()
    for _ in range(2500):  # more than one batch
        accounts.add(record(clock), clock.monotonic(), None)
    await accounts.stop()
    [total], _ = await usage.totals(store, "model", since=clock.time() - 60)
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (2500, 7500, 12_500)


async def test_they_wait_while_the_store_is_away(store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of the database would lose the accounts of that minute, or requests would wait for it."""
    accounts, metrics = accounts_of(store, clock)
    sick = Sick(monkeypatch)
    sick.before = True
    await accounts.start()
    accounts.add(record(clock), clock.monotonic(), None)
    await clock.advance(30)
    accounts.add(record(clock), clock.monotonic(), None)
    assert accounts.waiting == 2
    assert b"lamplighter_accounts_waiting 2.0" in metrics.render()
    sick.before = False
    await clock.advance(2)
    assert len(await usage.recent(store, limit=10)) == 2
    await accounts.stop()
    assert metrics.accounts_lost.labels().value == 0


async def test_memory_is_bounded_while_the_store_is_away(
    store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away for a day would take the gateway with it."""
    monkeypatch.setattr(module, "MOST", 10)
    accounts, metrics = accounts_of(store, clock)
    for number in range(25):
        accounts.add(record(clock, request_id=f"req_{number}"), clock.monotonic(), None)
    assert accounts.waiting == 10
    assert metrics.accounts_lost.labels().value == 15
    await accounts.flush()
    kept = {entry.request_id for entry in await usage.recent(store, limit=100)}
    assert kept == {f"req_{number}" for number in range(15, 25)}, "the newest stay"


async def test_what_is_lost_at_the_end_is_counted(store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know that the sums are too low."""
    accounts, metrics = accounts_of(store, clock)
    Sick(monkeypatch).before = True
    accounts.add(record(clock), clock.monotonic(), None)
    await accounts.stop()
    assert metrics.accounts_lost.labels().value == 1


async def test_a_batch_whose_answer_was_lost_counts_once(
    store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks at the wrong moment would charge a thousand requests twice."""
    accounts, _ = accounts_of(store, clock)
    sick = Sick(monkeypatch)
    accounts.add(record(clock), clock.monotonic(), None)
    sick.after = True
    assert not await accounts.flush()
    sick.after = False
    accounts.add(record(clock), clock.monotonic(), None)
    assert await accounts.flush()
    [total], _ = await usage.totals(store, "key", since=clock.time() - 30 * DAY)
    assert (total.requests, len(await usage.recent(store, limit=10))) == (2, 2)


async def test_old_rows_are_forgotten_and_their_sums_stay(store: Store, clock: VirtualClock) -> None:
    """The store would grow for ever, or last year's bill could not be checked."""
    accounts, _ = accounts_of(store, clock, keep=DAY)
    accounts.add(record(clock), clock.monotonic(), None)
    await accounts.flush()
    await clock.advance(3 * DAY)
    await accounts.start()
    await clock.advance(module.INTERVAL)
    assert await usage.recent(store, limit=10) == []
    [total], since = await usage.totals(store, "day", since=clock.time() - 5 * DAY)
    assert (total.requests, total.name) == (1, usage.day_of(clock.time() - 3 * DAY - 1))
    assert since % DAY == 0
    await accounts.stop()


async def test_sums_by_rows_and_by_days_agree(store: Store, clock: VirtualClock) -> None:
    """The same question would have two answers."""
    accounts, _ = accounts_of(store, clock)
    for model, key, status, outcome in (
        ("a", "key_1", 200, "ok"), ("a", "key_2", 502, "failed"), ("b", "key_1", 200, "lost"), ("b", "", 499, "cancelled"),
    ):  # fmt: skip
        await clock.advance(DAY / 3)
        accounts.add(record(clock, model=model, key_id=key, status=status, outcome=outcome), clock.monotonic(), None)
    await accounts.flush()
    for by in ("key", "model", "day"):
        exact, _ = await usage.totals(store, by, since=0, exact=True)
        days, _ = await usage.totals(store, by, since=0, exact=False)
        assert exact == days
    by_model = {total.name: (total.requests, total.failed) for total in (await usage.totals(store, "model", since=0))[0]}
    assert by_model == {"a": (2, 1), "b": (2, 1)}, "a client that left is no failure"


# -- a whole gateway


async def kept(rig: Any) -> list[Entry]:
    await rig.until_idle()
    await rig.gateway.services.accounts.flush()
    return await usage.recent(rig.store, limit=50)


async def test_a_stream_and_a_whole_answer_are_accounted() -> None:
    """Tokens would be missing from the bill."""
    async with FakeEngine(tokens=6) as engine, running() as rig:
        replica = await rig.ready(engine.url)
        await rig.chat()
        await rig.chat(stream=True)
        stream, whole = await kept(rig)
        assert (whole.prompt_tokens, whole.completion_tokens, whole.estimated, whole.ttft) == (2, 6, False, None)
        assert (stream.prompt_tokens, stream.completion_tokens, stream.estimated) == (2, 6, False)
        assert stream.ttft is not None
        assert stream.itl is not None
        assert {stream.replica_id, whole.replica_id} == {replica.id}
        assert stream.principal_id


async def test_an_engine_that_never_tells_is_estimated() -> None:
    """Its clients would use it for nothing."""
    async with FakeEngine(tokens=20, wrong=Wrong.USAGE_MISSING) as engine, running() as rig:
        await rig.ready(engine.url)
        await rig.chat(stream=True)
        [entry] = await kept(rig)
        assert (entry.completion_tokens, entry.estimated) == (20, True)
        assert entry.prompt_tokens > 0


async def test_a_client_that_leaves_is_accounted() -> None:
    """Whoever closes the connection before the usage event would never pay."""
    async with FakeEngine(tokens=1000, tokens_per_second=200) as engine, running() as rig:
        await rig.ready(engine.url)
        async with rig.client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as answer:
            seen = 0
            async for line in answer.aiter_lines():
                seen += line.startswith("data:")
                if seen > 10:
                    break
        [entry] = await kept(rig)
        assert (entry.status, entry.outcome, entry.estimated) == (200, "cancelled", True)
        assert entry.completion_tokens >= 10


async def test_a_stream_that_broke_off_is_accounted() -> None:
    """The tokens that came would be free, and the failure invisible."""
    async with FakeEngine(tokens=20, wrong=Wrong.CUT) as engine, running(config_of(gateway={"continue_streams": False})) as rig:
        await rig.ready(engine.url)
        await rig.chat(stream=True)
        [entry] = await kept(rig)
        assert (entry.outcome, entry.estimated) == ("lost", True)
        assert 8 <= entry.completion_tokens <= 10


async def test_who_is_turned_away_costs_nothing() -> None:
    """A typo in the model's name would be charged."""
    async with running() as rig:
        await rig.chat("nothing")
        [entry] = await kept(rig)
        assert (entry.status, entry.prompt_tokens, entry.completion_tokens, entry.engine_seconds) == (404, 0, 0, 0)


async def test_no_table_holds_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts, answers or keys would lie in a database and in log files that nobody expects them in."""
    config = config_of(log={"access": True, "format": "json"})
    async with FakeEngine(tokens=6) as engine, running(config) as rig:
        await rig.ready(engine.url)
        body = question(stream=True)
        body["messages"][0]["content"] = "sesame-in-the-prompt"
        await rig.client.post("/v1/chat/completions", json=body)
        await kept(rig)
        written = ""
        async with rig.store.read() as connection:
            for table in metadata.sorted_tables:
                written += "".join(map(str, await connection.execute(text(f"SELECT * FROM {table.name}"))))  # noqa: S608 - our own names
    printed = "".join(capsys.readouterr())
    for secret in ("sesame-in-the-prompt", "lamp is lit", KEY):
        assert secret not in written
        assert secret not in printed


async def test_people_see_what_is_theirs_and_admins_see_all() -> None:
    """One member of a family could read when another one asks what."""
    async with FakeEngine(tokens=6) as engine, running() as rig:
        await rig.ready(engine.url)
        made = (await rig.client.post("/api/keys", json={"name": "ada"})).json()
        ada = {"authorization": f"Bearer {made['key']}"}
        await rig.chat()
        await rig.chat(headers=ada)
        await rig.until_idle()
        mine = (await rig.client.get("/api/requests", headers=ada)).json()["requests"]
        assert [one["key"] for one in mine] == ["ada"]
        assert len((await rig.client.get("/api/requests")).json()["requests"]) == 2
        by_key = (await rig.client.get("/api/usage", params={"by": "key", "since": "1h"})).json()
        assert {total["label"] for total in by_key["totals"]} == {"ada", "preset admin key"}
        own = (await rig.client.get("/api/usage", params={"by": "model", "since": "30d"}, headers=ada)).json()["totals"]
        assert [(total["name"], total["requests"], total["completion_tokens"]) for total in own] == [("big", 1, 6)]
        assert (await rig.client.get("/api/usage", params={"since": "soon"})).status_code == 400
        assert (await rig.client.get("/api/usage", headers={"authorization": "Bearer no"})).status_code == 401


async def test_prompts_are_logged_only_when_asked() -> None:
    """Who looks for a strange prompt could not find it; or everybody's prompts would lie in the log."""
    body = question()
    body["messages"][0]["content"] = "sesame-in-the-prompt"
    for asked in (False, True):
        config = config_of(log={"access": False, "prompts": asked})
        with structlog.testing.capture_logs() as lines:
            async with FakeEngine(tokens=6) as engine, running(config) as rig:
                await rig.ready(engine.url)
                await rig.client.post("/v1/chat/completions", json=body)
                await kept(rig)
        found = [line for line in lines if line["event"] == "prompt"]
        assert [line["messages"] for line in found] == ([body["messages"]] if asked else [])
        assert KEY not in str(lines)
        assert "lamp is lit" not in str(lines), "never the answer"
        assert ("sesame" in str(lines)) is asked


async def test_a_request_costs_what_the_configuration_says() -> None:
    """The bill would say nothing of money, or another sum than the budget."""
    price = {"prompt": "1 USD/Mtok", "completion": "10 USD/Mtok"}
    config = config_of(models={"big": {"engine": "fake", "pool": "cloud", "price": price}})
    async with FakeEngine(tokens=6) as engine, running(config) as rig:
        await rig.ready(engine.url)
        await rig.chat()
        await rig.chat("nothing")
        refused, answered = await kept(rig)
        assert answered.cost_micros == 2 * 1 + 6 * 10
        assert refused.cost_micros is None

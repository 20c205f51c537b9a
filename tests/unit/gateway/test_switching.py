"""A name whose target is being changed: who answers what, what counts, and that nobody notices a candidate that fails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.rollouts import WHOLE, Order, Phase, Strategy
from lamplighter.gateway.switching import Split, splits
from lamplighter.store import outcomes, principals, rollouts, usage
from lamplighter.store.outcomes import Seen
from lamplighter.store.rollouts import Rollout, Route, Settings
from lamplighter.testing.clock import VirtualClock
from lamplighter.testing.engine import FakeEngine, Wrong
from tests.unit.gateway.harness import Rig, config_of, events, running
from tests.unit.gateway.lanes import lane_of, show, target_of

MODELS = {
    "big": {
        "engine": "fake",
        "pool": "cloud",
        "source": "hf:org/big",
        "aliases": ["gpt"],
        "limits_per_key": {"requests_per_minute": 10**6},
    },
    "other": {"engine": "fake", "pool": "cloud"},
    "chatless": {"engine": "fake", "pool": "cloud", "capabilities": ["embeddings"]},
}


def split_of(weight: int, *, rollout: str = "rol_1") -> Split:
    clock = VirtualClock()
    stable, candidate = lane_of(clock), lane_of(clock)
    show(candidate, target_of(clock))
    return Split(Route("big", "big", "big@r2", weight, rollout, 0), stable, candidate, None)


# -- who belongs where


@pytest.mark.parametrize("weight", [1, 500, 2500, 5000, 9999])
def test_conversations_are_shared_by_weight(weight: int) -> None:
    """If this fails, five percent are fifty, and a canary is none."""
    split = split_of(weight)
    drawn = sum(split.belongs(b"conversation %d" % number) for number in range(20_000))
    expected = 20_000 * weight / WHOLE
    assert abs(drawn - expected) < 5 * (20_000 * weight / WHOLE * (1 - weight / WHOLE)) ** 0.5 + 1


@given(st.binary(min_size=1, max_size=64), st.integers(0, WHOLE), st.integers(0, WHOLE), st.text("abc", min_size=1, max_size=8))
def test_a_conversation_stays_and_only_moves_forward(key: bytes, one: int, other: int, rollout: str) -> None:
    """If this fails, a chat gets each answer from another model, or is thrown back when the share grows."""
    less, more = sorted((one, other))
    before, after = split_of(less, rollout=rollout), split_of(more, rollout=rollout)
    assert before.belongs(key) == before.belongs(key)
    if before.belongs(key):
        assert after.belongs(key)
    assert not split_of(0, rollout=rollout).belongs(key)
    assert split_of(WHOLE, rollout=rollout).belongs(key)


def test_another_change_draws_anew() -> None:
    """If this fails, the same people are everybody's canaries."""
    one, other = split_of(1000, rollout="rol_1"), split_of(1000, rollout="rol_2")
    keys = [b"%d" % number for number in range(5000)]
    both = sum(one.belongs(key) and other.belongs(key) for key in keys)
    assert 20 < both < 90  # a tenth of a tenth


def test_without_a_key_it_is_chance() -> None:
    """If this fails, all requests without a conversation go to one side."""
    split = split_of(5000)
    assert 300 < sum(split.belongs(b"") for _ in range(1000)) < 700


def test_nobody_waits_for_a_candidate() -> None:
    """If this fails, requests are held for a model that sleeps while another one could answer."""
    split = split_of(WHOLE)
    assert split.choose(lambda: b"k", lambda lane: True)[0] is split.candidate
    assert split.choose(lambda: b"k", lambda lane: False)[0] is split.stable  # it cannot do what is asked
    assert split.candidate is not None
    show(split.candidate)
    lane, trial = split.choose(lambda: b"k", lambda lane: True)
    assert lane is split.stable
    assert trial is not None
    assert trial.side == "stable"


def test_a_split_lasts_as_long_as_it_is_the_same() -> None:
    """If this fails, every refresh of the view makes new objects, or an old share goes on after it changed."""
    clock = VirtualClock()
    lanes = {"big": lane_of(clock), "big@r2": lane_of(clock)}
    route = Route("big", "big", "big@r2", 500, "rol_1", 0)
    first = splits({"big": route}, lanes, {}, None)
    assert splits({"big": route}, lanes, first, None)["big"] is first["big"]
    grown = Route("big", "big", "big@r2", 2500, "rol_1", 1)
    assert splits({"big": grown}, lanes, first, None)["big"].route.weight == 2500
    # A gateway whose configuration knows no such target goes on as before.
    assert splits({"big": Route("big", "gone")}, lanes, {}, None) == {}
    assert splits({"big": Route("big", "big")}, lanes, {}, None) == {}
    assert splits({"none": Route("none", "none", "big")}, lanes, {}, None) == {}


# -- through a whole gateway


class Stage:
    """A gateway, an engine for each side, and a change of `big` that is at a step."""

    def __init__(self, rig: Rig, stable: FakeEngine, candidate: FakeEngine, rollout: Rollout) -> None:
        self.rig = rig
        self.stable = stable
        self.candidate = candidate
        self.rollout = rollout

    async def seen(self) -> dict[str, Seen]:
        """What the gateway counted so far, by side."""
        await self.rig.until_idle()
        await self.rig.gateway._outcomes.flush()
        found: dict[str, Seen] = {}
        for (_, side), one in (await outcomes.of(self.rig.store, self.rollout.id)).items():
            found.setdefault(side, Seen()).add(one)
        return found

    async def move(self, phase: Phase, **more: Any) -> None:
        self.rollout = await rollouts.advance(self.rig.store, self.rollout.id, phase, term=None, **more)
        await self.rig.gateway.services.view.refresh()

    async def ask(self, count: int, **more: Any) -> list[Any]:
        """So many conversations at the same time."""
        bodies = ({"messages": [{"role": "user", "content": f"Question {number}"}], **more} for number in range(count))
        return await asyncio.gather(*(self.rig.chat(**body) for body in bodies))


@asynccontextmanager
async def stage(weight: int = 5000, *, candidate: str = "big@r2", ready: bool = True, **gateway: Any) -> AsyncIterator[Stage]:
    config = config_of(models=MODELS, gateway={"retries": 0, **gateway})
    async with running(config) as rig, FakeEngine(model="big") as one, FakeEngine(model="big") as two:
        await rig.ready(one.url, "big")
        steps = (weight,) if weight < WHOLE else ()
        settings = Settings(steps=steps, strategy=Strategy.CANARY if steps else Strategy.BLUE_GREEN)
        basis = rollouts.basis_of(config.models["big"])
        revision = candidate.partition("@")[2] or None
        rollout = await rollouts.begin(
            rig.store, name="big", candidate=candidate, revision=revision, settings=settings, basis=basis
        )
        here = Stage(rig, one, two, rollout)
        if ready:
            await rig.ready(two.url, candidate)
        await here.move(Phase.CHECKING)
        await here.move(Phase.SERVING, step=0)
        yield here


async def test_requests_are_shared_and_counted() -> None:
    """If this fails, a canary gets nothing, or what it does is not seen."""
    async with stage() as here:
        answers = await here.ask(100, stream=True)
        assert {answer.status_code for answer in answers} == {200}
        targets = Counter(answer.headers["lamplighter-model"] for answer in answers)
        assert set(targets) == {"big", "big@r2"}
        assert 25 < targets["big@r2"] < 75
        assert here.candidate.counters.requests == targets["big@r2"]
        seen = await here.seen()
        assert (seen["candidate"].requests, seen["stable"].requests) == (targets["big@r2"], targets["big"])
        assert seen["candidate"].failed == seen["stable"].failed == 0
        assert seen["candidate"].first_tokens.total() == targets["big@r2"]
        again = await here.ask(100, stream=True)
        assert [one.headers["lamplighter-model"] for one in again] == [one.headers["lamplighter-model"] for one in answers]


async def test_accounts_say_who_answered_and_who_was_asked() -> None:
    """If this fails, nobody can tell which model an answer came from, or whose budget it used."""
    async with stage(WHOLE) as here:
        assert (await here.rig.chat("gpt")).status_code == 200
        await here.rig.until_idle()
        await here.rig.gateway._accounts.flush()
        [entry] = await usage.recent(here.rig.store, limit=5)
        assert (entry.model, entry.asked) == ("big@r2", "big")
        spent = here.rig.gateway.admission.spending
        assert {account.name for account in spent.accounts() if "@" in account.name} == set()


async def test_a_key_for_the_name_may_use_its_targets() -> None:
    """If this fails, restricted keys are locked out by a change, or let into the candidate itself."""
    async with stage(WHOLE) as here:
        _, secret = await principals.create_key(
            here.rig.store, name="one", admin=False, rights=principals.Rights(models=("big",))
        )
        await here.rig.gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        answer = await here.rig.chat("big", headers=headers)
        assert (answer.status_code, answer.headers["lamplighter-model"]) == (200, "big@r2")
        assert (await here.rig.chat("big@r2", headers=headers)).status_code == 403
        assert (await here.rig.chat("big@r2")).status_code == 200
        listed = (await here.rig.client.get("/v1/models")).json()["data"]
        assert {model["id"] for model in listed} == {"big", "gpt", "other", "chatless"}


@pytest.mark.parametrize("wrong", [Wrong.STATUS_500, Wrong.RESET, Wrong.GARBAGE])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_candidate_fails_the_stable_one_answers(wrong: Wrong, stream: bool) -> None:
    """If this fails, a bad candidate costs people their answers before anybody rolled it back."""
    async with stage(WHOLE) as here:
        here.candidate.behaviour = here.candidate.behaviour.__class__(model="big", wrong=wrong)
        answers = await here.ask(10, stream=stream)
        assert {answer.status_code for answer in answers} == {200}
        seen = await here.seen()
        assert seen["candidate"].failed >= 1
        assert seen["stable"].failed == 0
        assert seen["stable"].requests == 10
        assert not seen["stable"].first_tokens  # their time says nothing of the stable target
        here.rig.gateway.assert_idle()


async def test_a_stream_that_breaks_counts_once() -> None:
    """If this fails, a candidate that dies in the middle of its answers looks well."""
    async with stage(WHOLE) as here:
        here.candidate.behaviour = here.candidate.behaviour.__class__(model="big", wrong=Wrong.CUT)
        answer = await here.rig.chat(stream=True)
        assert any("error" in item for item in events(answer.text) if isinstance(item, dict))
        seen = await here.seen()
        assert (seen["candidate"].requests, seen["candidate"].failed) == (1, 1)


async def test_the_client_s_mistakes_do_not_count() -> None:
    """If this fails, one client with broken requests rolls a good model back."""
    async with stage(WHOLE) as here:
        long = [{"role": "user", "content": "word " * 5000}]
        assert (await here.rig.chat(messages=long)).status_code == 400
        assert (await here.rig.chat(max_tokens=-1)).status_code == 400
        assert await here.seen() == {}


async def test_who_leaves_does_not_count() -> None:
    """If this fails, impatient people roll a model back."""
    async with stage(WHOLE) as here:
        here.candidate.behaviour = here.candidate.behaviour.__class__(model="big", tokens_per_second=20.0, tokens=200)
        async with here.rig.client.stream(
            "POST", "/v1/chat/completions", json={"model": "big", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        ) as answer:
            async for _ in answer.aiter_bytes():
                break
        assert await here.seen() == {}


async def test_an_order_to_roll_back_needs_no_keeper() -> None:
    """If this fails, people go on getting a bad model until the keeper is back."""
    async with stage(WHOLE) as here:
        assert (await here.rig.chat()).headers["lamplighter-model"] == "big@r2"
        await rollouts.order(here.rig.store, here.rollout.id, Order.ROLLBACK)
        await here.rig.gateway.services.view.refresh()
        assert (await here.rig.chat()).headers["lamplighter-model"] == "big"


async def test_a_candidate_that_sleeps_gets_nobody() -> None:
    """If this fails, requests are held for a candidate although the stable target is awake."""
    async with stage(WHOLE, ready=False) as here:
        answer = await asyncio.wait_for(here.rig.chat(), 5)
        assert (answer.status_code, answer.headers["lamplighter-model"]) == (200, "big")


async def test_a_route_that_only_the_stable_target_has_stays_with_it() -> None:
    """If this fails, a change of the chat breaks embeddings, or the other way round."""
    async with stage(WHOLE, candidate="chatless") as here:
        assert (await here.rig.chat()).headers["lamplighter-model"] == "big"
        body = {"model": "big", "input": "x"}
        assert (await here.rig.client.post("/v1/embeddings", json=body)).headers["lamplighter-model"] == "chatless"


async def test_a_promoted_target_serves_the_name_alone() -> None:
    """If this fails, a promotion is forgotten, or goes on being counted."""
    async with stage(WHOLE) as here:
        await here.move(Phase.PROMOTED)
        answers = await here.ask(20)
        assert {answer.headers["lamplighter-model"] for answer in answers} == {"big@r2"}
        assert await here.seen() == {}
        model = (await here.rig.client.get("/v1/models/big")).json()
        assert model["state"] == "awake"
        await here.move(Phase.ROLLED_BACK)
        assert {answer.headers["lamplighter-model"] for answer in await here.ask(20)} == {"big"}


async def test_those_who_wait_for_a_place_return_when_the_candidate_is_gone() -> None:
    """If this fails, a rollback answers those who were queued with an error."""
    async with stage(WHOLE) as here:
        lane = here.rig.gateway._lanes.find("big@r2")
        assert lane is not None
        here.candidate.behaviour = here.candidate.behaviour.__class__(model="big", tokens_per_second=20.0, tokens=10)
        lane.places = 1
        waiting = [asyncio.create_task(here.rig.chat()) for _ in range(3)]
        while lane.queued < 2:
            lane.places = 1  # the view's next refresh forgets it
            await asyncio.sleep(0.01)
        await here.move(Phase.ROLLED_BACK)
        answers = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert Counter(answer.headers["lamplighter-model"] for answer in answers) == {"big": 2, "big@r2": 1}

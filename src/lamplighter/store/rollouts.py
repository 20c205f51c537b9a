"""Rollouts: which target is to serve a name, how far the change is, and which changes are in force. `advance` is the one writer of phases.

Not responsible for deciding anything (`capacity.rollout`), nor for what gateways saw of the targets (`store.outcomes`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from lamplighter.config import ModelConfig
from lamplighter.core.errors import IllegalTransition, RequestError
from lamplighter.core.ids import new_id
from lamplighter.core.rollouts import REVISION_MARK, WHOLE, Because, Order, Phase, Strategy, base, legal
from lamplighter.store import leases
from lamplighter.store.bus import Topic
from lamplighter.store.sql import exclusive, upsert
from lamplighter.store.store import Store
from lamplighter.store.tables import (
    models,
    orders,
    rollout_events,
    rollout_first_tokens,
    rollout_outcomes,
    rollouts,
    switches,
    wakes,
)

KEPT = 20
"""Rollouts of one name whose history is kept."""
MOST_DETAIL = 500


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the answer check. `expect`: a regular expression that must be found in the answer."""

    prompt: str
    expect: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How a rollout goes. `steps`: shares of the candidate before all of it, in hundredths of a percent. Seconds.

    `every`: length of a step; `settle`: of the last one, with everything on the candidate, in which the stable target stays awake.
    `samples`: requests of a step below which nothing is compared. `max_errors`: share of failures that the candidate may have beyond the stable
    target's. `max_ttft_ratio`: times by which its first token may come later. `within`: the rollout as a whole.
    """

    strategy: Strategy = Strategy.CANARY
    steps: tuple[int, ...] = (500, 2500, 5000)
    every: float = 600.0
    settle: float = 600.0
    samples: int = 20
    max_errors: float = 0.02
    max_ttft_ratio: float = 1.5
    checks: tuple[Check, ...] = ()
    within: float = 86_400.0

    @property
    def weights(self) -> tuple[int, ...]:
        """The candidate's share at each step; everything at the last."""
        return (WHOLE,) if self.strategy is Strategy.BLUE_GREEN else (*self.steps, WHOLE)

    def lasts(self, step: int) -> float:
        """Seconds of a step."""
        return self.settle if step >= len(self.weights) - 1 else self.every


@dataclass(frozen=True, slots=True)
class Rollout:
    """One row. `step`: -1 before the first; `since`: when the phase (or its step) began; `resumes`: while paused, the phase before.

    `asked`: a person's order that the keeper has not followed yet. `basis`: what the configuration said of the model. Unix seconds.
    """

    id: str
    name: str
    stable: str
    candidate: str
    revision: str | None
    settings: Settings
    basis: Mapping[str, Any]
    phase: Phase
    step: int
    since: float
    resumes: Phase | None
    reason: Because | None
    detail: str | None
    asked: Order | None
    created_at: float
    ended_at: float | None

    @property
    def weight(self) -> int:
        """The candidate's share of the name's requests now, in hundredths of a percent. An order to roll back counts at once."""
        if self.asked is Order.ROLLBACK or self.phase is Phase.ROLLED_BACK:
            return 0
        if self.phase is Phase.PROMOTED:
            return WHOLE
        if self.phase in (Phase.SERVING, Phase.PAUSED) and self.step >= 0:
            return self.settings.weights[min(self.step, len(self.settings.weights) - 1)]
        return 0

    @property
    def last_step(self) -> bool:
        """Whether everything is on the candidate, and only time is left to pass."""
        return self.step >= len(self.settings.weights) - 1


@dataclass(frozen=True, slots=True)
class Switch:
    """A change in force: `target` serves `name`. `basis`: what the configuration said of the model when it came."""

    name: str
    target: str
    revision: str | None
    rollout_id: str
    basis: Mapping[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a rollout's history. `weight`: of the candidate from then on. `term`: the keeper's; None: a person did it."""

    at: float
    from_phase: Phase | None
    to_phase: Phase
    weight: int
    reason: Because | None
    detail: str | None
    term: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """Who serves a name: `stable`, and `candidate` for its share (`weight`), when a rollout is under way."""

    name: str
    stable: str
    candidate: str | None = None
    weight: int = 0
    rollout: str = ""
    step: int = -1


@dataclass(frozen=True, slots=True)
class Changes:
    """What is under way and in force, by name. `undone`: promoted ones that a person takes back, until the keeper has done it."""

    active: Mapping[str, Rollout] = field(default_factory=dict)
    switches: Mapping[str, Switch] = field(default_factory=dict)
    undone: Mapping[str, Rollout] = field(default_factory=dict)

    def routes(self) -> dict[str, Route]:
        """The names that are not simply served by the model of that name."""
        found = {name: Route(name, switch.target) for name, switch in self.switches.items()}
        found |= {name: Route(name, rollout.stable) for name, rollout in self.undone.items()}
        for name, one in self.active.items():
            found[name] = Route(name, one.stable, one.candidate, one.weight, one.id, one.step)
        return found

    def stable(self, name: str) -> str:
        """The target that serves `name`, a rollout aside."""
        switch = self.switches.get(name)
        return name if switch is None else switch.target

    @property
    def retired(self) -> frozenset[str]:
        """Models whose own name another target serves: nobody asks for them any more."""
        return frozenset(name for name, switch in self.switches.items() if switch.target != name)

    @property
    def candidates(self) -> frozenset[str]:
        """Targets that are tried."""
        return frozenset(one.candidate for one in self.active.values())


def basis_of(model: ModelConfig) -> dict[str, Any]:
    """What decides which weights a model has: when the file changes it, somebody meant to."""
    return {"engine": model.engine, "pool": model.pool, "source": model.source, "revision": model.revision}


# -- reading


async def changes(store: Store) -> Changes:
    """What is under way and in force."""
    open_ = or_(rollouts.c.ended_at.is_(None), rollouts.c.asked.is_not(None))
    async with store.read() as connection:
        rows = [_rollout(row) for row in await connection.execute(select(rollouts).where(open_))]
        found = list(await connection.execute(select(switches)))
    return Changes(
        active={one.name: one for one in rows if one.ended_at is None},
        switches={row.name: _switch(row) for row in found},
        undone={one.name: one for one in rows if one.ended_at is not None},
    )


async def latest(store: Store, name: str) -> Rollout | None:
    """The newest rollout of a name; None when there never was one."""
    found = await past(store, name=name, limit=1)
    return found[0] if found else None


async def past(store: Store, *, name: str | None = None, limit: int = KEPT) -> list[Rollout]:
    """The newest rollouts, of one name or of all, newest first; those under way too."""
    query = select(rollouts).order_by(rollouts.c.created_at.desc(), rollouts.c.id.desc()).limit(limit)
    if name is not None:
        query = query.where(rollouts.c.name == name)
    async with store.read() as connection:
        return [_rollout(row) for row in await connection.execute(query)]


async def history(store: Store, rollout_id: str) -> list[Event]:
    """What happened to a rollout, oldest first."""
    query = select(rollout_events).where(rollout_events.c.rollout_id == rollout_id).order_by(rollout_events.c.id)
    async with store.read() as connection:
        return [_event(row) for row in await connection.execute(query)]


# -- writing


async def begin(
    store: Store, *, name: str, candidate: str, revision: str | None, settings: Settings, basis: Mapping[str, Any]
) -> Rollout:
    """A rollout begins. Raises RequestError 409 when one is under way for the name, or the candidate serves it already."""
    now = store.clock.time()
    async with store.write() as connection:
        await exclusive(connection, f"rollouts {name}")
        under_way = and_(rollouts.c.name == name, rollouts.c.ended_at.is_(None))
        if await connection.scalar(select(rollouts.c.id).where(under_way)) is not None:
            raise RequestError(
                f"A change of {name!r} is under way.", status=409, code="switch_under_way",
                next_step=f"`lamplighter models switch {name} --status` shows it; --promote or --rollback ends it.",
            )  # fmt: skip
        stable = await connection.scalar(select(switches.c.target).where(switches.c.name == name)) or name
        if candidate == stable:
            raise RequestError(f"{candidate!r} serves {name!r} already.", status=409, code="already_serving")
        taken_back = and_(rollouts.c.name == name, rollouts.c.asked.is_not(None))
        if await connection.scalar(select(rollouts.c.id).where(taken_back)) is not None:
            raise RequestError(
                f"The last change of {name!r} is being taken back.", status=409, code="switch_under_way", next_step="Ask again in a moment.",
                retry_after=5,
            )  # fmt: skip
        await _keep_revision(connection, candidate, now)
        # As after an order to wake: an older order to sleep is forgotten, and so is the pause after a failed wake.
        await connection.execute(update(orders).where(orders.c.model == candidate).values(sleep_asked_at=None))
        failed = (wakes.c.model == candidate) & (wakes.c.outcome == "failed")
        await connection.execute(update(wakes).where(failed).values(retry_at=None))
        row = (
            await connection.execute(
                insert(rollouts)
                .values(
                    id=new_id("rol"), name=name, stable=stable, candidate=candidate, revision=revision, settings=asdict(settings),
                    basis=dict(basis), phase=Phase.WAKING.value, step=-1, since=now, created_at=now,
                )
                .returning(rollouts)
            )
        ).one()  # fmt: skip
        made = _rollout(row)
        await _note(connection, made, None, now, None)
    store.bus.publish(Topic.MODELS, name)
    return made


async def order(store: Store, rollout_id: str, what: Order) -> bool:
    """A person's order, for the keeper to follow; gateways follow one to roll back at once. False when the rollout does not take it."""
    async with store.write() as connection:
        row = (await connection.execute(select(rollouts).where(rollouts.c.id == rollout_id).with_for_update())).one_or_none()
        if row is None:
            return False
        found = _rollout(row)
        newest = await connection.scalar(
            select(rollouts.c.id).where(rollouts.c.name == found.name).order_by(rollouts.c.created_at.desc(), rollouts.c.id.desc()).limit(1)
        )  # fmt: skip
        takes_back = found.phase is Phase.PROMOTED and what is Order.ROLLBACK and newest == found.id
        if found.phase.ended and not takes_back:
            return False
        await connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(asked=what.value))
    store.bus.publish(Topic.MODELS, found.name)
    return True


async def advance(
    store: Store,
    rollout_id: str,
    to: Phase,
    *,
    term: int | None,
    step: int | None = None,
    reason: Because | None = None,
    detail: str | None = None,
) -> Rollout:
    """Write the next phase and its history, and what it means for the name: both, or nothing. Raises StaleTerm, IllegalTransition."""
    now = store.clock.time()
    async with store.write() as connection:
        if term is not None:
            await leases.check(connection, leases.KEEPER, term)
        row = (await connection.execute(select(rollouts).where(rollouts.c.id == rollout_id).with_for_update())).one()
        before = _rollout(row)
        if not legal(before.phase, to):
            raise IllegalTransition(f"the rollout {rollout_id} cannot go from {before.phase} to {to}")
        values = {
            "phase": to.value,
            "step": before.step if step is None else step,
            "since": now,
            "resumes": before.phase.value if to is Phase.PAUSED else None,
            "reason": reason.value if reason else None,
            "detail": detail[:MOST_DETAIL] if detail else None,
            "asked": None,
            "ended_at": (before.ended_at or now) if to.ended else None,
        }
        written = update(rollouts).where(rollouts.c.id == rollout_id).values(**values).returning(rollouts)
        after = _rollout((await connection.execute(written)).one())
        await _note(connection, after, before.phase, now, term)
        if to is Phase.PROMOTED:
            await _switch_to(connection, after, after.candidate, after.revision, now)
        elif before.phase is Phase.PROMOTED:
            await _switch_to(connection, after, after.stable, _revision(after.stable), now)
        if to.ended:
            await _tidy(connection, base(after.stable), base(after.candidate))
    store.bus.publish(Topic.MODELS, after.name)
    return after


async def dissolve(store: Store, switch: Switch, *, term: int) -> None:
    """A change in force ends: the model of that name serves it itself. Raises StaleTerm."""
    async with store.write() as connection:
        await leases.check(connection, leases.KEEPER, term)
        same = and_(switches.c.name == switch.name, switches.c.rollout_id == switch.rollout_id)
        await connection.execute(delete(switches).where(same))
        await _tidy(connection, base(switch.target))
    store.bus.publish(Topic.MODELS, switch.name)


async def sweep(store: Store) -> None:
    """Forget all but the newest rollouts of each name, with what was seen in them."""
    async with store.write() as connection:
        rows = await connection.execute(
            select(rollouts.c.id, rollouts.c.name, rollouts.c.ended_at).order_by(rollouts.c.created_at.desc(), rollouts.c.id.desc())
        )  # fmt: skip
        counts: dict[str, int] = {}
        old: list[str] = []
        for row in rows:
            counts[row.name] = counts.get(row.name, 0) + 1
            if counts[row.name] > KEPT and row.ended_at is not None:
                old.append(row.id)
        if old:
            for table in (rollout_events, rollout_outcomes, rollout_first_tokens):
                await connection.execute(delete(table).where(table.c.rollout_id.in_(old)))
            await connection.execute(delete(rollouts).where(rollouts.c.id.in_(old)))


async def _switch_to(connection: AsyncConnection, rollout: Rollout, target: str, revision: str | None, now: float) -> None:
    if target == rollout.name:  # the model serves its own name: nothing to remember
        await connection.execute(delete(switches).where(switches.c.name == rollout.name))
        return
    await _keep_revision(connection, target, now)
    values = {
        "target": target,
        "revision": revision,
        "rollout_id": rollout.id,
        "basis": dict(rollout.basis),
        "created_at": now,
    }
    await upsert(connection, switches, {"name": rollout.name}, values)


async def _keep_revision(connection: AsyncConnection, target: str, now: float) -> None:
    """A target that is a model at another revision is a model of the overlay: it must be there for providers like any other."""
    revision = _revision(target)
    if revision is not None:
        definition = {"revision_of": base(target), "revision": revision}
        await upsert(connection, models, {"name": target}, {"definition": definition, "created_at": now})


async def _tidy(connection: AsyncConnection, *bases: str) -> None:
    """Take revisions that nothing needs any more out of the overlay; what runs of them drains."""
    needed = set(await connection.scalars(select(switches.c.target)))
    for row in await connection.execute(select(rollouts.c.stable, rollouts.c.candidate).where(rollouts.c.ended_at.is_(None))):
        needed |= {row.stable, row.candidate}
    for name in list(await connection.scalars(select(models.c.name))):
        if REVISION_MARK in name and base(name) in bases and name not in needed:
            await connection.execute(delete(models).where(models.c.name == name))


async def _note(connection: AsyncConnection, after: Rollout, before: Phase | None, now: float, term: int | None) -> None:
    values = {
        "rollout_id": after.id, "at": now, "from_phase": before.value if before else None, "to_phase": after.phase.value,
        "weight": after.weight, "reason": after.reason.value if after.reason else None, "detail": after.detail, "term": term,
    }  # fmt: skip
    await connection.execute(insert(rollout_events).values(**values))


def _revision(target: str) -> str | None:
    return target.partition(REVISION_MARK)[2] or None


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        name=row.name,
        stable=row.stable,
        candidate=row.candidate,
        revision=row.revision,
        settings=settings_from(row.settings),
        basis=row.basis,
        phase=Phase(row.phase),
        step=row.step,
        since=row.since,
        resumes=Phase(row.resumes) if row.resumes else None,
        reason=Because(row.reason) if row.reason else None,
        detail=row.detail,
        asked=Order(row.asked) if row.asked else None,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def settings_from(stored: Mapping[str, Any]) -> Settings:
    """Settings as they were stored; what an older version did not know has its default, what a newer one knows is left out."""
    known: dict[str, Any] = {name: stored[name] for name in Settings.__dataclass_fields__ if name in stored}
    known["strategy"] = Strategy(known.get("strategy", Strategy.CANARY))
    known["steps"] = tuple(known.get("steps", ()))
    known["checks"] = tuple(Check(**one) for one in known.get("checks", ()))
    return Settings(**known)


def _switch(row: Row[Any]) -> Switch:
    return Switch(row.name, row.target, row.revision, row.rollout_id, row.basis, row.created_at)


def _event(row: Row[Any]) -> Event:
    return Event(
        at=row.at,
        from_phase=Phase(row.from_phase) if row.from_phase else None,
        to_phase=Phase(row.to_phase),
        weight=row.weight,
        reason=Because(row.reason) if row.reason else None,
        detail=row.detail,
        term=row.term,
    )

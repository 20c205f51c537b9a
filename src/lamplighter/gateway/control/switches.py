"""Routes: changing which model, or which revision of it, serves a name, without downtime.

They begin a rollout and pass orders on; the keeper does the rest. Beginning one is the second exception to the rule that only inference wakes a
model: an admin orders it, and it is bounded in time.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from lamplighter.config import ModelConfig
from lamplighter.core.errors import RequestError
from lamplighter.core.rollouts import REVISION_MARK, WHOLE, Order, Phase, Strategy, target_name
from lamplighter.gateway.control.access import Admin
from lamplighter.gateway.control.parts import Parts, parts_of
from lamplighter.gateway.control.status import most_replicas
from lamplighter.gateway.view import Snapshot
from lamplighter.store import outcomes, overlay, rollouts
from lamplighter.store.outcomes import Seen
from lamplighter.store.rollouts import Check, Rollout, Settings

router = APIRouter()
_Parts = Annotated[Parts, Depends(parts_of)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
_Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
_Percent = Annotated[float, Field(gt=0, lt=100, allow_inf_nan=False)]
_FOREIGN = frozenset({"static", "command"})
_LONGEST_NAME = 128
_VIEW_SECONDS = 2.0
_MOST_SHOWN = 100


class Question(BaseModel):
    """One question of the answer check. `expect`: a regular expression of Python that must be found in the answer."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=4000)]
    expect: Annotated[str, StringConstraints(min_length=1, max_length=500)]

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"it is no regular expression: {error}") from error
        return value


class NewSwitch(BaseModel):
    """What shall serve the name: another model (`to`), or the same at another revision of its repository (`revision`).

    `steps`: percent of the requests, growing; everything comes by itself at the end. `every`: seconds of a step; `settle`: of the last, in
    which the old target stays awake. `samples`: requests of a step below which nothing is compared. `max_errors`: share of failures that the
    candidate may have beyond the old target's; `max_ttft_ratio`: times by which its first token may come later. `checks`: default: three
    simple questions. `within`: seconds for all of it, then it is rolled back.
    """

    model_config = ConfigDict(extra="forbid")

    to: _Name | None = None
    revision: _Revision | None = None
    strategy: Strategy = Strategy.CANARY
    steps: Annotated[list[_Percent], Field(max_length=20)] = Field([5.0, 25.0, 50.0])
    every: float = Field(600.0, ge=1, le=86_400, allow_inf_nan=False)
    settle: float = Field(600.0, ge=1, le=86_400, allow_inf_nan=False)
    samples: int = Field(20, ge=1, le=100_000, strict=True)
    max_errors: float = Field(0.02, ge=0, le=1, allow_inf_nan=False)
    max_ttft_ratio: float = Field(1.5, ge=1, le=100, allow_inf_nan=False)
    checks: Annotated[list[Question], Field(max_length=20)] = Field([])
    within: float = Field(86_400.0, ge=10, le=7 * 86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if (self.to is None) == (self.revision is None):
            raise ValueError("give either to or revision")
        parts = [round(step * 100) for step in self.steps]
        if any(later <= earlier for earlier, later in zip([0, *parts], parts, strict=False)):
            raise ValueError("steps must grow, by at least a hundredth of a percent each")
        return self

    def settings(self) -> Settings:
        """For the store."""
        return Settings(
            strategy=self.strategy,
            steps=tuple(round(step * 100) for step in self.steps),
            every=self.every,
            settle=self.settle,
            samples=self.samples,
            max_errors=self.max_errors,
            max_ttft_ratio=self.max_ttft_ratio,
            checks=tuple(Check(one.prompt, one.expect) for one in self.checks),
            within=self.within,
        )


class SideStatus(BaseModel):
    """What gateways saw of a target in the current step. Seconds to the first token, waking aside; null when nothing was streamed."""

    requests: int
    failed: int
    ttft_p50: float | None
    ttft_p90: float | None


class RolloutEvent(BaseModel):
    """One move. `weight`: percent of the candidate from then on. `at`: Unix seconds."""

    at: float
    from_phase: Phase | None
    to_phase: Phase
    weight: float
    reason: str | None
    detail: str | None


class RolloutStatus(BaseModel):
    """A change. `weight`, `steps`: percent. `since`: when the phase or its step began; `passes_at`: when the step is over. Unix seconds."""

    id: str
    strategy: Strategy
    stable: str
    candidate: str
    revision: str | None
    phase: Phase
    step: int
    steps: list[float]
    weight: float
    since: float
    passes_at: float | None
    ends_by: float
    reason: str | None
    detail: str | None
    asked: Order | None
    created_at: float
    ended_at: float | None
    stable_seen: SideStatus
    candidate_seen: SideStatus
    events: list[RolloutEvent]


class SwitchStatus(BaseModel):
    """Who serves a name. `target`: all of it that no rollout has. `rollout`: the newest. `notes`: what to know before it ends."""

    name: str
    target: str
    revision: str | None
    since: float | None
    rollout: RolloutStatus | None
    notes: list[str]


class Switches(BaseModel):
    """The names whose serving was changed, or is being changed."""

    switches: list[SwitchStatus]


@router.get("/api/switches")
async def list_switches(_: Admin, parts: _Parts) -> Switches:
    """Every name whose serving was changed, or is being changed."""
    store = parts.services.store
    changes = await rollouts.changes(store)
    newest: dict[str, Rollout] = {}
    for one in await rollouts.past(store, limit=10 * _MOST_SHOWN):
        newest.setdefault(one.name, one)
    names = sorted({*changes.active, *changes.switches, *newest})[:_MOST_SHOWN]
    return Switches(switches=[await _status(parts, name, changes, newest.get(name)) for name in names])


@router.get("/api/models/{name:path}/switch")
async def show_switch(name: str, _: Admin, parts: _Parts) -> SwitchStatus:
    """Who serves a name, and how its newest change goes."""
    name, _model = _meant(parts.services.view.snapshot, name)
    return await _shown(parts, name)


@router.post("/api/models/{name:path}/switch", status_code=201)
async def begin_switch(name: str, new: NewSwitch, _: Admin, parts: _Parts) -> SwitchStatus:
    """Begin to change what serves a name: the candidate is woken, checked, and then sent requests."""
    services = parts.services
    name, model = _meant(services.view.snapshot, name)
    models = await overlay.effective(services.store, services.config)
    candidate, revision = _candidate(parts, name, model, models, new)
    changes = await rollouts.changes(services.store)
    _check_room(parts, changes.stable(name), candidate, models, revision)
    await rollouts.begin(
        services.store, name=name, candidate=candidate, revision=revision, settings=new.settings(), basis=rollouts.basis_of(model)
    )
    services.view.nudge()
    return await _shown(parts, name)


@router.post("/api/models/{name:path}/switch/{order}", status_code=202)
async def order_switch(name: str, order: Order, _: Admin, parts: _Parts) -> SwitchStatus:
    """Promote the candidate now, roll it back now, stop the clock, or let it go on."""
    services = parts.services
    name, _model = _meant(services.view.snapshot, name)
    newest = await rollouts.latest(services.store, name)
    if newest is None:
        raise _no_change(name)
    _check_order(newest, order)
    if not await rollouts.order(services.store, newest.id, order):
        raise _no_change(name)
    services.view.nudge()
    await _until(parts, name, newest, order)
    return await _shown(parts, name)


def _meant(snapshot: Snapshot, name: str) -> tuple[str, ModelConfig]:
    """The model behind a name or an alias. Raises RequestError 404, and 400 for a target that is itself a revision."""
    found = (
        name if name in snapshot.models else next((one for one, model in snapshot.models.items() if name in model.aliases), None)
    )
    if found is None:
        raise RequestError(
            f"There is no model {name!r}.",
            status=404,
            code="model_not_found",
            next_step="`lamplighter models list` shows them all.",
        )
    if REVISION_MARK in found:
        raise RequestError(
            f"{found!r} is a revision of {found.partition(REVISION_MARK)[0]!r}.", code="not_a_name", next_step="Change that name."
        )
    return found, snapshot.models[found]


def _candidate(
    parts: Parts, name: str, model: ModelConfig, models: Mapping[str, ModelConfig], new: NewSwitch
) -> tuple[str, str | None]:
    """The target that is asked for, and its revision. Raises RequestError, ConfigError."""
    if new.to is not None:
        if new.to not in models:
            raise RequestError(
                f"There is no model {new.to!r}.", status=404, code="model_not_found", param="to",
                next_step="Configure it first; `lamplighter models list` shows what there is.",
            )  # fmt: skip
        return new.to, None
    assert new.revision is not None  # noqa: S101 - one of the two is given
    if new.revision == model.revision:
        return name, None  # the configuration's own
    pool = parts.services.config.pools[model.pool]
    if pool.kind in _FOREIGN:
        raise RequestError(
            f"The server of the pool {model.pool!r} is somebody else's to start: its revision cannot be changed from here.",
            status=409, code="foreign_server", param="revision",
            next_step="Start a second server, configure it as a model of its own, and switch `to` that.",
        )  # fmt: skip
    candidate = target_name(name, new.revision)
    if len(candidate) > _LONGEST_NAME:
        raise RequestError(
            f"{candidate!r} is longer than {_LONGEST_NAME} characters.", param="revision", next_step="Use a commit or a tag."
        )
    overlay.of_revision(parts.services.config, models, candidate, {"revision_of": name, "revision": new.revision})
    return candidate, new.revision


def _check_room(parts: Parts, stable: str, candidate: str, models: Mapping[str, ModelConfig], revision: str | None) -> None:
    """Both must be able to be awake at the same time: else there is no change without downtime, and it is better said now."""
    if stable not in models:
        return  # the keeper says so
    pool_name = models[stable].pool
    other = models[candidate].pool if candidate in models else pool_name
    pool = parts.services.config.pools[pool_name]
    if other != pool_name or not pool.elastic or most_replicas(pool) > 1:
        return
    raise RequestError(
        f"The pool {pool_name!r} holds one replica: {stable!r} and {candidate!r} cannot be awake at the same time, so one would have to sleep first.",
        status=409,
        code="pool_too_small",
        param="to" if revision is None else "revision",
        next_step=f"Set pools.{pool_name}.max_replicas (max_loaded) to 2 or more, or put the other one into another pool. Where there is no room for "
        "both, change the configuration file and restart: running answers finish, and requests are held while the new one wakes.",
    )


def _check_order(rollout: Rollout, order: Order) -> None:
    """Whether the rollout takes the order as it is. Raises RequestError 409."""
    if rollout.phase.ended and not (rollout.phase is Phase.PROMOTED and order is Order.ROLLBACK):
        raise _no_change(rollout.name)
    why = None
    if order is Order.PROMOTE and rollout.step < 0:
        why = "its candidate has not passed the check yet"
    elif order is Order.PAUSE and rollout.phase is Phase.PAUSED:
        why = "it is paused already"
    elif order is Order.RESUME and rollout.phase is not Phase.PAUSED:
        why = "it is not paused"
    if why is not None:
        raise RequestError(
            f"The change of {rollout.name!r} cannot be told to {order}: {why}.", status=409, code="order_out_of_place",
            next_step=f"`lamplighter models switch {rollout.name} --status` shows where it stands.",
        )  # fmt: skip


def _no_change(name: str) -> RequestError:
    return RequestError(
        f"No change of {name!r} is under way.", status=409, code="no_switch",
        next_step=f"`lamplighter models switch {name} --to MODEL` (or --revision REVISION) begins one.",
    )  # fmt: skip


async def _until(parts: Parts, name: str, before: Rollout, order: Order) -> None:
    """Wait, but not for long, until the keeper has followed the order."""
    services = parts.services
    deadline = services.clock.monotonic() + _VIEW_SECONDS
    while services.clock.monotonic() < deadline:
        now = await rollouts.latest(services.store, name)
        if now is None or now.id != before.id or now.asked is not order:
            return
        await services.clock.sleep(0.05)


async def _shown(parts: Parts, name: str) -> SwitchStatus:
    store = parts.services.store
    return await _status(parts, name, await rollouts.changes(store), await rollouts.latest(store, name))


async def _status(parts: Parts, name: str, changes: rollouts.Changes, newest: Rollout | None) -> SwitchStatus:
    switch = changes.switches.get(name)
    route = changes.routes().get(name)
    return SwitchStatus(
        name=name,
        target=name if route is None else route.stable,
        revision=None if switch is None else switch.revision,
        since=None if switch is None else switch.created_at,
        rollout=None if newest is None else await _rollout(parts, newest),
        notes=_notes(parts, newest) if newest is not None and not newest.phase.ended else [],
    )


async def _rollout(parts: Parts, one: Rollout) -> RolloutStatus:
    store = parts.services.store
    seen = await outcomes.of(store, one.id)
    events = await rollouts.history(store, one.id)
    serving = one.phase is Phase.SERVING
    return RolloutStatus(
        id=one.id,
        strategy=one.settings.strategy,
        stable=one.stable,
        candidate=one.candidate,
        revision=one.revision,
        phase=one.phase,
        step=one.step,
        steps=[weight * 100 / WHOLE for weight in one.settings.weights],
        weight=one.weight * 100 / WHOLE,
        since=one.since,
        passes_at=one.since + one.settings.lasts(one.step) if serving else None,
        ends_by=one.created_at + one.settings.within,
        reason=one.reason and one.reason.value,
        detail=one.detail,
        asked=one.asked,
        created_at=one.created_at,
        ended_at=one.ended_at,
        stable_seen=_side(seen.get((one.step, "stable"), Seen())),
        candidate_seen=_side(seen.get((one.step, "candidate"), Seen())),
        events=[
            RolloutEvent(
                at=event.at,
                from_phase=event.from_phase,
                to_phase=event.to_phase,
                weight=event.weight * 100 / WHOLE,
                reason=event.reason and event.reason.value,
                detail=event.detail,
            )
            for event in events[-_MOST_SHOWN:]
        ],
    )


def _side(seen: Seen) -> SideStatus:
    timed = bool(seen.first_tokens)
    p50, p90 = (seen.quantile(share)[1] if timed else None for share in (0.5, 0.9))
    return SideStatus(requests=seen.requests, failed=seen.failed, ttft_p50=p50, ttft_p90=p90)


def _notes(parts: Parts, one: Rollout) -> list[str]:
    """What a person should know of a change before it ends."""
    snapshot, engines = parts.services.view.snapshot, parts.services.engines
    stable, candidate = snapshot.models.get(one.stable), snapshot.models.get(one.candidate)
    found = []
    if stable is not None and candidate is not None:
        able = [
            snapshot.capabilities(name, engines[model.engine])
            for name, model in ((one.stable, stable), (one.candidate, candidate))
            if model.engine in engines
        ]
        if len(able) == 2 and (missing := able[0] - able[1]):
            names = ", ".join(sorted(capability.value for capability in missing))
            found.append(
                f"{one.candidate} does not serve {names}: such requests stay with {one.stable}, and fail once it is promoted."
            )
        if (cost := snapshot.costs.get(candidate.pool)) is not None and cost.hourly:
            found.append(
                f"Both are awake for the whole of it: the pool {candidate.pool} costs {cost.hourly / 1e9:.4g} {cost.currency}/h more."
            )
    return found

"""The keeper of rollouts: gathers what is known of each, asks `rollout.decide`, runs the answer check, and writes what was decided.

Everything it remembers can be lost: after a restart it looks at the store again, and asks the check's questions again. Not responsible for waking
the candidate (`rollout_demand` makes the demand, the pools do it), nor for sending anybody anywhere (gateways do).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from lamplighter.capacity import answers
from lamplighter.capacity.policy import policy_of
from lamplighter.capacity.rollout import Checked, Decision, Observed, decide
from lamplighter.capacity.rollout_demand import crowd, place, wanted
from lamplighter.config import Config, ModelConfig
from lamplighter.core.clock import raise_if_cancelled
from lamplighter.core.errors import LamplighterError, StaleTerm
from lamplighter.core.reasons import VERDICTS, WakeFailure
from lamplighter.core.rollouts import Phase
from lamplighter.core.states import HOLDING, ReplicaState
from lamplighter.engines.base import Engine
from lamplighter.observability.metrics import Metrics
from lamplighter.store import demand, outcomes, overlay, replicas, rollouts, usage, wakes
from lamplighter.store.bus import Topic
from lamplighter.store.outcomes import BASELINE, Seen, Where
from lamplighter.store.replicas import Replica
from lamplighter.store.rollouts import Changes, Rollout, Switch
from lamplighter.store.store import Store
from lamplighter.store.wakes import Wake

_log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between looks while a rollout is under way."""
CALM = 10.0
"""The same while none is: a hint comes with each change."""
MUTE_TIMES, MUTE_PAUSE = 3, 3.0
"""How often a candidate that cannot be asked is asked again, and seconds in between."""
GAP = 0.1
"""Least seconds between two looks: a wake tells of itself many times a second."""
LAST_ATTEMPT = 3
"""After so many failed wakes in a row the candidate is given up, even where the keeper would go on trying."""
STATIC_PATIENCE = 60.0
"""Seconds in which a server that is always on must be found to answer."""
BASELINE_SPAN = 3600.0
BASELINE_MOST = 1000
"""Of the stable target's requests before the rollout: so long back, and so many at the most."""

Look = Callable[["answers.Asked", "answers.Asked | None", Sequence[rollouts.Check]], Awaitable[str | None]]


class Rollouts:
    """All rollouts during one term. `look`: asks the questions of the answer check."""

    def __init__(
        self,
        config: Config,
        store: Store,
        engines: Mapping[str, Engine],
        metrics: Metrics,
        term: int,
        *,
        look: Look | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = store.clock
        self._engines = engines
        self._metrics = metrics
        self._term = term
        self._look = look or answers.wrong
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._checked: dict[str, Checked] = {}
        self._mute: dict[str, int] = {}
        """By rollout: checks in a row that the candidate gave no answer to."""
        self._ready_at: dict[str, float] = {}
        """By rollout: when its candidate was seen ready last."""
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Look at them until cancelled. Raises StaleTerm when another keeper leads; no other failure ends it."""
        with self._store.bus.subscribe(Topic.MODELS, Topic.REPLICAS) as hints:
            try:
                while True:
                    pause = CALM
                    try:
                        if await self.step() or self._checks or self._ready_at:
                            pause = LOOK_EVERY
                    except StaleTerm:
                        raise
                    except Exception as error:  # noqa: BLE001 - a defect here must not end the pools' keepers; it is logged whole
                        raise_if_cancelled(error)
                        pause = LOOK_EVERY
                        if isinstance(error, LamplighterError):
                            _log.warning("the rollouts could not be looked at", error=error.message)
                        else:
                            _log.error("the rollouts could not be looked at", exc_info=error)
                    await hints.wait(pause)
                    await self._clock.sleep(GAP)
            finally:
                for task in self._checks.values():
                    task.cancel()

    async def step(self) -> bool:
        """One look at every rollout; whether any is under way. Raises StaleTerm, StoreError."""
        changes = await rollouts.changes(self._store)
        self._show(changes)
        if not (changes.active or changes.switches or changes.undone):
            self._ready_at.clear()
            return False
        models = await overlay.effective(self._store, self._config)
        rows = await replicas.living(self._store)
        latest = await wakes.latest(self._store) if changes.active else {}
        self._ready_at = {one: at for one, at in self._ready_at.items() if any(one == r.id for r in changes.active.values())}
        for rollout in [*changes.active.values(), *changes.undone.values()]:
            await self._follow(rollout, models, rows, latest)
        for switch in changes.switches.values():
            if switch.name not in changes.active:
                await self._follow_file(switch, models, rows)
        return bool(changes.active or changes.undone)

    # -- one rollout

    async def _follow(
        self, rollout: Rollout, models: Mapping[str, ModelConfig], rows: Sequence[Replica], latest: Mapping[tuple[str, str], Wake]
    ) -> None:
        """As far as what is known carries it."""
        for _ in range(len(Phase)):
            seen = await self._observe(rollout, models, rows, latest)
            decision = decide(rollout, seen, self._clock.time())
            if decision.check:
                self._ask(rollout, models, rows)
            if decision.phase is None:
                return
            rollout = await self._write(rollout, decision)
            if rollout.phase.ended:
                return

    async def _write(self, before: Rollout, decision: Decision) -> Rollout:
        assert decision.phase is not None  # noqa: S101 - only such are written
        after = await rollouts.advance(
            self._store,
            before.id,
            decision.phase,
            term=self._term,
            step=decision.step,
            reason=decision.reason,
            detail=decision.detail,
        )
        bad = after.phase is Phase.ROLLED_BACK and decision.reason is not None and decision.reason.value != "asked"
        (_log.warning if bad else _log.info)(
            "a model's change", model=after.name, candidate=after.candidate, phase=after.phase.value, weight=f"{after.weight / 100:g}%",
            reason=decision.reason and decision.reason.value, detail=decision.detail,
        )  # fmt: skip
        if after.phase.ended:
            self._metrics.rollouts.labels(after.name, after.phase.value, decision.reason.value if decision.reason else "").inc()
            self._checked.pop(after.id, None)
            self._mute.pop(after.id, None)
            if (task := self._checks.pop(after.id, None)) is not None:
                task.cancel()
        if after.phase is Phase.PROMOTED:
            await self._let_go(after.name, after.stable, after.candidate)
        elif before.phase is not Phase.PROMOTED and after.phase is Phase.ROLLED_BACK:
            await self._let_go(after.name, after.candidate, after.stable)
        return after

    async def _let_go(self, name: str, target: str, instead: str) -> None:
        """A target that nobody else can ask for goes to sleep now, and does not wait for its idle time. Others sleep as they always do."""
        model = self._config.models.get(target)
        if target == name != instead and model is not None and self._config.pools[model.pool].elastic:
            await demand.order_sleep(self._store, target)

    async def _observe(
        self, rollout: Rollout, models: Mapping[str, ModelConfig], rows: Sequence[Replica], latest: Mapping[tuple[str, str], Wake]
    ) -> Observed:
        model, candidate, stable = (models.get(one) for one in (rollout.name, rollout.candidate, rollout.stable))
        if rollout.phase.ended:
            return Observed()
        missing = next(
            (one for one, found in ((rollout.candidate, candidate), (rollout.stable, stable), (rollout.name, model)) if found is None), None
        )  # fmt: skip
        if missing is not None or candidate is None or stable is None or model is None:
            return Observed(gone=f"there is no model {missing!r} any more, or it does not fit the configuration")
        changed = None
        if rollouts.basis_of(model) != rollout.basis:
            changed = f"the configuration of {rollout.name!r} was changed meanwhile: it wins"
        pool = self._config.pools[candidate.pool]
        policy = policy_of(pool, self._config.keeper)
        here = [row for row in rows if row.pool == candidate.pool]
        ready, stable_ready = (len(_ready(rows, one)) for one in (rollout.candidate, rollout.stable))
        now = self._clock.time()
        if ready or rollout.id not in self._ready_at:
            self._ready_at[rollout.id] = now
        wishes = wanted(rollout, stable_ready)
        most, why = place(rollout, candidate.pool, stable.pool, here, policy)
        narrow = why if most < wishes else None
        seen = await self._seen(rollout)
        return Observed(
            ready=ready,
            wanted=max(1, min(wishes, most)),
            room=crowd(rollout.candidate, candidate.pool, here, policy) or narrow,
            unready_for=now - self._ready_at[rollout.id],
            hopeless=_hopeless(latest.get((candidate.pool, rollout.candidate)), rollout),
            patience=2 * policy.boot_deadline if policy.elastic else STATIC_PATIENCE,
            checked=self._checked.get(rollout.id),
            stable=_enough(seen, rollout),
            candidate=seen.get((rollout.step, "candidate"), Seen()),
            elsewhere=seen.get((rollout.step, "stable"), Seen()).requests,
            changed=changed,
        )

    async def _seen(self, rollout: Rollout) -> Mapping[tuple[int, outcomes.Side], Seen]:
        """What gateways saw; the stable target's last hour before is looked up once."""
        seen = await outcomes.of(self._store, rollout.id)
        if (BASELINE, "stable") not in seen:
            before = Seen()
            since = rollout.created_at - BASELINE_SPAN
            for one in await usage.samples(
                self._store, rollout.stable, since=since, until=rollout.created_at, limit=BASELINE_MOST
            ):
                before.note(failed=one.failed, first_token=one.first_token)
            await outcomes.add(self._store, {Where(rollout.id, BASELINE, "stable"): before})
            seen[BASELINE, "stable"] = before
        return seen

    # -- the answer check

    def _ask(self, rollout: Rollout, models: Mapping[str, ModelConfig], rows: Sequence[Replica]) -> None:
        """Begin the check unless it is under way."""
        running = self._checks.get(rollout.id)
        if running is not None and not running.done():
            return
        candidate, stable = (self._asked(one, models, rows) for one in (rollout.candidate, rollout.stable))
        if candidate is not None:
            self._checks[rollout.id] = asyncio.create_task(self._check(rollout, candidate, stable), name=f"check-{rollout.id}")

    async def _check(self, rollout: Rollout, candidate: "answers.Asked", stable: "answers.Asked | None") -> None:
        began = self._clock.time()
        try:
            wrong = await self._look(candidate, stable, rollout.settings.checks)
        except answers.NoAnswer as error:
            # Its replica may have died a moment ago, so that the next look finds no candidate: only one that stays mute is to blame.
            mute = self._mute[rollout.id] = self._mute.get(rollout.id, 0) + 1
            if mute < MUTE_TIMES:
                await self._clock.sleep(MUTE_PAUSE)
                self._over(rollout)
                return
            wrong = str(error)
        except Exception as error:  # noqa: BLE001 - a defect of the check says nothing of the candidate, and must not promote it either
            raise_if_cancelled(error)
            _log.error("the answer check could not be made", model=rollout.name, exc_info=error)
            wrong = f"the answer check could not be made ({type(error).__name__})"
        self._mute.pop(rollout.id, None)
        self._checked[rollout.id] = Checked(began, wrong is None, wrong)
        self._over(rollout)

    def _over(self, rollout: Rollout) -> None:
        """The check has been made: look at once."""
        self._checks.pop(rollout.id, None)
        self._store.bus.publish(Topic.MODELS, rollout.name)

    def _asked(self, name: str, models: Mapping[str, ModelConfig], rows: Sequence[Replica]) -> "answers.Asked | None":
        config = models.get(name)
        engine = self._engines.get(config.engine) if config is not None else None
        row = next(iter(_ready(rows, name)), None)
        if config is None or engine is None or row is None or row.endpoint is None:
            return None
        return answers.Asked(name, config, engine, row.endpoint, row.capabilities)

    # -- what is in force

    async def _follow_file(self, switch: Switch, models: Mapping[str, ModelConfig], rows: Sequence[Replica]) -> None:
        """A change in force ends when the file says the same, and, loudly, when it says something else."""
        model = models.get(switch.name)
        if model is None or switch.target not in models:
            why = (
                f"there is no {switch.name if model is None else switch.target!r} any more, or it does not fit the configuration"
            )
        else:
            basis = rollouts.basis_of(model)
            if basis == switch.basis:
                return
            if basis == {**switch.basis, "revision": switch.revision}:
                if not any(switch.target in row.models and row.state in HOLDING for row in rows):
                    _log.info("a model's change is in the configuration file now", model=switch.name, target=switch.target)
                    await rollouts.dissolve(self._store, switch, term=self._term)
                return
            why = "the configuration file was changed: it wins"
        _log.warning("a model's change is over", model=switch.name, target=switch.target, reason=why)
        await rollouts.dissolve(self._store, switch, term=self._term)

    def _show(self, changes: Changes) -> None:
        weights: dict[tuple[str, ...], float] = {}
        phases: dict[tuple[str, ...], float] = {}
        for route in changes.routes().values():
            weights[route.name, route.stable] = 1 - route.weight / 10_000
            if route.candidate is not None:
                weights[route.name, route.candidate] = route.weight / 10_000
        for rollout in changes.active.values():
            phases[rollout.name, rollout.candidate, rollout.phase.value] = 1.0
        self._metrics.rollout_weight.replace(weights)
        self._metrics.rollout_phase.replace(phases)


def _ready(rows: Sequence[Replica], model: str) -> list[Replica]:
    return [row for row in rows if model in row.models and row.state is ReplicaState.READY]


def _hopeless(wake: Wake | None, rollout: Rollout) -> str | None:
    """Why a candidate will not wake; None while there is hope."""
    if wake is None or wake.outcome != "failed" or wake.started_at < rollout.created_at:
        return None
    verdict = VERDICTS[wake.reason or WakeFailure.PROVIDER_ERROR]
    if verdict.retry and wake.attempt < LAST_ATTEMPT:
        return None
    return f"{verdict.message} {wake.detail or ''}".strip()


def _enough(seen: Mapping[tuple[int, outcomes.Side], Seen], rollout: Rollout) -> Seen:
    """What the candidate is compared with: the stable target in the same step, or all that is known of it when that is not enough."""
    now = seen.get((rollout.step, "stable"), Seen())
    if now.requests >= rollout.settings.samples and now.first_tokens.total() >= rollout.settings.samples:
        return now
    every = Seen(first_tokens=Counter())
    for (_, side), one in seen.items():
        if side == "stable":
            every.add(one)
    return every

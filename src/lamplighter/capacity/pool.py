"""One round of keeping one pool: observe, probe, conclude, decide, act.

Not responsible for when a round is due (`loop`), for leading (`keeper`), nor for the decisions themselves (`reconcile` and `plan`, both pure).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import structlog

from lamplighter.capacity.gauges import Gauges
from lamplighter.capacity.hours import Hours
from lamplighter.capacity.pace import Pace
from lamplighter.capacity.plan import STAYING, Action, Kind, PoolView, ReplicaView, needed, plan
from lamplighter.capacity.policy import policy_of
from lamplighter.capacity.prober import Prober
from lamplighter.capacity.purse import Purse
from lamplighter.capacity.reconcile import bind, current_stage, transition
from lamplighter.capacity.rollout_demand import kept
from lamplighter.capacity.wakebook import Wakebook
from lamplighter.config import AwsPool, Config, KubernetesPool, ModelConfig
from lamplighter.core.clock import within
from lamplighter.core.endpoint import Endpoint
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import LossReason, Reason, StopReason, WakeFailure
from lamplighter.core.states import HOLDING, WAKING, ReplicaState
from lamplighter.engines.base import Engine, Probe
from lamplighter.observability.metrics import Metrics
from lamplighter.providers.base import Desired, Observation, Provider
from lamplighter.store import demand as demand_store
from lamplighter.store import overlay, replicas, rollouts, wakes
from lamplighter.store.demand import GATEWAY_TTL, Demand
from lamplighter.store.replicas import Replica
from lamplighter.store.store import Store
from lamplighter.store.wakes import Wake

_log = structlog.get_logger(__name__)
S = ReplicaState

CALL_LIMIT = 20.0
"""Seconds after which a provider's call is abandoned: the contract says that it returns at once."""
ENDING_PAUSE = 0.05
"""Seconds between looks while everything ends."""
_DOOMED = frozenset({S.FAILED, S.STOPPING, S.LOST})


class _News(TypedDict, total=False):
    """Columns of a replica's row that an observation changes."""

    handle: str
    endpoint: Endpoint
    stage: str
    models: tuple[str, ...]


@dataclass(slots=True)
class _Fallen:
    """Replicas that failed or were lost in one round. `unsteady`: those that had been ready, but only just."""

    before_ready: list[Replica] = field(default_factory=list)
    unsteady: list[Replica] = field(default_factory=list)


class PoolKeeper:
    """The keeper of the pool `name` during one term. Everything it remembers can be lost: the store and the provider know the rest."""

    def __init__(
        self,
        name: str,
        config: Config,
        store: Store,
        provider: Provider,
        engines: Mapping[str, Engine],
        metrics: Metrics,
        term: int,
    ) -> None:
        self.name = name
        self.models: Mapping[str, ModelConfig] = {}
        """Those of this pool, as of the last round."""
        self.rows: list[Replica] = []
        """What is not gone, as of the last round."""
        self.due_at = float("inf")
        """Unix seconds of the next decision that only time brings: a failed wake is tried again, an idle model sleeps."""
        self.policy = policy_of(config.pools[name], config.keeper)
        self._config = config
        self._store = store
        self._clock = store.clock
        self._provider = provider
        self._gauges = Gauges(name, metrics)
        self._term = term
        self._prober = Prober(engines, config.keeper, store.clock)
        self._wakebook = Wakebook(store, name, provider.stages, term, config.keeper, metrics)
        self._purse = Purse(store, name, config.pools[name], provider, term, self._usual_boot, metrics)
        self._built: dict[str, Mapping[str, object]] = {}
        self._paces: dict[str, Pace] = {}
        self._hours = Hours(config, self._wakebook.lead, store.clock)
        self._halted: set[str] = set()
        """Wakes in which a replica failed while others went on: nothing more joins them."""
        self._left: set[str] = set()
        self._leaving: set[str] = set()
        """Replicas that the provider may take back."""
        self._retired: frozenset[str] = frozenset()
        """Models whose name another target serves: a pool's minimum goes to the others first."""
        self._log = _log.bind(pool=name)

    # --- one round ----------------------------------------------------------------------------------------------------------------------

    async def step(self, urgent: Collection[str] = ()) -> bool:
        """One round; whether it changed anything. `urgent`: replicas to probe at once.

        Raises StaleTerm, StoreError, ProviderError, or TimeoutError when the provider does not return.
        """
        began = self._clock.monotonic()
        await self._load_models()
        observations = await within(self._clock, self._provider.observe(), CALL_LIMIT)
        rows = await replicas.living(self._store, pool=self.name)
        rows, seen = await self._bind(rows, observations)
        probes = await self._prober.round(rows, seen, self.models, urgent)
        rows, fallen, changed = await self._conclude(rows, seen, probes)
        self._leaving = {replica for replica, observation in seen.items() if observation.notice is not None}
        await self._purse.follow(rows, seen)
        under_way = await self._under_way()
        going = await self._wakebook.follow(under_way, rows, seen, fallen.before_ready)
        for row in fallen.unsteady:
            await self._wakebook.unsteady(row)
        self._halted = {wake.id for wake in under_way} & (self._halted | {row.wake_id or "" for row in fallen.before_ready})
        acted = await self._decide(rows, {wake.model: wake for wake in under_way if wake.model in going})
        changed |= acted
        self.rows = await replicas.living(self._store, pool=self.name) if acted else rows
        self._built = {row.id: self._built[row.id] for row in self.rows if row.id in self._built}
        changed |= await self._apply(seen)
        await self._purse.publish()
        self._gauges.measure(self.rows, self._prober.last, self._clock.monotonic() - began)
        return changed

    async def glance(self) -> bool:
        """Whether a round would find something new about the rows of the last one. Reads and writes nothing in the store.

        What lets a wake be followed closely at no cost: within a term nobody else writes these rows.
        """
        observations = await within(self._clock, self._provider.observe(), CALL_LIMIT)
        binding = bind(self.rows, observations)
        if binding.bound or any(stranger.handle not in self._left for stranger in binding.strangers):
            return True
        probes = await self._prober.round(self.rows, binding.seen, self.models)
        for row in self.rows:
            seen, probe = binding.seen.get(row.id), probes.get(row.id)
            if seen is not None and (self._news(row, seen) or (seen.notice is not None) is not (row.id in self._leaving)):
                return True
            if transition(row, seen, probe, self.policy, self._clock.time(), misses=self.misses(row)) is not None:
                return True
        return False

    def misses(self, row: Replica) -> int:
        """Health checks in a row that did not find it ready."""
        return self._prober.misses.get(row.id, 0)

    async def _under_way(self) -> list[Wake]:
        return await wakes.under_way(self._store, pool=self.name)

    async def _load_models(self) -> None:
        """The models of this pool. What failed with other settings may be tried again at once."""
        models = {
            name: model for name, model in (await overlay.effective(self._store, self._config)).items() if model.pool == self.name
        }
        altered = [name for name in models if self.models.get(name) != models[name]]
        if altered:
            await wakes.forgive(self._store, altered)
        self.models = models

    async def _bind(
        self, rows: Sequence[Replica], observations: Sequence[Observation]
    ) -> tuple[list[Replica], dict[str, Observation]]:
        """Match rows and observations, adopt what is ours and unknown, and write what was learned."""
        binding = bind(rows, observations)
        found, seen = list(rows), dict(binding.seen)
        for observation in binding.strangers:
            row = await self._adopt(observation)
            if row is not None:
                found.append(row)
                seen[row.id] = observation
        learned = False
        for row in found:
            if row.id in seen:
                learned |= await self._learn(row, seen[row.id])
        return (await replicas.living(self._store, pool=self.name) if learned else found), seen

    async def _adopt(self, observation: Observation) -> Replica | None:
        """A row for a replica of ours that the store does not know: a crash of ours, or a store that was lost."""
        models = tuple(self.models) if not self.policy.elastic else observation.models
        if not models:
            return None
        known = any(model in self.models for model in models)
        if not known and not await replicas.remembers(self._store):
            # Nothing is ended on the word of a store that knows nothing: it may be new, or restored.
            if observation.handle not in self._left:
                self._left.add(observation.handle)
                self._log.warning(
                    "a replica of ours is left alone: no model owns it, and the store is empty", handle=observation.handle
                )
            return None
        self._log.info("adopted", handle=observation.handle, models=list(models), owned=known)
        return await replicas.launch(self._store, pool=self.name, models=models, term=self._term, handle=observation.handle)

    async def _learn(self, row: Replica, observation: Observation) -> bool:
        """Write what the observation adds to the row; whether there was anything."""
        news = self._news(row, observation)
        if news:
            await replicas.describe(self._store, row.id, term=self._term, **news)
        return bool(news)

    def _news(self, row: Replica, observation: Observation) -> _News:
        """What the observation adds to the row."""
        news: _News = {}
        if row.handle != observation.handle:
            news["handle"] = observation.handle
        if observation.endpoint is not None and row.endpoint != observation.endpoint:
            news["endpoint"] = observation.endpoint
        stage = current_stage(observation)
        if row.state in WAKING and stage is not None and row.stage != stage:
            news["stage"] = stage
        models = tuple(self.models)
        if not self.policy.elastic and models and row.models != models:
            news["models"] = models
        return news

    async def _conclude(
        self, rows: Sequence[Replica], seen: Mapping[str, Observation], probes: Mapping[str, Probe]
    ) -> tuple[list[Replica], "_Fallen", bool]:
        """Advance every replica as far as what is known carries it. The rows not gone, those that fell, and whether anything changed."""
        alive: list[Replica] = []
        fallen = _Fallen()
        changed = False
        for row in rows:
            probe = probes.get(row.id)
            if probe is not None:
                await self._told(row, probe)
            current = row
            while (
                change := transition(current, seen.get(row.id), probe, self.policy, self._clock.time(), misses=self.misses(row))
            ) is not None:
                before, changed = current, True
                current = await replicas.advance(
                    self._store, row.id, change.state, term=self._term, reason=change.reason, detail=change.detail
                )
                self._log.info(
                    "replica",
                    id=row.id,
                    state=change.state.value,
                    reason=change.reason and change.reason.value,
                    detail=change.detail,
                )
                if change.state in (S.FAILED, S.LOST) and before.state in WAKING and before.ready_at is None:
                    fallen.before_ready.append(current)
                elif change.state in (S.FAILED, S.LOST) and self._unsteady(before, change.reason):
                    fallen.unsteady.append(current)
            if current.state is not S.GONE:
                alive.append(current)
        return alive, fallen, changed

    async def _told(self, row: Replica, probe: Probe) -> None:
        """Write what an engine tells of itself, when it is new. What it tells of its routes is about one model: the one that was asked about."""
        routes = sorted(probe.capabilities) if probe.capabilities is not None and len(row.models) == 1 else None
        if (probe.context not in (None, row.context)) or (routes is not None and tuple(routes) != row.capabilities):
            await replicas.describe(self._store, row.id, term=self._term, context=probe.context, capabilities=routes)

    def _unsteady(self, row: Replica, reason: Reason | None) -> bool:
        """Whether what was ready fell so soon that its wake counts as failed. What the provider took back is no fault of the model's."""
        lasted = self._clock.time() - row.ready_at if row.ready_at is not None else float("inf")
        return self.policy.elastic and reason is not LossReason.SPOT_RECLAIMED and lasted < self._config.keeper.steady_after

    async def _decide(self, rows: Sequence[Replica], waking: Mapping[str, Wake]) -> bool:
        """Ask `plan` and write its decisions; whether there were any. `waking`: by model, the wake under way."""
        demand = await self._anticipated(await demand_store.totals(self._store), rows)
        latest = {model: wake for (_, model), wake in (await wakes.latest(self._store, pool=self.name)).items()}
        if not self.policy.elastic:
            await self._tell_unreachable(rows, demand, latest)
            return False
        view = await self._view(rows, demand, latest, waking)
        actions = plan(view, demand, self.policy, self._clock.time())
        joined = dict(waking)  # more of what is waking already is part of the same wake
        refused = await self._refuse_unpaid(actions, rows)
        for action in actions:
            if action.kind is not Kind.LAUNCH or action.model not in refused:
                await self._act(action, latest, joined)
        for model, more in Counter(action.model for action in actions if action.kind is Kind.LAUNCH).items():
            if model in refused:
                continue
            present = sum(row.models == (model,) and row.state in STAYING for row in rows)
            self._paces[model] = self._paces[model].launched(present + more, self._clock.time())
        return bool(actions)

    async def _anticipated(self, demand: dict[str, Demand], rows: Sequence[Replica]) -> dict[str, Demand]:
        """`demand` with what hours and changes of models add to it. What another target replaces, or only tries, is kept warm by no hours."""
        changes = await rollouts.changes(self._store)
        self._retired = changes.retired
        warm = {name: model for name, model in self.models.items() if name not in changes.retired | changes.candidates}
        demand = await self._hours.anticipated(demand, warm)
        if not changes.active:
            return demand
        everywhere = await replicas.living(self._store)
        return kept(demand, changes, self.models, rows, everywhere, self.policy, self._clock.time())

    async def _refuse_unpaid(self, actions: Sequence[Action], rows: Sequence[Replica]) -> set[str]:
        """The models that may launch nothing now, because the budget cannot pay it; whoever waits for one is told."""
        refused = set[str]()
        coming = sum(row.state is S.LAUNCHING for row in rows)
        for action in actions:
            if action.kind is not Kind.LAUNCH or action.model in refused:
                continue
            why = await self._purse.refusal(coming)
            if why is None:
                coming += 1
                continue
            refused.add(action.model)
            self._log.warning("a wake cannot be paid", model=action.model, why=why)
            await self._wakebook.record(action.model, WakeFailure.BUDGET, why)
        return refused

    async def _usual_boot(self) -> float:
        """Seconds that a wake in this pool takes, by what was seen of its models; 0 when none ever woke."""
        return max([await self._wakebook.usual(model) for model in self.models], default=0.0)

    async def _view(
        self, rows: Sequence[Replica], demand: Mapping[str, Demand], latest: Mapping[str, Wake], waking: Mapping[str, Wake]
    ) -> PoolView:
        now = self._clock.time()
        blocked = {
            model: wake.retry_at for model, wake in latest.items() if wake.outcome == "failed" and wake.retry_at is not None
        }
        for model in self.models:
            count = max(needed(demand.get(model), self.policy, now), self.policy.min_replicas)
            present = sum(row.models == (model,) and row.state in HOLDING for row in rows)
            pace = self._paces.get(model) or Pace.begin(present, now, self.policy)
            self._paces[model] = pace.note(count, now, self.policy)
        dates = [*self._dates(rows, demand, blocked), await self._purse.runs_out_at()]
        self.due_at = min((at for at in dates if at is not None and at > now), default=float("inf"))
        return PoolView(
            models=tuple(sorted(self.models, key=lambda name: name in self._retired)),
            replicas=tuple([await self._replica_view(row, demand) for row in rows]),
            blocked_until=blocked,
            waking=frozenset(waking),
            halted=frozenset(model for model, wake in waking.items() if wake.id in self._halted),
            floors={model: pace.high.most for model, pace in self._paces.items()},
            ceilings={model: pace.low.least for model, pace in self._paces.items()},
            broke=await self._purse.spent_out(),
        )

    def _dates(self, rows: Sequence[Replica], demand: Mapping[str, Demand], blocked: Mapping[str, float]) -> Iterator[float]:
        """When a pause ends that somebody waits for, when hours begin, when more may be launched, and when what is ready goes to sleep."""
        now = self._clock.time()
        yield from (at for model, at in blocked.items() if needed(demand.get(model), self.policy, now))
        yield from self._hours.dates(self.models)
        for pace in self._paces.values():
            rises = pace.low.rises_at(self.policy.scale_up_after)
            if rises is not None:
                yield rises
        for row in rows:
            if row.state is S.READY and row.models:
                at = (demand.get(row.models[0]) or Demand(row.models[0])).sleeps_at(row.ready_at, self.policy.sleep_after)
                if at is not None:
                    yield at

    async def _replica_view(self, row: Replica, demand: Mapping[str, Demand]) -> ReplicaView:
        model = row.models[0] if row.models else ""
        config = self.models.get(model)
        settings = _settings(config) if config is not None else {}
        built = self._built.setdefault(row.id, settings)
        return ReplicaView(
            id=row.id,
            model=model,
            state=row.state,
            since=row.since,
            created_at=row.created_at,
            ready_at=row.ready_at,
            reason=row.reason,
            owned=config is not None and built == settings,
            drained=row.state is S.DRAINING and await replicas.drained(self._store, row, gateway_ttl=GATEWAY_TTL),
            load=demand[model].loads.get(row.id, 0) if model in demand else 0,
            leaving=row.state is S.READY and row.id in self._leaving,
        )

    async def _act(self, action: Action, latest: Mapping[str, Wake], joined: dict[str, Wake]) -> None:
        self._log.info(
            "decided", action=action.kind.name.lower(), model=action.model, reason=action.reason and action.reason.value
        )
        if action.kind is Kind.LAUNCH:
            if action.model not in joined:
                joined[action.model] = await self._wakebook.begin(action.model, latest.get(action.model))
            row = await replicas.launch(
                self._store, pool=self.name, models=(action.model,), term=self._term, wake_id=joined[action.model].id
            )
            self._built[row.id] = _settings(self.models[action.model])
            return
        to = {Kind.DRAIN: S.DRAINING, Kind.UNDRAIN: S.READY, Kind.STOP: S.STOPPING}[action.kind]
        await replicas.advance(self._store, action.replica, to, term=self._term, reason=action.reason)

    async def _apply(self, seen: Mapping[str, Observation]) -> bool:
        """Ask the provider for what the rows say, if there is anything to launch or to end."""
        launching = [row for row in self.rows if row.state is S.LAUNCHING and row.handle is None]
        doomed = {row.handle for row in self.rows if row.state in _DOOMED and row.handle is not None and row.id in seen}
        if not self.policy.elastic or not (launching or doomed):
            return False
        staying = (row for row in self.rows if row.state in HOLDING - _DOOMED)
        desired = Counter(model for row in staying for model in row.models if model in self.models)
        try:
            await within(self._clock, self._provider.scale(Desired(dict(desired)), frozenset(doomed)), CALL_LIMIT)
        except ProviderError as error:
            for row in launching:  # nothing of theirs exists: the wake has failed, and says why
                await replicas.advance(self._store, row.id, S.FAILED, term=self._term, reason=error.reason, detail=error.advice)
            self._log.warning("the provider refused", error=error.message)
            return bool(launching)
        return bool(launching)

    # --- telling those who wait ---------------------------------------------------------------------------------------------------------

    async def _tell_unreachable(self, rows: Sequence[Replica], demand: Mapping[str, Demand], latest: Mapping[str, Wake]) -> None:
        """Always-on capacity that does not answer: whoever asks is told, by a failed wake that counts the health checks in a row."""
        for row in rows:
            misses = self.misses(row)
            if row.state is S.READY or misses < self.policy.unreachable_after:
                continue
            probe = self._prober.last.get(row.id)
            reason = (probe.reason if probe else None) or WakeFailure.UNREACHABLE
            for model in row.models:
                if model in self.models and self._may_be_told(demand.get(model), latest.get(model)):
                    await self._wakebook.record(model, reason, probe.detail if probe else None, attempt=misses)

    async def refuse(self, reason: WakeFailure, detail: str) -> None:
        """The provider cannot even be observed: whoever waits for a model of this pool that is not ready is told. Raises StoreError."""
        demand = await demand_store.totals(self._store)
        latest = await wakes.latest(self._store, pool=self.name)
        rows = await replicas.living(self._store, pool=self.name)
        served = {model for row in rows if row.state in HOLDING - _DOOMED for model in row.models}
        for model in self.models.keys() - (served if self.policy.elastic else set()):
            if self._may_be_told(demand.get(model), latest.get((self.name, model))):
                await self._wakebook.record(model, reason, detail)

    def _may_be_told(self, demand: Demand | None, latest: Wake | None) -> bool:
        """Whether somebody asks, and the last failure's pause is over."""
        now = self._clock.time()
        if not needed(demand, self.policy, now):
            return False
        return latest is None or latest.outcome != "failed" or latest.retry_at is None or latest.retry_at <= now

    # --- the end ------------------------------------------------------------------------------------------------------------------------

    async def end(self, limit: float) -> bool:
        """End every replica of this pool, without waiting for what runs on it; True when all were gone within `limit` seconds."""
        config = self._config.pools[self.name]
        if not self.policy.elastic:
            return True
        if isinstance(config, AwsPool) and config.at_exit == "keep":
            if self.rows:
                self._log.warning("nodes are left to their lease", nodes=len(self.rows), they_end_within=str(config.lease))
            return True
        if isinstance(config, KubernetesPool) and config.kept_at_exit:
            if self.rows:
                self._log.info("pods are left to the next keeper", pods=len(self.rows))
            return True
        until = self._clock.monotonic() + limit
        while True:
            observations = await within(self._clock, self._provider.observe(), CALL_LIMIT)
            rows, seen = await self._bind(await replicas.living(self._store, pool=self.name), observations)
            for row in rows:
                await self._end(row)
            self.rows = await replicas.living(self._store, pool=self.name)
            rows, _, _ = await self._conclude(self.rows, seen, {})
            self.rows = rows
            if not rows:
                break
            if self._clock.monotonic() >= until:
                self._log.warning("replicas are still ending; their leases end them", count=len(rows))
                return False
            await self._apply(seen)
            await self._clock.sleep(ENDING_PAUSE)
        await self._wakebook.follow(await self._under_way(), [], {}, [])
        self._gauges.measure(self.rows, {}, 0.0)
        return True

    async def _end(self, row: Replica) -> None:
        if row.state is S.READY:
            await replicas.advance(self._store, row.id, S.DRAINING, term=self._term, reason=StopReason.SHUTDOWN)
        if row.state not in (S.STOPPING, S.GONE):
            await replicas.advance(self._store, row.id, S.STOPPING, term=self._term, reason=StopReason.SHUTDOWN)


_RUNS_ON = frozenset(
    {
        "engine",
        "source",
        "revision",
        "context",
        "slots",
        "threads",
        "embeddings",
        "gpu_layers",
        "program",
        "arguments",
        "environment",
        "image",
    }
)


def _settings(model: ModelConfig) -> Mapping[str, object]:
    """What a running replica depends on: a change of any of these asks for a new one."""
    return model.model_dump(include=set(_RUNS_ON))

"""Decides about each request: what its key and model may, what is reserved for it, and what it used in the end.

In one process everything is counted in memory and decided at once. With a Redis, requests that something limits are decided there; while it
is gone this gateway goes on by itself: its share of what can be divided, and days and months from the store, which it reads again and again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Literal

import structlog

from lamplighter.config import Config, ModelConfig
from lamplighter.config.secrets import resolve
from lamplighter.core.clock import Clock
from lamplighter.core.errors import RequestError, StoreError
from lamplighter.core.ids import new_id
from lamplighter.gateway.admission.base import Grant
from lamplighter.gateway.admission.bodies import Bodies
from lamplighter.gateway.admission.counters import Account, Calendar, Counts, Demand, Reading, Used
from lamplighter.gateway.admission.grants import Granted, Unlimited
from lamplighter.gateway.admission.plans import Plan, Plans
from lamplighter.gateway.admission.rules import Refused, Rules, share
from lamplighter.gateway.admission.shared import LEASE, Gone, Held, Missing, Shared
from lamplighter.gateway.admission.spending import Spending
from lamplighter.gateway.admission.words import forbidden, gateway_full, left, limit_reached
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.background import forever
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage
from lamplighter.observability.metrics import Metrics
from lamplighter.store import spend
from lamplighter.store.store import Store

RENEW_SECONDS = LEASE / 3
RELOAD_SECONDS = 10.0
"""How often what other gateways used is read from the store."""
PROBE_SECONDS = 1.0
"""How often a Redis that is gone is asked whether it is back."""
_SEEDINGS = 3

_log = structlog.get_logger(__name__)


class Gate:
    """`base.Admission` with limits. Between `start` and `stop` it follows the store and Redis. `bodies`: memory for requests' bodies."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        *,
        model_of: Callable[[str], tuple[str, ModelConfig] | None],
    ) -> None:
        """`model_of`: a model's own name and settings, by any name under which it is offered."""
        self._config = config
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._model_of = model_of
        self._calendar = Calendar(clock)
        self.spending = Spending(store, clock, self._calendar)
        self.plans = Plans(config, self.spending, self._config_of)
        self.bodies = Bodies(config.gateway.max_body_memory)
        self._most = config.gateway.max_parallel
        self.outstanding = 0
        self._refusals = metrics.refusals
        self._shared: Shared | None = None
        self._up = False
        self._joining = False
        self._gateways = 1
        self._id = new_id("adm")
        self._serial = 0
        self._held: dict[str, Held] = {}
        self._over: list[tuple[Held, int, int]] = []
        self._work = asyncio.Event()
        self._active: dict[int, Plan] = {}
        self._reloading = asyncio.Lock()
        self._reloaded_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        metrics.refreshers.append(self._refresh)

    # -- life

    async def start(self) -> None:
        """Know what was used this month, and meet the other gateways in Redis. Raises StoreError, ConfigError."""
        url = self._config.redis.url
        if url is not None:
            if url.startswith(("env:", "file:")):
                url = resolve(url, where="redis.url")
            self._shared = Shared(
                url, self._store.installation, self._clock, self._calendar, timeout=float(self._config.limits.shared_timeout)
            )
        await self.spending.reload()
        if self._shared is not None:
            try:
                await self._join(self._shared)
            except Gone as error:
                self._degrade(error)
        lives = [("spend", self.spending.keep)]
        if self._shared is not None:
            lives.append(("limits-shared", self._follow))
        if self._shared is not None or getattr(self._store, "shared", False):
            lives.append(("limits-reload", self._follow_store))
        self._tasks = [forever(name, life, self._clock) for name, life in lives]

    async def stop(self) -> None:
        """Give back what is left in Redis and write what was used. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._shared is not None:
            shared, self._shared = self._shared, None
            if self._up:
                with contextlib.suppress(Gone):
                    await shared.settle(self._over)
            self._up, self._over = False, []
            await shared.aclose()
        if self.spending.unwritten:
            await self.spending.try_flush()

    def assert_idle(self) -> None:
        """Raises AssertionError naming the first count that is not zero. Nothing may be under way when it is called."""
        if self.outstanding or self._held:
            raise AssertionError(f"{self.outstanding} requests admitted, {len(self._held)} leases held")
        if self.bodies.used:
            raise AssertionError(f"{self.bodies.used} bytes of bodies are reserved")
        for account in self.spending.accounts():
            if account.parallel or account.reserved_tokens or account.reserved_money:
                raise AssertionError(
                    f"{account.name}: {account.parallel} under way, {account.reserved_tokens} tokens and {account.reserved_money} reserved"
                )

    @property
    def mode(self) -> Literal["memory", "redis", "degraded"]:
        """How limits are counted now: `memory` (one gateway), `redis` (with others), `degraded` (with others, but Redis is gone)."""
        if self._config.redis.url is None:
            return "memory"
        return "redis" if self._up else "degraded"

    def used(self, subject: str) -> Used:
        """What a subject (`spending.of_key`, ...) used up today and this month."""
        self._calendar.look()
        return self.spending.account(subject).used(self._calendar)

    # -- requests

    def admit_now(self, identity: Identity, request: InferenceRequest, model: str) -> Grant | None:
        """See `base.Admission`."""
        plan = self._check(identity, request, model)
        if not plan.limited:
            self.outstanding += 1
            return Unlimited(self, plan)
        return None if self._up else self._admit_here(plan, plan.demand(request))

    async def admit(self, identity: Identity, request: InferenceRequest, model: str) -> Grant:
        """See `base.Admission`."""
        plan = self._check(identity, request, model)
        demand = plan.demand(request)
        shared = self._shared
        if shared is None or not self._up or not plan.limited:
            return self._admit_here(plan, demand)
        held = self._hold(plan, demand)
        try:
            admitted, readings = await self._ask(shared, held)
        except Gone as error:  # perhaps it was done and only the answer is missing: so the same lease goes on
            self._degrade(error)
            return self._admit_here(plan, demand, held)
        except BaseException:  # the client left
            self._finish(held, 0, 0)
            raise
        now = self._clock.monotonic()
        for (account, rule), reading in zip(plan.limited, readings, strict=True):
            self._learn(account, rule, reading)
            account.drain(now, rule.requests, rule.tokens)  # asked only when Redis is gone, but then it must be true
        if not admitted:
            raise self._refusal(plan, plan.rules, readings, demand)
        self._active[id(plan)] = plan
        self._take(plan, demand, held)
        return Granted(self, plan, demand, held, left(plan.rules, readings, demand))

    async def _ask(self, shared: Shared, held: Held) -> tuple[bool, list[Reading]]:
        for _ in range(_SEEDINGS):
            try:
                return await shared.admit(held)
            except Missing:
                await self._seed(shared, held.plan)
        raise Gone("it forgets what it is told")

    def _learn(self, account: Account, rules: Rules, reading: Reading) -> None:
        """Redis knows better what was used in the windows that it keeps."""
        own = (account.day_tokens, account.month_tokens, account.day_money, account.month_money)
        theirs = (reading.day_tokens, reading.month_tokens, reading.day_money, reading.month_money)
        known = zip(rules.limits_of_windows, own, theirs, strict=True)
        account.know(self._calendar, Used(*(mine if limit is None else better for limit, mine, better in known)))

    def _check(self, identity: Identity, request: InferenceRequest, model: str) -> Plan:
        if not identity.inference:
            raise self._refuse("scope", model, forbidden("This key may not ask models.", "inference_not_allowed"))
        if identity.models is not None and not self._may_use(identity, request.model):
            shown = request.model[:128]
            raise self._refuse("model", model, forbidden(f"This key may not use the model `{shown}`.", "model_not_allowed"))
        if self.outstanding >= self._most:
            raise self._refuse("gateway_full", model, gateway_full(self._most))
        return self.plans.of(identity, model)

    def _may_use(self, identity: Identity, asked: str) -> bool:
        """By the name that was asked for: a model that stands in for another needs no permission of its own, and gives none."""
        found = self._model_of(asked)
        return identity.may_use(asked) or (found is not None and identity.may_use(found[0]))

    def _config_of(self, model: str) -> ModelConfig | None:
        found = self._model_of(model)
        return None if found is None else found[1]

    def _hold(self, plan: Plan, demand: Demand) -> Held:
        self._serial += 1
        return Held(f"{self._id}.{self._serial}", plan, demand)

    def _admit_here(self, plan: Plan, demand: Demand, held: Held | None = None) -> Grant:
        """Decide in this process. Raises RequestError."""
        if not plan.limited:
            self.outstanding += 1
            return Unlimited(self, plan)
        rules, limited = plan.rules, plan.limited
        if self._shared is not None and self._gateways > 1:
            rules = tuple(share(rule, self._gateways) for rule in rules)
            limited = tuple(zip(plan.subjects, rules, strict=True))
        now, calendar, refused = self._clock.monotonic(), self._calendar, False
        calendar.look()
        day = calendar.day
        for account, rule in limited:
            account.drain(now, rule.requests, rule.tokens)
            if account.day != day:
                account.turn(calendar)
            if rule.judge(account, demand) is not None:
                refused = True  # the others are brought up to date all the same: the refusal says what is left of them
        if refused:
            if held is not None:
                self._finish(held, 0, 0)
            raise self._refusal(plan, rules, plan.subjects, demand)
        if self._shared is not None:
            held = held or self._hold(plan, demand)
            self._active[id(plan)] = plan
        self._take(plan, demand, held)
        return Granted(self, plan, demand, held, left(rules, plan.subjects))

    def _take(self, plan: Plan, demand: Demand, held: Held | None) -> None:
        """It is admitted: count it here, whoever decided."""
        self.outstanding += 1
        if held is not None:
            self._held[held.id] = held
        estimate = demand.estimate
        for account, rule in plan.limited:  # as `Rules.need` has it
            account.take(demand, rule.tokens if 0 < rule.tokens < estimate else estimate)

    def _refusal(self, plan: Plan, rules: Sequence[Rules], counts: Sequence[Counts], demand: Demand) -> RequestError:
        now = self._clock.time()
        found = ((words, rule.judge(one, demand)) for words, rule, one in zip(plan.words, rules, counts, strict=True))
        whose, refused = next(
            ((words, refused) for words, refused in found if refused is not None),
            (plan.words[0], Refused("requests_per_minute", rules[0].requests, 1.0)),  # Redis and we round differently
        )
        ends = self._calendar.day_ends if refused.limit.endswith("day") else self._calendar.month_ends
        headers, currency = left(rules, counts), self.plans.currency
        error = limit_reached(refused, whose, now=now, window_ends=ends, currency=currency, headers=headers)
        return self._refuse(refused.limit, plan.model, error)

    def _refuse(self, reason: str, model: str, error: RequestError) -> RequestError:
        self._refusals.labels(reason, model).inc()
        return error

    # -- afterwards

    def settle(self, plan: Plan, demand: Demand, usage: Usage | None, seconds: float) -> tuple[int, int]:
        """One request is over: count what it used. Returns tokens and money."""
        self.outstanding -= 1
        if usage is not None:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
        elif seconds > 0:  # it reached an engine, and nobody knows what it did there: at least it was read
            prompt, completion = demand.prompt, 0
        else:
            return 0, 0
        money = plan.tariff.cost(prompt, completion, seconds)
        self.spending.record(plan.accounts, plan.key, plan.model, prompt, completion, money)
        return prompt + completion, money

    def settle_limited(self, plan: Plan, demand: Demand, held: Held | None, usage: Usage | None, seconds: float) -> None:
        """The same for one that reserved something."""
        tokens, money = self.settle(plan, demand, usage, seconds)
        now = self._clock.monotonic()
        estimate = demand.estimate
        for account, rule in plan.limited:
            account.drain(now, rule.requests, rule.tokens)
            account.settle(demand, rule.tokens if 0 < rule.tokens < estimate else estimate, tokens)
        if held is not None:
            self._finish(held, tokens, money)

    def _finish(self, held: Held, tokens: int, money: int) -> None:
        """End the lease in Redis, soon."""
        self._held.pop(held.id, None)
        if self._up or self._joining:
            self._over.append((held, tokens, money))
            self._work.set()

    # -- with others

    def _degrade(self, error: Gone) -> None:
        if self._up or not self._tasks:
            _log.error(
                "limits_not_shared",
                error=str(error),
                next_step="Each gateway enforces its share until Redis is back; see docs/guides/limits-and-budgets.md.",
            )
        self._up = False
        self._work.set()

    async def _follow(self) -> None:
        """Settle and renew in Redis; when it is gone, look for it."""
        renew_at = 0.0
        while (shared := self._shared) is not None:
            if self._up:
                await self._clock.wait(self._work, max(0.0, renew_at - self._clock.monotonic()))
            else:
                await self._clock.sleep(PROBE_SECONDS)
            self._work.clear()
            try:
                if not self._up:
                    await self._join(shared)
                    _log.info("limits_shared_again")
                over, self._over = self._over, []
                if over:
                    await shared.settle(over)
                if self._clock.monotonic() >= renew_at:
                    await shared.renew(list(self._held.values()))
                    renew_at = self._clock.monotonic() + RENEW_SECONDS
            except Gone as error:
                if self._up:
                    self._degrade(error)

    async def _join(self, shared: Shared) -> None:
        """Bring Redis up to what the store and this gateway know, then go by it. Raises Gone."""
        await shared.ping()
        await self._reload()
        await self._raise(shared, self._active)
        self._over.clear()  # what ended meanwhile is in the store, and its leases have ended or will
        self._joining = True
        try:
            await shared.renew(list(self._held.values()))
            self._up = True
        finally:
            self._joining = False

    async def _follow_store(self) -> None:
        """Know what others used: for the days and months that Redis may have missed, and for when it goes."""
        while True:
            await self._clock.sleep(RELOAD_SECONDS)
            with contextlib.suppress(StoreError):
                self._gateways = max(1, await spend.gateways(self._store))
            await self._reload()
            active, self._active = self._active, {}
            if self._shared is not None and self._up:
                try:
                    await self._raise(self._shared, active)
                except Gone as error:
                    self._degrade(error)
            else:
                self._active = {**active, **self._active}

    async def _raise(self, shared: Shared, plans: dict[int, Plan]) -> None:
        for plan in list(plans.values()):
            await shared.seed(plan, self._used(plan), only_raise=True)

    async def _seed(self, shared: Shared, plan: Plan) -> None:
        await self._reload()
        await shared.seed(plan, self._used(plan))

    def _used(self, plan: Plan) -> dict[str, Used]:
        return {account.name: account.used(self._calendar) for account in plan.subjects}

    async def _reload(self) -> None:
        """Read the store's sums; those who come while it is being read share the next reading."""
        came = self._clock.monotonic()
        async with self._reloading:
            if self._reloaded_at >= came:
                return
            began = self._clock.monotonic()
            try:
                await self.spending.reload()
            except StoreError as error:
                _log.warning("spend_not_read", error=error.message)
            self._reloaded_at = began

    def _refresh(self) -> None:
        metrics = self._metrics
        metrics.reservations.labels().set(self.outstanding)
        metrics.body_memory.labels().set(self.bodies.used)
        metrics.spend_unwritten.labels().set(self.spending.unwritten)
        metrics.limits_degraded.labels().set(float(self.mode == "degraded"))

"""What limits one key's requests to one model, put together once and kept: whose accounts, which rules, what it costs, how much it can use."""

from collections.abc import Callable
from dataclasses import dataclass

from lamplighter.config import Config, ModelConfig
from lamplighter.config.admission import KeyLimits
from lamplighter.costs import Tariff, tariff_of
from lamplighter.gateway.admission.counters import Account, Demand
from lamplighter.gateway.admission.rules import Rules, compiled
from lamplighter.gateway.admission.spending import Spending
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.request import InferenceRequest

UNKNOWN_CONTEXT = 131_072
"""Tokens that an answer may have where neither the request nor the configuration bounds it."""
USUAL_ANSWER = 1024
"""Tokens reckoned for an answer that the client does not bound, where an estimate is enough."""
BYTES_PER_TOKEN = 4
"""Of ordinary text. Only estimates are made of it: an upper bound counts each byte."""

_ONE_PROMPT = frozenset({"chat", "responses", "messages", "completions"})
"""Routes whose prompt cannot be longer than the model's context. Others may carry many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For one key and one model. `subjects`: the accounts that have `rules`, `limited`: both together, `words`: them for people."""

    key: str
    model: str
    accounts: tuple[Account, Account, Account]
    subjects: tuple[Account, ...]
    rules: tuple[Rules, ...]
    limited: tuple[tuple[Account, Rules], ...]
    words: tuple[str, ...]
    tariff: Tariff
    context: int
    reserve_seconds: float
    own: KeyLimits | None
    config: ModelConfig | None
    windows: bool
    reckoned: bool
    """Whether any rule looks at tokens or money: then the request must be measured."""

    def demand(self, request: InferenceRequest) -> Demand:
        """What `request` may use."""
        if not self.reckoned:
            return _NOTHING
        prompt, completion = request.bound()
        context = self.context
        if prompt > context and request.route in _ONE_PROMPT:
            prompt = context
        likely = prompt // BYTES_PER_TOKEN + 1
        if completion is None:
            completion = context
            estimate = likely + (USUAL_ANSWER if context > USUAL_ANSWER else context)
        else:
            estimate = likely + completion
        tokens = prompt + completion
        money = self.tariff.cost(prompt, completion, self.reserve_seconds) if self.windows else 0
        return Demand(likely, estimate if estimate < tokens else tokens, tokens, money)


_NOTHING = Demand(0, 0, 0, 0)


class Plans:
    """Makes plans and keeps them for as long as what they were made of stays the same."""

    def __init__(self, config: Config, spending: Spending, model_of: Callable[[str], ModelConfig | None]) -> None:
        self._config = config
        self._spending = spending
        self._model_of = model_of
        self._plans: dict[tuple[str, str], Plan] = {}
        self.currency = config.currency

    def of(self, identity: Identity, model: str) -> Plan:
        """The plan for `identity` and `model`."""
        key = identity.key_id or identity.principal_id
        plan = self._plans.get((key, model))
        config = self._model_of(model)
        if plan is None or plan.own is not identity.limits or plan.config is not config:
            plan = self._plans[key, model] = self._make(key, identity.limits, model, config)
        return plan

    def active(self) -> list[Plan]:
        """All plans that limit something."""
        return [plan for plan in self._plans.values() if plan.limited]

    def _make(self, key: str, own: KeyLimits | None, model: str, config: ModelConfig | None) -> Plan:
        accounts = self._spending.of(key, model)
        rules = (self.rules_of_key(own), self.rules_of_pair(own, model, config), self.rules_of_model(config))
        words = ("This key", f"This key on the model `{model}`", f"All keys together on the model `{model}`")
        limited = [index for index in range(3) if not rules[index].empty]
        windows = any(rules[index].windows for index in limited)
        return Plan(
            key=key,
            model=model,
            accounts=accounts,
            subjects=tuple(accounts[index] for index in limited),
            rules=tuple(rules[index] for index in limited),
            limited=tuple((accounts[index], rules[index]) for index in limited),
            words=tuple(words[index] for index in limited),
            tariff=tariff_of(self._config, config) if config is not None else Tariff(),
            context=_context(config),
            reserve_seconds=float(self._config.limits.reserve_seconds),
            own=own,
            config=config,
            windows=windows,
            reckoned=windows or any(rules[index].tokens for index in limited),
        )

    def rules_of_key(self, own: KeyLimits | None) -> Rules:
        """What limits a key with these limits of its own, over all models."""
        default = self._config.limits.default
        return compiled(default if own is None else own.over(default), self.currency)

    def rules_of_pair(self, own: KeyLimits | None, model: str, config: ModelConfig | None) -> Rules:
        """What limits a key on one model."""
        default = config.limits_per_key if config is not None else None
        special = own.models.get(model) if own is not None else None
        if special is not None and default is not None:
            special = special.over(default)
        return compiled(special or default, self.currency)

    def rules_of_model(self, config: ModelConfig | None) -> Rules:
        """What limits all keys together on one model."""
        return compiled(config.limits if config is not None else None, self.currency)


def _context(config: ModelConfig | None) -> int:
    if config is not None and (config.engine == "llamacpp" or "context" in config.model_fields_set):
        return config.context
    return UNKNOWN_CONTEXT

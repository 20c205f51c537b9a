"""Settings of limits, budgets and prices, of what one gateway takes in at once, and of the Redis that several gateways share.

Not responsible for what they mean at run time: `gateway.admission`; nor for the arithmetic of prices: `costs`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema, field_validator

from lamplighter.config.section import Section
from lamplighter.config.types import Span
from lamplighter.core.units import Budget, Duration, Money, Price

Unlimited = Literal["unlimited"]
"""Written where a default would otherwise hold."""


_MOST = 10**12


def _count(value: Any) -> int | Unlimited:
    if value == "unlimited":
        return "unlimited"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"must be a whole number from 1 to {_MOST}, or unlimited; got {value!r}")
    return value


def _money(value: Any) -> Money | Unlimited:
    if value == "unlimited":
        return "unlimited"
    if isinstance(value, str):
        value = Money.parse(value)
    if not isinstance(value, Money):
        raise ValueError("write money as an amount and a currency, such as 5 USD")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def _price(*units: str) -> Any:
    def validate(value: Any) -> Price:
        if isinstance(value, str):
            value = Price.parse(value, units)
        if not isinstance(value, Price):
            raise ValueError(f"write a price per {' or '.join(units)}, such as 0.25 USD/{units[-1]}")  # noqa: TRY004 - as above
        return value

    return validate


_AMOUNT = r"\d+(\.\d+)?\s*[A-Z]{3}"
_text = PlainSerializer(str, return_type=str)
Amount = Annotated[
    Money | Unlimited,
    PlainValidator(_money),
    _text,
    WithJsonSchema({"type": "string", "pattern": f"^(unlimited|{_AMOUNT})$", "examples": ["5 USD", "unlimited"]}),
]
TokenPriceText = Annotated[
    Price,
    PlainValidator(_price("token", "Ktok", "Mtok")),
    _text,
    WithJsonSchema({"type": "string", "pattern": rf"^{_AMOUNT}\s*/\s*(token|Ktok|Mtok)$", "examples": ["0.15 USD/Mtok"]}),
]
HourPrice = Annotated[
    Price,
    PlainValidator(_price("hour")),
    _text,
    WithJsonSchema({"type": "string", "pattern": rf"^{_AMOUNT}\s*/\s*hour$", "examples": ["0.526 USD/hour"]}),
]


def _budget(value: Any) -> Budget:
    if isinstance(value, str):
        value = Budget.parse(value)
    if not isinstance(value, Budget):
        raise ValueError("write a budget as money per period, such as 60 USD/month")  # noqa: TRY004 - as above
    if value.period == "hour":
        raise ValueError("a pool's budget is per day or per month, such as 60 USD/month")
    return value


PoolBudget = Annotated[
    Budget,
    PlainValidator(_budget),
    _text,
    WithJsonSchema({"type": "string", "pattern": rf"^{_AMOUNT}\s*/\s*(day|month)$", "examples": ["60 USD/month"]}),
]
Count = Annotated[
    int | Unlimited,
    PlainValidator(_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": _MOST}, {"const": "unlimited"}]}),
]
RedisUrl = Annotated[
    str, StringConstraints(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|(redis|rediss)://[^\s@]+|unix:///[^\s@]+)$")
]


class Limits(Section):
    """What may be asked of models. A limit that is not set does not exist; `unlimited` lifts one that a default sets."""

    requests_per_minute: Count | None = Field(
        None, description="Requests a minute: so many at once after a pause, then evenly over the minute."
    )
    tokens_per_minute: Count | None = Field(None, description="Tokens a minute, of prompts and answers together.")
    parallel: Count | None = Field(None, description="Requests that may wait or run at the same time.")
    tokens_per_day: Count | None = Field(None, description="Tokens a day (UTC).")
    tokens_per_month: Count | None = Field(None, description="Tokens a calendar month (UTC).")
    budget_per_day: Amount | None = Field(None, description="Money a day (UTC), such as `1 USD`.")
    budget_per_month: Amount | None = Field(None, description="Money a calendar month (UTC), such as `20 USD`.")

    def over(self, defaults: "Limits") -> "Limits":
        """These, and where nothing is said those of `defaults`."""
        merged = {name: getattr(self, name) if getattr(self, name) is not None else getattr(defaults, name) for name in FIELDS}
        return Limits.model_construct(**merged)

    @property
    def empty(self) -> bool:
        """Whether nothing is limited."""
        return all(getattr(self, name) in (None, "unlimited") for name in FIELDS)

    def moneys(self) -> Iterator[tuple[str, Money]]:
        """The amounts of money in it, by the setting's name."""
        for name in ("budget_per_day", "budget_per_month"):
            value = getattr(self, name)
            if isinstance(value, Money):
                yield name, value


FIELDS = tuple(Limits.model_fields)


class KeyLimits(Limits):
    """The limits of one key; `models`: further ones for its requests to single models, by their name."""

    models: dict[Annotated[str, StringConstraints(min_length=1, max_length=128)], Limits] = Field(
        {}, description="Further limits for requests to single models, by their name."
    )

    def all_moneys(self) -> Iterator[tuple[str, Money]]:
        """The amounts of money in it and in its parts."""
        yield from self.moneys()
        for name, limits in self.models.items():
            for field, money in limits.moneys():
                yield f"models.{name}.{field}", money


class LimitsConfig(Section):
    """Limits of keys that have none of their own, and how requests are reckoned before they have run."""

    default: Limits = Field(
        default_factory=lambda: Limits.model_validate({}), description="Limits of each key, where the key has no own."
    )
    reserve_seconds: Span = Field(
        Duration(600),
        description="On a pool priced by the hour a request reserves the price of this long before it runs; it is charged what it took.",
    )
    shared_timeout: Span = Field(
        Duration(0.25), description="How long Redis may take to answer before the gateway counts for itself."
    )


class RedisConfig(Section):
    """The Redis through which several gateways share limits. Without one, each gateway counts for itself."""

    url: RedisUrl | None = Field(
        None,
        description="Where it is: `env:NAME` or `file:PATH` of a URL with its password, or a URL without one (`redis://host:6379/0`).",
    )

    @field_validator("url")
    @classmethod
    def _reachable(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(("redis://", "rediss://")):
            try:
                urlsplit(value).port  # noqa: B018 - reading it is what checks its range
            except ValueError as error:
                raise ValueError(f"{value!r} has an impossible port: {error}") from error
        return value


class TokenPrice(Section):
    """What a model's tokens cost."""

    prompt: TokenPriceText | None = Field(None, description="Price of what is asked, such as `0.15 USD/Mtok`.")
    completion: TokenPriceText | None = Field(None, description="Price of what is answered, such as `0.60 USD/Mtok`.")

    def moneys(self) -> Iterator[tuple[str, Money]]:
        """The amounts of money in it, by the setting's name."""
        for name, price in (("prompt", self.prompt), ("completion", self.completion)):
            if price is not None:
                yield name, price.money


def one_currency(found: Iterator[tuple[str, Money]]) -> str | None:
    """The currency of all amounts, given with their settings' paths; None when there is none. Raises ValueError that begins with a path."""
    currency: str | None = None
    for path, money in found:
        if currency is None:
            currency = money.currency
        elif money.currency != currency:
            raise ValueError(
                f"{path}: is in {money.currency}, but other amounts are in {currency}; an installation has one currency"
            )
    return currency


def checked(limits: dict[str, Any] | None) -> KeyLimits | None:
    """A key's limits as they were stored; None when it has none. Raises ValueError (pydantic's) when they are not limits."""
    return KeyLimits.model_validate(limits) if limits else None


__all__ = [
    "FIELDS", "Amount", "Count", "HourPrice", "KeyLimits", "Limits", "LimitsConfig", "PoolBudget", "RedisConfig", "TokenPrice", "Unlimited",
    "checked", "one_currency",
]  # fmt: skip

"""Settings of how requests find a replica: balance, affinity, the circuit breaker, retries and fallbacks.

Which models and pools there are is `model`'s.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from lamplighter.config.section import Section
from lamplighter.config.types import Delay, Span
from lamplighter.core.units import Duration

if TYPE_CHECKING:
    from lamplighter.config.model import ModelConfig


class BreakerConfig(Section):
    """When an endpoint that fails gets no more requests, and when it is tried again."""

    failures: int = Field(
        5,
        ge=1,
        le=10_000,
        description="Failures in a row that open an endpoint's circuit: no connection, an answer that breaks off, a timeout, broken HTTP, "
        "502, 503 or 504. What clients do wrong and what they cancel does not count.",
    )
    ratio: float = Field(
        0.5, gt=0, le=1, description="Share of failed requests within `window` that opens it too; a 500 counts here only."
    )
    window: Span = Field(Duration(30), description="The time over which that share is taken; it begins with a failure.")
    least_requests: int = Field(
        20, ge=1, le=1_000_000, description="Requests within `window` below which the share says nothing."
    )
    open: Span = Field(
        Duration(2),
        description="How long a circuit stays open before one request tries the endpoint again; doubles with each failed try, with jitter.",
    )
    open_max: Span = Field(Duration(60), description="The longest that it stays open.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.open > self.open_max:
            raise ValueError("open must not be longer than open_max")
        return self


class RoutingConfig(Section):
    """How a request finds one of several replicas, and what happens when it fails there."""

    affinity: bool = Field(
        True, description="Send chats that begin alike to the same replica, where their beginning may be in the cache already."
    )
    load_factor: float = Field(
        1.25,
        ge=1,
        le=100,
        description="How many times its fair share of a model's requests a replica may have before affinity and sessions give way.",
    )
    slow_start: Delay = Field(
        Duration(10), description="A fresh replica's share grows to the full over this time, when others are ready; 0s: at once."
    )
    retry_ratio: float = Field(
        0.2, ge=0, le=1, description="Retries that a model may spend, as a share of its requests of the last ten seconds."
    )
    retry_minimum: float = Field(
        3.0, ge=0, le=10_000, description="Retries per second that it may spend however few the requests."
    )
    fallback_when_full: bool = Field(
        False, description="A model's `fallback` also answers those for whom its queue has no room; otherwise they get 429."
    )


def check(name: str, model: "ModelConfig", models: Mapping[str, "ModelConfig"]) -> None:
    """Whether the aliases and the fallbacks of `model` make sense among `models`. Raises ValueError that begins with the setting's path."""
    where = f"models.{name}.aliases"
    for alias in model.aliases:
        if alias in models or alias == name:
            raise ValueError(f"{where}: {alias!r} is a model of its own")
        if model.aliases.count(alias) > 1:
            raise ValueError(f"{where}: {alias!r} is written twice")
    for other, its in models.items():
        if other == name:
            continue
        if name in its.aliases:
            raise ValueError(f"models.{name}: {name!r} is an alias of the model {other!r}")
        for alias in model.aliases:
            if alias in its.aliases:
                raise ValueError(f"{where}: {alias!r} is an alias of the model {other!r} already")
    where = f"models.{name}.fallback"
    for target in model.fallback:
        if target not in models and target != name:
            raise ValueError(f"{where}: there is no model {target!r}")
        if model.fallback.count(target) > 1:
            raise ValueError(f"{where}: {target!r} is written twice")
    # A fallback's own fallbacks are not followed, so a circle could not run for ever; it is a mistake all the same.
    reached, ahead = set[str](), list(model.fallback)
    while ahead:
        step = ahead.pop()
        if step == name:
            raise ValueError(f"{where}: it leads back to {name!r}")
        if step not in reached:
            reached.add(step)
            ahead += models[step].fallback if step in models else []

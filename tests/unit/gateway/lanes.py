"""Lanes, targets and waiters for tests, without sockets or a store."""

import asyncio
from typing import Any

from lamplighter.config import GatewayConfig, ModelConfig
from lamplighter.config.routing import BreakerConfig, RoutingConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.gateway import hold
from lamplighter.gateway.breaker import Breaker, Outcome
from lamplighter.gateway.connection import Limits
from lamplighter.gateway.lane import Asker, Lane, Target
from lamplighter.gateway.upstream import Upstream
from lamplighter.testing.clock import VirtualClock


class Noted:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.urgent = 0
        self.emptied_targets: list[Target] = []

    def touch(self, lane: Lane, *, urgent: bool = False) -> None:
        self.urgent += urgent

    def emptied(self, target: Target) -> None:
        self.emptied_targets.append(target)


def lane_of(clock: VirtualClock, *, places: int = 1024, routing: dict[str, Any] | None = None, static: bool = False) -> Lane:
    model = ModelConfig.model_validate({"engine": "fake", "pool": "cloud"})
    lane = Lane("big", model, RoutingConfig.model_validate(routing or {}), Noted(), clock)
    lane.places, lane.static = places, static
    return lane


def target_of(clock: VirtualClock, name: str = "rep_1", *, weight: float = 1.0, breaker: dict[str, Any] | None = None) -> Target:
    circuit = Breaker(BreakerConfig.model_validate(breaker or {}), clock.monotonic(), lambda: 0.0)
    return Target(name, Upstream(Endpoint("http://127.0.0.1:1"), Limits(), clock), circuit, weight=weight)


def show(lane: Lane, *targets: Target, **more: Any) -> None:
    """What the view says, for a test that has only one lane."""
    for target in targets:
        target.lanes = [lane]
    lane.update(targets=list(targets), **{"replicas": (), "wake": None, **more})


def waiting(
    lane: Lane, clock: VirtualClock, asker: Asker | None = None, *, limit: float = 55, **config: Any
) -> "asyncio.Task[Target]":
    """Somebody who waits for a target."""
    settings = GatewayConfig.model_validate(config)
    return asyncio.create_task(
        hold.hold(lane, asker or Asker(), settings, clock, began=clock.monotonic(), limit=limit, on_beat=None)
    )


def fail(lane: Lane, target: Target, outcome: Outcome, times: int = 1) -> None:
    """Requests that are sent there, whatever its circuit says, and end so."""
    for _ in range(times):
        lane._take(target)
        lane.release(target, outcome)

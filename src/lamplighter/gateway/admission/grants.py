"""What an admitted request holds until it is over. Settling twice counts once."""

from typing import Protocol

from lamplighter.gateway.admission.counters import Demand
from lamplighter.gateway.admission.plans import Plan
from lamplighter.gateway.admission.shared import Held
from lamplighter.gateway.sse import Usage
from lamplighter.gateway.wire import Headers

NOTHING = Demand(0, 0, 0, 0)


class Settler(Protocol):
    """Who gave the grants: `gate.Gate`."""

    def settle(self, plan: Plan, demand: Demand, usage: Usage | None, seconds: float) -> tuple[int, int]: ...

    def settle_limited(self, plan: Plan, demand: Demand, held: Held | None, usage: Usage | None, seconds: float) -> None: ...


class Unlimited:
    """The grant of a request that no limit concerns: it is counted all the same."""

    __slots__ = ("_gate", "_plan", "headers")

    def __init__(self, gate: Settler, plan: Plan) -> None:
        self._gate: Settler | None = gate
        self._plan = plan
        self.headers: Headers = []

    def settle(self, usage: Usage | None, *, seconds: float) -> None:
        """See `base.Grant`."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.settle(self._plan, NOTHING, usage, seconds)


class Granted:
    """The grant of a request that reserved something. `held`: its lease, where limits are shared."""

    __slots__ = ("_demand", "_gate", "_held", "_plan", "headers")

    def __init__(self, gate: Settler, plan: Plan, demand: Demand, held: Held | None, headers: Headers) -> None:
        self._gate: Settler | None = gate
        self._plan = plan
        self._demand = demand
        self._held = held
        self.headers = headers

    def settle(self, usage: Usage | None, *, seconds: float) -> None:
        """See `base.Grant`."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.settle_limited(self._plan, self._demand, self._held, usage, seconds)

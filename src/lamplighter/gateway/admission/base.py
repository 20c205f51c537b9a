"""The seam between the data path and admission. The data path calls `admit_now`, then `admit` if it must wait, and `settle` exactly once.

Not responsible for who somebody is (`auth`), nor for queues (`hold`).
"""

from typing import Protocol

from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage
from lamplighter.gateway.wire import Headers


class Grant(Protocol):
    """One admitted request: what it reserved is held until it is settled."""

    headers: Headers
    """`x-ratelimit-*` for its answer; empty when nothing limits it."""

    def settle(self, usage: Usage | None, *, seconds: float) -> None:
        """The request is over. `usage`: what it used (None: nothing, it never reached an engine). `seconds`: on an engine.

        Called exactly once, never waits, never fails.
        """
        ...


class Admission(Protocol):
    """Decides whether a request may go on."""

    def admit_now(self, identity: Identity, request: InferenceRequest, model: str) -> Grant | None:
        """The grant, when it can be had without waiting; None: await `admit`. `model`: the one that will answer.

        Raises RequestError: 429 with Retry-After and `x-ratelimit-*`, 403 when the key may not use the model, 402-like 429
        `insufficient_quota` when a budget is spent.
        """
        ...

    async def admit(self, identity: Identity, request: InferenceRequest, model: str) -> Grant:
        """The same, for limits that are shared with other gateways. Waits at most a fraction of a second."""
        ...

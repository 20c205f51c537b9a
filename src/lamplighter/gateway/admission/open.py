"""Admission where nothing is limited."""

from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.request import InferenceRequest
from lamplighter.gateway.sse import Usage
from lamplighter.gateway.wire import Headers


class Free:
    """The grant of a request that no limit concerns."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def settle(self, usage: Usage | None, *, seconds: float) -> None:
        """Nothing was reserved."""


FREE = Free()


class OpenAdmission:
    """Admits everything."""

    def admit_now(self, identity: Identity, request: InferenceRequest, model: str) -> Free:
        """At once."""
        return FREE

    async def admit(self, identity: Identity, request: InferenceRequest, model: str) -> Free:
        """At once."""
        return FREE

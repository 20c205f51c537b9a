"""The seam between those who want an answer in this process (the chat page) and the inference path that makes it.

`inference.relay` implements it; the HTTP routes use the same machinery, so both obey the same queue, routing, limits and metering.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lamplighter.core.errors import LamplighterError
from lamplighter.gateway.auth import Identity
from lamplighter.store.wakes import Wake

WakeMode = Literal["wait", "local", "fail"]
"""What to do when the model sleeps: wait for it, let its `while_waking` answer and wake it meanwhile, or refuse without waking it."""


class UpstreamLost(LamplighterError):
    """The engine's answer broke off after its first byte: what came so far is incomplete."""

    code = "upstream_lost"


@dataclass(frozen=True, slots=True)
class Waking:
    """The model is being woken. Comes at least at every change of stage; `wake` is None until the keeper has begun."""

    wake: Wake | None


@dataclass(frozen=True, slots=True)
class Started:
    """An engine answers. `model` is the one that does (not the one asked for, when `while_waking` stood in).

    `woke_in`: seconds that this request waited for a wake; None when it did not have to.
    """

    model: str
    woke_in: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """The payload of one server-sent event: JSON, as the engine wrote it. The final `[DONE]` is not shown."""

    data: bytes


Item = Waking | Started | Event


class Relay(Protocol):
    """Asks models for streamed chat completions from within this process."""

    def generate(
        self, *, identity: Identity, model: str, body: Mapping[str, Any], wake: WakeMode | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Item]]:
        """One generation. `body`: a chat completion request without `model` and `stream`; a usage event always comes.

        Iterating gives `Waking` (any number), `Started` (once), then `Event`s. `wake` None: the model's own habit.
        Raises RequestError before the start, UpstreamLost after it. Leaving the context closes the engine's connection at once.
        """
        ...

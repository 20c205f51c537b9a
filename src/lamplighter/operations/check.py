"""Asks a running Lamplighter one real question, from wherever this runs, and measures what a client would feel: `lamplighter check`.

It goes through whatever stands before the gateway, so it finds what only a stream shows: a proxy that buffers, or cuts what is silent.
Not responsible for the server's inside (`doctor`), nor for load (one question at a time).
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lamplighter.core.errors import LamplighterError
from lamplighter.operations.client import Client

QUESTION = "Count from one to twenty in words, separated by commas."
_SILENCE = 60.0
"""Seconds without a byte after which the stream is dead: a heartbeat comes every 10 s (`gateway.heartbeat`, longer is rare)."""
_BURST = 0.005
"""Seconds between two reads below which they count as one burst: what a proxy had buffered comes faster than any model writes."""
_ENOUGH = 8
"""Pieces of an answer from which a judgement about bursts is possible."""


class CheckFailed(LamplighterError):
    """The endpoint did not do what it is for."""

    code = "check_failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, measured by the client. Seconds from the request; `tokens`: as the engine counted, or the pieces when it did not."""

    model: str
    headers: float
    first_token: float
    total: float
    tokens: int
    counted: bool
    pieces: int
    bursts: int
    waking: float | None
    text: str = field(repr=False)

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None for an answer of a single token."""
        span = self.total - self.first_token
        return (self.tokens - 1) / span if self.tokens > 1 and span > 0 else None

    @property
    def buffered(self) -> bool:
        """Whether something between kept the stream back: many pieces came at one instant, at the very end."""
        return self.pieces >= _ENOUGH and self.bursts == 1 and self.first_token > self.total * 0.9


def models(client: Client) -> list[str]:
    """The names that the key may ask for. Raises NotRunning, Refused, CheckFailed."""
    listed = client.get("/v1/models")
    try:
        return [str(model["id"]) for model in listed["data"]]
    except (TypeError, KeyError) as error:
        raise CheckFailed(
            f"what answers at {client.url}/v1/models is no OpenAI-compatible API",
            next_step="Check that the ingress sends /v1 to the gateway, not to the page.",
        ) from error


def ask(
    client: Client,
    model: str,
    *,
    question: str = QUESTION,
    max_tokens: int = 64,
    limit: float = 900.0,
    waking: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
) -> Answer:
    """Stream one answer and measure it; at most `limit` seconds, a wake included. `waking` is told each heartbeat's words.

    Raises NotRunning, Refused, CheckFailed.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = now()
    with client.open_stream("/v1/chat/completions", body, silence=_SILENCE) as response:
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise CheckFailed(
                f"the answer to a streamed question is {kind or 'of no declared type'}, no event stream",
                next_step="Something before the gateway changes answers; send /v1 to it unchanged.",
            )
        reading = _Reading(model, now() - began, limit, waking)
        pending = b""
        for chunk in response.iter_bytes():
            *whole, pending = (pending + chunk).split(b"\n")
            reading.arrived(now() - began, [line.strip() for line in whole])
            if reading.ended:
                return reading.answer()
    raise CheckFailed(
        "the answer broke off before its end",
        next_step="`lamplighter status` shows what happened; look at the proxy's timeouts too.",
    )


class _Reading:
    """What came so far."""

    def __init__(self, model: str, headers: float, limit: float, waking: Callable[[str], None]) -> None:
        self.ended = False
        self._model = model
        self._headers = headers
        self._limit = limit
        self._waking = waking
        self._last_wake: float | None = None
        self._times: list[float] = []
        self._text: list[str] = []
        self._tokens: int | None = None
        self._total = 0.0

    def arrived(self, at: float, lines: list[bytes]) -> None:
        if at > self._limit:
            raise CheckFailed(
                f"no whole answer within {self._limit:g} seconds",
                next_step="Give --timeout a longer time, or look at `lamplighter status`.",
            )
        for line in lines:
            if line.startswith(b":"):
                if b"waking" in line:
                    self._last_wake = at
                    self._waking(line[1:].decode(errors="replace").strip())
            elif line.startswith(b"data:"):
                self._event(at, line[5:].strip())

    def _event(self, at: float, data: bytes) -> None:
        if data == b"[DONE]":
            self.ended, self._total = True, at
            return
        try:
            event: dict[str, Any] = json.loads(data)
        except ValueError:
            raise CheckFailed(
                "the stream holds something that is not JSON", next_step="Something before the gateway changes answers."
            ) from None
        if "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {"message": event["error"]}
            raise CheckFailed(str(error.get("message")), next_step=str(error.get("next_step") or "Look at `lamplighter status`."))
        self._model = event.get("model") or self._model
        if usage := event.get("usage"):
            self._tokens = int(usage.get("completion_tokens") or 0)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if piece := delta.get("content") or delta.get("reasoning_content"):
                self._times.append(at)
                self._text.append(piece)

    def answer(self) -> Answer:
        if not self._times:
            raise CheckFailed("the answer is empty", next_step="Ask the model by `lamplighter chat`; its template may be wrong.")
        bursts = 1 + sum(later - earlier > _BURST for earlier, later in pairwise(self._times))
        return Answer(
            model=self._model,
            headers=self._headers,
            first_token=self._times[0],
            total=self._total,
            tokens=self._tokens or len(self._times),
            counted=self._tokens is not None,
            pieces=len(self._times),
            bursts=bursts,
            waking=self._last_wake,
            text="".join(self._text),
        )

"""What is counted and written down about each request once it is over: metrics and the access line. Never its contents."""

from dataclasses import dataclass

from lamplighter.core.clock import Clock
from lamplighter.gateway.sse import Usage
from lamplighter.observability.logging import AccessLog
from lamplighter.observability.metrics import Counter, Histogram, Metrics

CLIENT_LEFT = 499
"""Status noted (never sent) for a client that left before its answer."""


@dataclass(slots=True)
class Record:
    """One request. Times are monotonic seconds. `model`: the one that answers, '' while it is not known to exist.

    `reached`: whether it was sent to an engine.
    """

    route: str
    request_id: str
    began: float
    model: str = ""
    key_id: str = ""
    status: int = 0
    outcome: str = "ok"
    first_at: float | None = None
    held: float | None = None
    reached: bool = False
    usage: Usage | None = None


class _Children:
    """The instruments of one (route, model), looked up once."""

    __slots__ = ("classes", "completion", "disconnects", "first", "held", "prompt", "seconds")

    def __init__(self, metrics: Metrics, route: str, model: str) -> None:
        self.classes: dict[str, Counter] = {
            name: metrics.requests.labels(route, model, name) for name in ("2xx", "3xx", "4xx", "5xx", "499")
        }
        self.seconds: Histogram = metrics.request_seconds.labels(route, model)
        self.first: Histogram = metrics.first_token_seconds.labels(model)
        self.held: Histogram = metrics.held_seconds.labels(model)
        self.prompt: Counter = metrics.tokens.labels(model, "prompt")
        self.completion: Counter = metrics.tokens.labels(model, "completion")
        self.disconnects: Counter = metrics.disconnects.labels(model)


_CLASSES = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


class Meter:
    """Writes records down. `access` None: no access lines."""

    def __init__(self, metrics: Metrics, access: AccessLog | None, clock: Clock) -> None:
        self.metrics = metrics
        self._access = access
        self._clock = clock
        self._children: dict[tuple[str, str], _Children] = {}

    def finish(self, record: Record) -> None:
        """The request is over."""
        seconds = self._clock.monotonic() - record.began
        key = (record.route, record.model)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = _Children(self.metrics, *key)
        status = record.status
        left = status == CLIENT_LEFT or record.outcome == "cancelled"
        children.classes["499" if left else _CLASSES.get(status // 100, "5xx")].inc()
        children.seconds.observe(seconds)
        first = None
        if record.first_at is not None:
            first = record.first_at - record.began
            children.first.observe(first)
        if record.held is not None:
            children.held.observe(record.held)
        usage = record.usage
        if usage is not None:
            children.prompt.inc(usage.prompt_tokens)
            children.completion.inc(usage.completion_tokens)
        if left:
            children.disconnects.inc()
        if self._access is not None:
            self._access.line(
                request_id=record.request_id,
                route=record.route,
                model=record.model,
                status=status,
                seconds=seconds,
                first=first,
                held=record.held,
                prompt_tokens=usage.prompt_tokens if usage else None,
                completion_tokens=usage.completion_tokens if usage else None,
                key_id=record.key_id,
                outcome=record.outcome,
            )

    def close(self) -> None:
        """Write the lines that wait."""
        if self._access is not None:
            self._access.flush()

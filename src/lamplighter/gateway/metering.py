"""What is counted and written down about each request once it is over: metrics, the access line, its account. Never its contents."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lamplighter.core.clock import Clock
from lamplighter.gateway.sse import Usage
from lamplighter.observability.logging import AccessLog
from lamplighter.observability.metrics import Counter, Histogram, Metrics

if TYPE_CHECKING:
    from lamplighter.gateway.switching import Trial

CLIENT_LEFT = 499
"""Status noted (never sent) for a client that left before its answer."""
BYTES_PER_TOKEN = 4
"""Of text, about, when nobody counts: English in most vocabularies."""
_WRITING = frozenset({"chat", "completions", "responses", "messages"})
"""Routes whose answer a model writes."""
_WITHOUT_MODEL = frozenset({"tokenize", "detokenize", "count_tokens"})
"""Routes that cost no work of a model."""


@dataclass(slots=True)
class Record:
    """One request. Times are monotonic seconds. `model`: the one that answers, '' while it is not known to exist.

    `reached`: whether it was sent to an engine; `sent_at`: when, the last time. `held`: how long it waited for an engine, `asleep` of it for
    one to wake. `asked`: the model that was asked for, when another one answers. `answered`: bytes of a whole answer.
    `events`: pieces of a streamed answer. `estimated`: whether `usage` is our own estimate.
    `trial`: its part in the change of a model, if there is one. `client`: the address that asked, behind trusted proxies; '' for those in this process.
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
    principal_id: str = ""
    asked: str = ""
    replica_id: str = ""
    retries: int = 0
    asleep: float = 0.0
    sent_at: float | None = None
    answered: int = 0
    events: int = 0
    estimated: bool = False
    client: str = ""
    trial: "Trial | None" = None

    def estimate(self, route: str, prompt_bytes: int) -> None:
        """No engine told what this request used: say about how much, and that it is an estimate. Call it when the request is over.

        The prompt: its bytes of text by `BYTES_PER_TOKEN`. A streamed answer: its events, since engines send one for each token (less the
        frame of role, end and `[DONE]`). A whole answer: its bytes. Nothing when an engine refused or lost it before it said anything.

        `route`: what the engine was asked (a record's own `route` is what the client asked).
        """
        if self.usage is not None or not self.reached or route in _WITHOUT_MODEL:
            return
        begun = self.first_at is not None
        if not begun and self.outcome not in {"ok", "cancelled"}:
            return
        if begun:
            framing = 3 if self.outcome == "ok" else 1
            completion = max(1, self.events - framing)
        else:
            completion = self.answered // BYTES_PER_TOKEN if route in _WRITING else 0
        self.usage = Usage(-(-prompt_bytes // BYTES_PER_TOKEN), completion)
        self.estimated = True


class Ledger(Protocol):
    """Who keeps the account of each request."""

    def add(self, record: Record, ended: float, itl: float | None) -> None:
        """The request ended at `ended` (monotonic). `itl`: mean seconds between its tokens. Never waits, never fails."""
        ...


class _Children:
    """The instruments of one (route, model), looked up once."""

    __slots__ = (
        "classes", "completion", "disconnects", "estimated_completion", "estimated_prompt", "first", "held", "inter_token", "prompt",
        "queue", "seconds",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, route: str, model: str) -> None:
        self.classes: dict[str, Counter] = {
            name: metrics.requests.labels(route, model, name) for name in ("2xx", "3xx", "4xx", "5xx", "499")
        }
        self.seconds: Histogram = metrics.request_seconds.labels(route, model)
        self.first: Histogram = metrics.first_token_seconds.labels(model)
        self.inter_token: Histogram = metrics.inter_token_seconds.labels(model)
        self.held: Histogram = metrics.held_seconds.labels(model)
        self.queue: Histogram = metrics.queue_seconds.labels(model)
        self.prompt: Counter = metrics.tokens.labels(model, "prompt")
        self.completion: Counter = metrics.tokens.labels(model, "completion")
        self.estimated_prompt: Counter = metrics.tokens_estimated.labels(model, "prompt")
        self.estimated_completion: Counter = metrics.tokens_estimated.labels(model, "completion")
        self.disconnects: Counter = metrics.disconnects.labels(model)


_CLASSES = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


class Meter:
    """Writes records down. `access` None: no access lines. `ledger` None: no accounts."""

    def __init__(self, metrics: Metrics, access: AccessLog | None, clock: Clock, ledger: Ledger | None = None) -> None:
        self.metrics = metrics
        self._access = access
        self._clock = clock
        self._ledger = ledger
        self._children: dict[tuple[str, str], _Children] = {}

    def finish(self, record: Record) -> None:
        """The request is over."""
        now = self._clock.monotonic()
        seconds = now - record.began
        key = (record.route, record.model)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = _Children(self.metrics, *key)
        status = record.status
        left = status == CLIENT_LEFT or record.outcome == "cancelled"
        children.classes["499" if left else _CLASSES.get(status // 100, "5xx")].inc()
        children.seconds.observe(seconds)
        usage = record.usage
        first = itl = None
        if record.first_at is not None:
            first = record.first_at - record.began
            children.first.observe(first)
            if usage is not None and usage.completion_tokens > 1:
                itl = (now - record.first_at) / (usage.completion_tokens - 1)
                children.inter_token.observe(itl)
        if record.held is not None:
            if record.asleep:
                children.held.observe(record.asleep)
            else:
                children.queue.observe(record.held)
        if usage is not None:
            if record.estimated:
                children.estimated_prompt.inc(usage.prompt_tokens)
                children.estimated_completion.inc(usage.completion_tokens)
            else:
                children.prompt.inc(usage.prompt_tokens)
                children.completion.inc(usage.completion_tokens)
        if left:
            children.disconnects.inc()
        if record.trial is not None:
            record.trial.finish(record)
        if self._ledger is not None and record.principal_id:  # of strangers nothing is kept: they could fill the disk
            self._ledger.add(record, now, itl)
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
                client=record.client,
            )

    def close(self) -> None:
        """Write the lines that wait."""
        if self._access is not None:
            self._access.flush()

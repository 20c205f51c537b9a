"""What goes wrong with the fake API server, as a test wants it."""

import threading
from dataclasses import dataclass, field

from lamplighter.testing.kubernetes.errors import ApiRefusal
from lamplighter.testing.kubernetes.kinds import Kind

_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid",
            429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}  # fmt: skip


@dataclass(slots=True)
class _Rule:
    verb: str
    resource: str
    status: int
    left: int | None
    message: str
    retry_after: int | None


@dataclass(slots=True)
class Faults:
    """Answers that are refusals. `latency`: seconds before every answer."""

    latency: float = 0.0
    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, verb: str, resource: str, status: int, times: int | None = 1, *, message: str = "", retry_after: int | None = None
    ) -> None:
        """Refuse `verb` ("*": all) on `resource` (`pods`, `deployments/scale`, `*`) so many `times`; None: until `clear`."""
        text = message or f"refused by the fake API server, as asked: {status}"
        with self._lock:
            self._rules.append(_Rule(verb, resource, status, times, text, retry_after))

    def clear(self) -> None:
        """Refuse nothing any more."""
        with self._lock:
            self._rules.clear()

    def check(self, verb: str, kind: Kind, subresource: str, name: str) -> None:
        """Raises ApiRefusal when a rule says so."""
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        with self._lock:
            for rule in self._rules:
                if rule.left != 0 and rule.verb in ("*", verb) and rule.resource in ("*", resource, f"{kind.plural}/{name}"):
                    if rule.left is not None:
                        rule.left -= 1
                    details = {"name": name, "group": kind.group, "kind": kind.plural}
                    raise ApiRefusal(rule.status, _REASONS.get(rule.status, "Unknown"), rule.message, details, rule.retry_after)


__all__ = ["Faults"]

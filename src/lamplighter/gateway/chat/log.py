"""One generation's events in memory, and what a reader who has seen `after` must still be told.

A reader keeps a position, never a queue: however slow it is, it costs nothing. One that is far behind gets the text as a snapshot
instead of every step. Not responsible for storing (`generations`) or sending (`ws`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.store.generations import Event

BEHIND = 256
"""A reader that misses more events than this gets a snapshot."""
_LAST_WORDS = frozenset({"usage", "error", "done"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole text as of event `seq`."""

    seq: int
    text: str


class Log:
    """Append-only; ends with a `done` event. `trimmed`: the seq up to which only `text` is left of an ended generation.

    `written` is called at every event, and does not count as a reader.
    """

    def __init__(self, *, trimmed: int = 0, text: str = "", written: Callable[[], None] | None = None) -> None:
        self._written = written
        self._trimmed = trimmed
        self._events: list[Event] = []
        self._parts = [text] if text else []
        self._woke: Event | None = None
        self._readers: set[Callable[[], None]] = set()

    @property
    def seq(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._trimmed + len(self._events)

    @property
    def text(self) -> str:
        """The sum of all deltas."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def done(self) -> bool:
        """Whether the last event was written."""
        return bool(self._events) and self._events[-1].kind == "done"

    @property
    def watched(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    def append(self, kind: str, data: Mapping[str, Any]) -> Event:
        """Write the next event and tell every reader."""
        event = Event(self.seq + 1, kind, data)
        self._events.append(event)
        if kind == "delta":
            self._parts.append(data["text"])
        elif kind == "wake" and "woke_in" in data:
            self._woke = event
        if self._written is not None:
            self._written()
        for reader in tuple(self._readers):
            reader()
        return event

    def conclude(self, *, seq: int, text: str, data: Mapping[str, Any]) -> None:
        """End with a `done` event numbered `seq`. Where that leaves a gap, only `text` is left of everything before it."""
        if seq > self.seq + 1:
            self._trimmed, self._events, self._parts = seq - 1, [], [text] if text else []
        self.append("done", data)

    def watch(self, reader: Callable[[], None]) -> None:
        """Call `reader` at every new event, until `unwatch`."""
        self._readers.add(reader)

    def unwatch(self, reader: Callable[[], None]) -> None:
        """Stop calling; not an error when it never watched."""
        self._readers.discard(reader)

    def between(self, after: int) -> list[Event]:
        """Every event after `after` that is left."""
        return self._events[max(0, after - self._trimmed) :]

    def since(self, after: int, *, limit: int = 64) -> list[Event | Snapshot]:
        """What a reader who has seen `after` is told next: at most about `limit` pieces; empty when it has seen everything."""
        missing = self.between(after)
        if not missing:
            return []
        if after >= self._trimmed and len(missing) <= BEHIND:
            return list(missing[:limit])
        return self._caught_up(after, missing)

    def _caught_up(self, after: int, missing: list[Event]) -> list[Event | Snapshot]:
        cut = len(missing)
        while cut and missing[cut - 1].kind in _LAST_WORDS:
            cut -= 1
        if cut and missing[cut - 1].kind == "wake":
            cut -= 1
        seq = self.seq - (len(missing) - cut)
        told: list[Event | Snapshot] = []
        if self._woke is not None and after < self._woke.seq <= seq:
            # That the wake is over must not drown in the snapshot; readers know a gap by its number, so it needs a snapshot before it.
            if after < self._woke.seq - 1:
                told.append(Snapshot(self._woke.seq - 1, ""))
            told.append(self._woke)
        if seq > after:
            told.append(Snapshot(seq, self.text))
        return [*told, *missing[cut:]]


def ended(*, seq: int, text: str, data: Mapping[str, Any]) -> Log:
    """The log of a generation that ended with a `done` event numbered `seq`, of which only the text is left."""
    log = Log(trimmed=seq - 1, text=text)
    log.append("done", data)
    return log

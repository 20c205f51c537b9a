"""Whose turn it is: a bounded queue that is fair between keys and first come, first served within a key.

Start-time fair queueing (Goyal, Vin and Cheng 1996) with requests of equal cost: while k keys have somebody waiting, each of them gets every
k-th turn, and a key that begins to wait stands behind one turn of the others, however many they have queued. Not responsible for what a
turn is worth (`routing`) nor for the waiting itself (`hold`).
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Line(Generic[T]):
    """One key's waiters. `tag`: the virtual time at which its first one starts; `serial`: which line came first to it."""

    __slots__ = ("items", "key", "serial", "tag")

    def __init__(self, key: str, tag: float, serial: int) -> None:
        self.key = key
        self.tag = tag
        self.serial = serial
        self.items: OrderedDict[T, None] = OrderedDict()  # its first and last can be taken at once, which a dict's cannot


class FairQueue(Generic[T]):
    """Waiters by key. Every waiter is in it at most once; all but `position` and `crowd` cost O(log keys)."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[T]] = {}
        self._heap: list[tuple[float, int, _Line[T]]] = []
        self._finished: dict[str, float] = {}
        """The virtual time up to which a key has had its turns, for keys that do not wait now but may have had more than others."""
        self._now = 0.0
        self._serial = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """In no order."""
        for line in self._lines.values():
            yield from line.items

    def push(self, key: str, item: T) -> None:
        """`item` waits from now on."""
        line = self._lines.get(key)
        if line is None:
            tag = max(self._now, self._finished.pop(key, 0.0))
            line = self._lines[key] = _Line(key, tag, self._serial)
            self._enter(line)
        line.items[item] = None
        self._count += 1

    def first(self) -> T | None:
        """Whose turn it is; None when nobody waits."""
        line = self._head()
        return None if line is None else next(iter(line.items))

    def pop(self) -> T:
        """Take out whoever's turn it is: the turn is used. Raises IndexError when nobody waits."""
        line = self._head()
        if line is None:
            raise IndexError("nobody waits")
        heapq.heappop(self._heap)
        item, _ = line.items.popitem(last=False)
        self._count -= 1
        self._now = line.tag
        line.tag += 1.0
        if line.items:
            self._enter(line)
        else:
            del self._lines[line.key]
            self._finished[line.key] = line.tag
        self._forget()
        return item

    def remove(self, key: str, item: T) -> bool:
        """`item` gives up; its turn is not used. False when it does not wait."""
        line = self._lines.get(key)
        if line is None or item not in line.items:
            return False
        del line.items[item]
        self._count -= 1
        if not line.items:
            self._close(line)
        return True

    def waiting(self, key: str) -> int:
        """How many of `key` wait."""
        line = self._lines.get(key)
        return 0 if line is None else len(line.items)

    def crowd(self) -> tuple[str, int]:
        """The key with most waiters, and how many. Raises ValueError when nobody waits."""
        line = max(self._lines.values(), key=lambda line: len(line.items))
        return line.key, len(line.items)

    def evict(self, key: str) -> T:
        """Take out the one of `key` that came last. Raises KeyError when none waits."""
        line = self._lines[key]
        item, _ = line.items.popitem(last=True)
        self._count -= 1
        if not line.items:
            self._close(line)
        return item

    def position(self, key: str, item: T) -> int:
        """How many turns until `item` has its own, if nobody else comes: 1 is next. Costs the length of its key's line."""
        line = self._lines[key]
        before = next(index for index, other in enumerate(line.items) if other is item)
        turn = line.tag + before
        ahead = 0
        for other in self._lines.values():
            if other is line or other.tag > turn:
                continue
            # In a tie the one that reached the common tag first goes first, and stays first in all later ties.
            wins = other.tag > line.tag or (other.tag == line.tag and other.serial < line.serial)
            ahead += min(len(other.items), int(turn - other.tag) + wins)
        return 1 + before + ahead

    def _head(self) -> _Line[T] | None:
        heap = self._heap
        while heap:
            line = heap[0][2]
            if line.items and heap[0][1] == line.serial:
                return line
            heapq.heappop(heap)  # everybody in it gave up
        return None

    def _enter(self, line: _Line[T]) -> None:
        self._serial += 1
        line.serial = self._serial
        heapq.heappush(self._heap, (line.tag, line.serial, line))

    def _close(self, line: _Line[T]) -> None:
        """Everybody of a key gave up: what it had so far still counts."""
        del self._lines[line.key]
        if line.tag > self._now:
            self._finished[line.key] = line.tag
        self._forget()

    def _forget(self) -> None:
        """Nothing is remembered of keys once nobody waits, nor of those that others have caught up with."""
        if not self._lines:
            self._heap.clear()
            self._finished.clear()
            self._now = 0.0
        elif len(self._finished) > 2 * len(self._lines) + 64:
            self._finished = {key: tag for key, tag in self._finished.items() if tag > self._now}


class Pace:
    """How many turns there are per second, as an average that forgets: for honest words on how long a turn is away."""

    __slots__ = ("_at", "_began", "_rate")

    SPAN = 30.0
    """Seconds after which about a third of what was seen still counts."""

    def __init__(self) -> None:
        self._began = self._at = 0.0
        self._rate = 0.0

    def begin(self, now: float) -> None:
        """Somebody begins to wait after a time in which nobody did."""
        if now - self._at > self.SPAN:
            self._began, self._rate = now, 0.0
            self._at = now

    def served(self, now: float) -> None:
        """Somebody got a turn."""
        self._rate = self._decayed(now) + 1.0 / self.SPAN
        self._at = now

    def seconds(self, turns: int, now: float) -> float | None:
        """Until that many turns have been; None when nothing was seen yet."""
        seen = now - self._began
        rate = self._decayed(now)
        if rate <= 0.0 or seen <= 0.0:
            return None
        return turns * (1.0 - math.exp(-seen / self.SPAN)) / rate

    def _decayed(self, now: float) -> float:
        return self._rate * math.exp(-(now - self._at) / self.SPAN)
